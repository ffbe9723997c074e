package run

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/sandbox/run/named"
)

// TestNamedInAWorktree: the settings of a repository elsewhere are not the agent's, and what they
// name in the agent's folder is protected.
func TestNamedInAWorktree(t *testing.T) {
	t.Parallel()
	top, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	main, linked := filepath.Join(top, "main"), filepath.Join(top, "linked")
	for _, args := range [][]string{
		{"-C", top, "init", "-q", "main"},
		{"-C", main, "-c", "user.name=a", "-c", "user.email=a@a.test", "commit", "-qm", "x", "--allow-empty"},
		{"-C", main, "config", "core.hooksPath", "own/hooks"},
		{"-C", main, "worktree", "add", "-q", "../linked"},
	} {
		out, err := exec.CommandContext(t.Context(), "git", args...).CombinedOutput()
		require.NoError(t, err, "%v: %s", args, out)
	}
	require.NoError(t, os.MkdirAll(filepath.Join(linked, "own/hooks"), 0o700))
	require.Equal(t, []string{"own/hooks"}, named.Protectable(linked, Named(linked)))
}
