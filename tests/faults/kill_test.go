package faults

import (
	"bytes"
	"crypto/tls"
	"errors"
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
	"github.com/postern/postern/envoy"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
	"github.com/postern/postern/xds/api"
)

// published is a stack of one node whose agents a and b may reach api.test.
func published(t *testing.T) *stack {
	t.Helper()
	s := newStack(t, 1)
	s.publishTwo()
	return s
}

// publishTwo lets the agents a and b reach api.test.
func (s *stack) publishTwo() {
	s.t.Helper()
	s.up = fleet.NewUpstream(s.t, s.home, s.ca, "api.test")
	p := &plan.Plan{Stack: s.home.Stack()}
	for _, a := range []string{"a", "b"} {
		p.Agents = append(p.Agents, plan.Agent{Name: a, Rules: []plan.Rule{
			{ID: a + "/api", Host: "api.test", Port: 443, Methods: []string{"GET", "POST"}, Paths: []string{"/**"}, Upstream: s.up.Pin()},
		}})
	}
	s.publish(p)
	require.Equal(s.t, http.StatusOK, s.get("a"))
}

// get is the status of one request of an agent at n1; 0 if there was no answer.
func (s *stack) get(agent string) int {
	s.t.Helper()
	client := s.agent("n1", agent)
	defer client.CloseIdleConnections()
	resp, err := client.Get("https://api.test/")
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// requireKilled waits until nothing of the agent passes, and something of b does.
func (s *stack) requireKilled(agent string) {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return s.get(agent) != http.StatusOK }, patience, 20*time.Millisecond)
	require.Eventually(s.t, func() bool { return s.get("b") == http.StatusOK }, patience, 20*time.Millisecond)
}

func killA(s *stack) (*bundle.Outcome, error) {
	o := fleet.Operator(s.home)
	o.Kept = s.home.KeptBundles()
	return o.Kill(s.t.Context(), bundle.Killed{Agents: []string{"a"}})
}

func unkillA(s *stack) (*bundle.Outcome, error) {
	return fleet.Operator(s.home).Unkill(s.t.Context(), bundle.Killed{Agents: []string{"a"}})
}

// TestStateFilesAreLost: C1, C4. Whatever becomes of a state file of the control
// plane, it starts, its nodes are part of the stack, and a kill reaches them.
func TestStateFilesAreLost(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"nodes.json", "removed.json", "leases.json", "good.bundle", "kill.bundle"} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			s := published(t)
			path := filepath.Join(s.home.ControlDir(), file)
			for _, damage := range []struct {
				name string
				do   func() error
			}{
				{"removed", func() error { return os.RemoveAll(path) }},
				{"empty", func() error { return os.WriteFile(path, nil, 0o600) }},
				{"half", func() error { return os.WriteFile(path, []byte(`["n`), 0o600) }},
				{"null", func() error { return os.WriteFile(path, []byte(`null`), 0o600) }},
				{"garbage", func() error { return os.WriteFile(path, []byte("\x00\xff\x1b[2J"), 0o600) }},
				{"of another kind", func() error { return os.WriteFile(path, []byte(`{"n1":[7]}`), 0o600) }},
				{"huge", func() error {
					return errors.Join(os.WriteFile(path, []byte(`[`), 0o600), os.Truncate(path, 1<<33))
				}},
			} {
				s.programs["control"].Kill()
				require.NoError(t, damage.do(), damage.name)
				s.start("control")
				s.await(damage.name+": the node is connected", func(st *api.Status) bool { return connected(st) == 1 && st.Version != "" })
			}
			out, err := killA(s)
			require.NoError(t, err)
			require.Equal(t, []string{"n1"}, out.Converged.Confirmed)
			s.requireKilled("a")
			// Whoever has no process of ours in a node's folder is refused, and shown.
			foreign := fleet.StartAcker(t, s.home.XDSSocket(), "n9")
			require.Equal(t, `node "n9" is not part of this stack`, foreign.Refused())
			require.NoError(t, os.MkdirAll(s.home.NodeDir("n8"), 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(s.home.NodeDir("n8"), "pid"), []byte("1\n"), 0o600))
			require.NotEmpty(t, fleet.StartAcker(t, s.home.XDSSocket(), "n8").Refused(), "a number in a file: no process")
			require.NotEmpty(t, fleet.StartAcker(t, s.home.XDSSocket(), "../nodes/n1").Refused())
			st, err := s.api.Status(t.Context())
			require.NoError(t, err)
			var refused []string
			for _, r := range st.RefusedNodes {
				refused = append(refused, r.ID)
			}
			require.Equal(t, []string{"../nodes/n1", "n8", "n9"}, refused)
		})
	}
}

