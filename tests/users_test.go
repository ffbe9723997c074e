package tests

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/daemon"
	"github.com/postern/postern/envoy"
	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/xds/api"
)

// as returns the credential of a user that tools/packages.sh makes.
func as(t *testing.T, name string) *syscall.Credential {
	t.Helper()
	u, err := user.Lookup(name)
	require.NoError(t, err, "run tools/packages.sh")
	groups, err := u.GroupIds()
	require.NoError(t, err)
	number := func(s string) uint32 {
		n, err := strconv.ParseUint(s, 10, 32)
		require.NoError(t, err)
		return uint32(n)
	}
	c := &syscall.Credential{Uid: number(u.Uid), Gid: number(u.Gid)}
	for _, g := range groups {
		c.Groups = append(c.Groups, number(g))
	}
	return c
}

// shell runs a script as a user, and returns what it said.
func shell(t *testing.T, c *syscall.Credential, script string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", script)
	cmd.Dir, cmd.SysProcAttr = "/", &syscall.SysProcAttr{Credential: c}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// proc returns the fields of /proc/<pid>/status.
func proc(t *testing.T, pid int) map[string]string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	fields := map[string]string{}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		fields[name] = strings.TrimSpace(value)
	}
	return fields
}

// TestUsersOfTheirOwn brings a stack up as root, and then is whoever took over an
// Envoy, or the control plane: neither reads or changes what is not its own. W11.
func TestUsersOfTheirOwn(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("an ordinary user cannot start processes as other users; docs/packaging.md says what that means")
	}
	control, node := as(t, home.ControlUser), as(t, home.NodeUser)
	c := newCheckout(t)
	root := filepath.Dir(filepath.Dir(c.home.Root))
	require.NoError(t, os.Chmod(root, 0o711))
	c.edit("allow: [one]", "allow: [one, two]") // both credentials
	secret := filepath.Join(root, "secret")

	// A secret that the control plane cannot read: as root, and said so.
	out, err := c.command("preview", "local").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), fmt.Sprintf("run `chgrp postern-control %s && chmod 640 %s`", secret, secret))

	require.NoError(t, os.Chown(secret, 0, int(control.Gid)))
	require.NoError(t, os.Chmod(secret, 0o640))
	require.NoError(t, hostpath.In(filepath.Dir(c.home.Root)).Record(t.TempDir())) // as `run` does
	c.does("up")
	c.does("up") // and again: nothing is in its own way
	state, err := api.Dial(c.home.ControlSocket()).Status(t.Context())
	require.NoError(t, err)
	require.Len(t, state.Credentials, 2)
	for _, credential := range state.Credentials {
		require.True(t, credential.OK, "%+v", credential)
	}

	pid, ok, err := daemon.Running(filepath.Join(c.home.ControlDir(), "pid"))
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, uids(control), strings.Fields(proc(t, pid)["Uid"]))
	supervisor, ok, err := daemon.Running(filepath.Join(c.home.NodeDir("n1"), "pid"))
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, uids(node), strings.Fields(proc(t, supervisor)["Uid"]))
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", supervisor, supervisor))
	require.NoError(t, err)
	if len(bytes.TrimSpace(children)) == 0 { // Envoy was started by another thread
		children, err = exec.Command("pgrep", "-P", strconv.Itoa(supervisor)).Output()
		require.NoError(t, err)
	}
	proxy, err := strconv.Atoi(strings.Fields(string(children))[0])
	require.NoError(t, err)
	status := proc(t, proxy)
	require.Equal(t, "envoy", status["Name"])
	require.Equal(t, uids(node), strings.Fields(status["Uid"]))
	require.Equal(t, "1", status["NoNewPrivs"])
	require.Equal(t, strings.Repeat("0", 16), status["CapPrm"])
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", proxy))
	require.NoError(t, err)
	require.Regexp(t, `Max core file size +1 +1 `, string(limits))

	programs, err := filepath.Glob(filepath.Join(c.home.Root, "programs", "*", "*"))
	require.NoError(t, err)
	require.Len(t, programs, 4, "posternd twice, Envoy and what it loads")
	nodeDir, agent := c.home.NodeDir("n1"), c.home.AgentDir("n1", "demo")
	read := func(path string) string { return "cat " + path }
	for _, tc := range []struct {
		name, script string
		who          *syscall.Credential
		allowed      bool
	}{
		{"a node reads the authority's key", read(c.home.CAKey()), node, false},
		{"a node reads the operator's key", read(c.home.OperatorKey()), node, false},
		{"a node reads a secret's file", read(secret), node, false},
		{"a node reads the published plans", "ls " + filepath.Join(c.home.Root, "bundle"), node, false},
		{"a node reads the engine's state", "ls " + c.home.PulumiDir(), node, false},
		{"a node looks into Envoy's memory", read(fmt.Sprintf("/proc/%d/maps", proxy)), node, false},
		{"a node looks into the supervisor's memory", read(fmt.Sprintf("/proc/%d/environ", supervisor)), node, false},
		{"a node talks as an operator", "test -w " + c.home.ControlSocket(), node, false},
		{"a node talks to the control plane", "test -w " + c.home.XDSSocket(), node, true},
		{"a node puts a link in the log's place", fmt.Sprintf("mv %s/log %s/l", nodeDir, nodeDir), node, false},
		{"a node writes into its log's file", fmt.Sprintf("echo x >>%s/log", nodeDir), node, false},
		{"a node puts a link in an agent's place", fmt.Sprintf("mv %s %s/other", agent, nodeDir), node, false},
		{"a node puts a link in all agents' place", fmt.Sprintf("mv %s/agents %s/other", nodeDir, nodeDir), node, false},
		{"a node puts another in a program's place", "touch " + filepath.Dir(programs[0]) + "/x", node, false},
		{"a node reads the control plane's log of events", "ls " + filepath.Join(c.home.AuditDir(), "control"), node, false},
		{"a node removes the control plane's log of events", fmt.Sprintf("mv %s/control %s/x", c.home.AuditDir(), c.home.AuditDir()), node, false},
		{"the control plane reads the authority's key", read(c.home.CAKey()), control, true},
		{"the control plane reads the operator's key", read(c.home.OperatorKey()), control, false},
		{"the control plane publishes", "touch " + filepath.Join(c.home.Root, "bundle", "x"), control, false},
		{"the control plane trusts another operator", fmt.Sprintf("echo x >>%s", c.home.Trusted()), control, false},
		{"the control plane removes a node's events", fmt.Sprintf("mv %s/n1 %s/x", c.home.AuditDir(), c.home.AuditDir()), control, false},
		{"the control plane puts a link in the log's place", fmt.Sprintf("mv %s/log %s/l", c.home.ControlDir(), c.home.ControlDir()), control, false},
	} {
		out, err := shell(t, tc.who, tc.script)
		require.Equal(t, tc.allowed, err == nil, "%s: %s: %s", tc.name, tc.script, out)
	}
	// Anybody else gets nowhere: not to an agent's way out either.
	nobody := &syscall.Credential{Uid: 65534, Gid: 65534}
	for _, path := range []string{
		filepath.Join(nodeDir, envoy.AgentSocket("demo")), c.home.XDSSocket(), c.home.ControlSocket(),
	} {
		_, err := shell(t, nobody, "test -w "+path)
		require.Error(t, err, path)
	}

	// A stack that has users of its own does not lose them without a word.
	require.NoError(t, os.Chmod(secret, 0o600))
	said := c.fails("up")
	require.Contains(t, said, "no longer can: credential second: postern-control may not read "+secret)
	require.NoError(t, os.Chmod(secret, 0o640))

	c.does("destroy")
	_, ok, err = daemon.Running(filepath.Join(nodeDir, "pid"))
	require.NoError(t, err)
	require.False(t, ok)
	entries, err := os.ReadDir(c.home.Root)
	require.NoError(t, err)
	require.Len(t, entries, 2, "the audit log, and whose it is")
}

