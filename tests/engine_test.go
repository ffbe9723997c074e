package tests

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/daemon"
	"github.com/postern/postern/engine"
	"github.com/postern/postern/home"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/tests/fleet"
	"github.com/postern/postern/xds/api"
)

// envCanary and fileCanary are secrets: nothing but their own source may hold them.
const (
	envCanary  = "c4n4ry-in-the-environment"
	fileCanary = "c4n4ry-in-a-file"
)

const stackFile = `version: 1
target: local
credentials:
  first:
    kind: header
    header: x-api-key
    secret: env://POSTERN_TEST_SECRET
  second:
    kind: header
    header: authorization
    prefix: "Bearer "
    secret: file://@FILE@
destinations:
  one:
    host: one.test
    credential: first
  two:
    host: two.test
    methods: [GET]
    credential: second
agents:
  demo:
    allow: [one]
`

// checkout is a folder with a stack file, and the state that belongs to it.
type checkout struct {
	t       testing.TB
	dir     string
	home    home.Folder
	environ []string
	// left is what the shell of every command has left open.
	left *os.File
}

// newCheckout makes a checkout with the stack file above and takes it down at
// the end of the test.
func newCheckout(t testing.TB) *checkout {
	t.Helper()
	// Not t.TempDir: the path of a socket must be short.
	root, err := os.MkdirTemp("", "engine-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })
	c := &checkout{t: t, dir: filepath.Join(root, "co")}
	require.NoError(t, os.MkdirAll(filepath.Join(c.dir, "stacks"), 0o700))
	secret := filepath.Join(root, "secret")
	require.NoError(t, os.WriteFile(secret, []byte(fileCanary+"\n"), 0o600))
	left, err := os.Create(filepath.Join(root, "left-open"))
	require.NoError(t, err)
	c.left = left
	t.Cleanup(func() { left.Close() })
	c.write(strings.ReplaceAll(stackFile, "@FILE@", secret))
	c.environ = append(os.Environ(),
		"POSTERN_HOME="+filepath.Join(root, "home"), "POSTERN_TEST_SECRET="+envCanary,
		"POSTERND="+posternd(t), "ENVOY="+fleet.Envoy(t), "PULUMI="+pulumiCLI(t))
	// HomeOf reads POSTERN_HOME from this process, which other tests share.
	real, err := stacks.HomeOf(c.stackFile())
	require.NoError(t, err)
	c.home = home.Folder{Root: filepath.Join(root, "home", filepath.Base(real.Root))}
	t.Cleanup(func() {
		if t.Failed() {
			for _, log := range []string{filepath.Join(c.home.ControlDir(), "log"), filepath.Join(c.home.NodeDir("n1"), "log")} {
				t.Logf("the end of %s:\n%s", log, daemon.Tail(log, 20))
			}
		}
		require.NoError(t, engine.RemoveHome(context.WithoutCancel(t.Context()), c.home, true, true))
	})
	return c
}

func (c *checkout) stackFile() string { return filepath.Join(c.dir, "stacks", "local.yaml") }

func (c *checkout) write(content string) {
	c.t.Helper()
	require.NoError(c.t, os.WriteFile(c.stackFile(), []byte(content), 0o600))
}

// edit replaces a part of the stack file.
func (c *checkout) edit(old, now string) {
	c.t.Helper()
	b, err := os.ReadFile(c.stackFile())
	require.NoError(c.t, err)
	require.Contains(c.t, string(b), old)
	c.write(strings.Replace(string(b), old, now, 1))
}

func (c *checkout) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(c.t.Context(), stackProgram(c.t), args...)
	cmd.Dir, cmd.Env, cmd.ExtraFiles = c.dir, c.environ, []*os.File{c.left, c.left}
	return cmd
}

// fails runs an operation that must fail and returns what it says.
func (c *checkout) fails(op string, args ...string) string {
	c.t.Helper()
	out, err := c.command(append([]string{op, "local"}, args...)...).CombinedOutput()
	require.Error(c.t, err, "%s", out)
	return string(out)
}

