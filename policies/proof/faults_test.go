package proof_test

import (
	"io"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/exit"
	"github.com/postern/postern/graph"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/policies/proof"
	"github.com/postern/postern/policies/reach"
	"github.com/postern/postern/stacks"
)

// TestOneMistakeOpensNothingInProduction: but what AWS has no second control for, which somebody
// has to accept by name. Nothing else is accepted with it.
func TestOneMistakeOpensNothingInProduction(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("POSTERN_HOME", filepath.Join(dir, "state"))
	stack := &stacks.Stack{Name: "prod", File: filepath.Join(dir, "prod.yaml"), Plan: &plan.Plan{
		Stack: "prod", Agents: []plan.Agent{{Name: "coder", Rules: []plan.Rule{{Port: 8443}}}},
	}}
	verdict := func(g *graph.Graph) *reach.Verdict {
		r, err := proof.Of(stack, g, nil)
		require.NoError(t, err)
		i := slices.IndexFunc(r.Network.Verdicts, func(v reach.Verdict) bool {
			return v.Assertion == "any one mistake -> an assertion that fails: never"
		})
		if i < 0 {
			return nil
		}
		require.Equal(t, r.Network.Verdicts[i].Result, r.Result)
		return &r.Network.Verdicts[i]
	}
	g := reference(t, "minimal")
	require.Nil(t, verdict(g), "it is not for production")
	stack.Guardrails.Production = true
	names := []string{
		"no role of prod-agent-coder-machine", "no role of prod-agent-tester-machine",
		"own group of an agent -> an agent", "own group of an agent -> another agent's port at the proxies",
		"target of a listener -> an admin port of the proxies",
		"target of a listener -> another agent's port at the proxies",
	}
	open := "open: "
	for i, name := range names {
		if i > 0 {
			open += "; "
		}
		open += name
	}
	v := verdict(g)
	require.Equal(t, reach.Fails, v.Result)
	require.NotEmpty(t, v.Witness)
	require.Equal(t, open, v.Note)
	for _, name := range names {
		stack.Guardrails.Waivers = append(stack.Guardrails.Waivers, stacks.Waiver{
			Rail: "FLT-01", Resource: name, Owner: "ops", Expires: "2030-01-01",
		})
	}
	v = verdict(g)
	require.Equal(t, reach.Holds, v.Result)
	require.Contains(t, v.Note, "waived: no role of prod-agent-coder-machine (until 2030-01-01, by ops); ")
	// The verdict does not depend on the day, and the status does.
	report, err := proof.Of(stack, g, nil)
	require.NoError(t, err)
	require.NoError(t, report.Ended("2030-01-01"), "on its last day")
	ended := report.Ended("2030-01-02")
	require.ErrorContains(t, ended, `stack prod: the waiver of FLT-01 for "`)
	require.ErrorContains(t, ended, "ended on 2030-01-01: correct the network, or ask ops to renew it")
	require.NoError(t, report.Deliver(io.Discard, true, ""))
	stack.Guardrails.Waivers[0].Expires = "2020-01-01"
	report, err = proof.Of(stack, g, nil)
	require.NoError(t, err)
	require.Equal(t, reach.Holds, report.Result)
	require.Equal(t, exit.Open, exit.Status(report.Deliver(io.Discard, true, "")))
	// Another guardrail's waiver is not for this.
	stack.Guardrails.Waivers[0].Rail = "IMD-03"
	require.Equal(t, reach.Fails, verdict(g).Result)
	stack.Guardrails.Waivers[0].Rail = "FLT-01"
	// A control that nothing else stands behind.
	for i := range g.Resources {
		if r := &g.Resources[i]; r.Type == "aws:lb/loadBalancer:LoadBalancer" {
			delete(r.Inputs, "securityGroups")
			r.PropertyDependencies["securityGroups"] = nil
		}
	}
	v = verdict(g)
	require.Equal(t, reach.Fails, v.Result)
	require.Contains(t, v.Note, "open: no public address of prod-proxies-balancer; outgoing rules of security group "+
		"prod-fence-proxies; waived: ")
}
