package stacks

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
	require.NotEmpty(t, PresetNames())
	for _, name := range PresetNames() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := presetFile(name)
			require.NotEmpty(t, root.Get("about").Text)
			require.Contains(t, string(docs), "| `"+name+"` |")
			for _, f := range root.Fields {
				require.Contains(t, []string{"about", "credential", "destinations"}, f.Key.Text)
			}
			header, git := "x-none", ""
			kinds := []string{""}
			if room := root.Get("credential"); room != nil {
				if h := room.Get("header"); h != nil {
					header = h.Text
				}
				if needed := room.Get("needed"); needed != nil && needed.Text == "true" {
					kinds = nil
				}
				for _, k := range room.Get("kinds").Items {
					kinds = append(kinds, k.Text)
				}
			}
			if usesGit(root) {
				git = `, read: ["a/*"], write: [a/b]`
			}
			for _, kind := range kinds {
				more := git
				if kind != "" {
					more += ", credential: " + kind
				}
				path := filepath.Join(t.TempDir(), "s.yaml")
				s, err := (&File{Path: path, Real: path, Ask: fakeClients}).Parse(fmt.Appendf(nil, text, header, name, more))
				require.NoError(t, err)
				rules := s.Plan.Agents[0].Rules
				require.True(t, slices.ContainsFunc(rules, func(r plan.Rule) bool { return r.Credential == kind }))
				for _, r := range rules {
					require.NotEqual(t, []string{plan.AnyMethod}, r.Methods, r.ID)
					require.Contains(t, []string{kind, ""}, r.Credential)
					require.Regexp(t, "^a/"+name+"/[a-z0-9.-]+$", r.ID)
					require.Equal(t, path+":11, preset "+name, s.Source(r.ID))
				}
			}
		})
	}
}

// TestPresetsOwnCredential: the credential that has a preset's name is taken for it, and refused at
// the preset if it is of a kind that the preset cannot use.
func TestPresetsOwnCredential(t *testing.T) {
	t.Parallel()
	for written, fits := range map[string]bool{
		"{kind: header, header: x-api-key, secret: \"env://KEY\"}": true,
		"{kind: bearer, secret: \"env://KEY\"}":                    true,
		"{kind: header, header: x-other, secret: \"env://KEY\"}":   false,
		"{kind: query, parameter: key, secret: \"env://KEY\"}":     false,
	} {
		path := filepath.Join(t.TempDir(), "local.yaml")
		write(t, path, "version: 1\ntarget: local\ncredentials:\n  anthropic: "+written+
			"\nagents:\n  demo: {presets: [anthropic]}\n")
		_, err := Load(path)
		if fits {
			require.NoError(t, err, written)
			continue
		}
		require.ErrorContains(t, err, path+
			":6:20: credential anthropic is not of a kind that preset anthropic can use", written)
	}
}
