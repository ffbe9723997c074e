package faults

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
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

// hung is a stack of one node whose supervisor is stopped in the middle of requests.
type hung struct {
	*stack
	client  *http.Client
	allowed int
	refused int
}

func newHung(t *testing.T) *hung {
	h := &hung{stack: newStack(t, 1)}
	up := fleet.NewUpstream(t, h.home, h.ca, "api.test")
	h.publish(&plan.Plan{Stack: "faults", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{
		{ID: "a/api", Host: "api.test", Port: 443, Methods: []string{"GET"}, Paths: []string{"/**"}, Upstream: up.Pin()},
	}}}})
	h.client = h.agent("n1", "a")
	h.client.Transport.(*http.Transport).ForceAttemptHTTP2 = false
	t.Cleanup(h.client.CloseIdleConnections)
	return h
}

// ask makes a request, and reports whether it was refused because it could not be recorded.
func (h *hung) ask() bool {
	h.t.Helper()
	resp, err := h.client.Get(fmt.Sprintf("https://api.test/%d", h.allowed))
	if err != nil { // a CONNECT: of its answer, Go says the status only
		require.ErrorContains(h.t, err, "Service Unavailable")
		h.refused++
		return true
	}
	body, err := io.ReadAll(resp.Body)
	require.NoError(h.t, errors.Join(err, resp.Body.Close()))
	if resp.StatusCode == http.StatusOK {
		h.allowed++
		return false
	}
	require.Equal(h.t, http.StatusServiceUnavailable, resp.StatusCode)
	require.Contains(h.t, string(body), `"reason":"not_recorded"`)
	h.refused++
	return true
}

// hang stops the supervisor, and returns once requests are refused.
func (h *hung) hang() {
	h.t.Helper()
	for range 20 {
		require.False(h.t, h.ask())
	}
	require.NoError(h.t, syscall.Kill(h.programs["n1"].PID(), syscall.SIGSTOP))
	h.t.Cleanup(func() { _ = syscall.Kill(h.programs["n1"].PID(), syscall.SIGCONT) })
	at, before := time.Now(), h.allowed
	for !h.ask() {
		require.Less(h.t, time.Since(at), patience, "requests are decided without a record")
	}
	h.t.Logf("%d requests were decided in %s, then none", h.allowed-before, time.Since(at).Round(time.Millisecond))
	for i := range 200 {
		if i%50 == 0 {
			h.client.CloseIdleConnections() // a CONNECT is refused, too
		}
		require.True(h.t, h.ask())
	}
}

// recorded counts what the log says was allowed and refused, and whether it has a gap.
func (h *hung) recorded() (allowed, refused int, gap bool) {
	h.t.Helper()
	require.NoError(h.t, audit.Each(h.t.Context(), h.home.AuditDir(), audit.Filter{}, func(e audit.Event) error {
		switch {
		case e.Verdict == audit.Gap:
			gap = true
		case e.Verdict == audit.Allow:
			allowed++
		case e.Reason == plan.ReasonUnrecorded:
			require.NotZero(h.t, e.Count)
			refused += int(e.Count)
		case e.Verdict == audit.Deny:
			require.Fail(h.t, "unexpected", "%+v", e)
		}
		return nil
	}))
	return allowed, refused, gap
}

// TestSupervisorHangs: C5. When nobody takes the log, nothing is decided any longer; when it is
// taken again, what clients have seen is what it says.
func TestSupervisorHangs(t *testing.T) {
	t.Parallel()
	h := newHung(t)
	h.hang()
	require.NoError(t, syscall.Kill(h.programs["n1"].PID(), syscall.SIGCONT))
	require.Eventually(t, func() bool { return !h.ask() }, patience, 10*time.Millisecond, "it goes on")
	require.Eventually(t, func() bool {
		allowed, refused, gap := h.recorded()
		return allowed == h.allowed && refused == h.refused && !gap
	}, patience, 20*time.Millisecond)
	allowed, refused, _ := h.recorded()
	t.Logf("%d allowed, %d refused: the same in the log", allowed, refused)
}

