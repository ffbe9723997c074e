package aws

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/plan/cloud"
	"github.com/postern/postern/policies/guardrail"
)

// residual are the waivers of mistakes for which AWS has no second control, as docs/preview.md names
// them, and of machines that have a metadata service.
func residual(g *graph.Graph, args *EnvironmentArgs) (out []guardrail.Waiver) {
	if args.AWS.Mode != cloud.ModeIsolated || !args.AWS.Protect {
		return nil
	}
	names := []string{
		"target of a listener -> an admin port of the proxies",
		"target of a listener -> another agent's port at the proxies",
		"own group of an agent -> another agent's port at the proxies", "own group of an agent -> an agent",
	}
	for _, x := range g.OfType("aws:ec2/launchTemplate:LaunchTemplate") {
		if options, _ := x.Inputs["metadataOptions"].(map[string]any); options["httpEndpoint"] != "disabled" &&
			x.Role == "agents" {
			names = append(names, "no role of "+x.Name)
		}
	}
	for _, name := range names {
		out = append(out, guardrail.Waiver{Rail: guardrail.FaultRail, Resource: name, Owner: "x", Reason: "x"})
	}
	return out
}

// TestWhatOneMistakeOpensIsNamed: it is what docs/preview.md has a row for, and nothing else.
func TestWhatOneMistakeOpensIsNamed(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "preview.md"))
	require.NoError(t, err)
	replaced := regexp.MustCompile("^(no role of|DNS firewall of|policy of endpoint) .*")
	as := map[string]string{"no role of": "MACHINE", "DNS firewall of": "NETWORK", "policy of endpoint": "ENDPOINT"}
	rows := map[string]bool{}
	for _, variant := range []string{"minimal", "strict", "fargate", "zones"} {
		g, args := captured(t, variant)
		for _, f := range guardrail.Check(g, guardrail.Options{Production: true, Plan: args.Plan}).Findings {
			if f.Rail != guardrail.FaultRail {
				continue
			}
			row := f.Name
			if m := replaced.FindStringSubmatch(row); m != nil {
				row = m[1] + " " + as[m[1]]
			}
			rows[row] = true
			require.Contains(t, string(text), "| `"+row+"` | ", variant)
		}
	}
	require.Len(t, rows, 7)
}
