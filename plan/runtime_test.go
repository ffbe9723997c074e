package plan

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDiffOfRuntimes: what isolates less has to be said yes to, and the default is the same as
// nothing.
func TestDiffOfRuntimes(t *testing.T) {
	t.Parallel()
	with := func(r Runtime, image string) *Plan {
		return &Plan{Agents: []Agent{{Name: "a", Runtime: r, Image: image}}}
	}
	for _, c := range []struct {
		was, is           Runtime
		wasImage, isImage string
		want              string
	}{
		{"", RuntimeBubblewrap, "", "", ""},
		{"", RuntimeContainer, "", "", "~ a runs under container, was bubblewrap"},
		{RuntimeGVisor, RuntimeVM, "", "", "~ a runs under vm, was gvisor  [high: it isolates less]"},
		{RuntimeContainer, RuntimeGVisor, "x", "x", "~ a runs under gvisor, was container"},
		{RuntimeGVisor, RuntimeContainer, "x", "x", "~ a runs under container, was gvisor  [high: it isolates less]"},
		{RuntimeContainer, "", "", "", "~ a runs under bubblewrap, was container  [high: it isolates less]"},
		{
			RuntimeContainer, RuntimeContainer, "x", "",
			"~ a has image none, was x  [medium: other programs have what the agent may do]",
		},
	} {
		got := ""
		for _, change := range Diff(with(c.was, c.wasImage), with(c.is, c.isImage)) {
			got += change.Line()
		}
		require.Equal(t, c.want, got)
	}
	require.True(t, RuntimeVM.Weaker(Runtime("vm2")), "what is published may be newer than this program")
	require.False(t, RuntimeVM.Weaker(RuntimeBubblewrap))
	require.True(t, Runtime("vm2").Weaker(RuntimeBubblewrap), "one that nobody knows isolates nothing")
}

// TestDiffGit: no change of the git outside is silent, and none reaches more than the rules.
func TestDiffGit(t *testing.T) {
	t.Parallel()
	with := func(repositories ...string) *Plan { return &Plan{Agents: []Agent{{Name: "a", Git: repositories}}} }
	require.Empty(t, Diff(with("h/a"), with("h/a")))
	for _, c := range []struct {
		was, is *Plan
		want    string
	}{
		{with(), with("h/a"), `~ a has git outside for ["h/a"], was []`},
		{with("h/a", "h/b"), with("h/a"), `~ a has git outside for ["h/a"], was ["h/a" "h/b"]`},
		{with("h/a"), with(), `~ a has git outside for [], was ["h/a"]`},
	} {
		changes := Diff(c.was, c.is)
		require.Len(t, changes, 1)
		require.Equal(t, c.want, changes[0].String())
		require.Equal(t, RiskLow, changes[0].Risk)
	}
	require.Len(t, Diff(&Plan{}, with("h/a")), 2, "of a new agent, too")
}
