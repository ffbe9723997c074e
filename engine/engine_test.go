package engine

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pulumi/pulumi/sdk/v3/go/auto/events"
	"github.com/pulumi/pulumi/sdk/v3/go/common/apitype"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/daemon"
	"github.com/postern/postern/home"
	"github.com/postern/postern/plan"
)

func encode(t *testing.T, p plan.Plan) string {
	t.Helper()
	b, err := p.Encode()
	require.NoError(t, err)
	return string(b)
}

func TestRulesChanged(t *testing.T) {
	t.Parallel()
	rule := func(id, host, credential string) plan.Rule {
		return plan.Rule{ID: id, Host: host, Port: 443, Methods: []string{"GET"}, Paths: []string{"/**"}, Credential: credential}
	}
	before := encode(t, plan.Plan{Agents: []plan.Agent{{Name: "demo", Rules: []plan.Rule{rule("demo/a", "a.test", ""), rule("demo/b", "b.test", "")}}}})
	after := encode(t, plan.Plan{Agents: []plan.Agent{{Name: "demo", Rules: []plan.Rule{rule("demo/b", "b.test", "key"), rule("demo/c", "c.test", "")}}}})
	require.Equal(t, []string{
		"~ demo may GET https://b.test/** (credential key), was without  [high: credential key reaches b.test]",
		"+ demo may GET https://c.test/**  [medium: c.test is a new host]",
		"- demo may GET https://a.test/**",
	}, rulesChanged(before, after))
	require.Empty(t, rulesChanged(before, before))
	require.Empty(t, rulesChanged(nil, after), "there is nothing to compare with")
}

// What the engine says, for people: one line a resource, no control characters.
func TestCollector(t *testing.T) {
	t.Parallel()
	state := func(outputs map[string]any) *apitype.StepEventStateMetadata {
		return &apitype.StepEventStateMetadata{Custom: true, Outputs: outputs}
	}
	step := func(op apitype.OpType, name, kind string, old, now *apitype.StepEventStateMetadata) events.EngineEvent {
		m := apitype.StepEventMetadata{Op: op, URN: "urn:pulumi:local::postern::postern:local:" + kind + "::" + name, Type: "postern:local:" + kind, Old: old, New: now}
		return events.EngineEvent{EngineEvent: apitype.EngineEvent{ResOutputsEvent: &apitype.ResOutputsEvent{Metadata: m}}}
	}
	says := func(severity, urn, message string) events.EngineEvent {
		return events.EngineEvent{EngineEvent: apitype.EngineEvent{DiagnosticEvent: &apitype.DiagnosticEvent{Severity: severity, URN: urn, Message: message}}}
	}
	var out bytes.Buffer
	c := &collector{printer: NewPrinter(&out, false), summary: Summary{Stack: "local", Operation: "up"}}
	c.event(step(apitype.OpRefresh, "local-node-1", "Node", state(nil), nil))
	c.event(step(apitype.OpRefresh, "local-ca", "CertificateAuthority", state(nil), state(nil)))
	c.event(step(apitype.OpRefresh, "local-bundle", "Bundle", state(map[string]any{"planVersion": "a"}), state(map[string]any{"planVersion": "b"})))
	c.event(step(apitype.OpSame, "local-ca", "CertificateAuthority", state(nil), state(nil)))
	c.event(step(apitype.OpCreate, "local-node-1", "Node", nil, state(nil)))
	c.event(says("error", "urn:pulumi:local::postern::postern:local:Bundle::local-bundle", "<{%reset%}>error: node n1 rejected listeners: \x1b[31mbad<{%reset%}>\n"))
	c.event(says("error", "urn:pulumi:local::postern::pulumi:pulumi:Stack::postern-local", "<{%reset%}>update failed<{%reset%}>\n"))
	c.summary.Seconds = 1.25
	require.Equal(t, `  ! local-node-1     node                  drifted: it is gone
  ! local-bundle     bundle                published since: planVersion is b, not a
  + local-node-1     node                  created
  error: local-bundle: node n1 rejected listeners: [31mbad
`, out.String())
	require.Equal(t, "up local: 1 created, 1 unchanged (1.2 s)", c.summary.Line())
	require.Equal(t, map[string]int{"same": 1, "create": 1}, c.summary.Changes)
	require.Len(t, c.summary.Drift, 2)
	require.ErrorContains(t, &FailedError{Summary: &c.summary}, "local-bundle")
}

func TestTakeOver(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	locks := filepath.Join(dir, ".pulumi", "locks", "organization", Project, "local")
	require.NoError(t, os.MkdirAll(locks, 0o700))
	lock := filepath.Join(locks, "1.json")
	host, err := os.Hostname()
	require.NoError(t, err)
	write := func(pid int, host string) {
		require.NoError(t, os.WriteFile(lock, fmt.Appendf(nil, `{"pid":%d,"hostname":%q}`, pid, host), 0o600))
	}

	write(1<<22+1, host) // above the highest process ID
	require.NoError(t, takeOver(t.Context(), dir, "local"))
	require.NoFileExists(t, lock)

	write(os.Getpid(), host) // alive, but no engine
	require.NoError(t, takeOver(t.Context(), dir, "local"))
	require.NoFileExists(t, lock)

	write(1, "elsewhere.test")
	require.ErrorContains(t, takeOver(t.Context(), dir, "local"), "remove "+lock)
	require.FileExists(t, lock)
}

