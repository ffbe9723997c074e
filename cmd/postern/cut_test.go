package main

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/stacks"
)

// What a node that was taken over puts into its folders does not lead the last resort of a kill elsewhere: root runs it.
func TestCutFollowsNoLink(t *testing.T) {
	t.Parallel()
	root, err := os.MkdirTemp("", "cut") // short: a socket is below it
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })
	home := stacks.Home{Root: filepath.Join(root, "local-1")}
	victim := filepath.Join(root, "victim")
	require.NoError(t, os.MkdirAll(filepath.Join(victim, "demo"), 0o755))
	file := filepath.Join(victim, "demo", "file.sock")
	require.NoError(t, os.WriteFile(file, []byte("root's"), 0o640))
	folder := home.AgentDir("n1", "demo")
	require.NoError(t, os.MkdirAll(folder, 0o755))
	socket := filepath.Join(folder, "proxy.sock")
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	defer l.Close()
	require.NoError(t, os.Chmod(socket, socketMode))
	mode := func(path string) os.FileMode {
		info, err := os.Lstat(path)
		require.NoError(t, err)
		return info.Mode().Perm()
	}

	require.NoError(t, os.Symlink(file, filepath.Join(folder, "x.sock")))
	require.NoError(t, os.Symlink(victim, filepath.Join(home.NodeDir("n1"), "cut")))
	require.NoError(t, os.Symlink(victim, filepath.Join(home.NodeDir("n1"), "agents", "other")))
	_, err = cut(home, "n1", "demo")
	require.NoError(t, err)
	require.NoFileExists(t, socket, "nobody connects any more")
	require.FileExists(t, filepath.Join(cutFolder(home, "n1"), "demo", "proxy.sock"))
	_, err = cut(home, "n1", "other")
	require.Error(t, err)
	require.Equal(t, os.FileMode(0o640), mode(file))

	require.NoError(t, mend(home, "n1", "demo"))
	require.Equal(t, os.FileMode(socketMode), mode(socket))
	require.NoDirExists(t, filepath.Join(cutFolder(home, "n1"), "demo"))
	require.NoError(t, mend(home, "n1", "demo"), "again")
	require.Equal(t, os.FileMode(0o640), mode(file))
	require.FileExists(t, file)
}
