package stacks

import (
	"bytes"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/golden"
)

// FuzzLoad: no input takes the loader down, and what loads encodes in one way.
func FuzzLoad(f *testing.F) {
	for _, data := range golden.Seeds(f, "stack.yaml", "testdata/load/*.txtar", "aws/testdata/*.txtar", "edit/testdata/*.txtar") {
		f.Add(data)
	}
	path := filepath.Join(f.TempDir(), "fuzz.yaml")
	f.Fuzz(func(t *testing.T, data []byte) {
		stack, err := (&File{Path: path, Real: path, Ask: fakeClients}).Parse(data)
		if err != nil {
			require.Nil(t, stack)
			return
		}
		one, err := stack.Plan.Encode()
		require.NoError(t, err)
		again, err := (&File{Path: path, Real: path, Ask: fakeClients}).Parse(bytes.Clone(data))
		require.NoError(t, err)
		two, err := again.Plan.Encode()
		require.NoError(t, err)
		require.Equal(t, string(one), string(two))
		stack.warn(time.Now())
		for _, a := range stack.Plan.Agents {
			require.True(t, name(a.Name), a.Name)
			decideAll(stack.Plan, a)
			for _, r := range a.Rules {
				host, err := plan.CanonicalPattern(r.Host)
				require.NoError(t, err)
				require.Equal(t, host, r.Host)
				require.NotEmpty(t, r.Methods)
				require.NotEmpty(t, r.Paths)
				require.NotZero(t, r.Port)
			}
		}
	})
}

// decideAll asks about what the agent's rules name, and about what is near.
func decideAll(p *plan.Plan, a plan.Agent) {
	for _, r := range a.Rules {
		for _, path := range append([]string{"", "/", "//;%2f/../*"}, r.Paths...) {
			for _, scheme := range []string{"https", "http", "ssh"} {
				q := plan.Request{Agent: a.Name, Scheme: scheme, Host: r.Host, Port: r.Port, Method: r.Methods[0], Path: path, Query: "a=%zz&&=&service"}
				p.Decide(q)
				q.Host, q.Port = "localhost", r.Gateway
				p.Decide(q)
			}
		}
	}
}
