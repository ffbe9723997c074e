package tests

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/tests/docker"
)

// runtimesStack has an agent for each runtime, with the same rules, so that the runtimes can be
// tried at the same time.
const runtimesStack = `agents:
  bubblewrap:
    allow: [echo]
  container:
    runtime: container
    allow: [echo]
  gvisor:
    runtime: gvisor
    image: root
    allow: [echo]
  vm:
    runtime: vm
    allow: [echo]
proxies: {count: 1}
`

// parity are requests, and what curl says of each in every runtime: the status of the answer, that
// of CONNECT, and curl's own.
var parity = []struct{ request, want string }{
	{"https://echo.test/v1/proxy", "200 200 0"},
	{"--noproxy '*' https://echo.test/v1/direct", "200 000 0"},
	{"http://localhost:8080/v1/gateway", "200 000 0"},
	{"-d body https://echo.test/v1/post", "200 200 0"},
	{"-X DELETE https://echo.test/v1/method", "403 200 0"},
	{"https://echo.test/v2/path", "403 200 0"},
	{"--path-as-is https://echo.test/v1/%2e%2e/v2", "403 200 0"},
	{"https://denied.test/", "000 403 56"},
	{"--noproxy '*' https://denied.test/", "000 000 35"},
	{"http://169.254.169.254/proxy", "403 000 0"},
	{"--noproxy '*' http://169.254.169.254/direct", "403 000 0"},
	{"--noproxy '*' https://192.0.2.7/", "000 000 35"},
	{"--noproxy '*' http://192.0.2.7:22/", "000 000 7"},
}

// decided are the decisions in the audit log for these requests, sorted: verdict, reason, rule
// without the agent, credential, and what was asked for. The last request reaches nobody, and is
// told; gVisor says nothing of it.
var decided = []string{
	"allow allowed echo key GET echo.test:443/v1/direct",
	"allow allowed echo key GET echo.test:443/v1/gateway",
	"allow allowed echo key GET echo.test:443/v1/proxy",
	"allow allowed echo key POST echo.test:443/v1/post",
	inVain,
	"deny host_not_allowed default  CONNECT 192.0.2.7:443",
	"deny host_not_allowed default  CONNECT denied.test:443",
	"deny host_not_allowed default  CONNECT denied.test:443",
	"deny method_not_allowed default  DELETE echo.test:443/v1/method",
	"deny path_not_allowed default  GET echo.test:443/v2",
	"deny path_not_allowed default  GET echo.test:443/v2/path",
	"deny plain_http_not_allowed default  GET 169.254.169.254:80/direct",
	"deny plain_http_not_allowed default  GET 169.254.169.254:80/proxy",
}

const inVain = "deny host_not_allowed default  CONNECT 192.0.2.7:22"

// newEngine starts a container engine that has the image "root".
func newEngine(t testing.TB) *docker.Daemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "dkr")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	ctx := context.WithoutCancel(t.Context())
	d, err := docker.Start(ctx, dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Stop()) })
	archive, err := docker.Root(ctx, nil)
	require.NoError(t, err)
	require.NoError(t, d.Import(ctx, "root", archive))
	return d
}

// TestRuntimes: a whole `postern run` under each runtime, against a stack that is up. The same
// requests have the same answers, and the same decisions in the audit log.
func TestRuntimes(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		return // only root can start a container engine
	}
	d := newEngine(t)
	p := newPathOf(t, pathStack[:strings.Index(pathStack, "agents:")]+runtimesStack)
	p.environ = append(p.environ, "DOCKER_HOST=unix://"+d.Socket)
	t.Run("each", func(t *testing.T) {
		for runtime, flags := range map[string][]string{
			"bubblewrap": nil,
			"container":  {"--image", "root"},
			"gvisor":     nil,
			"vm":         nil,
		} {
			t.Run(runtime, func(t *testing.T) {
				t.Parallel()
				r := &runtimePath{path: p.in(t), agent: runtime, flags: flags, work: filepath.Join(p.dir, runtime)}
				require.NoError(t, os.Mkdir(r.work, 0o755))
				require.NoError(t, os.Chown(r.work, 1234, 1234))
				r.requests()
				r.ends(d)
			})
		}
	})
	keys := p.upstream.seen()
	require.Len(t, keys, 4*4)
	for _, key := range keys {
		require.Equal(t, pathCanary, key)
	}
}

// runtimePath is a stack that is up, and how an agent of it is run.
type runtimePath struct {
	*path
	agent string
	flags []string
	work  string
}

// command is a `postern run` of a script that has not been started, and ends in time.
func (r *runtimePath) command(script string) *exec.Cmd {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 10*time.Minute)
	r.t.Cleanup(cancel)
	args := slices.Concat([]string{"run", "--agent", r.agent}, r.flags, []string{"--", "sh", "-c", script})
	cmd := exec.CommandContext(ctx, postern(r.t), args...)
	cmd.Dir, cmd.Env = r.work, r.environ
	return cmd
}