// TestHungSupervisorIsKilled: C5. What was lost is declared, and what was refused is known.
func TestHungSupervisorIsKilled(t *testing.T) {
	t.Parallel()
	h := newHung(t)
	h.hang()
	h.client.CloseIdleConnections()
	h.kill("n1")
	h.await("the node is back", func(st *api.Status) bool { return connected(st) == 1 })
	require.Eventually(t, func() bool {
		resp, err := h.client.Get("https://api.test/again")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}, patience, 20*time.Millisecond)
	var allowed, refused int
	require.Eventually(t, func() bool {
		var gap bool
		allowed, refused, gap = h.recorded()
		return gap && refused == h.refused && allowed > 0
	}, patience, 20*time.Millisecond)
	require.LessOrEqual(t, allowed, h.allowed+1)
	t.Logf("of %d answers %d were lost, and declared", h.allowed+1, h.allowed+1-allowed)
}

// TestEnvoyIsKilled: what Envoy had not written yet is all that is lost, and is declared.
func TestEnvoyIsKilled(t *testing.T) {
	t.Parallel()
	h := newHung(t)
	var at []time.Time
	for begun := time.Now(); time.Since(begun) < time.Second; {
		require.False(t, h.ask())
		at = append(at, time.Now())
	}
	killed := time.Now()
	h.killEnvoy("n1")
	var allowed int
	require.Eventually(t, func() bool {
		var gap bool
		allowed, _, gap = h.recorded()
		return gap
	}, patience, 20*time.Millisecond)
	require.LessOrEqual(t, allowed, h.allowed)
	require.Positive(t, allowed)
	if lost := h.allowed - allowed; lost > 0 {
		t.Logf("of %d answers the last %d were lost, those of the last %s", h.allowed, lost, killed.Sub(at[allowed]).Round(time.Millisecond))
	}
	// In the order in which they were decided, without a hole.
	next := 0
	require.NoError(t, audit.Each(h.t.Context(), h.home.AuditDir(), audit.Filter{Agent: "a"}, func(e audit.Event) error {
		require.Equal(t, fmt.Sprintf("/%d", next), e.Path)
		next++
		return nil
	}))
}

// TestEnvoyHangs: C10. An agent whose node hangs is served by the other one.
func TestEnvoyHangs(t *testing.T) {
	t.Parallel()
	s := newStack(t, 2)
	a := startAgent(s)
	a.more(5)
	envoy := children(s.programs["n1"].PID())
	require.Len(t, envoy, 1)
	require.NoError(t, syscall.Kill(envoy[0], syscall.SIGSTOP))
	t.Cleanup(func() { _ = syscall.Kill(envoy[0], syscall.SIGCONT) })
	at := time.Now()
	a.more(1)
	t.Logf("each has an answer of another node after %s", time.Since(at).Round(time.Millisecond))
	require.Less(t, time.Since(at), 10*time.Second, "a second, on a machine that does nothing else")
	a.more(20)
	require.NoError(t, syscall.Kill(envoy[0], syscall.SIGCONT))
	got := a.stop()
	// What was in progress at that node was cut off, and nothing else failed.
	require.LessOrEqual(t, len(got.failed), workers, "%q", got.failed)
	a.recorded(got)
}