// TestKillWithoutAnAnswer: C6. A control plane that hangs or is gone holds up no
// kill and no unkill: each is recorded, what is missing is said, and it applies by
// itself.
func TestKillWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		lose, back func(s *stack)
		said       string
	}{
		"it hangs": {
			func(s *stack) { require.NoError(s.t, syscall.Kill(s.programs["control"].PID(), syscall.SIGSTOP)) },
			func(s *stack) { require.NoError(s.t, syscall.Kill(s.programs["control"].PID(), syscall.SIGCONT)) },
			"it hangs, or is stopped",
		},
		"it is gone": {func(s *stack) { s.programs["control"].Kill() }, func(s *stack) { s.start("control") }, "connection refused"},
		"the publications are damaged as well": {
			func(s *stack) {
				s.programs["control"].Kill()
				objects, err := filepath.Glob(filepath.Join(s.home.Root, "bundle", "*"))
				require.NoError(s.t, err)
				require.NotEmpty(s.t, objects)
				for _, o := range objects {
					require.NoError(s.t, os.Truncate(o, 7))
				}
			},
			func(s *stack) { s.start("control") }, "connection refused",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := published(t)
			c.lose(s)
			out, err := killA(s)
			require.ErrorContains(t, err, c.said)
			require.NotNil(t, out)
			require.NoError(t, out.Unrecorded)
			require.Nil(t, out.Converged)
			_, err = s.api.Status(t.Context())
			require.ErrorContains(t, err, c.said, "who asks is told so, and does not wait for ever")
			c.back(s)
			s.requireKilled("a")
			s.await("the agent is shown", func(st *api.Status) bool { return strings.Join(st.Killed, ",") == "a" && connected(st) == 1 })
			if name == "the publications are damaged as well" {
				return
			}
			c.lose(s)
			out, err = unkillA(s)
			require.ErrorContains(t, err, c.said)
			require.NoError(t, out.Unrecorded)
			c.back(s)
			require.Eventually(t, func() bool { return s.get("a") == http.StatusOK }, patience, 20*time.Millisecond)
		})
	}
}