func (r *runtimePath) requests() {
	r.t.Helper()
	var script, want strings.Builder
	for _, c := range parity {
		fmt.Fprintf(&script, "curl -s -o /dev/null -w '%%{http_code} %%{http_connect} %%{exitcode}\\n' %s\n", c.request)
		fmt.Fprintln(&want, c.want)
	}
	script.WriteString("getent hosts echo.test >/dev/null && echo resolved\nenv | grep -c " + pathCanary + "\nexit 7")
	want.WriteString("resolved\n0\n")
	cmd := r.command(script.String())
	var said strings.Builder
	cmd.Stderr = &said
	out, _ := cmd.Output()
	require.Equal(r.t, want.String(), string(out), said.String())
	require.Equal(r.t, 7, cmd.ProcessState.ExitCode())
	require.Contains(r.t, said.String(), "denied by policy")
	if r.agent != "bubblewrap" {
		require.Contains(r.t, said.String(), "postern: the command runs under "+r.agent)
		weaker := r.command("true")
		weaker.Args = slices.Insert(weaker.Args, 2, "--runtime", "bubblewrap")
		weaker.Env = append(slices.Clone(r.environ), "POSTERN_RUNTIME=bubblewrap")
		out, err := weaker.CombinedOutput()
		require.Error(r.t, err)
		require.Contains(r.t, string(out), "agent "+r.agent+" has runtime "+r.agent+", and bubblewrap isolates less")
	}

	expected := slices.Clone(decided)
	if r.agent == "gvisor" {
		expected = slices.DeleteFunc(expected, func(d string) bool { return d == inVain })
	}
	var found []string
	for _, e := range r.events(audit.Filter{Agent: r.agent}, len(expected)) {
		rule := strings.TrimPrefix(e.Rule, r.agent+"/")
		found = append(found, fmt.Sprintf("%s %s %s %s %s %s%s",
			e.Verdict, e.Reason, rule, e.Credential, e.Method, e.Host, e.Path))
	}
	slices.Sort(found)
	require.Equal(r.t, expected, found)
}

// ends ends commands in all ways.
func (r *runtimePath) ends(d *docker.Daemon) {
	r.t.Helper()
	const loop = "trap 'echo TERM; exit 6' TERM; echo ready; while :; do sleep 0.1; done"
	start := func(script string) (*exec.Cmd, *bufio.Scanner) {
		cmd := r.command(script)
		out, err := cmd.StdoutPipe()
		require.NoError(r.t, err)
		require.NoError(r.t, cmd.Start())
		lines := bufio.NewScanner(out)
		require.True(r.t, lines.Scan())
		require.Equal(r.t, "ready", lines.Text())
		return cmd, lines
	}
	// One start for both signals: a machine's is long.
	cmd, lines := start("trap 'echo INT' INT; " + loop)
	for _, c := range []struct {
		signal syscall.Signal
		says   string
	}{{syscall.SIGINT, "INT"}, {syscall.SIGTERM, "TERM"}} {
		require.NoError(r.t, cmd.Process.Signal(c.signal))
		require.True(r.t, lines.Scan())
		require.Equal(r.t, c.says, lines.Text())
	}
	_ = cmd.Wait()
	require.Equal(r.t, 6, cmd.ProcessState.ExitCode())
	cmd = r.command("trap 'echo INT; exit 5' INT; " + loop)
	terminal, err := pty.Start(cmd)
	require.NoError(r.t, err)
	defer terminal.Close()
	lines = bufio.NewScanner(terminal)
	for lines.Scan() && strings.TrimSpace(lines.Text()) != "ready" {
		continue
	}
	_, err = terminal.WriteString("\x03")
	require.NoError(r.t, err)
	require.True(r.t, lines.Scan())
	require.Contains(r.t, lines.Text(), "INT")
	_ = cmd.Wait()
	require.Equal(r.t, 5, cmd.ProcessState.ExitCode())
	// kill -9 leaves nothing that runs.
	pulse := filepath.Join(r.work, "pulse")
	cmd, _ = start("echo ready; while :; do echo >> pulse; sleep 0.05; done")
	require.NoError(r.t, cmd.Process.Kill())
	_ = cmd.Wait()
	var last int64 = -1
	require.Eventually(r.t, func() bool {
		info, err := os.Stat(pulse)
		before := last
		if err == nil {
			last = info.Size()
		}
		return before == last
	}, time.Minute, 500*time.Millisecond, "the command still runs")
	require.Eventually(r.t, func() bool {
		left, err := d.Containers(r.t.Context(), "dev.postern.agent="+r.agent)
		require.NoError(r.t, err)
		return len(left) == 0
	}, time.Minute, 50*time.Millisecond, "a container is left")
}
