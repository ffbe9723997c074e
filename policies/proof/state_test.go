package proof_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/policies/proof"
	"github.com/postern/postern/policies/reach"
	"github.com/postern/postern/policies/reach/aws"
)

// reference returns a network that our components declare.
func reference(t testing.TB, name string) *graph.Graph {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "reach", "aws", "testdata", name+".json"))
	require.NoError(t, err)
	defer f.Close()
	g, err := graph.Read(f)
	require.NoError(t, err)
	return g
}

// exported returns the state after the plan was carried out, as `pulumi stack export` writes it:
// every reference is an ID, and the resources have been shuffled into an order of creation.
func exported(t testing.TB, g *graph.Graph) []byte {
	t.Helper()
	ids := map[string]string{}
	for i, r := range g.Resources {
		kind := "id"
		if strings.HasSuffix(r.Type, ":InternetGateway") {
			kind = "igw"
		}
		ids[r.URN] = fmt.Sprintf("%s-%017x", kind, i)
	}
	outputs := map[string]map[string]any{}
	for _, e := range g.Edges() { // an ARN or a name that others have is an output
		if text, ok := g.ByURN(e.From).Example[e.Property].(string); ok {
			if outputs[e.To] == nil {
				outputs[e.To] = map[string]any{}
			}
			outputs[e.To][e.From+e.Property] = text
		}
	}
	resources := []any{}
	for _, r := range g.Resources {
		inputs := map[string]any{}
		for property, v := range r.Inputs {
			deps, next := r.PropertyDependencies[property], 0
			var known func(v any) any
			known = func(v any) any {
				switch v := v.(type) {
				case string:
					if v != graph.Unknown {
						return v
					}
					if example, ok := r.Example[property].(string); ok && strings.ContainsAny(example, "{:") {
						return example // a document or an ARN
					}
					if len(deps) == 0 {
						return "computed"
					}
					next++
					return ids[deps[(next-1)%len(deps)]]
				case []any:
					out := make([]any, len(v))
					for i := range v {
						out[i] = known(v[i])
					}
					return out
				case map[string]any:
					out := map[string]any{"__defaults": []any{}}
					for k := range v {
						out[k] = known(v[k])
					}
					return out
				}
				return v
			}
			inputs[property] = known(v)
		}
		if r.Type == "aws:ec2/launchTemplate:LaunchTemplate" {
			outputs[r.URN] = map[string]any{"latestVersion": 7}
		}
		if launch, ok := inputs["launchTemplate"].(map[string]any); ok {
			launch["version"] = "7"
		}
		// The fixtures have neither tags nor the components above.
		inputs["tags"] = map[string]any{graph.TagRole: r.Role}
		resources = append(resources, map[string]any{
			"urn": r.URN, "type": r.Type, "custom": r.Custom, "id": ids[r.URN], "parent": r.Parent, "inputs": inputs,
			"outputs":              outputs[r.URN],
			"propertyDependencies": r.PropertyDependencies,
		})
	}
	var out bytes.Buffer
	require.NoError(t, json.NewEncoder(&out).Encode(map[string]any{
		"version": 3, "deployment": map[string]any{"resources": resources},
	}))
	return out.Bytes()
}

func ofState(t testing.TB, state []byte) *proof.Report {
	t.Helper()
	g, err := graph.Read(bytes.NewReader(state))
	require.NoError(t, err)
	r, err := proof.Of(nil, g, nil)
	require.NoError(t, err)
	return r
}

func text(t testing.TB, r *proof.Report) string {
	t.Helper()
	var out strings.Builder
	require.NoError(t, r.Print(&out))
	return out.String()
}

// TestAStateIsProvedAsItsPlan: what was created is proved like what is planned. Every ID is known.
func TestAStateIsProvedAsItsPlan(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"minimal", "fargate", "shared"} {
		g := reference(t, name)
		plan, err := proof.Of(nil, g, nil)
		require.NoError(t, err)
		require.Equal(t, reach.Holds, plan.Result, text(t, plan))
		state := ofState(t, exported(t, g))
		require.Equal(t, plan.Network, state.Network, name)
	}
}

