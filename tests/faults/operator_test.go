package faults

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/home"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/xds/api"
)

// ofFile is a stack with a stack file, which postern finds in dir.
type ofFile struct {
	*stack
	dir, file string
}

// newOfFile starts a stack of one node for a stack file with that text.
func newOfFile(t *testing.T, text string) *ofFile {
	t.Helper()
	base, err := os.MkdirTemp("", "f") // not t.TempDir: a socket's path is short
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(base)) })
	f := &ofFile{dir: base, file: filepath.Join(base, "stacks", "local.yaml")}
	require.NoError(t, os.Mkdir(filepath.Dir(f.file), 0o700))
	require.NoError(t, os.WriteFile(f.file, []byte(text), 0o600))
	file, err := stacks.Open(f.file)
	require.NoError(t, err)
	// Home reads POSTERN_HOME of this process, which tests share.
	real, err := file.Home()
	require.NoError(t, err)
	folder := home.Folder{Root: filepath.Join(base, "h", filepath.Base(real.Root))}
	require.NoError(t, folder.Claim(file.Owner()))
	f.stack = newStackIn(t, folder, 1)
	return f
}

// command is `postern` with the arguments, in the folder with the stack file.
func (f *ofFile) command(args ...string) *exec.Cmd {
	f.t.Helper()
	path, err := programs.Build("postern", "postern", "")
	require.NoError(f.t, err)
	cmd := exec.CommandContext(f.t.Context(), path, args...)
	cmd.Dir, cmd.Env = f.dir, append(os.Environ(), "POSTERN_HOME="+filepath.Dir(f.home.Root))
	return cmd
}

// says runs a command and returns what it says, and its exit status.
func (f *ofFile) says(args ...string) (string, int) {
	f.t.Helper()
	cmd := f.command(args...)
	out, err := cmd.CombinedOutput()
	require.NotNil(f.t, cmd.ProcessState, "%v", err)
	return string(out), cmd.ProcessState.ExitCode()
}

const twoAgents = `version: 1
target: local
destinations:
  api: {host: api.test}
agents:
  a: {allow: [api]}
  b: {allow: [api]}
`

// TestLogIsRotatedByHand: C3. Somebody rotates a node's log as other logs are rotated, and one
// segment is larger than any disk: the node continues, and starts again after a crash. Every answer
// has one event where its segment is by now, or the log says that events are missing.
func TestLogIsRotatedByHand(t *testing.T) {
	t.Parallel()
	s := newOfFile(t, twoAgents)
	s.publishTwo()
	dir := filepath.Join(s.home.AuditDir(), "n1")
	last := func() string {
		segments, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
		require.NoError(t, err)
		require.NotEmpty(t, segments)
		return segments[len(segments)-1]
	}
	count := func(dir string) (events int, gaps []string) {
		require.NoError(t, audit.Each(t.Context(), dir, audit.Filter{}, func(e audit.Event) error {
			switch {
			case e.Verdict == audit.Gap && e.Node == "n1":
				gaps = append(gaps, e.Detail)
			case e.Agent == "b":
				events++
			}
			return nil
		}))
		return events, gaps
	}
	ask := func(total int) {
		t.Helper()
		for range 5 {
			require.Equal(t, http.StatusOK, s.get("b"))
		}
		require.Eventually(t, func() bool {
			n, _ := count(s.home.AuditDir())
			return n == total
		}, patience, 20*time.Millisecond)
	}
	ask(5)

	moved := filepath.Join(t.TempDir(), "n1")
	require.NoError(t, os.Mkdir(moved, 0o700))
	name := filepath.Base(last())
	require.NoError(t, os.Rename(last(), filepath.Join(moved, name)))
	ask(5)
	n, _ := count(filepath.Dir(moved))
	require.Equal(t, 5, n, "those before are where the segment is")
	_, gaps := count(s.home.AuditDir())
	require.Contains(t, strings.Join(gaps, "\n"), name+" was moved or removed")

	name = filepath.Base(last())
	require.NoError(t, os.Truncate(last(), 0)) // copytruncate
	ask(5)
	_, gaps = count(s.home.AuditDir())
	require.Contains(t, strings.Join(gaps, "\n"), name+" was shortened: events that were in it are missing")

	s.programs["n1"].Kill()
	huge := filepath.Join(dir, "00000000000000000001.jsonl") // older than the last, and moved away above
	require.NoError(t, os.WriteFile(huge, nil, 0o600))
	require.NoError(t, os.Truncate(huge, 50<<30))
	s.start("n1")
	s.await("the node is back", func(st *api.Status) bool { return connected(st) == 1 })
	require.Eventually(t, func() bool { return s.get("b") == http.StatusOK }, patience, 20*time.Millisecond)
	require.Eventually(t, func() bool { n, _ := count(s.home.AuditDir()); return n >= 6 }, patience, 20*time.Millisecond)
	_, gaps = count(s.home.AuditDir())
	require.Contains(t, strings.Join(gaps, "\n"), "bytes at its end were not read")
	said, status := s.says("audit", "--agent", "b")
	require.Zero(t, status, said)
	require.Contains(t, said, "api.test")
}

