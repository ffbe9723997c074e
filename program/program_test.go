package program

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPresets: every preset can be read, gives a reason for all that it sets, and stays in the
// home.
func TestPresets(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"claude", "codex", "gemini", "opencode"}, Names())
	for _, name := range Names() {
		p := Of(name)
		require.Equal(t, name, p.Name)
		require.NotEmpty(t, p.Keys, name)
		for _, k := range p.Keys {
			require.NotEmpty(t, k.Preset, name)
			require.Regexp(t, `^[A-Z_]+$`, k.Variable, name)
		}
		for _, v := range p.Env {
			require.Regexp(t, `^[A-Z_]+$`, v.Name, name)
			require.NotEmpty(t, v.Why, "%s: %s", name, v.Name)
		}
		for _, f := range p.Files {
			require.True(t, filepath.IsLocal(f.Path), "%s: %s", name, f.Path)
			require.NotEmpty(t, f.Why, "%s: %s", name, f.Path)
		}
	}
}

func TestOf(t *testing.T) {
	t.Parallel()
	require.Equal(t, "claude", Of("/opt/x/bin/claude").Name)
	for _, other := range []string{"bash", "claude2", "", "/", "..", "Claude"} {
		require.Nil(t, Of(other), other)
	}
	require.Equal(t, "x-api-key", Of("claude").Key("SOME_OTHER").Header, "the usual one")
	require.Empty(t, Of("claude").Key("CLAUDE_CODE_OAUTH_TOKEN").Header, "a bearer token")
}
