package roots

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestFind: a place is as good as another, and a file without a certificate is none.
func TestFind(t *testing.T) {
	t.Parallel()
	for _, where := range []string{
		"etc/ssl/certs/ca-certificates.crt", "etc/pki/tls/certs/ca-bundle.crt", "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
		"etc/ssl/ca-bundle.pem", "etc/pki/tls/cert.pem", "etc/ssl/cert.pem", "etc/ssl/certs/ca-bundle.crt",
	} {
		dir := t.TempDir()
		path, pem := Find(dir)
		require.Empty(t, path)
		require.Empty(t, pem)
		write := func(name, content string) {
			require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
		}
		write("etc/ssl/certs/ca-certificates.crt", "") // a package that was not set up
		write(where, "# ours\n-----BEGIN CERTIFICATE-----\n")
		path, pem = Find(dir)
		require.Equal(t, filepath.Join(dir, where), path)
		require.Contains(t, string(pem), "BEGIN")
	}
}
