package proof_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/policies/proof"
	"github.com/postern/postern/policies/reach"
	"github.com/postern/postern/stacks"
)

// residual are the paths that no network closes: see docs/prove.md.
var residual = []int{7, 17, 18, 19, 20}

// TestEveryPathHasItsVerdict: in every mode each path of a hostile agent is closed by an assertion,
// or said to be open.
func TestEveryPathHasItsVerdict(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"minimal", "fargate", "shared"} {
		r, err := proof.Of(nil, reference(t, name), nil)
		require.NoError(t, err)
		require.Len(t, r.Paths, 20)
		var open []int
		for _, p := range r.Paths {
			if p.Result == proof.Residual {
				open = append(open, p.Number)
				require.NotEmpty(t, p.Note, p.Path)
				continue
			}
			require.Equal(t, reach.Holds, p.Result, p.Path)
			require.NotEmpty(t, p.By, p.Path)
		}
		require.Equal(t, residual, open)
	}
}

// TestAPathThatIsOpen: a path has the verdict of its worst assertion, and none without agents.
func TestAPathThatIsOpen(t *testing.T) {
	t.Parallel()
	g := reference(t, "minimal")
	for i := range g.Resources {
		r := &g.Resources[i]
		if strings.HasSuffix(r.Name, "-agent-coder-machine") && r.Inputs["metadataOptions"] != nil {
			r.Inputs["iamInstanceProfile"] = map[string]any{"arn": graph.Unknown}
		}
	}
	r, err := proof.Of(nil, g, nil)
	require.NoError(t, err)
	require.Equal(t, reach.Fails, r.Paths[4].Result)
	require.Equal(t, reach.Holds, r.Paths[0].Result)
	r, err = proof.Of(nil, &graph.Graph{Stack: "none"}, nil)
	require.NoError(t, err)
	for _, p := range r.Paths {
		require.NotEqual(t, reach.Holds, p.Result, p.Path)
	}
}

// TestWhatNobodyKnows: it may carry packets from wherever to wherever, and each path says so.
func TestWhatNobodyKnows(t *testing.T) {
	t.Parallel()
	g := reference(t, "minimal")
	for _, name := range []string{"a", "b"} {
		g.Resources = append(g.Resources, graph.Resource{
			URN: "urn:pulumi:prod::x::acme:index:Tunnel::" + name, Type: "acme:index:Tunnel", Name: name, Custom: true,
		})
	}
	require.NoError(t, g.Complete())
	r, err := proof.Of(nil, g, nil)
	require.NoError(t, err)
	for _, p := range r.Paths {
		if p.Result != proof.Residual {
			require.Equal(t, reach.Indeterminate, p.Result, p.Path)
			require.Contains(t, p.Note, "nobody knows a (acme:index:Tunnel), and 1 more", p.Path)
		}
	}
}

// TestNoAgent: without an agent nothing is said of mistakes.
func TestNoAgent(t *testing.T) {
	t.Parallel()
	g := reference(t, "minimal")
	for i := range g.Resources {
		if r := &g.Resources[i]; r.Role == "agents" {
			r.Role = "control"
		}
	}
	stack := &stacks.Stack{Name: "prod", File: filepath.Join(t.TempDir(), "prod.yaml"), Plan: &plan.Plan{Stack: "prod"}}
	stack.Guardrails.Production = true
	r, err := proof.Of(stack, g, nil)
	require.NoError(t, err)
	var text strings.Builder
	require.NoError(t, r.Print(&text))
	require.NotContains(t, text.String(), "no single mistake")
	require.Contains(t, text.String(), "indeterminate any one mistake -> an assertion that fails: never")
}
