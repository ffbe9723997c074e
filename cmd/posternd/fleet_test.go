package main

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAgentsAuthority: certificate and key belong together, sign intermediates,
// and are never replaced.
func TestAgentsAuthority(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "fleet")
	run := func(args ...string) error {
		cmd := newRoot()
		cmd.SetArgs(args)
		return cmd.ExecuteContext(t.Context())
	}
	require.NoError(t, run("authority", "--stack", "prod-aws", "--agents", dir))
	cert, key := filepath.Join(dir, "agents-ca.pem"), filepath.Join(dir, "agents-ca.key")
	pair, err := tls.LoadX509KeyPair(cert, key)
	require.NoError(t, err)
	require.True(t, pair.Leaf.IsCA)
	require.Equal(t, 1, pair.Leaf.MaxPathLen)
	require.Equal(t, x509.ECDSA, pair.Leaf.PublicKeyAlgorithm)
	info, err := os.Stat(key)
	require.NoError(t, err)
	require.EqualValues(t, 0o600, info.Mode().Perm())
	require.ErrorContains(t, run("authority", "--stack", "prod-aws", "--agents", dir), "remove it to make another")
	require.NoError(t, run("authority", "--stack", "prod-aws", dir), "the fleet's is another")
}

// TestAuthorityIsIgnoredByGit: the folder holds private keys, and may be in a repository. Git sees
// only the public files that the stack file names. What a person says there stays.
func TestAuthorityIsIgnoredByGit(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"", "--agents"} {
		dir := filepath.Join(t.TempDir(), "fleet")
		run := func() error {
			cmd := newRoot()
			args := []string{"authority", "--stack", "prod", dir}
			if kind != "" {
				args = append(args, kind)
			}
			cmd.SetArgs(args)
			return cmd.ExecuteContext(t.Context())
		}
		require.NoError(t, run())
		for _, name := range []string{"ca.pem", "agents-ca.pem", "operators.pem", "ca.key", "agents-ca.key", "tokens", "join-token", "another.pem"} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
		}
		require.NoError(t, exec.CommandContext(t.Context(), "git", "init", "-q", filepath.Dir(dir)).Run())
		seen, err := exec.CommandContext(t.Context(), "git", "-C", dir, "ls-files", "--others", "--exclude-standard").Output()
		require.NoError(t, err)
		require.Equal(t, ".gitignore\nagents-ca.pem\nca.pem\noperators.pem\n", string(seen))
		require.NoError(t, os.RemoveAll(dir))
		require.NoError(t, os.Mkdir(dir, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, ".gitignore"), []byte("ca.key\n"), 0o600))
		require.NoError(t, run())
		ignored, err := os.ReadFile(filepath.Join(dir, ".gitignore"))
		require.NoError(t, err)
		require.Equal(t, "ca.key\n", string(ignored))
	}
}
