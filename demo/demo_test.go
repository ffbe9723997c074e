package demo

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/hostpath"
)

func TestPrepareDemoNeverOverwrites(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), ".cache", "demo")
	require.NoError(t, prepare(dir))
	before := map[string]string{}
	for _, name := range []string{caFile, certFile, tlsKeyFile, keyFile} {
		info, err := os.Stat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), name)
		b, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		before[name] = string(b)
	}
	require.NoError(t, prepare(dir))
	for name, content := range before {
		b, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, content, string(b), name)
	}

	require.NoError(t, os.Remove(filepath.Join(dir, caFile)))
	require.ErrorContains(t, prepare(dir), "has lost [ca.pem]")
	require.NoFileExists(t, filepath.Join(dir, caFile))
}

func TestEchoAnswersWithNamesNotValues(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "demo")
	require.NoError(t, prepare(dir))
	server, err := startEcho(t.Context(), dir)
	require.NoError(t, err)
	t.Cleanup(server.close)
	_, err = startEcho(t.Context(), dir)
	require.ErrorContains(t, err, "another demo is listening")

	ca, err := os.ReadFile(filepath.Join(dir, caFile))
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(ca))
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, socketFile))
		},
		TLSClientConfig:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		DisableKeepAlives: true,
	}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, allowedURL, nil)
	require.NoError(t, err)
	req.Header.Set("x-api-key", "canary-secret")
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NotContains(t, string(body), "canary-secret")

	var answer struct {
		Path    string   `json:"path"`
		Names   []string `json:"header_names"`
		KeyHash string   `json:"x_api_key_sha256"`
	}
	require.NoError(t, json.Unmarshal(body, &answer))
	require.Equal(t, "/v1/hello", answer.Path)
	require.Contains(t, answer.Names, "X-Api-Key")
	require.Equal(t, digest("canary-secret"), answer.KeyHash)
	key, any := server.received()
	require.True(t, any)
	require.Equal(t, "canary-secret", key)
}

// TestDemoInAnAgentsFolder: the demo writes and changes modes by path, so it does nothing where an agent may have a link.
func TestDemoInAnAgentsFolder(t *testing.T) {
	t.Parallel()
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	state, project := filepath.Join(root, "state"), filepath.Join(root, "project")
	for _, dir := range []string{state, filepath.Join(project, "work")} {
		require.NoError(t, os.MkdirAll(dir, 0o700))
	}
	demo := filepath.Join(project, ".cache", "demo")
	require.NoError(t, hostpath.In(state).Record(filepath.Join(project, "work")))
	require.NoError(t, notAnAgents(state, demo), "a folder next to it")
	require.NoError(t, hostpath.In(state).Record(project))
	require.ErrorContains(t, notAnAgents(state, demo), "run this in a checkout of Postern where no agent works")
}
