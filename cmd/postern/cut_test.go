package main

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/daemon"
	"github.com/postern/postern/home"
	"github.com/postern/postern/xds/api"
)

// What a node that was taken over puts into its folders does not lead the last resort of a kill elsewhere: root runs it.
func TestCutFollowsNoLink(t *testing.T) {
	t.Parallel()
	root, err := os.MkdirTemp("", "cut") // short: a socket is below it
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })
	home := home.Folder{Root: filepath.Join(root, "local-1")}
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

	// A control plane that was taken over names as a node what it likes.
	require.NoError(t, os.MkdirAll(filepath.Join(home.ControlDir(), "d", "agents", "demo"), 0o755))
	require.NoError(t, os.Symlink(victim, filepath.Join(home.ControlDir(), "d", "demo")))
	for _, node := range []string{"../control/d", "..", "."} {
		confirmed := &bundle.Outcome{Converged: &api.Converged{Nodes: 1, Confirmed: []string{node}}}
		require.NoError(t, mendByHand(io.Discard, home, nil, confirmed, nil))
		require.DirExists(t, cutFolder(home, "n1"))
		require.FileExists(t, file)
		missing := &bundle.Outcome{Converged: &api.Converged{Nodes: 1, Missing: []api.Missing{{Node: node}}}}
		require.ErrorContains(t, imposed(io.Discard, home, "killed", missing, nil), "may serve its old version", "it is not one of this machine")
	}
	// Nor is what lies where sockets were put a socket for that.
	kept := filepath.Join(cutFolder(home, "n1"), "demo", "file.sock")
	require.NoError(t, os.WriteFile(kept, nil, 0o600))
	require.ErrorContains(t, mend(home, "n1", "demo"), "is not a socket that was taken away")
	require.NoError(t, os.Remove(kept))

	require.NoError(t, mend(home, "n1", "demo"))
	require.Equal(t, os.FileMode(socketMode), mode(socket))
	require.NoDirExists(t, filepath.Join(cutFolder(home, "n1"), "demo"))
	require.NoError(t, mend(home, "n1", "demo"), "again")
	require.Equal(t, os.FileMode(0o640), mode(file))
	require.FileExists(t, file)
}

// TestNodesThatRun: a kill looks at every node of this machine that runs, whatever its user did to its pid file or its
// supervisor.
func TestNodesThatRun(t *testing.T) {
	t.Parallel()
	home := home.Folder{Root: filepath.Join(t.TempDir(), "local-1")}
	for _, node := range []string{"n1", "n2", "n3"} {
		require.NoError(t, os.MkdirAll(home.NodeDir(node), 0o700))
	}
	require.Empty(t, runningNodes(home))
	pidfile := filepath.Join(home.NodeDir("n1"), "pid")
	release, err := daemon.Lock(pidfile)
	require.NoError(t, err)
	defer release()
	require.NoError(t, os.Remove(pidfile))
	require.Equal(t, []string{"n1"}, runningNodes(home))
	// An Envoy without a supervisor.
	proxy := exec.CommandContext(t.Context(), "sh", "-c", "echo; read x", "envoy", "--config-path", "bootstrap.json")
	proxy.Dir = home.NodeDir("n3")
	in, err := proxy.StdinPipe()
	require.NoError(t, err)
	out, err := proxy.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, proxy.Start())
	_, err = out.Read(make([]byte, 1))
	require.NoError(t, err)
	require.Equal(t, []string{"n1", "n3"}, runningNodes(home))
	require.NoError(t, in.Close())
	_ = proxy.Wait()
	require.Equal(t, []string{"n1"}, runningNodes(home))
}

// TestCutOfAMovedFolder: whoever moves the folder of an agent's sockets away keeps nothing open by that.
func TestCutOfAMovedFolder(t *testing.T) {
	t.Parallel()
	home, folder := blockingProxy(t)
	moved := home.AgentDir("n1", "moved")
	require.NoError(t, os.Rename(folder, moved))
	waiting, err := net.Dial("unix", filepath.Join(moved, "proxy.sock"))
	require.NoError(t, err)
	defer waiting.Close()
	n, err := cut(home, "n1", "demo")
	require.NoError(t, err)
	require.Equal(t, 1, n)
	_, err = net.Dial("unix", filepath.Join(moved, "proxy.sock"))
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
}

// TestCutOfABlockingSocket: an Envoy that was taken over does not have root's command wait in accept.
func TestCutOfABlockingSocket(t *testing.T) {
	t.Parallel()
	home, folder := blockingProxy(t)
	waiting, err := net.Dial("unix", filepath.Join(folder, "proxy.sock"))
	require.NoError(t, err)
	defer waiting.Close()
	n, err := cut(home, "n1", "demo")
	require.NoError(t, err)
	require.Equal(t, 1, n)
}

// blockingProxy starts a process in the place of node n1's Envoy, with a socket for the agent demo that blocks, and
// returns the socket's folder.
func blockingProxy(t *testing.T) (state home.Folder, folder string) {
	t.Helper()
	root, err := os.MkdirTemp("", "cut") // short: a socket is below it
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })
	state = home.Folder{Root: filepath.Join(root, "local-1")}
	require.NoError(t, os.MkdirAll(state.AgentDir("n1", "demo"), 0o700))
	const serve = "import socket; s=socket.socket(1); s.bind('agents/demo/proxy.sock'); s.listen(); print(flush=True); input()"
	proxy := exec.CommandContext(t.Context(), "/usr/bin/python3", "-c", serve, "--config-path", "bootstrap.json")
	proxy.Dir = state.NodeDir("n1")
	in, err := proxy.StdinPipe()
	require.NoError(t, err)
	out, err := proxy.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, proxy.Start())
	t.Cleanup(func() { in.Close(); proxy.Wait() }) //nolint:errcheck // it may have ended
	_, err = out.Read(make([]byte, 1))
	require.NoError(t, err)
	return state, state.AgentDir("n1", "demo")
}
