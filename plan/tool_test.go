package plan

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan/tool"
)

// TestDiffTools: no tool comes or changes without a high risk, whatever of it changes.
func TestDiffTools(t *testing.T) {
	t.Parallel()
	one := tool.Tool{
		Name: "ticket", About: "Opens", Command: []string{"/bin/ticket"}, Arguments: "{}", Seconds: 30, Output: 1024,
		Concurrent: 1,
	}
	with := func(tools ...tool.Tool) *Plan { return &Plan{Agents: []Agent{{Name: "a", Tools: tools}}} }
	require.Empty(t, Diff(with(one), with(one)))
	for _, change := range []func(*tool.Tool){
		func(t *tool.Tool) { t.About = "Closes" },
		func(t *tool.Tool) { t.Command = []string{"/bin/other"} },
		func(t *tool.Tool) { t.Command = []string{"/bin/ticket", "-x"} },
		func(t *tool.Tool) { t.Arguments = `{"type":"object"}` },
		func(t *tool.Tool) { t.Env = []string{"TOKEN"} },
		func(t *tool.Tool) { t.Seconds++ },
		func(t *tool.Tool) { t.Output++ },
		func(t *tool.Tool) { t.Concurrent++ },
	} {
		other := one
		change(&other)
		changes := Diff(with(one), with(other))
		require.Len(t, changes, 1)
		require.Equal(t, RiskHigh, changes[0].Risk, changes[0])
		require.Equal(t, "~", changes[0].Kind)
	}
	came := Diff(with(), with(one))
	require.Len(t, came, 1)
	require.Equal(t, RiskHigh, came[0].Risk)
	require.Contains(t, came[0].String(), `+ a has tool ticket outside: ["/bin/ticket"] (Opens), with the variables []`)
	gone := Diff(with(one), with())
	require.Len(t, gone, 1)
	require.Equal(t, RiskLow, gone[0].Risk)
	require.Equal(t, RiskHigh, Diff(&Plan{}, with(one))[0].Risk, "of a new agent, too")
}
