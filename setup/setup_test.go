package setup

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/hostpath"
)

// TestNoPolicyWhereAnAgentWorks: neither the user's own, wherever a variable says that this is, nor
// a project's, which may lead elsewhere by a link.
func TestNoPolicyWhereAnAgentWorks(t *testing.T) {
	dir := t.TempDir()
	work, own := filepath.Join(dir, "work"), filepath.Join(dir, "own")
	t.Setenv("POSTERN_HOME", filepath.Join(dir, "state"))
	registry, err := hostpath.StateFolder()
	require.NoError(t, err)
	for _, d := range []string{work, own, registry} {
		require.NoError(t, os.MkdirAll(d, 0o700))
	}
	require.NoError(t, hostpath.In(registry).Record(work))
	a := Answers{Program: "other", Agent: "coder", Stack: "local"}

	t.Setenv("XDG_CONFIG_HOME", work)
	_, err = a.Write()
	require.ErrorContains(t, err, "where an agent may write")
	t.Setenv("XDG_CONFIG_HOME", own)
	path, err := a.Write()
	require.NoError(t, err)
	require.Equal(t, filepath.Join(own, "postern/stacks/local.yaml"), path)
	_, err = a.Write()
	require.ErrorIs(t, err, ErrExists)

	a.Project = true
	t.Chdir(work)
	_, err = a.Write()
	require.ErrorContains(t, err, "where an agent may write")
	t.Chdir(own)
	require.NoError(t, os.Symlink(dir, filepath.Join(own, "stacks")))
	_, err = a.Write()
	require.ErrorContains(t, err, "is a symbolic link")
	entries, err := os.ReadDir(work)
	require.NoError(t, err)
	require.Empty(t, entries)
}
