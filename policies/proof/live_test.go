package proof_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/policies/proof"
	"github.com/postern/postern/policies/reach"
	"github.com/postern/postern/stacks"
)

// existing returns the reference as it is read from an account: names begin with IDs.
func existing(t *testing.T) *graph.Graph {
	t.Helper()
	g := reference(t, "minimal")
	for i := range g.Resources {
		if r := &g.Resources[i]; r.Custom {
			r.Name = fmt.Sprintf("id-%d (%s)", i, r.Name)
		}
	}
	return g
}

// TestLive: what exists is proved as the plan is. What is accepted has the plan's names, a control
// that somebody has opened is named, and nothing counts as broken where something is unread.
func TestLive(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("POSTERN_HOME", filepath.Join(dir, "state"))
	stack := &stacks.Stack{Name: "prod", File: filepath.Join(dir, "prod.yaml"), Plan: &plan.Plan{
		Stack: "prod", Agents: []plan.Agent{{Name: "coder", Rules: []plan.Rule{{Port: 8443}}}},
	}}
	stack.Guardrails.Production = true
	for _, name := range []string{
		"no role of prod-agent-coder-machine", "no role of prod-agent-tester-machine",
		"own group of an agent -> an agent", "own group of an agent -> another agent's port at the proxies",
		"target of a listener -> another agent's port at the proxies",
		"target of a listener -> an admin port of the proxies",
	} {
		stack.Guardrails.Waivers = append(stack.Guardrails.Waivers, stacks.Waiver{
			Rail: "FLT-01", Resource: name, Owner: "ops", Expires: "2030-01-01",
		})
	}
	planned, err := proof.Of(stack, reference(t, "minimal"), nil)
	require.NoError(t, err)
	require.Equal(t, reach.Holds, planned.Result)
	live, err := proof.Live(stack, existing(t), nil)
	require.NoError(t, err)
	live.Compare(planned)
	require.Equal(t, reach.Holds, live.Result, "%+v", live.Network.Verdicts)
	require.Len(t, live.Network.Verdicts, len(planned.Network.Verdicts)+1)

	open := existing(t)
	i := slices.IndexFunc(open.Resources, func(r graph.Resource) bool {
		return strings.HasSuffix(r.Type, ":SecurityGroupEgressRule") &&
			strings.HasSuffix(r.Name, "(prod-fence-agent-coder)")
	})
	require.GreaterOrEqual(t, i, 0)
	rule := &open.Resources[i]
	delete(rule.Inputs, "referencedSecurityGroupId")
	rule.Inputs["cidrIpv4"], rule.Inputs["ipProtocol"] = "0.0.0.0/0", "-1"
	opened, err := proof.Live(stack, open, nil)
	require.NoError(t, err)
	opened.Compare(planned)
	require.Equal(t, reach.Fails, opened.Result)
	last := opened.Network.Verdicts[len(opened.Network.Verdicts)-1]
	require.Equal(t, reach.Fails, last.Result)
	require.Regexp(t, `outgoing rules of security group id-\d+ \(prod-fence-agent-coder\): it no longer`, last.Note)

	unread, err := proof.Live(stack, open, []reach.Unknown{{Resource: "ec2:DescribeRouteTables", Type: "question"}})
	require.NoError(t, err)
	unread.Compare(planned)
	require.Equal(t, reach.Indeterminate, unread.Result)
	for _, v := range unread.Network.Verdicts {
		require.NotEqual(t, reach.Fails, v.Result, v.Assertion)
	}
}
