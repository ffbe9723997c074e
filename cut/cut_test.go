package cut

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

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
	_, err = cut(home, "n1", "demo", time.Now().Add(cutFor))
	require.NoError(t, err)
	require.NoFileExists(t, socket, "nobody connects any more")
	require.FileExists(t, filepath.Join(cutFolder(home, "n1"), "demo", "proxy.sock"))
	_, err = cut(home, "n1", "other", time.Now().Add(cutFor))
	require.Error(t, err)
	require.Equal(t, os.FileMode(0o640), mode(file))

	// A control plane that was taken over names as a node what it likes.
	require.NoError(t, os.MkdirAll(filepath.Join(home.ControlDir(), "d", "agents", "demo"), 0o755))
	require.NoError(t, os.Symlink(victim, filepath.Join(home.ControlDir(), "d", "demo")))
	for _, node := range []string{"../control/d", "..", "."} {
		confirmed := &bundle.Outcome{Converged: &api.Converged{Nodes: 1, Confirmed: []string{node}}}
		_, err := Mend(t.Context(), io.Discard, home, nil, confirmed, nil)
		require.NoError(t, err)
		require.DirExists(t, cutFolder(home, "n1"))
		require.FileExists(t, file)
	}
	// Nor is what lies where sockets were put a socket for that.
	kept := filepath.Join(cutFolder(home, "n1"), "demo", "file.sock")
	require.NoError(t, os.WriteFile(kept, nil, 0o600))
	_, err = mend(home, "n1", "demo")
	require.ErrorContains(t, err, "is not a socket that was taken away")
	require.NoError(t, os.Remove(kept))

	mended, err := mend(home, "n1", "demo")
	require.NoError(t, err)
	require.True(t, mended)
	require.Equal(t, os.FileMode(socketMode), mode(socket))
	require.NoDirExists(t, filepath.Join(cutFolder(home, "n1"), "demo"))
	mended, err = mend(home, "n1", "demo")
	require.NoError(t, err, "again")
	require.False(t, mended)
	require.Equal(t, os.FileMode(0o640), mode(file))
	require.FileExists(t, file)
}

// TestSecondUnkillMends: an unkill that the control plane did not answer, for it hung, mends
// nothing: no node has confirmed it. The next unkill does, although the agent is not killed any
// more, where the nodes have confirmed.
func TestSecondUnkillMends(t *testing.T) {
	t.Parallel()
	root, err := os.MkdirTemp("", "cut") // short: a socket is below it
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })
	home := home.Folder{Root: filepath.Join(root, "local-1")}
	require.NoError(t, os.MkdirAll(home.AgentDir("n1", "demo"), 0o755))
	require.NoError(t, os.MkdirAll(home.ControlDir(), 0o755))
	socket := filepath.Join(home.AgentDir("n1", "demo"), "proxy.sock")
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	defer l.Close()
	_, err = cut(home, "n1", "demo", time.Now().Add(cutFor))
	require.NoError(t, err)
	require.NoFileExists(t, socket)

	control, err := net.Listen("unix", home.ControlSocket())
	require.NoError(t, err)
	var status api.Status
	answer := func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(status) }
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(answer)}
	go func() { _ = server.Serve(control) }()
	t.Cleanup(func() { _ = server.Close() })
	notKilled := fmt.Errorf("in the command's words: %w", &bundle.NotKilledError{Agent: "demo"})
	for _, c := range []struct {
		status api.Status
		mends  bool
	}{
		{api.Status{
			Version: "v", Killed: []string{"demo"}, Nodes: []api.Node{{ID: "n1", Connected: true, Version: "v"}},
		}, false},
		{api.Status{Version: "v", Nodes: []api.Node{{ID: "n1", Connected: true, Version: "u"}}}, false},
		{api.Status{Version: "v", Nodes: []api.Node{{ID: "n1", Version: "v"}}}, false},
		{api.Status{Version: "v", Nodes: []api.Node{{ID: "n2", Connected: true, Version: "v"}}}, false},
		{api.Status{Version: "v", Nodes: []api.Node{{ID: "n1", Connected: true, Version: "v"}}}, true},
		{api.Status{Version: "v", Nodes: []api.Node{{ID: "n1", Connected: true, Version: "v"}}}, false},
	} {
		status = c.status
		var said strings.Builder
		enough, err := Mend(t.Context(), &said, home, []string{"demo", "other"}, nil, notKilled)
		require.NoError(t, err)
		require.Equal(t, c.mends, enough, "%+v", c.status)
		if c.mends {
			require.Equal(t, "local-1: demo is not killed, and reaches node n1 again\n", said.String())
			require.FileExists(t, socket)
		} else {
			require.Empty(t, said.String())
		}
	}
}