// TestTakeOverEndsAnOrphan: C12. The CLI of a driver that was killed may not have
// locked the stack yet: what it locks afterwards nobody would ever unlock.
func TestTakeOverEndsAnOrphan(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	locks := filepath.Join(dir, ".pulumi", "locks", "organization", Project, "local")
	work := filepath.Join(dir, "work")
	require.NoError(t, os.MkdirAll(locks, 0o700))
	require.NoError(t, os.MkdirAll(work, 0o700))
	sh, err := os.ReadFile("/bin/sh")
	require.NoError(t, err)
	path := filepath.Join(dir, "pulumi")
	require.NoError(t, os.WriteFile(path, sh, 0o700))
	// It begins, and locks the stack when it is asked to end; a real one does so any moment.
	cmd := exec.CommandContext(t.Context(), path, "-c", `trap 'echo "{\"pid\":$$,\"hostname\":\"$(hostname)\"}" >`+filepath.Join(locks, "late.json")+`; exit' INT
echo ready; while :; do read line; done`)
	cmd.Dir = work
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	defer in.Close()
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	ready := make([]byte, 6)
	_, err = io.ReadFull(out, ready)
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	require.NoError(t, takeOver(t.Context(), dir, "local"))
	select {
	case <-ended:
	case <-t.Context().Done():
		require.Fail(t, "the orphan runs on")
	}
	left, err := os.ReadDir(locks)
	require.NoError(t, err)
	require.Empty(t, left, "no lock of its is left")
}

// TestEndAll: C7. What runs is found by its lock, or by its arguments when its folder
// is gone; nothing is left.
func TestEndAll(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(t *testing.T, home home.Folder){
		"nothing is lost":             func(*testing.T, home.Folder) {},
		"its pid file is removed":     func(t *testing.T, h home.Folder) { require.NoError(t, os.Remove(filepath.Join(h.ControlDir(), "pid"))) },
		"its folder is removed":       func(t *testing.T, h home.Folder) { require.NoError(t, os.RemoveAll(h.ControlDir())) },
		"the state folder is removed": func(t *testing.T, h home.Folder) { require.NoError(t, os.RemoveAll(h.Root)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			home := home.Folder{Root: filepath.Join(t.TempDir(), "local-1")}
			path := filepath.Join(t.TempDir(), "posternd")
			// A process that another test forks meanwhile must not have the file open for writing.
			self, err := os.Executable()
			require.NoError(t, err)
			require.NoError(t, exec.CommandContext(t.Context(), "cp", self, path).Run())
			pidfile := filepath.Join(home.ControlDir(), "pid")
			require.NoError(t, os.MkdirAll(home.ControlDir(), 0o700))
			pid, err := daemon.Start(t.Context(), daemon.Command{
				Path: path, Args: []string{"control", "--home", home.Root}, Env: append(os.Environ(), daemonEnv+"="+pidfile),
				PIDFile: pidfile, LogFile: filepath.Join(t.TempDir(), "log"),
			})
			require.NoError(t, err)
			lose(t, home)
			ended, err := EndAll(t.Context(), home)
			require.NoError(t, err)
			require.Equal(t, []string{fmt.Sprintf("process %d (posternd control)", pid)}, ended)
			left, err := daemon.Find(func(p daemon.Process) bool { return p.Has("--home", home.Root) })
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}

// daemonEnv makes this test binary a daemon that holds the pid file.
const daemonEnv = "POSTERN_TEST_DAEMON"

func TestMain(m *testing.M) {
	if pidfile := os.Getenv(daemonEnv); pidfile != "" {
		if _, err := daemon.Lock(pidfile); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		select {}
	}
	os.Exit(m.Run())
}

func TestRemoveHome(t *testing.T) {
	t.Parallel()
	home := home.Folder{Root: filepath.Join(t.TempDir(), "local-1")}
	require.NoError(t, RemoveHome(t.Context(), home, false, true), "there is none")
	for _, dir := range []string{home.AuditDir(), home.PulumiDir(), home.NodeDir("n1"), home.ControlDir()} {
		require.NoError(t, os.MkdirAll(dir, 0o700))
	}
	// What agents have left does not keep the rest from its end.
	closed := filepath.Join(home.KeptDir(), "coder", "files", "closed")
	require.NoError(t, os.MkdirAll(filepath.Join(closed, "below"), 0o700))
	require.NoError(t, os.Chmod(closed, 0))
	deep := filepath.Join(home.WorkspacesDir(), "run", strings.Repeat("d/", 400))
	require.NoError(t, os.MkdirAll(deep, 0o700))
	release, err := daemon.Lock(filepath.Join(home.PulumiDir(), "lock"))
	require.NoError(t, err)
	defer release()
	require.NoError(t, RemoveHome(t.Context(), home, false, true))
	left, err := os.ReadDir(home.Root)
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.Equal(t, "audit", left[0].Name())
	require.NoError(t, RemoveHome(t.Context(), home, true, true))
	require.NoDirExists(t, home.Root)
}

func TestTrim(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i := range kept + 5 {
		path := filepath.Join(dir, fmt.Sprint(i))
		require.NoError(t, os.WriteFile(path, nil, 0o600))
		require.NoError(t, os.Chtimes(path, time.Time{}, time.Unix(int64(i), 0)))
	}
	require.NoError(t, trim(dir))
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, kept)
	require.NoFileExists(t, filepath.Join(dir, "4"))
	require.FileExists(t, filepath.Join(dir, "5"))
	require.NoError(t, trim(filepath.Join(dir, "none")))
}
