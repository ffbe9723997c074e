package run

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestInAnotherFolder: what is advised works when it is pasted, whatever was typed before.
func TestInAnotherFolder(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"bin/postern run --workdir ~/agent --agent demo -- sh -c 'echo $HOME'":   {"bin/postern", "run", "--agent", "demo", "--", "sh", "-c", "echo $HOME"},
		"postern run --workdir ~/agent -a demo -- x -w y --workdir z":            {"postern", "run", "-w", ".", "-a", "demo", "--", "x", "-w", "y", "--workdir", "z"},
		"postern --file 'a b' run --workdir ~/agent --agent demo -- bin/postern": {"postern", "--file", "a b", "run", "--agent", "demo", "--workdir=/x", "--", "bin/postern"},
	} {
		require.Equal(t, want, inAnotherFolder(args))
	}
}

// TestOutsideCheckout: no agent may write the files that `make` and `go run .` run.
func TestOutsideCheckout(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	self := filepath.Join(root, "bin", "postern")
	require.NoError(t, outsideCheckout(self, filepath.Join(root, "tools")), "an installed program")
	require.NoError(t, os.WriteFile(filepath.Join(root, "go.mod"), []byte("module example.test/other\n"), 0o600))
	require.NoError(t, outsideCheckout(self, filepath.Join(root, "tools")), "somebody else's sources")
	require.NoError(t, os.WriteFile(filepath.Join(root, "go.mod"), []byte("module github.com/postern/postern\n\ngo 1.26\n"), 0o600))
	for _, c := range []struct {
		workdir string
		refused bool
	}{
		{root, true},
		{root + "/tools", true},
		{root + "/.git", true},
		{root + "/.cache", true},
		{root + "/.cache/demo", true},
		{root + "/.cache/demo/work", false},
		{root + "/.cache/demo/work/sub", false},
		{root + "/.cache/demo/works", true},
		{root + "-2", false},
		{filepath.Dir(root), false}, // its programs are refused
	} {
		err := outsideCheckout(self, c.workdir)
		if !c.refused {
			require.NoError(t, err, c.workdir)
			continue
		}
		require.ErrorContains(t, err, "where an agent may write", c.workdir)
	}
}
