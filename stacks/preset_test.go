package stacks

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

// TestPresets: every preset loads as it is meant to be filled in, says which
// methods it is about, and is described for people.
func TestPresets(t *testing.T) {
	t.Parallel()
	const text = `version: 1
target: local
credentials:
  header: {kind: header, header: %q, secret: "env://S"}
  query: {kind: query, parameter: key, secret: "env://S"}
  bearer: {kind: bearer, secret: "env://S"}
  basic: {kind: basic, username: u, secret: "env://S"}
  github-app: {kind: github-app, app: 1, installation: 2, secret: "env://S"}
  gcp-access-token: {kind: gcp-access-token, scopes: [s], secret: "env://S"}
agents:
  a: {presets: [{name: %s%s}]}
`
	docs, err := os.ReadFile("../docs/policy.md")
	require.NoError(t, err)
	for _, p := range Presets() {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			require.NotEmpty(t, p.About)
			require.Contains(t, string(docs), "| `"+p.Name+"` |")
			root := presetFile(p.Name)
			for _, f := range root.Fields {
				require.Contains(t, []string{"about", "credential", "destinations"}, f.Key.Text)
			}
			header, git := "x-none", ""
			kinds := []string{""}
			if room := root.Get("credential"); room != nil {
				if h := room.Get("header"); h != nil {
					header = h.Text
				}
				if p.CredentialNeeded {
					kinds = nil
				}
				for _, k := range room.Get("kinds").Items {
					kinds = append(kinds, k.Text)
				}
			}
			if p.Git {
				git = `, read: ["a/*"], write: [a/b]`
			}
			for _, kind := range kinds {
				more := git
				if kind != "" {
					more += ", credential: " + kind
				}
				path := filepath.Join(t.TempDir(), "s.yaml")
				s, err := (&File{Path: path, Real: path, Ask: fakeClients}).Parse(fmt.Appendf(nil, text, header, p.Name, more))
				require.NoError(t, err)
				rules := s.Plan.Agents[0].Rules
				require.NotEmpty(t, rules)
				for _, r := range rules {
					require.NotEqual(t, []string{plan.AnyMethod}, r.Methods, r.ID)
					require.Equal(t, kind, r.Credential)
					require.Regexp(t, "^a/"+p.Name+"/[a-z0-9.-]+$", r.ID)
					require.Equal(t, path+":11, preset "+p.Name, s.Source(r.ID))
				}
			}
		})
	}
}