// TestNodesThatRun: a kill looks at every node of this machine that runs, whatever its user did to its pid file or its
// supervisor.
func TestNodesThatRun(t *testing.T) {
	t.Parallel()
	home := home.Folder{Root: filepath.Join(t.TempDir(), "local-1")}
	for _, node := range []string{"n1", "n2", "n3"} {
		require.NoError(t, os.MkdirAll(home.NodeDir(node), 0o700))
	}
	require.Empty(t, RunningNodes(home))
	pidfile := filepath.Join(home.NodeDir("n1"), "pid")
	release, err := daemon.Lock(pidfile)
	require.NoError(t, err)
	defer release()
	require.NoError(t, os.Remove(pidfile))
	require.Equal(t, []string{"n1"}, RunningNodes(home))
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
	require.Equal(t, []string{"n1", "n3"}, RunningNodes(home))
	require.NoError(t, in.Close())
	_ = proxy.Wait()
	require.Equal(t, []string{"n1"}, RunningNodes(home))
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
	n, err := cut(home, "n1", "demo", time.Now().Add(cutFor))
	require.NoError(t, err)
	require.Equal(t, 1, n)
	_, err = net.Dial("unix", filepath.Join(moved, "proxy.sock"))
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
}

// TestCutWithoutRoom: what cannot be written, as on a full disk, keeps nothing open.
func TestCutWithoutRoom(t *testing.T) {
	t.Parallel()
	home, folder := blockingProxy(t)
	require.NoError(t, os.WriteFile(filepath.Join(home.Root, "cut"), nil, 0o600)) // no folder can be made
	open, err := net.Dial("unix", filepath.Join(folder, "proxy.sock"))
	require.NoError(t, err)
	defer open.Close()
	var w strings.Builder
	_, err = Agents(t.Context(), &w, home, []string{"demo"}, nil, nil)
	require.ErrorContains(t, err, "its socket serves nobody until the node is started again")
	require.NoError(t, open.SetReadDeadline(time.Now().Add(time.Minute)))
	_, err = open.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	_, err = net.Dial("unix", filepath.Join(folder, "proxy.sock"))
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
}

// TestCutOfABlockingSocket: an Envoy that was taken over does not have root's command wait in accept.
func TestCutOfABlockingSocket(t *testing.T) {
	t.Parallel()
	home, folder := blockingProxy(t)
	waiting, err := net.Dial("unix", filepath.Join(folder, "proxy.sock"))
	require.NoError(t, err)
	defer waiting.Close()
	n, err := cut(home, "n1", "demo", time.Now().Add(cutFor))
	require.NoError(t, err)
	require.Equal(t, 1, n)
}

// TestCutOfEndlessConnections: processes that were taken over, and accept connections without an
// end, do not have the command look at them for ever, however many they are. What they do is said.
func TestCutOfEndlessConnections(t *testing.T) {
	t.Parallel()
	// They have thousands of other descriptors: a look at them lasts until something is new.
	home, _ := fakeProxy(t, `
import os, resource, socket
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
others = [s for _ in range(min(8000, limit // 2 - 100)) for s in socket.socketpair()]
parent = os.getpid()
names = ["agents/demo/%d" % i for i in range(3)]
listening = [socket.socket(socket.AF_UNIX) for _ in names]
for s, name in zip(listening, names):
    s.bind(name)
    s.listen()
mine = [i for i in range(3) if i == 2 or os.fork() == 0][0]
if mine == 2:
    print(flush=True)
held = []
while os.getpid() == parent or os.getppid() == parent:
    try:
        c = socket.socket(socket.AF_UNIX)
        c.connect(names[mine])
        held = held[-20:] + [listening[mine].accept()[0]]
        c.close()
    except OSError:
        pass
`)
	ended := make(chan error, 1)
	start := time.Now()
	go func() {
		_, err := Agents(t.Context(), io.Discard, home, []string{"demo"}, nil, nil)
		ended <- err
	}()
	select {
	case err := <-ended:
		require.ErrorContains(t, err, "keeps opening connections, as a process does that was taken over: end it")
		require.GreaterOrEqual(t, time.Since(start), cutFor)
	case <-time.After(4 * cutFor):
		require.Fail(t, "the command looks at them without an end")
	}
}

// blockingProxy starts a process in the place of node n1's Envoy, with a socket for the agent demo that blocks, and
// returns the socket's folder.
func blockingProxy(t *testing.T) (state home.Folder, folder string) {
	t.Helper()
	return fakeProxy(t, "import socket; s=socket.socket(1); s.bind('agents/demo/proxy.sock'); s.listen(); "+
		"print(flush=True); input()")
}

// fakeProxy starts a Python program in the place of node n1's Envoy, and returns when it has
// printed a line.
func fakeProxy(t *testing.T, program string) (state home.Folder, folder string) {
	t.Helper()
	root, err := os.MkdirTemp("", "cut") // short: a socket is below it
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })
	state = home.Folder{Root: filepath.Join(root, "local-1")}
	require.NoError(t, os.MkdirAll(state.AgentDir("n1", "demo"), 0o700))
	proxy := exec.CommandContext(t.Context(), "/usr/bin/python3", "-c", program, "--config-path", "bootstrap.json")
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
