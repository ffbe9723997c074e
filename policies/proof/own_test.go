package proof_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/policies/proof"
	"github.com/postern/postern/policies/reach"
	"github.com/postern/postern/stacks"
)

// TestAssertionsNextToTheStackFile: they count, and a mistake in them proves nothing.
func TestAssertionsNextToTheStackFile(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("POSTERN_HOME", filepath.Join(dir, "state"))
	stack := &stacks.Stack{Name: "prod", File: filepath.Join(dir, "prod.yaml"), Plan: &plan.Plan{
		Stack: "prod", Agents: []plan.Agent{{Name: "coder", Rules: []plan.Rule{{Port: 8443}}}},
	}}
	write := func(text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "prod.reach"), []byte(text), 0o600))
	}
	g := reference(t, "shared")
	for text, want := range map[string]reach.Result{
		"":                                   reach.Holds,
		"coder -> 8.8.8.8/32: never\n":       reach.Holds,
		"proxies -> 8.8.8.8/32: never":       reach.Fails,
		"somebody -> 8.8.8.8/32: never # no": "",
		"somebody -> 8.8.8.8/32: never":      reach.Indeterminate,
		// Every packet that is named, and not one of them.
		"proxies -> 198.51.100.0/24 tcp/443: must": reach.Holds,
		"proxies -> 198.51.100.0/24: must":         reach.Fails,
		"proxies -> 198.51.100.7/32 tcp/25: must":  reach.Fails,
		"proxies -> ::/0 tcp/443: must":            reach.Fails,
	} {
		write(text)
		r, err := proof.Of(stack, g, nil)
		if want == "" {
			require.ErrorContains(t, err, "prod.reach:1: ")
			continue
		}
		require.NoError(t, err)
		require.Equal(t, want, r.Result, text)
	}
	require.NoError(t, os.Remove(filepath.Join(dir, "prod.reach")))
	r, err := proof.Of(stack, g, nil)
	require.NoError(t, err)
	require.Equal(t, reach.Holds, r.Result, "there need not be any")
	// What the proxies may send is what the policy says, and not what the program was told.
	stack.Plan.Agents[0].Rules[0].Port = 8444
	r, err = proof.Of(stack, g, nil)
	require.NoError(t, err)
	var text strings.Builder
	require.NoError(t, r.Print(&text))
	require.Contains(t, text.String(), "fails         prod-proxies-service -> the internet: only tcp/443, tcp/8444\n")
	require.Contains(t, text.String(), "fails         prod-proxies-service -> the internet, tcp/8444: must\n")
}

// TestAssertionsOfAnAgent: a file that an agent may have written is refused, whatever it leaves
// out, and so is a link to such a file or to none.
func TestAssertionsOfAnAgent(t *testing.T) {
	dir := t.TempDir()
	base, agents := filepath.Join(dir, "state"), filepath.Join(dir, "agents")
	for _, d := range []string{base, agents, filepath.Join(dir, "mine")} {
		require.NoError(t, os.Mkdir(d, 0o700))
	}
	t.Setenv("POSTERN_HOME", base)
	require.NoError(t, hostpath.In(base).Record(agents))
	own := func(folder string) error {
		_, _, err := proof.Own(&stacks.Stack{Name: "prod", File: filepath.Join(dir, folder, "prod.yaml")})
		return err
	}
	link := filepath.Join(dir, "mine", "prod.reach")
	require.NoError(t, own("mine"))
	require.NoError(t, os.Symlink(filepath.Join(agents, "prod.reach"), link))
	require.ErrorContains(t, own("mine"), "read the assertions of stack prod: ", "a link to nothing")
	require.NoError(t, os.WriteFile(filepath.Join(agents, "prod.reach"), nil, 0o600))
	var writable *hostpath.WritableError
	require.ErrorAs(t, own("mine"), &writable)
	require.ErrorAs(t, own("agents"), &writable)
	require.NoError(t, os.Remove(link))
	require.NoError(t, os.WriteFile(link, []byte(strings.Repeat("#\n", 1<<20)), 0o600))
	require.Error(t, own("mine"), "it is too large")
}

// TestStale: a report is about one network and its assertions.
func TestStale(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("POSTERN_HOME", filepath.Join(dir, "state"))
	stack := &stacks.Stack{Name: "prod", File: filepath.Join(dir, "prod.yaml"), Plan: &plan.Plan{Stack: "prod"}}
	of := func(g *graph.Graph) *proof.Report {
		r, err := proof.Of(stack, g, nil)
		require.NoError(t, err)
		return r
	}
	g := reference(t, "shared")
	signed := of(g)
	require.Empty(t, signed.Stale(of(g)))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "prod.reach"), []byte("coder -> 8.8.8.8/32: never\n"), 0o600))
	require.Equal(t, "the assertions next to the stack file", signed.Stale(of(g)))
	g.Resources[0].Inputs["description"] = "another"
	require.Equal(t, "the network", signed.Stale(of(g)))
}