// TestHungSupervisorIsLeft: a node that refuses every request for want of a log says so, and
// agents go to another one.
func TestHungSupervisorIsLeft(t *testing.T) {
	t.Parallel()
	s := newStack(t, 2)
	a := startAgent(s)
	a.more(5)
	supervisor := s.programs["n1"].PID()
	require.NoError(t, syscall.Kill(supervisor, syscall.SIGSTOP))
	t.Cleanup(func() { _ = syscall.Kill(supervisor, syscall.SIGCONT) })
	s.await("the status says it", func(st *api.Status) bool {
		return st.Nodes[0].Problem != "" && st.Nodes[1].Problem == ""
	})
	require.NoError(t, os.WriteFile(filepath.Join(a.dir, "afresh"), nil, 0o600))
	a.more(2) // nobody waits for an answer of before
	failed := len(a.read().failed)
	a.more(20)
	require.Len(t, a.read().failed, failed)
	require.NoError(t, syscall.Kill(supervisor, syscall.SIGCONT))
	s.await("the node serves again", func(st *api.Status) bool { return st.Nodes[0].Problem == "" })
	a.recorded(a.stop())
}

// TestUpgrade: C11. Nodes that are restarted one after the other fail no request.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	s := newStack(t, 2)
	a := startAgent(s)
	a.more(5)
	for range 2 {
		for _, node := range []string{"n1", "n2"} {
			s.programs[node].Stop()
			s.start(node)
			s.await("every node is connected", func(st *api.Status) bool {
				return connected(st) == 2 && st.Nodes[0].Version == st.Version && st.Nodes[1].Version == st.Version
			})
			a.more(5)
		}
	}
	got := a.stop()
	t.Logf("%d requests, %d failed", got.answered+len(got.failed), len(got.failed))
	require.Empty(t, got.failed)
	a.recorded(got)
}

// workers is how many requests the sandboxed agent makes at once.
const workers = 4

// sandboxed is an agent in a sandbox that asks for api.test until it is stopped.
type sandboxed struct {
	*stack
	dir  string
	done chan error
}

type asked struct {
	answered int
	// by are the answers of each worker.
	by     [workers]int
	failed []string
}

// read is what the agent has written down so far.
func (a *sandboxed) read() (got asked) {
	b, _ := os.ReadFile(filepath.Join(a.dir, "answers"))
	whole := string(b[:strings.LastIndexByte(string(b), '\n')+1])
	for l := range strings.Lines(whole) {
		if n, ok := strings.CutSuffix(l, " 200\n"); ok {
			got.answered++
			i, err := strconv.Atoi(n)
			require.NoError(a.t, err)
			got.by[i]++
		} else {
			got.failed = append(got.failed, l)
		}
	}
	return got
}

// more waits until each worker has got n answers more.
func (a *sandboxed) more(n int) {
	a.t.Helper()
	before := a.read().by
	enough := func() bool {
		now := a.read().by
		for i := range now {
			if now[i] < before[i]+n {
				return false
			}
		}
		return true
	}
	for end := time.Now().Add(patience); !enough(); <-time.After(10 * time.Millisecond) {
		select {
		case err := <-a.done:
			require.Fail(a.t, "the agent has ended", "%v %+v", err, a.read())
		default:
		}
		if time.Now().After(end) {
			require.Fail(a.t, "the agent gets no answers", "%+v\n%s", a.read(), a.said())
		}
	}
}

// stop ends the agent and returns what came of its requests.
func (a *sandboxed) stop() asked {
	a.t.Helper()
	require.NoError(a.t, os.WriteFile(filepath.Join(a.dir, "stop"), nil, 0o600))
	require.NoError(a.t, <-a.done)
	return a.read()
}

// recorded holds the log to the answers that the agent got. What failed may have been decided.
func (a *sandboxed) recorded(got asked) {
	a.t.Helper()
	allowed := 0
	require.Eventually(a.t, func() bool {
		allowed = 0
		err := audit.Each(a.t.Context(), a.home.AuditDir(), audit.Filter{Agent: "a"}, func(e audit.Event) error {
			if e.Verdict == audit.Allow && e.Status == http.StatusOK {
				allowed++
			}
			return nil
		})
		return err == nil && allowed >= got.answered
	}, patience, 20*time.Millisecond, "%d answers", got.answered)
	require.LessOrEqual(a.t, allowed, got.answered+len(got.failed))
}
