package run

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/hostpath"
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

// TestOutsideSources: no agent may write the files that `make` and `go run .` run, whether this
// program is in the tree, was installed from there, or brought a stack up from there.
func TestOutsideSources(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	root, installed := filepath.Join(top, "tree"), filepath.Join(top, "libexec")
	require.NoError(t, os.MkdirAll(filepath.Join(root, "bin"), 0o755))
	require.NoError(t, os.MkdirAll(installed, 0o755))
	require.NoError(t, os.Symlink("tree", filepath.Join(top, "link")))
	self, other := filepath.Join(root, "bin", "postern"), filepath.Join(installed, "postern")
	tools := filepath.Join(root, "tools")
	require.NoError(t, outsideSources([]string{self, other}, tools), "an installed program")
	require.NoError(t, os.WriteFile(filepath.Join(root, "go.mod"), []byte("module example.test/other\n"), 0o600))
	require.NoError(t, outsideSources([]string{self, other}, tools), "somebody else's sources")
	require.NoError(t, os.WriteFile(filepath.Join(root, "go.mod"), []byte("module github.com/postern/postern\n"), 0o600))
	require.NoError(t, outsideSources([]string{other}, tools), "installed from elsewhere")
	require.NoError(t, os.WriteFile(filepath.Join(installed, "source"), []byte(top+"/link\n"), 0o600))
	for _, own := range [][]string{{self}, {other}, {"/usr/bin/postern", self}} {
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
			{top, true},
		} {
			err := outsideSources(own, c.workdir)
			if !c.refused {
				require.NoError(t, err, c.workdir)
				continue
			}
			require.ErrorContains(t, err, "where an agent may write", c.workdir)
		}
	}
	require.NoError(t, os.RemoveAll(root))
	require.NoError(t, outsideSources([]string{other}, tools), "what it was installed from is gone")
	require.NoError(t, os.Remove(filepath.Join(installed, "source")))
	require.NoError(t, os.Mkdir(filepath.Join(installed, "source"), 0o755))
	require.Error(t, outsideSources([]string{other}, tools))
}

// TestAdviceForNames: a program with a second name is advised a file of its own.
func TestAdviceForNames(t *testing.T) {
	t.Parallel()
	err := (&Request{}).anotherFolder("a program of Postern's", &hostpath.WritableError{
		Path: "/opt/p n/postern", Step: "/opt/p n/postern", Folder: "/work", Names: 2,
	})
	require.EqualError(t, err, "a program of Postern's: /opt/p n/postern has 2 names (hard links), and one may be in "+
		"/work, where an agent may write: give it a file of its own: cp -p '/opt/p n/postern' '/opt/p n/postern.own' "+
		"&& mv -f '/opt/p n/postern.own' '/opt/p n/postern'")
}
