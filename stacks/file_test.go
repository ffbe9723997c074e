package stacks

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestFind(t *testing.T) {
	root := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(root, "config"))
	t.Setenv("POSTERN_HOME", filepath.Join(root, "state"))
	below := filepath.Join(root, "project", "sub")
	require.NoError(t, os.MkdirAll(below, 0o700))
	t.Chdir(below)

	_, err := Find("local")
	require.EqualError(t, err, "there is no stacks/local.yaml here or in a folder above, and no "+
		root+"/config/postern/stacks/local.yaml: `postern init` writes one, or name one with --file")

	// The user's own comes last.
	own := filepath.Join(root, "config", "postern", "stacks", "local.yaml")
	require.NoError(t, os.MkdirAll(filepath.Dir(own), 0o700))
	write(t, own, minimal)
	f, err := Find("local")
	require.NoError(t, err)
	require.Equal(t, File{Path: own, Real: own}, File{Path: f.Path, Real: f.Real, Found: f.Found})

	above := stackIn(t, filepath.Dir(below), "local")
	f, err = Find("local")
	require.NoError(t, err)
	require.Equal(t, File{Path: "../stacks/local.yaml", Real: above, Found: "in a folder above"}, File{Path: f.Path, Real: f.Real, Found: f.Found})

	here := stackIn(t, below, "local")
	f, err = Find("local")
	require.NoError(t, err)
	require.Equal(t, File{Path: "stacks/local.yaml", Real: here}, File{Path: f.Path, Real: f.Real, Found: f.Found})

	for _, name := range []string{"", ".", "..", "a/b", "../local"} {
		_, err = Find(name)
		require.ErrorIs(t, err, ErrName, name)
	}
}

// TestNames: the names of stacks here, above and of the user's own, once each; no folder, link or
// other file.
func TestNames(t *testing.T) {
	root := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(root, "config"))
	below := filepath.Join(root, "project", "sub")
	require.NoError(t, os.MkdirAll(filepath.Join(below, "stacks", "folder.yaml"), 0o700))
	t.Chdir(below)
	own := filepath.Join(root, "config", "postern", "stacks")
	require.NoError(t, os.MkdirAll(own, 0o700))
	write(t, filepath.Join(own, "own.yaml"), minimal)
	stackIn(t, below, "one")
	stackIn(t, below, "both")
	stackIn(t, filepath.Dir(below), "both")
	stackIn(t, filepath.Dir(below), "above")
	write(t, filepath.Join(below, "stacks", "README.md"), "")
	write(t, filepath.Join(below, "stacks", "o\x1bne.yaml"), minimal)
	require.NoError(t, os.Symlink(filepath.Join(own, "own.yaml"), filepath.Join(below, "stacks", "link.yaml")))
	require.Equal(t, []string{"above", "both", "one", "own"}, Names())
}

// What an agent plants in its folder leads a search nowhere else.
func TestFindFollowsNoLink(t *testing.T) {
	root := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(root, "config"))
	victim := stackIn(t, filepath.Join(root, "victim"), "local")
	for name, c := range map[string]struct {
		plant func(dir string) error
		want  string
	}{
		"folder": {
			func(dir string) error { return os.Symlink(filepath.Dir(victim), filepath.Join(dir, "stacks")) },
			"find the stack file: stacks is a symbolic link, which an agent may have put there: name the file with --file, or remove the link",
		},
		"file": {
			func(dir string) error { return os.Symlink(victim, filepath.Join(stacksFolder(t, dir), "local.yaml")) },
			"find the stack file: stacks/local.yaml is a symbolic link, which an agent may have put there: name the file with --file, or remove the link",
		},
		"dangling": {
			func(dir string) error { return os.Symlink("nowhere", filepath.Join(dir, "stacks")) },
			"stacks is a symbolic link",
		},
		"pipe": {
			func(dir string) error { return unix.Mkfifo(filepath.Join(stacksFolder(t, dir), "local.yaml"), 0o600) },
			"stacks/local.yaml is a pipe, not a regular file",
		},
		"folder for a file": {
			func(dir string) error { return os.Mkdir(filepath.Join(stacksFolder(t, dir), "local.yaml"), 0o700) },
			"stacks/local.yaml is a folder, not a regular file",
		},
	} {
		t.Run(name, func(t *testing.T) {
			// Between the agent and the root there is a good one: it is not passed to.
			dir := filepath.Join(t.TempDir(), "work")
			stackIn(t, filepath.Dir(dir), "local")
			require.NoError(t, os.MkdirAll(dir, 0o700))
			require.NoError(t, c.plant(dir))
			t.Chdir(dir)
			_, err := Find("local")
			require.ErrorContains(t, err, c.want)
		})
	}
}

func stacksFolder(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "stacks")
	require.NoError(t, os.MkdirAll(path, 0o700))
	return path
}