// TestKillPastALock: C6. Another operator who hangs with the store's lock holds up
// no kill.
func TestKillPastALock(t *testing.T) {
	t.Parallel()
	s := published(t)
	lock, err := os.OpenFile(filepath.Join(s.home.Root, "bundle.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	require.NoError(t, err)
	defer lock.Close()
	require.NoError(t, syscall.Flock(int(lock.Fd()), syscall.LOCK_EX))
	out, err := killA(s)
	require.NoError(t, err)
	require.Equal(t, []string{"n1"}, out.Converged.Confirmed)
	s.requireKilled("a")
	_, err = s.push(&plan.Plan{Stack: s.home.Stack(), Agents: []plan.Agent{{Name: "a"}}})
	require.ErrorContains(t, err, "is publishing, and holds "+lock.Name()+": wait for it, or end it", "who publishes waits, but not for ever")
}

// TestAnotherStreamOfANode: C13. A second stream with a node's name silences the
// node neither while it is there nor by its end.
func TestAnotherStreamOfANode(t *testing.T) {
	t.Parallel()
	s := published(t)
	other := fleet.StartAcker(t, s.home.XDSSocket(), "n1")
	s.await("both streams are shown", func(st *api.Status) bool {
		return len(st.Nodes) == 1 && st.Nodes[0].Streams == 2 && st.Nodes[0].Version == st.Version
	})
	out, err := killA(s)
	require.NoError(t, err)
	require.Equal(t, []string{"n1"}, out.Converged.Confirmed)
	require.NotEqual(t, http.StatusOK, s.get("a"), "the node has it, not only the other stream")
	other.Stop()
	s.await("the node's own stream counts", func(st *api.Status) bool { return connected(st) == 1 && st.Nodes[0].Streams == 1 })
	out, err = unkillA(s)
	require.NoError(t, err)
	require.Equal(t, []string{"n1"}, out.Converged.Confirmed)
	require.Equal(t, http.StatusOK, s.get("a"))
}

// TestSocketsAreGone: C9. A node whose agents cannot reach it is not said to serve.
func TestSocketsAreGone(t *testing.T) {
	t.Parallel()
	s := published(t)
	s.await("it serves", func(st *api.Status) bool { return st.Nodes[0].Problem == "" && st.Nodes[0].Version == st.Version })
	require.NoError(t, os.Remove(filepath.Join(s.home.NodeDir("n1"), envoy.AgentSocket("a"))))
	s.await("the node does not serve", func(st *api.Status) bool {
		return strings.Contains(st.Nodes[0].Problem, "the socket of agent a takes no connection")
	})
}

// postern runs the operator's command about the stack, and returns what it says and
// its exit status.
func (s *stack) postern(args ...string) (said string, status int) {
	s.t.Helper()
	path, err := programs.Build("postern", "postern", "")
	require.NoError(s.t, err)
	cmd := exec.CommandContext(s.t.Context(), path, append(args, "--stack", s.home.Stack())...)
	cmd.Dir = s.t.TempDir() // there is no stack file
	cmd.Env = append(os.Environ(), "POSTERN_HOME="+filepath.Dir(s.home.Root))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		require.NoError(s.t, err, "%s", out)
		return string(out), 0
	}
	return string(out), exit.ExitCode()
}

// cutOff is what is said of one connection, and of the one before it that Envoy may not have closed yet.
const cutOff = `node n1 does not confirm: a was cut off it from outside, with [12] connections`

// TestKillByHand: C6. Where no control plane and no Envoy answers, the agent is cut off
// from outside: nothing that is open continues, nothing new passes, and others are not
// disturbed. Each command says what was done and what was not, by its exit status too.
func TestKillByHand(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		lose, back func(s *stack)
	}{
		"the control plane is gone": {func(s *stack) { s.programs["control"].Kill() }, func(s *stack) { s.start("control") }},
		"the control plane hangs": {
			func(s *stack) { require.NoError(s.t, syscall.Kill(s.programs["control"].PID(), syscall.SIGSTOP)) },
			func(s *stack) { require.NoError(s.t, syscall.Kill(s.programs["control"].PID(), syscall.SIGCONT)) },
		},
		"and the publications are damaged, and so is what the control plane keeps": {
			func(s *stack) {
				s.programs["control"].Kill()
				objects, err := filepath.Glob(filepath.Join(s.home.Root, "bundle", "*"))
				require.NoError(s.t, err)
				for _, o := range append(objects, s.home.KeptBundles()[0]) {
					require.NoError(s.t, os.Truncate(o, 7))
				}
			}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := published(t)
			mine := openUpload(t, s.agent("n1", "a"), s.up, "https://api.test/")
			c.lose(s)
			said, status := s.postern("kill", "--agent", "a")
			mine.requireCut(t)
			require.Regexp(t, cutOff, said)
			require.Zero(t, s.get("a"), "there is no way to the node")
			require.Equal(t, http.StatusOK, s.get("b"))
			if c.back == nil {
				require.Equal(t, 1, status, said)
				require.Contains(t, said, "cannot be used")
				return
			}
			require.Equal(t, 4, status, said)
			require.Contains(t, said, "node n1 runs here and has not confirmed it")
			require.Contains(t, said, "it is recorded as publication 2, and applies as soon as a control plane and its nodes see it")
			c.back(s)
			s.await("it applies by itself", func(st *api.Status) bool {
				return strings.Join(st.Killed, ",") == "a" && connected(st) == 1 && st.Nodes[0].Version == st.Version
			})
			said, status = s.postern("kill", "--agent", "a")
			require.Equal(t, 0, status, said)
			require.Zero(t, s.get("a"))
			_, err := unkillA(s)
			require.NoError(t, err)
			// The command goes by the stack file, of which there is none, or by all.
			said, status = s.postern("unkill", "--all")
			require.Equal(t, 0, status, said)
			require.Eventually(t, func() bool { return s.get("a") == http.StatusOK }, patience, 20*time.Millisecond)
			require.Equal(t, http.StatusOK, s.get("b"))
		})
	}
}