// does runs an operation that must succeed, and returns its summary.
func (c *checkout) does(op string, args ...string) engine.Summary {
	c.t.Helper()
	if op == "up" {
		args = append(args, "--yes") // changes of high risk are what these tests are about
	}
	cmd := c.command(append([]string{op, "local", "--json"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(c.t, err, "%s: %s%s", op, out, stderr.String())
	var s engine.Summary
	require.NoError(c.t, json.Unmarshal(out, &s), "%s", out)
	require.True(c.t, s.OK)
	return s
}

// changed names what an operation changed, as "op name".
func changed(s engine.Summary) []string {
	out := []string{}
	for _, r := range s.Resources {
		out = append(out, r.Op+" "+r.Name)
	}
	return out
}

func (c *checkout) pid(dir string) int {
	c.t.Helper()
	pid, ok, err := daemon.Running(filepath.Join(dir, "pid"))
	require.NoError(c.t, err)
	require.True(c.t, ok, "%s: nothing runs", dir)
	return pid
}

func (c *checkout) status() *api.Status {
	c.t.Helper()
	s, err := api.Dial(c.home.ControlSocket()).Status(c.t.Context())
	require.NoError(c.t, err)
	return s
}

// live requires that every node has the live version.
func (c *checkout) live() string {
	c.t.Helper()
	s := c.status()
	require.NotEmpty(c.t, s.Version)
	for _, n := range s.Nodes {
		require.True(c.t, n.Connected, "node %s", n.ID)
		require.Equal(c.t, s.Version, n.Version, "node %s", n.ID)
	}
	return s.Version
}

// processes are those of this machine that have home in their command line, or
// work in a folder below it.
func processes(t *testing.T, home string) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	require.NoError(t, err)
	var found []string
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		cwd, _ := os.Readlink(filepath.Join("/proc", e.Name(), "cwd"))
		if bytes.Contains(cmdline, []byte(home)) || strings.HasPrefix(cwd, home+"/") {
			found = append(found, e.Name()+" "+strings.ReplaceAll(string(cmdline), "\x00", " "))
		}
	}
	return found
}

// files are all regular files below root, with their content.
func files(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		out[path] = string(b)
		return err
	}))
	return out
}