// TestAStateIsProvedAsItIs: a rule that somebody's program has made is in its state.
func TestAStateIsProvedAsItIs(t *testing.T) {
	t.Parallel()
	g := reference(t, "minimal")
	for i := range g.Resources {
		if r := &g.Resources[i]; r.Type == "aws:ec2/vpc:Vpc" && strings.HasSuffix(r.Name, "-agents") {
			r.Inputs["enableDnsSupport"] = true
		}
		if strings.HasPrefix(g.Resources[i].Type, "aws:route53/resolverFirewallRuleGroupAssociation:") {
			g.Resources[i].Inputs["vpcId"] = "vpc-0123456789abcdef0"
			delete(g.Resources[i].PropertyDependencies, "vpcId")
		}
	}
	r := ofState(t, exported(t, g))
	require.Equal(t, reach.Fails, r.Result)
	require.Contains(t, text(t, r), "fails         prod-agent-coder-machine -> DNS: never")
}

// TestWhatIsNotProved: without agents or a network nothing is proved, and a secret is not known.
func TestWhatIsNotProved(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		change func(*graph.Graph)
		says   string
	}{
		"nothing":    {func(g *graph.Graph) { g.Resources = nil }, "there is no network in it"},
		"no network": {func(g *graph.Graph) { drop(g, "aws:ec2/vpc:") }, "there is no network in it"},
		"no agents": {func(g *graph.Graph) {
			drop(g, "postern:aws:AgentPool")
			for i := range g.Resources {
				g.Resources[i].Role = "other"
			}
		}, "it has no agent that the model knows"},
		"a secret": {func(g *graph.Graph) {
			for i := range g.Resources {
				if r := &g.Resources[i]; strings.HasPrefix(r.Type, "aws:vpc/securityGroupEgressRule:") {
					r.Inputs["ipProtocol"] = map[string]any{graph.SecretKey: graph.SecretMark}
				}
			}
		}, "fails "},
	} {
		g := reference(t, "minimal")
		c.change(g)
		r, err := proof.Of(nil, g, nil)
		require.NoError(t, err)
		require.NotEqual(t, reach.Holds, r.Result, what)
		require.Contains(t, text(t, r), c.says, what)
	}
}

func drop(g *graph.Graph, prefix string) {
	var left []graph.Resource
	for _, r := range g.Resources {
		if !strings.HasPrefix(r.Type, prefix) {
			left = append(left, r)
		}
	}
	g.Resources = left
}

// TestAMillionRules: what nobody could make ends the proof, and does not end the memory.
func TestAMillionRules(t *testing.T) {
	t.Parallel()
	for what, rule := range map[string]any{
		"rules": nil, "ranges": map[string]any{"protocol": "-1", "cidrBlocks": many("10.0.0.0/32")},
	} {
		g := reference(t, "minimal")
		for i := range g.Resources {
			if r := &g.Resources[i]; r.Name == "prod-fence-agent-coder" {
				r.Inputs["egress"] = []any{rule}
				if rule == nil {
					r.Inputs["egress"] = many(map[string]any{"protocol": "tcp", "cidrBlocks": []any{"10.0.0.0/32"}})
				}
			}
		}
		p := aws.Prove(g, nil, false)
		require.False(t, p.Holds(), what)
		require.Equal(t, "it has 1000000 rules, and AWS takes no more than 1000", p.Unknown[0].Why, what)
	}
}

func many(v any) []any {
	out := make([]any, 1_000_000)
	for i := range out {
		out[i] = v
	}
	return out
}

// TestNamesAreShownAsTheyAre: a name of a state does not write on somebody's terminal.
func TestNamesAreShownAsTheyAre(t *testing.T) {
	t.Parallel()
	g := reference(t, "minimal")
	for i := range g.Resources {
		g.Resources[i].Name += "\x1b[2J\u202e"
	}
	r, err := proof.Of(nil, g, nil)
	require.NoError(t, err)
	require.NotContains(t, text(t, r), "\x1b")
	require.NotContains(t, text(t, r), "\u202e")
	require.Contains(t, text(t, r), `\x1b[2J`)
}
