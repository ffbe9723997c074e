package node_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/envoy"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

// TestFewDescriptors: W12. A node that may open fewer files than agents can make it open
// says so, and starts nothing.
func TestFewDescriptors(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "n1")
	config := fmt.Sprintf(`{"ID": "n1", "Stack": "test", "Dir": %q, "XDS": "xds.sock", "Audit": %q, "Envoy": "/bin/false", "Modules": %q}`, dir, t.TempDir(), fleet.Modules(t))
	// An ordinary user's: root may raise the limit.
	cmd := exec.Command("/bin/sh", "-c", `ulimit -Sn 1024 && ulimit -Hn 4096 && exec "$0"`, "/proc/self/fd/3")
	program, err := os.Open(self)
	require.NoError(t, err)
	defer program.Close()
	cmd.ExtraFiles = []*os.File{program}
	cmd.Env = append(os.Environ(), supervisorVariable+"="+config)
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), fmt.Sprintf("run Envoy: it may open 4096 files, and one agent can make it open %d; raise the limit to %d or more", envoy.AgentDescriptors, envoy.MinDescriptors))
	require.NoDirExists(t, dir, "nothing was begun")
}

// TestManyConnections: with as few descriptors as a node takes, an agent opens all the
// connections that it can, each with one to the upstream. Envoy lives, and another
// agent is served.
func TestManyConnections(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	path := filepath.Join(f.Home.Root, "one.sock")
	// HTTP/1.1, so that each request has a connection.
	l, err := tls.Listen("unix", path, &tls.Config{Certificates: []tls.Certificate{f.UpstreamCA.Issue(t, "one.test")}, NextProtos: []string{"http/1.1"}})
	require.NoError(t, err)
	var progress atomic.Int64
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		progress.Add(1)
		defer progress.Add(-1)
		_, _ = io.Copy(io.Discard, r.Body)
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	up := &plan.Upstream{Address: "unix:" + path, CA: string(f.UpstreamCA.PEM)}
	rule := func(agent string) plan.Rule {
		return plan.Rule{ID: agent + "/one", Host: "one.test", Port: 443, Methods: []string{"GET", "POST"}, Paths: []string{"/**"}, Upstream: up, Gateway: 8080}
	}
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{rule("a")}}, {Name: "b", Rules: []plan.Rule{rule("b")}}}})
	pid := f.EnvoyPID("n1")
	var has unix.Rlimit
	require.NoError(t, unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &has))
	var own unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &own))
	require.GreaterOrEqual(t, has.Cur, uint64(envoy.MinDescriptors), "it is raised to the hard limit")
	require.Equal(t, own.Max, has.Cur)
	require.NoError(t, unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: envoy.MinDescriptors, Max: envoy.MinDescriptors}, nil))
	opened := 0
	for range 4200 {
		conn, err := f.Dial("n1", "a")(t.Context(), "", "")
		if err != nil {
			break
		}
		t.Cleanup(func() { _ = conn.Close() })
		opened++
		_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: localhost:8080\r\nContent-Length: 9\r\n\r\n")
	}
	require.Greater(t, opened, 2000)
	require.Eventually(t, func() bool { return progress.Load() > 500 }, time.Minute, 10*time.Millisecond, "each has one to the upstream")
	require.Equal(t, 200, f.Get("n1", "b", "https://one.test/"))
	require.Equal(t, pid, f.EnvoyPID("n1"), "Envoy was restarted")
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	require.NoError(t, err)
	require.Less(t, len(open), envoy.AgentDescriptors+1000)
}

// TestPressure: W12. When Envoy has few descriptors left, it takes no more connections, and
// takes them again when there are some.
func TestPressure(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a"}}})
	pressure := filepath.Join(f.Home.NodeDir("n1"), envoy.PressurePath)
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(pressure)
		return err == nil && strings.HasPrefix(string(b), "0.0") && string(b) != "0.00"
	}, time.Minute, 10*time.Millisecond, "it is followed")
	answered := func() bool {
		conn, err := f.Dial("n1", "a")(t.Context(), "", "")
		if err != nil {
			return false
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(500 * time.Millisecond))
		_, _ = io.WriteString(conn, "CONNECT x.test:443 HTTP/1.1\r\nHost: x.test:443\r\n\r\n")
		n, _ := conn.Read(make([]byte, 1))
		return n > 0
	}
	require.Eventually(t, answered, time.Minute, 20*time.Millisecond)
	say := func(part string) {
		require.NoError(t, os.WriteFile(pressure+".test", []byte(part), 0o600))
		require.NoError(t, os.Rename(pressure+".test", pressure))
	}
	say("0.99")
	require.Eventually(t, func() bool { return !answered() }, time.Minute, 20*time.Millisecond)
	say("0.01")
	require.Eventually(t, answered, time.Minute, 20*time.Millisecond)
}
