package run

import (
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/home"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/sandbox"
	"github.com/postern/postern/sandbox/view"
	"github.com/postern/postern/sandbox/wire"
)

// TestListenForTools: runs that start and end at the same time leave each other's sockets alone.
// They remove those of runs that were killed.
func TestListenForTools(t *testing.T) {
	t.Parallel()
	parent := filepath.Join(t.TempDir(), "tools")
	killed := filepath.Join(parent, "run-killed")
	require.NoError(t, os.MkdirAll(killed, 0o700))
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(killed, wire.ToolsSocket))
	require.NoError(t, err)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	require.NoError(t, l.Close())

	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 200 {
				tools := newTools(nil)
				if err := tools.listen(parent); err != nil {
					t.Error(err)
					return
				}
				socket := filepath.Join(tools.folder, wire.ToolsSocket)
				conn, err := new(net.Dialer).DialContext(t.Context(), "unix", socket)
				if err != nil {
					t.Error(err)
					return
				}
				conn.Close()
				tools.Close()
			}
		})
	}
	all.Wait()
	left, err := os.ReadDir(parent)
	require.NoError(t, err)
	require.Empty(t, left)
}

// TestNoTools: a run has tools only with the runtime and the workspace for which tests hold them.
func TestNoTools(t *testing.T) {
	t.Parallel()
	agent := &plan.Agent{Name: "a", Git: []string{"git.test/acme/app"}}
	for _, runtime := range []plan.Runtime{plan.RuntimeContainer, plan.RuntimeGVisor, plan.RuntimeVM} {
		p := &Prepared{Spec: &sandbox.Spec{}}
		in := &view.Input{Workspace: view.Workspace{Mode: view.Write}}
		r := &Request{Runtime: runtime, Home: home.Folder{Root: t.TempDir()}}
		require.NoError(t, p.listenForTools(r, in, agent))
		require.Nil(t, p.Tools, runtime)
		require.Contains(t, p.NoTools, "they need runtime bubblewrap, and this run has "+string(runtime))
	}
}
