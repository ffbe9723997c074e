package secret

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/postern/postern/plan"
)

// mintClientCredentials is RFC 6749, section 4.4.
func mintClientCredentials(ctx context.Context, hc *http.Client, c plan.Credential, source []byte, _ sealed) (*token, *failure) {
	return request(ctx, hc, c, string(source), nil)
}

// mintRefreshToken implements RFC 6749, section 6. If an endpoint gives out a new refresh token
// with each access token, the new one is used from then on. It is in memory only, so after a
// restart the source must have one that works.
func mintRefreshToken(ctx context.Context, hc *http.Client, c plan.Credential, source []byte, refresh sealed) (*token, *failure) {
	var s struct {
		RefreshToken string `json:"refresh_token"`
		ClientSecret string `json:"client_secret"`
	}
	if json.Unmarshal(source, &s) != nil || s.RefreshToken == "" {
		return nil, &failure{source: true, text: `the secret is not JSON: {"refresh_token": ..., "client_secret": ...}`}
	}
	if refresh != nil {
		s.RefreshToken = string(refresh())
	}
	return request(ctx, hc, c, s.ClientSecret, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {s.RefreshToken}})
}

// request asks the token endpoint, with each of the RFC's two ways of client authentication. The
// library's grant is client credentials, unless params name another. Otherwise the library sends
// the same.
func request(ctx context.Context, hc *http.Client, c plan.Credential, secret string, params url.Values) (*token, *failure) {
	config := clientcredentials.Config{
		ClientID: c.Username, ClientSecret: secret, TokenURL: c.TokenURL, Scopes: c.Scopes, EndpointParams: params,
	}
	if secret == "" {
		// A public client names itself in the body (section 3.2.1).
		config.AuthStyle = oauth2.AuthStyleInParams
	}
	t, err := config.Token(context.WithValue(ctx, oauth2.HTTPClient, hc))
	if err != nil {
		return nil, explain(err, endpoint(c.TokenURL))
	}
	if !strings.EqualFold(t.Type(), "bearer") {
		return nil, &failure{text: endpoint(c.TokenURL) + " gives out tokens that are not of type bearer"}
	}
	minted := &token{value: seal([]byte(t.AccessToken)), expires: t.Expiry}
	if t.RefreshToken != "" {
		minted.refresh = seal([]byte(t.RefreshToken))
	}
	return minted, nil
}
