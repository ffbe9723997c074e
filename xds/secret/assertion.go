package secret

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/postern/postern/plan"
)

// gitHub is the API if the plan names none.
const gitHub = "https://api.github.com"

// mintInstallation exchanges a JWT, signed with the app's key, for the token of one installation of
// the app.
func mintInstallation(ctx context.Context, hc *http.Client, c plan.Credential, source []byte, _ sealed) (*token, *failure) {
	now := time.Now()
	// GitHub takes ten minutes at most, by its own clock.
	assertion, ok := assert(source, "", jwt.MapClaims{"iss": c.App, "iat": now.Add(-time.Minute).Unix(), "exp": now.Add(8 * time.Minute).Unix()})
	if !ok {
		return nil, &failure{source: true, text: "the secret is not an RSA private key in PEM"}
	}
	base := c.TokenURL
	if base == "" {
		base = gitHub
	}
	u, err := url.JoinPath(base, "app", "installations", url.PathEscape(c.Installation), "access_tokens")
	if err != nil {
		return nil, &failure{text: "the token URL is not valid"}
	}
	var answer struct {
		Token     string    `json:"token"`
		ExpiresAt time.Time `json:"expires_at"`
	}
	f := post(ctx, hc, endpoint(base), u, nil, http.Header{
		"Authorization": {"Bearer " + assertion}, "Accept": {"application/vnd.github+json"}, "X-Github-Api-Version": {"2022-11-28"}, "User-Agent": {"postern"},
	}, &answer)
	if f != nil {
		return nil, f
	}
	return &token{value: seal([]byte(answer.Token)), expires: answer.ExpiresAt}, nil
}

// mintGCP trades a service account's key for an access token or, for an
// audience, an ID token (RFC 7523).
func mintGCP(ctx context.Context, hc *http.Client, c plan.Credential, source []byte, _ sealed) (*token, *failure) {
	malformed := &failure{source: true, text: "the secret is not the JSON key of a GCP service account"}
	var key struct {
		Type         string `json:"type"`
		ClientEmail  string `json:"client_email"`
		PrivateKeyID string `json:"private_key_id"`
		PrivateKey   string `json:"private_key"`
		TokenURI     string `json:"token_uri"`
	}
	if json.Unmarshal(source, &key) != nil || key.Type != "service_account" || key.ClientEmail == "" || key.TokenURI == "" {
		return nil, malformed
	}
	now := time.Now()
	claims := jwt.MapClaims{"iss": key.ClientEmail, "aud": key.TokenURI, "iat": now.Add(-10 * time.Second).Unix(), "exp": now.Add(50 * time.Minute).Unix()}
	if c.Kind == plan.KindGCPIDToken {
		claims["target_audience"] = c.Audience
	} else {
		claims["scope"] = strings.Join(c.Scopes, " ")
	}
	assertion, ok := assert([]byte(key.PrivateKey), key.PrivateKeyID, claims)
	if !ok {
		return nil, malformed
	}
	var answer struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int64  `json:"expires_in"`
		IDToken     string `json:"id_token"`
	}
	// The endpoint's host is a part of the secret.
	f := post(ctx, hc, "the token endpoint of the service account's key", key.TokenURI,
		url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {assertion}}, http.Header{}, &answer)
	if f != nil {
		return nil, f
	}
	if c.Kind != plan.KindGCPIDToken {
		t := &token{value: seal([]byte(answer.AccessToken))}
		if answer.ExpiresIn != 0 {
			t.expires = now.Add(time.Duration(min(answer.ExpiresIn, int64(maxLifetime/time.Second))) * time.Second)
		}
		return t, nil
	}
	var said jwt.RegisteredClaims
	// Its recipient verifies the token. Only its end matters here.
	if _, _, err := jwt.NewParser().ParseUnverified(answer.IDToken, &said); err != nil || said.ExpiresAt == nil {
		return nil, &failure{text: "the token endpoint of the service account's key answered something that is not a token"}
	}
	return &token{value: seal([]byte(answer.IDToken)), expires: said.ExpiresAt.Time}, nil
}

// post decodes the answer of the endpoint at u, which failures call name.
func post(ctx context.Context, hc *http.Client, name, u string, form url.Values, header http.Header, answer any) *failure {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u, strings.NewReader(form.Encode()))
	if err != nil {
		return &failure{text: "the token URL is not valid"}
	}
	req.Header = header
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := hc.Do(req)
	if err != nil {
		return explain(err, name)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return explain(err, name)
	}
	if resp.StatusCode/100 != 2 {
		var refused struct {
			Error string `json:"error"`
		}
		// The message repeats only known codes.
		_ = json.Unmarshal(body, &refused)
		return &failure{text: status(name, resp.StatusCode, refused.Error)}
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return explain(err, name)
	}
	return nil
}

// assert signs the claims with an RSA key in PEM. It reports only whether it could, because the
// errors of parsers quote what they parse.
func assert(key []byte, id string, claims jwt.MapClaims) (string, bool) {
	k, err := rsaKey(key)
	if err != nil {
		return "", false
	}
	t := jwt.NewWithClaims(jwt.SigningMethodRS256, claims)
	if id != "" {
		t.Header["kid"] = id
	}
	signed, err := t.SignedString(k)
	return signed, err == nil
}

var errKey = errors.New("not an RSA private key in PEM")

func rsaKey(b []byte) (*rsa.PrivateKey, error) {
	key, err := jwt.ParseRSAPrivateKeyFromPEM(bytes.TrimSpace(b))
	if err != nil {
		return nil, errKey
	}
	return key, nil
}
