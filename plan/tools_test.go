package plan

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGitToolAllows(t *testing.T) {
	t.Parallel()
	g := &GitTool{Repositories: []string{"git.test/acme/*", "git.test:8443/a/b/c", "git.test/*/lib"}}
	for _, s := range []string{
		"git.test/acme/app", "git.test/acme/app.git", "git.test:8443/a/b/c", "git.test/x/lib", "git.test/acme/a.b",
	} {
		require.True(t, g.Allows(s), s)
	}
	for _, s := range []string{
		"", "git.test", "git.test/acme", "git.test/acme/", "git.test/acme/app/x", "git.test/acme/*", "git.test/acme/..",
		"git.test/acme/.git", "git.test/acme/-x", "git.test/other/app", "git.test:8443/acme/app", "git.test/a/b/c",
		"x.git.test/acme/app", "GIT.test/acme/app", "git.test/acme/app\n", "git.test/acme/a b", "git.test/acme/a%2fb",
		"git.test/acme/a?b", "git.test/acme/a#b", "u@git.test/acme/app", "https://git.test/acme/app", "-git.test/acme/app",
		"git.test:0/acme/app",
	} {
		require.False(t, g.Allows(s), s)
	}
	require.False(t, (*GitTool)(nil).Allows("git.test/acme/app"))
}

// TestDiffTools: no change of the tools is silent.
func TestDiffTools(t *testing.T) {
	t.Parallel()
	with := func(repositories ...string) *Plan {
		a := Agent{Name: "a"}
		if repositories != nil {
			a.Tools = &Tools{Git: &GitTool{Repositories: repositories}}
		}
		return &Plan{Agents: []Agent{a}}
	}
	require.Empty(t, Diff(with("h/a"), with("h/a")))
	for _, c := range []struct {
		was, is *Plan
		text    string
	}{
		{with(), with("h/a"), "~ a has the tools: git with h/a, was none"},
		{with("h/a", "h/b"), with("h/a"), "~ a has the tools: git with h/a, was git with h/a, h/b"},
		{with("h/a"), with(), "~ a has the tools: none, was git with h/a"},
	} {
		changes := Diff(c.was, c.is)
		require.Len(t, changes, 1)
		require.Equal(t, c.text, changes[0].String())
	}
	changes := Diff(&Plan{}, with("h/a"))
	require.Len(t, changes, 2, "of a new agent, too")
}
