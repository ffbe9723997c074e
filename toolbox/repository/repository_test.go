package repository

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMatches(t *testing.T) {
	t.Parallel()
	patterns := []string{"git.test/acme/*", "git.test:8443/a/b/c", "git.test/*/lib"}
	for _, s := range []string{
		"git.test/acme/app", "git.test/acme/app.git", "git.test:8443/a/b/c", "git.test/x/lib", "git.test/acme/a.b",
	} {
		require.True(t, Matches(patterns, s), s)
	}
	for _, s := range []string{
		"", "git.test", "git.test/acme", "git.test/acme/", "git.test/acme/app/x", "git.test/acme/*", "git.test/acme/..",
		"git.test/acme/.git", "git.test/acme/-x", "git.test/other/app", "git.test:8443/acme/app", "git.test/a/b/c",
		"x.git.test/acme/app", "GIT.test/acme/app", "git.test/acme/app\n", "git.test/acme/a b", "git.test/acme/a%2fb",
		"git.test/acme/a?b", "git.test/acme/a#b", "u@git.test/acme/app", "https://git.test/acme/app",
		"-git.test/acme/app", "git.test:0/acme/app",
	} {
		require.False(t, Matches(patterns, s), s)
	}
	require.False(t, Matches(nil, "git.test/acme/app"))
}
