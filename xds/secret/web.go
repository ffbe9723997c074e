package secret

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
)

// fetchWeb asks a URL for a secret.
func (s *Store) fetchWeb(ref plan.Reference) fetch {
	return func(ctx context.Context) ([]byte, string, *trouble) {
		body, t := s.get(ctx, ref.Name, hostOf(ref.Name), http.Header{})
		return body, "", t
	}
}

// hostOf is the host of a URL, for messages.
func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "the source"
	}
	return u.Host
}

// get returns the body at u, which messages call name.
func (s *Store) get(ctx context.Context, u, name string, header http.Header) ([]byte, *trouble) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, &trouble{text: name + " is not a valid address"}
	}
	req.Header = header
	req.Header.Set("User-Agent", "postern")
	req.Header.Set("Cache-Control", "no-cache")
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, &trouble{text: transport(err, name, name+" cannot be reached"), down: true}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusGone:
		return nil, &trouble{text: fmt.Sprintf("%s has no such secret (%d)", name, resp.StatusCode)}
	case http.StatusForbidden:
		return nil, &trouble{text: name + " refuses the control plane this secret (403)"}
	default:
		return nil, &trouble{text: fmt.Sprintf("%s answered %d", name, resp.StatusCode), down: true}
	}
	if err != nil {
		return nil, &trouble{text: transport(err, name, name+" broke off its answer"), down: true}
	}
	return body, nil
}

// vaultAnswer is the answer to GET /v1/MOUNT/data/PATH of KV version 2.
// https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2#read-secret-version
type vaultAnswer struct {
	Data struct {
		Data     json.RawMessage `json:"data"`
		Metadata struct {
			Version int `json:"version"`
		} `json:"metadata"`
	} `json:"data"`
}

// fetchVault asks Vault's KV version 2. The address and the token are where Vault's own client has
// them. The token is read each time, because others renew it.
func (s *Store) fetchVault(ref plan.Reference) fetch {
	mount, path, _ := strings.Cut(ref.Name, "/")
	return func(ctx context.Context) ([]byte, string, *trouble) {
		address := s.env("VAULT_ADDR")
		if address == "" {
			return nil, "", &trouble{text: "VAULT_ADDR was not set when the control plane was started: export it and run `postern up` again"}
		}
		u, err := url.JoinPath(address, "v1", mount, "data", path)
		if err != nil {
			return nil, "", &trouble{text: "VAULT_ADDR is not a valid URL"}
		}
		token, t := s.vaultToken()
		if t != nil {
			return nil, "", t
		}
		header := http.Header{"X-Vault-Token": {token}, "X-Vault-Request": {"true"}}
		if ns := s.env("VAULT_NAMESPACE"); ns != "" {
			header.Set("X-Vault-Namespace", ns)
		}
		body, t := s.get(ctx, u, "Vault at "+hostOf(address), header)
		if t != nil {
			return nil, "", t
		}
		var answer vaultAnswer
		if json.Unmarshal(body, &answer) != nil || answer.Data.Metadata.Version == 0 || !strings.HasPrefix(string(answer.Data.Data), "{") {
			return nil, "", &trouble{text: "Vault answered something that is not a secret of KV version 2: check the mount"}
		}
		return answer.Data.Data, strconv.Itoa(answer.Data.Metadata.Version), nil
	}
}

// vaultToken returns $VAULT_TOKEN, or the content of the file $VAULT_TOKEN_FILE (such as a Vault
// Agent's sink), or of ~/.vault-token.
func (s *Store) vaultToken() (string, *trouble) {
	if t := s.env("VAULT_TOKEN"); t != "" {
		return t, nil
	}
	file := s.env("VAULT_TOKEN_FILE")
	if file == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", &trouble{text: "there is no token for Vault: set VAULT_TOKEN or VAULT_TOKEN_FILE"}
		}
		file = filepath.Join(home, ".vault-token")
	}
	var b []byte
	file, err := filepath.Abs(file)
	folders, failed := s.folders()
	if err = errors.Join(err, failed); err == nil {
		b, err = folders.ReadFile(file, maxSource)
	}
	if writable := (*hostpath.WritableError)(nil); errors.As(err, &writable) {
		return "", fileTrouble(file, err) // an agent would choose whose secrets are used
	}
	token := strings.TrimSpace(string(b))
	if err != nil || token == "" || check([]byte(token)) != "" {
		// Not gone for good: it may be being replaced.
		return "", &trouble{text: fmt.Sprintf("there is no token for Vault in %s: log in, or set VAULT_TOKEN or VAULT_TOKEN_FILE", file), down: true}
	}
	return token, nil
}