func TestEngineLifecycle(t *testing.T) {
	t.Parallel()
	c := newCheckout(t)
	all := []string{"create local-ca", "create local-control", "create local-node-1", "create local-bundle"}

	require.Equal(t, all, changed(c.does("preview")))
	require.NoDirExists(t, c.home.Root, "a preview changes nothing")

	require.Equal(t, all, changed(c.does("up")))
	first := c.live()
	control, node := c.pid(c.home.ControlDir()), c.pid(c.home.NodeDir("n1"))
	info, err := os.Stat(c.home.Root)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o700), info.Mode().Perm(), "private to the user")

	// No daemon has what the operator's shell left open, and none leaves its memory in a core file,
	// which holds secrets: neither what "up" has started, nor what that has.
	daemons := processes(t, c.home.Root)
	require.GreaterOrEqual(t, len(daemons), 3, "the control plane, the supervisor and Envoy")
	for _, line := range daemons {
		pid, _, _ := strings.Cut(line, " ")
		open, err := os.ReadDir(filepath.Join("/proc", pid, "fd"))
		require.NoError(t, err)
		for _, fd := range open {
			to, _ := os.Readlink(filepath.Join("/proc", pid, "fd", fd.Name()))
			require.NotEqual(t, c.left.Name(), to, line)
		}
		limits, err := os.ReadFile(filepath.Join("/proc", pid, "limits"))
		require.NoError(t, err)
		require.Regexp(t, `Max core file size +[01] +[01] `, string(limits), line)
	}

	again := c.does("up")
	require.Empty(t, changed(again))
	require.Equal(t, map[string]int{"same": 4}, again.Changes)

	// The allow list: the bundle alone, nothing restarts, converged on return.
	c.edit("allow: [one]", "allow: [one, two]")
	want := []string{"update local-bundle"}
	preview := c.does("preview")
	require.Equal(t, want, changed(preview))
	require.Contains(t, strings.Join(preview.Resources[0].Details, "\n"), "+ demo may GET https://two.test/")
	require.Equal(t, first, c.live())
	require.Equal(t, want, changed(c.does("up")))
	second := c.live()
	require.NotEqual(t, first, second)
	require.Equal(t, control, c.pid(c.home.ControlDir()))
	require.Equal(t, node, c.pid(c.home.NodeDir("n1")))

	// A supervisor that is killed: refresh shows it, up repairs just that.
	kill(t, node)
	require.Equal(t, []string{"create local-node-1"}, changed(c.does("preview")))
	require.Equal(t, []string{"delete local-node-1"}, changed(c.does("refresh")))
	require.Equal(t, []string{"create local-node-1"}, changed(c.does("up")))
	require.Equal(t, second, c.live())
	require.Equal(t, control, c.pid(c.home.ControlDir()))

	// So does one that hangs, although its Envoy answers.
	node = c.pid(c.home.NodeDir("n1"))
	require.NoError(t, syscall.Kill(node, syscall.SIGSTOP))
	require.Eventually(t, func() bool {
		s, err := api.Dial(c.home.ControlSocket()).Status(t.Context())
		return err == nil && strings.Contains(s.Nodes[0].Problem, "every request is refused")
	}, time.Minute, 50*time.Millisecond)
	require.Equal(t, []string{"create local-node-1"}, changed(c.does("up")))
	require.NotEqual(t, node, c.pid(c.home.NodeDir("n1")))

	// So does a control plane that no node can reach, although it answers operators.
	require.NoError(t, os.Remove(c.home.XDSSocket()))
	require.Equal(t, []string{"delete local-control"}, changed(c.does("refresh")))
	require.Contains(t, changed(c.does("up")), "create local-control")
	require.FileExists(t, c.home.XDSSocket())
	require.Equal(t, second, c.live())
	control = c.pid(c.home.ControlDir())

	// Up looks by itself, too; and what the control plane must know it knows again.
	kill(t, control)
	node = c.pid(c.home.NodeDir("n1"))
	repaired := c.does("up")
	require.Equal(t, []string{"create local-control"}, changed(repaired))
	require.Len(t, repaired.Drift, 1)
	require.Equal(t, second, c.live())
	require.Equal(t, node, c.pid(c.home.NodeDir("n1")))

	// A secret's variable with another value restarts what holds it. One that
	// is not set at all takes nothing away.
	set := c.environ
	c.environ = append(c.environ[:len(c.environ):len(c.environ)], "POSTERN_TEST_SECRET="+envCanary+"-rotated")
	require.Equal(t, []string{"update local-control"}, changed(c.does("up")))
	c.environ = nil
	for _, kv := range set {
		if !strings.HasPrefix(kv, "POSTERN_TEST_SECRET=") {
			c.environ = append(c.environ, kv)
		}
	}
	require.Empty(t, changed(c.does("up")))
	require.Equal(t, second, c.live())

	for path, content := range files(t, c.home.Root) {
		require.NotContains(t, content, envCanary, path)
		require.NotContains(t, content, fileCanary, path)
	}

	require.Len(t, changed(c.does("destroy")), 4)
	left, err := os.ReadDir(c.home.Root)
	require.NoError(t, err)
	require.Len(t, left, 2)
	require.Equal(t, "audit", left[0].Name())
	require.Equal(t, filepath.Base(c.home.RecordFile()), left[1].Name(), "whose log it is")
	require.Empty(t, processes(t, c.home.Root))

	require.Empty(t, changed(c.does("destroy", "--audit")), "again, and the audit log too")
	require.NoDirExists(t, c.home.Root)
	require.Empty(t, changed(c.does("refresh")))
}