// uids is the line Uid of proc(5): real, effective, saved, of files.
func uids(c *syscall.Credential) []string {
	id := strconv.Itoa(int(c.Uid))
	return []string{id, id, id, id}
}

// TestDestroyWithoutAReader: C16. `destroy | head -1` takes all away, although nobody
// reads what it says.
func TestDestroyWithoutAReader(t *testing.T) {
	t.Parallel()
	c := newCheckout(t)
	c.does("up")
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	require.NoError(t, reader.Close())
	cmd := c.command("destroy", "local")
	cmd.Stdout = writer
	var said bytes.Buffer
	cmd.Stderr = &said
	require.NoError(t, cmd.Run(), "%s", &said)
	require.NoError(t, writer.Close())
	_, running, err := daemon.Running(filepath.Join(c.home.ControlDir(), "pid"))
	require.NoError(t, err)
	require.False(t, running)
	require.NoDirExists(t, c.home.NodesDir())
	require.NoDirExists(t, c.home.PulumiDir())
}

// TestDestroyIsKilled: `destroy` dies at any line, alone or with its engine. What it has said to be
// deleted is; run again, it takes away the rest, and nothing is left.
func TestDestroyIsKilled(t *testing.T) {
	t.Parallel()
	c := newCheckout(t)
	for _, line := range []int{1, 2} {
		c.does("up")
		cmd := c.command("destroy", "local")
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewScanner(out)
		var said []string
		for len(said) < line && lines.Scan() {
			said = append(said, lines.Text())
		}
		engines := processes(t, c.home.PulumiDir())
		require.NoError(t, cmd.Process.Kill())
		if line == 1 {
			for _, p := range engines {
				pid, err := strconv.Atoi(strings.Fields(p)[0])
				require.NoError(t, err)
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
			}
		}
		for lines.Scan() {
			said = append(said, lines.Text())
		}
		require.Error(t, cmd.Wait())
		t.Logf("%q", said)
		_, node, err := daemon.Running(filepath.Join(c.home.NodeDir("n1"), "pid"))
		require.NoError(t, err)
		if node {
			require.NotContains(t, strings.Join(said, "\n"), "- local-node-1 ")
		}
		c.does("destroy")
		require.Empty(t, processes(t, c.home.Root))
		require.NoDirExists(t, c.home.NodesDir())
		require.NoDirExists(t, c.home.PulumiDir())
	}
}
