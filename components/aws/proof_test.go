package aws

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/engine/capture"
	"github.com/postern/postern/graph"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/policies/proof"
	"github.com/postern/postern/policies/reach"
	"github.com/postern/postern/tests/golden"
)

// fixtures are the variants whose networks the tests of package reach/aws change: they need no SDK.
var fixtures = []string{"minimal", "fargate", "shared"}

// TestTheProofHoldsInEveryMode: what every variant would make is proved before it is made, and the
// fixtures of the proof's own tests are what the components declare.
func TestTheProofHoldsInEveryMode(t *testing.T) {
	t.Parallel()
	for name, section := range variants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := load(t, section)
			result, err := capture.Run(func(ctx *pulumi.Context) error {
				_, err := NewEnvironment(ctx, "prod", args)
				return err
			}, capture.Options{Project: "postern", Stack: "prod", Region: args.AWS.Region, Account: args.AWS.Account})
			require.NoError(t, err)
			proven := proof.Network(result.Graph, args.Plan, nil, false)
			var text strings.Builder
			require.NoError(t, proven.Print(&text))
			require.True(t, proven.Holds(), text.String())
			if !slices.Contains(fixtures, name) {
				return
			}
			var got bytes.Buffer
			require.NoError(t, carries(result.Graph).Encode(&got))
			file := filepath.Join("..", "..", "policies", "reach", "aws", "testdata", name+".json")
			if *golden.Update {
				require.NoError(t, os.WriteFile(file, got.Bytes(), 0o600))
				return
			}
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Equal(t, string(want), got.String(), "go test -update, and then read the difference")
		})
	}
}

// TestAControlPlaneThatMints: it may reach the internet at the ports of the policy, and no single
// mistake opens more.
func TestAControlPlaneThatMints(t *testing.T) {
	t.Parallel()
	args := load(t, variants["minimal"])
	args.Plan.Credentials[0].Kind = plan.KindOAuth2ClientCredentials
	result, err := capture.Run(func(ctx *pulumi.Context) error {
		_, err := NewEnvironment(ctx, "prod", args)
		return err
	}, capture.Options{Project: "postern", Stack: "prod", Region: args.AWS.Region, Account: args.AWS.Account})
	require.NoError(t, err)
	for _, policy := range []*plan.Plan{args.Plan, nil} { // the components were told of it
		proven := proof.Network(result.Graph, policy, nil, true)
		var text strings.Builder
		require.NoError(t, proven.Print(&text))
		require.True(t, proven.Holds(), text.String())
		require.Contains(t, text.String(), "prod-control-service -> the internet: only tcp/443, tcp/8443\n")
		for _, m := range proven.Mistakes {
			require.NotContains(t, m.Opens, "prod-control-")
		}
	}
	args.Plan.Credentials[0].Kind = plan.KindBearer
	proven := proof.Network(result.Graph, args.Plan, nil, false)
	require.True(t, slices.ContainsFunc(proven.Verdicts, func(v reach.Verdict) bool {
		return v.Assertion == "prod-control-service -> the internet: never" && v.Result == reach.Fails
	}), "nothing in the policy needs the way out")
}

// carries returns what of a plan carries or refuses packets, without long texts.
func carries(g *graph.Graph) *graph.Graph {
	out := &graph.Graph{Format: g.Format, Stack: g.Stack}
	for _, r := range g.Resources {
		if !slices.ContainsFunc([]string{
			"aws:ec2/", "aws:vpc/", "aws:lb/", "aws:autoscaling/group:", "aws:ecs/",
			"aws:route53/resolverFirewall", "postern:aws:AgentPool", "postern:aws:Fleet",
		},
			func(prefix string) bool { return strings.HasPrefix(r.Type, prefix) }) {
			continue
		}
		r.Dependencies = nil
		for _, long := range []string{"tags", "tagSpecifications", "containerDefinitions", "userData", "description"} {
			delete(r.Inputs, long)
			delete(r.Example, long)
			delete(r.PropertyDependencies, long)
		}
		out.Resources = append(out.Resources, r)
	}
	return out
}
