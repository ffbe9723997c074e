package run

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEnv(t *testing.T) {
	t.Setenv("POSTERN_TEST_A", "a value")
	env, dropped, err := Env([]string{"POSTERN_TEST_A", "B=c=d", "EMPTY="})
	require.NoError(t, err)
	require.Empty(t, dropped)
	require.Equal(t, []string{"POSTERN_TEST_A=a value", "B=c=d", "EMPTY="}, env)
	for _, bad := range []string{"", "=x", "A B=c", "POSTERN_TEST_UNSET"} {
		_, _, err := Env([]string{bad})
		require.ErrorContains(t, err, "--env", bad)
	}
}

// P44: a variable without which no client gets through keeps Postern's value, and its name is said.
func TestEnvDropped(t *testing.T) {
	t.Parallel()
	names := []string{
		"NO_PROXY", "no_proxy", "HTTPS_PROXY", "http_proxy", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO",
		"REQUESTS_CA_BUNDLE",
	}
	flags := []string{"KEPT=1"}
	for _, name := range names {
		flags = append(flags, name+"=x")
	}
	env, dropped, err := Env(flags)
	require.NoError(t, err)
	require.Equal(t, []string{"KEPT=1"}, env)
	require.Equal(t, names, dropped)
}