// TestKillOfAHungEnvoy: C6. A node that hangs confirms nothing, and nothing of the
// agent continues there.
func TestKillOfAHungEnvoy(t *testing.T) {
	t.Parallel()
	s := published(t)
	mine, others := openUpload(t, s.agent("n1", "a"), s.up, "https://api.test/"), openUpload(t, s.agent("n1", "b"), s.up, "https://api.test/")
	envoys := children(s.programs["n1"].PID())
	require.NotEmpty(t, envoys)
	for _, pid := range envoys {
		require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	}
	said, status := s.postern("kill", "--agent", "a")
	mine.requireCut(t)
	require.Equal(t, 4, status, said)
	require.Regexp(t, cutOff, said)
	// On a slow machine the control plane has lost the node by then.
	require.Regexp(t, "node n1 (did not acknowledge version|is missing since)", said)
	require.Empty(t, others.ended, "another agent's connection is not cut")
	for _, pid := range envoys {
		require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
	}
	s.await("it applies by itself", func(st *api.Status) bool {
		return strings.Join(st.Killed, ",") == "a" && connected(st) == 1 && st.Nodes[0].Version == st.Version
	})
	require.Zero(t, s.get("a"))
	require.Equal(t, http.StatusOK, s.get("b"))
}

// stopped reports whether no thread of the process runs any longer: a signal comes to each in its
// own time.
func stopped(t *testing.T, pid int) bool {
	t.Helper()
	all, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	require.NoError(t, err)
	for _, at := range all {
		stat, err := os.ReadFile(at)
		if err != nil || !strings.HasPrefix(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " T") {
			return false
		}
	}
	return len(all) > 0
}

// TestKillOfWhatHasNotArrived: C6. Neither the control plane nor Envoy answers. What Envoy has not read yet is cut off too:
// connections that it has not accepted, and a request that waits on one that it has.
func TestKillOfWhatHasNotArrived(t *testing.T) {
	t.Parallel()
	s := published(t)
	socket := filepath.Join(s.home.NodeDir("n1"), envoy.AgentSocket("a"))
	const ask = "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n"
	dial := func() net.Conn {
		c, err := net.Dial("unix", socket)
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		return c
	}
	// Envoy has accepted this one: it has answered.
	open := dial()
	_, err := io.WriteString(open, ask)
	require.NoError(t, err)
	answered := make([]byte, len("HTTP/1.1 200"))
	_, err = io.ReadFull(open, answered)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 200", string(answered))
	secure := tls.Client(&afterHead{Conn: open}, &tls.Config{ServerName: "api.test", RootCAs: s.ca.Pool()})
	require.NoError(t, secure.HandshakeContext(t.Context()))
	s.up.Seen()

	envoys := children(s.programs["n1"].PID())
	require.NotEmpty(t, envoys)
	for _, pid := range append(envoys, s.programs["control"].PID()) {
		require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
		require.Eventually(t, func() bool { return stopped(t, pid) }, patience, time.Millisecond)
	}
	conns := []net.Conn{open}
	_, err = io.WriteString(secure, "GET /queued HTTP/1.1\r\nHost: api.test\r\n\r\n")
	require.NoError(t, err)
	for range 5 {
		c := dial()
		_, err := io.WriteString(c, ask)
		require.NoError(t, err)
		conns = append(conns, c)
	}
	said, status := s.postern("kill", "--agent", "a")
	require.Equal(t, 4, status, said)
	require.Regexp(t, `a was cut off it from outside, with [67] connections`, said)
	for _, pid := range envoys {
		require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
	}
	require.Eventually(t, func() bool { return s.get("b") == http.StatusOK }, patience, 20*time.Millisecond)
	for i, c := range conns {
		require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
		got, err := io.ReadAll(c)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "connection %d is open", i)
		require.NotContains(t, string(got), "200", "connection %d", i)
	}
	for _, r := range s.up.Seen() {
		require.Equal(t, "/", r.URL.Path, "b's requests, and no other")
	}
}

// afterHead skips the rest of a response's head.
type afterHead struct {
	net.Conn
	past bool
}

func (c *afterHead) Read(b []byte) (int, error) {
	for last := ""; !c.past; {
		one := make([]byte, 1)
		if _, err := c.Conn.Read(one); err != nil {
			return 0, err
		}
		last += string(one)
		c.past = strings.HasSuffix(last, "\r\n\r\n")
	}
	return c.Conn.Read(b)
}