func kill(t *testing.T, pid int) {
	t.Helper()
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	// Its lock is the truth; it goes when the kernel has taken the process down.
	require.Eventually(t, func() bool {
		stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		return err != nil || bytes.Contains(stat, []byte(") Z "))
	}, time.Minute, time.Millisecond)
}

func TestEngineBadStackFile(t *testing.T) {
	t.Parallel()
	c := newCheckout(t)
	c.edit("allow: [one]", "allow: [one, nowhere]")
	c.edit("header: x-api-key", "header: x-api-key\n    hedaer: x")
	for _, op := range []string{"preview", "up"} {
		out := c.fails(op)
		require.Contains(t, out, "stacks/local.yaml:", op)
		require.Contains(t, out, "nowhere", op)
		require.Contains(t, out, "hedaer", "%s: all errors at once", op)
	}
	require.NoDirExists(t, c.home.Root, "nothing is changed")
}

// TestEngineWarns: what is odd about a stack file is said before it is brought up.
func TestEngineWarns(t *testing.T) {
	t.Parallel()
	c := newCheckout(t)
	c.edit("host: two.test", "host: tw\u043e.test")
	c.edit("allow: [one]", "allow: [one, two]")
	out, err := c.command("preview", "local").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Regexp(t, `warning: .*stacks/local.yaml:\d+:\d+: host xn--\S+ is \S+, which looks like two\.test`, string(out))
}

// A stack whose file has become bad stays as it is, and can be destroyed.
func TestEngineBadEdit(t *testing.T) {
	t.Parallel()
	c := newCheckout(t)
	c.does("up")
	version := c.live()
	c.edit("allow: [one]", "allow: [nowhere]")
	c.fails("up")
	require.Equal(t, version, c.live())
	c.does("destroy", "--audit")
	require.NoDirExists(t, c.home.Root)
	require.Empty(t, processes(t, c.home.Root))
}

// TestEngineSecretOfCloud: a stack with a secret in a cloud gets the control plane with drivers of clouds, and no other.
func TestEngineSecretOfCloud(t *testing.T) {
	t.Parallel()
	c := newCheckout(t)
	c.edit("secret: env://POSTERN_TEST_SECRET", "secret: awssecretsmanager://key?region=eu-west-1")
	dir, err := filepath.EvalSymlinks(filepath.Dir(c.dir))
	require.NoError(t, err)
	c.environ = append(c.environ, "POSTERND="+filepath.Join(dir, "posternd"))
	require.NoError(t, os.Symlink(posternd(t), filepath.Join(dir, "posternd")))
	require.Contains(t, c.fails("up"), "find posternd: ")
	require.NoDirExists(t, c.home.Root)

	// It is the plain one here, so that nobody asks AWS: the credential is closed, and says why.
	require.NoError(t, os.Symlink(posternd(t), filepath.Join(dir, "posternd-cloud")))
	out, err := c.command("up", "local", "--yes").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "warning: credential first: this control plane was built without the drivers of clouds")
}

func TestEngineTwoCheckouts(t *testing.T) {
	t.Parallel()
	a, b := newCheckout(t), newCheckout(t)
	b.edit("allow: [one]", "allow: [one, two]")
	a.does("up")
	b.does("up")
	require.NotEqual(t, a.live(), b.live())
	b.does("destroy", "--audit")
	a.live()
	require.Empty(t, changed(a.does("up")))
	require.Empty(t, processes(t, b.home.Root))
}

// slow makes nodes that never get going, until the file it returns is removed.
func (c *checkout) slow() string {
	c.t.Helper()
	dir := filepath.Dir(c.dir)
	flag, script := filepath.Join(dir, "slow"), filepath.Join(dir, "posternd")
	require.NoError(c.t, os.WriteFile(flag, nil, 0o600))
	require.NoError(c.t, os.WriteFile(script, []byte("#!/bin/sh\n"+
		"if [ \"$1\" = node ] && [ -e "+flag+" ]; then exec sleep 20; fi\n"+
		"exec "+posternd(c.t)+" \"$@\"\n"), 0o700))
	require.NoError(c.t, os.Symlink(filepath.Join(filepath.Dir(posternd(c.t)), "libguard.so"), filepath.Join(dir, "libguard.so")))
	c.environ = append(c.environ, "POSTERND="+script)
	return flag
}

