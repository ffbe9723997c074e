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
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/postern/postern/plan"
)

// gitHub is the API that is meant if the plan names none.
const gitHub = "https://api.github.com"

// mintInstallation trades a JWT, signed with the app's key, for the token of
// one installation of the app.
func mintInstallation(ctx context.Context, hc *http.Client, c plan.Credential, source []byte, _ sealed) (*token, *failure) {
	key, err := rsaKey(source)
	if err != nil {
		return nil, &failure{source: true, text: "the secret is not an RSA private key in PEM"}
	}
	now := time.Now()
	// GitHub takes ten minutes at most, by its own clock.
	assertion, err := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.RegisteredClaims{
		Issuer: c.App, IssuedAt: jwt.NewNumericDate(now.Add(-time.Minute)), ExpiresAt: jwt.NewNumericDate(now.Add(8 * time.Minute)),
	}).SignedString(key)
	if err != nil {
		return nil, &failure{source: true, text: "the secret is an RSA key that cannot sign"}
	}
	base := c.TokenURL
	if base == "" {
		base = gitHub
	}
	name := endpoint(base)
	u, err := url.JoinPath(base, "app", "installations", url.PathEscape(c.Installation), "access_tokens")
	if err != nil {
		return nil, &failure{text: "the token URL is not valid"}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u, http.NoBody)
	if err != nil {
		return nil, &failure{text: "the token URL is not valid"}
	}
	req.Header.Set("Authorization", "Bearer "+assertion)
	req.Header.Set("Accept", "application/vnd.github+json")
	req.Header.Set("X-GitHub-Api-Version", "2022-11-28")
	req.Header.Set("User-Agent", "postern")
	resp, err := hc.Do(req)
	if err != nil {
		return nil, explain(err, name)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, explain(err, name)
	}
	if resp.StatusCode != http.StatusCreated {
		return nil, &failure{text: status(name, resp.StatusCode)}
	}
	var answer struct {
		Token     string    `json:"token"`
		ExpiresAt time.Time `json:"expires_at"`
	}
	if json.Unmarshal(body, &answer) != nil || answer.Token == "" {
		return nil, &failure{text: name + " answered something that is not a token"}
	}
	return &token{value: seal([]byte(answer.Token)), expires: answer.ExpiresAt}, nil
}

// errKey says nothing of the key, unlike what the parsers say.
var errKey = errors.New("not an RSA private key in PEM")

func rsaKey(b []byte) (*rsa.PrivateKey, error) {
	key, err := jwt.ParseRSAPrivateKeyFromPEM(bytes.TrimSpace(b))
	if err != nil {
		return nil, errKey
	}
	return key, nil
}
