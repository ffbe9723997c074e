package xds_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
	"github.com/postern/postern/xds/bundle"
)

// stream is a request of an agent that stays under way until it is cut.
type stream struct{ ended chan string }

// open starts a POST whose body never ends, and returns when it has arrived.
func openStream(t *testing.T, f *fleet.Fleet, up *fleet.Upstream, node, agent, url string) *stream {
	t.Helper()
	pr, pw := io.Pipe()
	t.Cleanup(func() { require.NoError(t, pw.Close()) })
	s := &stream{ended: make(chan string, 1)}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, pr)
	require.NoError(t, err)
	client := f.Client(node, agent)
	client.Timeout = time.Minute
	go func() {
		resp, err := client.Do(req)
		if err != nil {
			s.ended <- err.Error()
			return
		}
		resp.Body.Close()
		s.ended <- "an answer: " + resp.Status
	}()
	_, err = pw.Write([]byte("x"))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return up.Open() > 0 }, 5*time.Second, 5*time.Millisecond)
	return s
}

func (s *stream) requireCut(t *testing.T, within time.Duration) {
	t.Helper()
	select {
	case <-s.ended:
	case <-time.After(within):
		require.Fail(t, "the stream goes on")
	}
}

func (s *stream) requireOpen(t *testing.T) {
	t.Helper()
	select {
	case why := <-s.ended:
		require.Fail(t, "the stream was cut", why)
	default:
	}
}

// TestNarrowingCuts: who loses access loses what is open, within a second;
// who gains, and everybody else, keeps it.
func TestNarrowingCuts(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 2)
	up := f.NewUpstream("one.test", "two.test")
	p := func(a, b []string) *plan.Plan {
		agent := func(name string, hosts []string) plan.Agent {
			g := plan.Agent{Name: name}
			for _, h := range hosts {
				g.Rules = append(g.Rules, open(name, h, up))
			}
			return g
		}
		return &plan.Plan{Stack: "test", Agents: []plan.Agent{agent("a", a), agent("b", b)}}
	}
	f.MustPublish(p([]string{"one.test"}, []string{"one.test"}))
	one := openStream(t, f, up, "n1", "a", "https://one.test/")
	other := openStream(t, f, up, "n2", "b", "https://one.test/")
	tunnel, err := f.Dial("n2", "a")(t.Context(), "", "")
	require.NoError(t, err)
	_, err = io.WriteString(tunnel, "CONNECT one.test:443 HTTP/1.1\r\nHost: one.test:443\r\n\r\n")
	require.NoError(t, err)
	_, err = io.ReadFull(tunnel, make([]byte, 12))
	require.NoError(t, err)

	f.MustPublish(p([]string{"one.test", "two.test"}, []string{"one.test"}))
	one.requireOpen(t)
	other.requireOpen(t)

	f.MustPublish(p([]string{"two.test"}, []string{"one.test"}))
	one.requireCut(t, time.Second)
	require.NoError(t, tunnel.SetReadDeadline(time.Now().Add(time.Second)))
	_, err = io.Copy(io.Discard, tunnel)
	var late net.Error
	require.False(t, errors.As(err, &late) && late.Timeout(), "the tunnel goes on")
	other.requireOpen(t)
	require.Equal(t, 200, f.Get("n1", "a", "https://two.test/"))
	require.Equal(t, 0, f.Get("n1", "a", "https://one.test/"))
}

// TestKill: no new request and no open one, on every node, also after both
// control plane and Envoy were restarted, until it is taken back.
func TestKill(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 2)
	up := f.NewUpstream("one.test")
	p := &plan.Plan{Stack: "test", Agents: []plan.Agent{
		{Name: "a", Rules: []plan.Rule{open("a", "one.test", up)}}, {Name: "b", Rules: []plan.Rule{open("b", "one.test", up)}},
	}}
	f.MustPublish(p)
	s := openStream(t, f, up, "n1", "a", "https://one.test/")
	other := openStream(t, f, up, "n1", "b", "https://one.test/")
	_, err := f.Operator().Kill(t.Context(), bundle.Killed{Agents: []string{"a"}})
	require.NoError(t, err)
	s.requireCut(t, time.Second)
	other.requireOpen(t)
	for _, n := range []string{"n1", "n2"} {
		require.Equal(t, 0, f.Get(n, "a", "https://one.test/"))
		require.Equal(t, 200, f.Get(n, "b", "https://one.test/"))
	}
	f.MustPublish(p) // what is published later does not bring it back
	require.Equal(t, 0, f.Get("n1", "a", "https://one.test/"))
	f.StopControl()
	f.StartControl()
	require.Eventually(t, func() bool { return f.Node("n1").Version != "" }, 10*time.Second, 20*time.Millisecond)
	require.Equal(t, 0, f.Get("n1", "a", "https://one.test/"))
	require.Eventually(t, func() bool {
		return slices.ContainsFunc(f.Events(1), func(e audit.Event) bool {
			return e.Agent == "a" && e.Reason == plan.ReasonKilled && e.Verdict == audit.Deny
		})
	}, 5*time.Second, 20*time.Millisecond)

	_, err = f.Operator().Kill(t.Context(), bundle.Killed{Stack: true})
	require.NoError(t, err)
	require.Equal(t, 0, f.Get("n1", "b", "https://one.test/"))
	status, err := f.API.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, status.Killed)
	_, err = f.Operator().Unkill(t.Context(), bundle.Killed{Stack: true, Agents: []string{"a"}})
	require.NoError(t, err)
	require.Equal(t, 200, f.Get("n1", "a", "https://one.test/"))
	require.Equal(t, 200, f.Get("n1", "b", "https://one.test/"))
}

// TestTwoOperators: of two who publish at once one wins, and the other is told
// who and what.
func TestTwoOperators(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := f.NewUpstream("one.test")
	results := make(chan error, 8)
	for i := range cap(results) {
		go func() {
			r := open("a", "one.test", up)
			r.Owner = string(rune('a' + i))
			_, err := f.Operator().Publish(t.Context(), &plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{r}}}})
			results <- err
		}()
	}
	won := 0
	for range cap(results) {
		err := <-results
		var conflict *bundle.ConflictError
		if err == nil {
			won++
		} else {
			require.ErrorAs(t, err, &conflict)
			require.NotEmpty(t, conflict.Theirs.By)
		}
	}
	require.Positive(t, won)
	history, err := f.Operator().History(t.Context())
	require.NoError(t, err)
	live := 0
	for _, b := range history {
		if f.Operator().Proven(t.Context(), b) == nil {
			live++
		}
	}
	require.Equal(t, won, live, "who was not told that it is live has nothing live")
	status, err := f.API.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, history[0].Seq, status.Seq)
}