// TestNothingToWatchWith: C14. No instance of inotify is left for the control plane's user: the
// credential in a file is sent, and follows its file.
func TestNothingToWatchWith(t *testing.T) {
	t.Parallel()
	s := published(t)
	path := filepath.Join(t.TempDir(), "secret")
	write := func(value string) {
		require.NoError(t, os.WriteFile(path+".new", []byte(value), 0o600))
		require.NoError(t, os.Rename(path+".new", path))
	}
	write("first")
	s.programs["control"].Kill()
	posternd, err := programs.Build("posternd", "posternd", "")
	require.NoError(t, err)
	// In a user namespace of its own the limit is the test's to set.
	starve := `echo 0 >/proc/sys/user/max_inotify_instances && exec "$0" "$@"`
	starved := []string{"--user", "--map-root-user", "sh", "-c", starve, posternd}
	s.run("control", "unshare", append(starved, s.args("control")...)...)
	s.await("the node is back", func(st *api.Status) bool { return connected(st) == 1 })
	s.publish(&plan.Plan{
		Stack:       s.home.Stack(),
		Credentials: []plan.Credential{{Name: "key", Kind: plan.KindHeader, Header: "x-api-key", Secret: "file://" + path}},
		Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{{
			ID: "a/api", Host: "api.test", Port: 443, Methods: []string{"GET"}, Paths: []string{"/**"},
			Upstream: s.up.Pin(), Credential: "key",
		}}}},
	})
	for _, value := range []string{"first", "second", "third"} {
		write(value)
		require.Eventually(t, func() bool {
			s.up.Seen()
			status := s.get("a")
			seen := s.up.Seen()
			return status == http.StatusOK && len(seen) == 1 && seen[0].Header.Get("x-api-key") == value
		}, patience, 50*time.Millisecond, "%s: %s", value, s.said())
	}
}

// TestAllowIsKilled: C15. An `allow` is killed while a node works on it: what it wrote into the stack
// file is shown as not live, since the fleet serves what it served before, and `push` publishes it.
func TestAllowIsKilled(t *testing.T) {
	t.Parallel()
	f := newOfFile(t, twoAgents)
	said, status := f.says("push", "--yes")
	require.Zero(t, status, said)
	envoys := children(f.programs["n1"].PID())
	signal := func(sig syscall.Signal) {
		for _, pid := range envoys {
			require.NoError(t, syscall.Kill(pid, sig))
		}
	}
	signal(syscall.SIGSTOP)
	allow := f.command("allow", "new.test", "--agent", "a", "--yes")
	require.NoError(t, allow.Start())
	f.await("it waits for the node", func(st *api.Status) bool { return st.Wanted != st.Version })
	require.NoError(t, allow.Process.Kill())
	require.Error(t, allow.Wait())
	signal(syscall.SIGCONT)
	f.await("the node has what it had", func(st *api.Status) bool {
		return connected(st) == 1 && st.Wanted == st.Version && st.Nodes[0].Version == st.Version
	})
	said, status = f.says("diff")
	require.Equal(t, 1, status, said)
	require.Contains(t, said, "+ a may use any method at https://new.test/**")
	said, status = f.says("push", "--yes")
	require.Zero(t, status, said)
	require.Contains(t, said, "live on 1/1 nodes")
	said, status = f.says("diff")
	require.Zero(t, status, said)
}

// TestOddFiles: C16, C17. A stack file, and what it names, may be anything: each command ends, with a
// sentence that says what is wrong and where.
func TestOddFiles(t *testing.T) {
	t.Parallel()
	postern, err := programs.Build("postern", "postern", "")
	require.NoError(t, err)
	wide := func(text string) string {
		out := "\xff\xfe"
		for _, c := range text {
			out += string([]byte{byte(c), 0})
		}
		return out
	}
	ca := func(path string) string {
		upstream := fmt.Sprintf("{host: api.test, upstream: {address: 192.0.2.1, ca: %s}}", path)
		return strings.ReplaceAll(twoAgents, "{host: api.test}", upstream)
	}
	for name, c := range map[string]struct{ text, want string }{
		"byte order mark":   {"\xef\xbb\xbf" + twoAgents, "UTF-8 with a byte order mark"},
		"UTF-16":            {wide(twoAgents), "UTF-16"},
		"authority: device": {ca("/dev/zero"), "is a device, not a regular file"},
		"authority: pipe":   {ca("pipe"), "is a pipe, not a regular file"},
		"authority: folder": {ca("."), "is a folder, not a regular file"},
		"escape in a name":  {strings.ReplaceAll(twoAgents, "api.test", `"api\x1b.test"`), "host"},
	} {
		dir := t.TempDir()
		require.NoError(t, unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
		file := filepath.Join(dir, "local.yaml")
		require.NoError(t, os.WriteFile(file, []byte(c.text), 0o600))
		cmd := exec.CommandContext(t.Context(), postern, "effective", "--agent", "a", "--file", file)
		cmd.Env = append(os.Environ(), "POSTERN_HOME="+dir)
		out, err := cmd.CombinedOutput()
		require.Error(t, err, "%s: %s", name, out)
		require.Contains(t, string(out), c.want, name)
		require.NotContains(t, string(out), "\x1b", name)
		require.NotContains(t, string(out), "is an address", name)
	}
}
