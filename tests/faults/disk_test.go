package faults

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
	"github.com/postern/postern/xds/api"
)

// TestDiskFull: C2. A node that cannot write its log no longer decides anything, says
// so, and comes back with a declared gap once there is room.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	s := newStack(t, 0)
	require.NoError(t, os.MkdirAll(s.home.AuditDir(), 0o700))
	path, err := programs.Build("posternd", "posternd", "")
	require.NoError(t, err)
	binary := fleet.Envoy(t)
	require.NoError(t, s.api.AddNode(t.Context(), "n1"))
	// The log is on a disk of its own, in a mount namespace that lasts; the
	// node is started once for each line that is read.
	script := fmt.Sprintf(`mount -t tmpfs -o size=1m none %[1]q && head -c 900k /dev/zero >%[1]q/filler || exit 1
while read line; do %[2]q node --home %[3]q --id n1 --envoy %[4]q </dev/null; echo ended; done`, s.home.AuditDir(), path, s.home.Root, binary)
	cmd := exec.Command("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script)
	cmd.Stderr = s
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		for _, pid := range children(cmd.Process.Pid) {
			_ = syscall.Kill(pid, syscall.SIGTERM)
		}
		_ = cmd.Wait()
	})
	start := func() {
		_, err := io.WriteString(in, "\n")
		require.NoError(t, err)
		s.await("the node is connected", func(st *api.Status) bool { return connected(st) == 1 })
	}
	start()
	up := fleet.NewUpstream(t, s.home, s.ca, "api.test")
	s.publish(&plan.Plan{Stack: "faults", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{
		{ID: "a/api", Host: "api.test", Port: 443, Methods: []string{"GET"}, Paths: []string{"/**"}, Upstream: up.Pin()},
	}}}})

	ended := make(chan struct{})
	answers := bufio.NewScanner(out)
	go func() {
		defer close(ended)
		answers.Scan()
	}()
	client := s.agent("n1", "a")
	defer client.CloseIdleConnections()
	answered := 0
	for stopped := false; !stopped; {
		select {
		case <-ended:
			stopped = true
		default:
			if resp, err := client.Get(fmt.Sprintf("https://api.test/%d", answered)); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				answered++
			}
		}
	}
	require.Equal(t, "ended", answers.Text())
	// What it has said comes by another pipe.
	require.Eventually(t, func() bool { return strings.Contains(s.said(), "no space left on device") }, patience, 10*time.Millisecond)
	s.await("the node is gone", func(st *api.Status) bool { return connected(st) == 0 })
	_, err = client.Get("https://api.test/refused")
	require.Error(t, err, "nothing is decided without a record")

	// The namespace's own view of the disk.
	dir := filepath.Join(fmt.Sprintf("/proc/%d/root", cmd.Process.Pid), s.home.AuditDir())
	require.NoError(t, os.Remove(filepath.Join(dir, "filler")))
	start()
	require.Eventually(t, func() bool {
		resp, err := client.Get("https://api.test/again")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == 200
	}, patience, 20*time.Millisecond)
	recorded, gap := 0, false
	require.NoError(t, audit.Each(t.Context(), dir, audit.Filter{}, func(e audit.Event) error {
		gap = gap || e.Verdict == audit.Gap
		if e.Verdict == audit.Allow {
			recorded++
		}
		return nil
	}))
	t.Logf("%d answers, %d events", answered, recorded)
	require.True(t, gap, "what was lost is declared")
}
