package stacks

import (
	"bytes"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

// FuzzLoad: no input takes the loader down, and what loads encodes in one way.
func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"testdata/load/*.txtar", "edit/testdata/*.txtar"} {
		files, err := filepath.Glob(pattern)
		require.NoError(f, err)
		for _, file := range files {
			archive, err := txtar.ParseFile(file)
			require.NoError(f, err)
			for _, file := range archive.Files {
				if file.Name == "stack.yaml" {
					f.Add(file.Data)
				}
			}
		}
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