// startUp starts an `up` and returns when the control plane is there and the
// node is being made.
func (c *checkout) startUp() *exec.Cmd {
	c.t.Helper()
	cmd := c.command("up", "local", "--yes")
	out, err := cmd.StdoutPipe()
	require.NoError(c.t, err)
	cmd.Stderr = cmd.Stdout
	require.NoError(c.t, cmd.Start())
	lines := bufio.NewScanner(out)
	var seen []string
	for lines.Scan() {
		seen = append(seen, lines.Text())
		if strings.Contains(lines.Text(), "+ local-control") {
			return cmd
		}
	}
	require.FailNow(c.t, "the control plane never came up", "%s", seen)
	return nil
}

func TestEngineInterruptedUp(t *testing.T) {
	t.Parallel()
	c := newCheckout(t)
	flag := c.slow()
	cmd := c.startUp()
	require.Contains(t, c.fails("preview"), "is being changed by process "+strconv.Itoa(cmd.Process.Pid))
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.Error(t, cmd.Wait())
	for _, p := range processes(t, c.home.Root) {
		require.Contains(t, p, "control", "only what was made whole is there")
	}
	require.NoError(t, os.Remove(flag))
	require.Equal(t, []string{"create local-node-1", "create local-bundle"}, changed(c.does("up")))
	c.live()
}

// What Envoy loads is an input, as Envoy is: without it nothing starts, and the
// nodes are restarted for another one.
func TestEngineOtherModule(t *testing.T) {
	t.Parallel()
	c := newCheckout(t)
	require.NoError(t, os.Remove(c.slow())) // what is next to this POSTERND is ours alone
	c.does("up")
	node, control := c.pid(c.home.NodeDir("n1")), c.pid(c.home.ControlDir())
	module := filepath.Join(filepath.Dir(c.dir), "libguard.so")
	require.NoError(t, os.Remove(module))
	require.Contains(t, c.fails("up"), "find libguard.so, which Envoy loads, next to posternd: look at "+module)
	require.NoError(t, os.WriteFile(module, []byte("another"), 0o600))
	require.Equal(t, []string{"update local-node-1"}, changed(c.does("up")))
	require.NotEqual(t, node, c.pid(c.home.NodeDir("n1")))
	require.Equal(t, control, c.pid(c.home.ControlDir()))
	c.live()
	require.Empty(t, changed(c.does("up")))
}

// The engine's own lock and half an operation stay behind: the next up copes.
func TestEngineKilledUp(t *testing.T) {
	t.Parallel()
	c := newCheckout(t)
	flag := c.slow()
	cmd := c.startUp()
	var engines []int // found while it is there to be found: by its working folder
	for _, p := range processes(t, c.home.PulumiDir()) {
		pid, err := strconv.Atoi(strings.Fields(p)[0])
		require.NoError(t, err)
		engines = append(engines, pid)
	}
	require.NotEmpty(t, engines)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	for _, pid := range engines {
		if err := syscall.Kill(pid, syscall.SIGKILL); !errors.Is(err, syscall.ESRCH) {
			require.NoError(t, err)
		}
	}
	require.NoError(t, os.Remove(flag))
	c.does("up")
	c.live()
	require.Empty(t, changed(c.does("up")))
	// Files that the engine's store would not replace in one step: one that is
	// torn makes the state unreadable.
	notes, err := filepath.Glob(filepath.Join(c.home.PulumiDir(), ".pulumi", "stacks", engine.Project, "*.attrs"))
	require.NoError(t, err)
	require.Empty(t, notes)
}
