package xds_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
	"github.com/postern/postern/xds"
	"github.com/postern/postern/xds/api"
)

// observed is what the control plane answers monitoring.
func observed(t *testing.T, f *fleet.Fleet, page string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	f.Observability.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, page, nil))
	return w.Code, w.Body.String()
}

// journal takes the events of a control plane, each ID once, as the audit log does.
type journal struct {
	mu     sync.Mutex
	ids    map[string]bool
	events []xds.Event
	came   chan struct{}
}

func newJournal() *journal { return &journal{ids: map[string]bool{}, came: make(chan struct{}, 100)} }

func (j *journal) take(e xds.Event) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if e.ID != "" && j.ids[e.ID] {
		return nil
	}
	j.ids[e.ID] = true
	j.events = append(j.events, e)
	j.came <- struct{}{}
	return nil
}

// of returns the events of a kind, once there are n in all.
func (j *journal) of(t *testing.T, kind string, n int) []xds.Event {
	t.Helper()
	for {
		var out []xds.Event
		j.mu.Lock()
		for _, e := range j.events {
			if e.Kind == kind {
				out = append(out, e)
			}
		}
		j.mu.Unlock()
		if len(out) >= n {
			return out
		}
		select {
		case <-j.came:
		case <-time.After(time.Minute):
			require.Fail(t, "no event", "%d of kind %s, there are %v", n, kind, j.events)
		}
	}
}

// restart starts the control plane anew, and waits for the nodes.
func restart(t *testing.T, f *fleet.Fleet, configure func(*xds.Config), nodes ...string) {
	t.Helper()
	f.StopControl()
	f.Configure = configure
	f.StartControl()
	for _, id := range nodes {
		require.Eventually(t, func() bool { return f.Node(id).Connected }, time.Minute, 10*time.Millisecond)
	}
}

func TestMetricsAndReadiness(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	code, body := observed(t, f, "/readyz")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, body, "nothing is served")
	code, _ = observed(t, f, "/healthz")
	require.Equal(t, http.StatusOK, code)

	up := f.NewUpstream("one.test")
	good := &plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{fleet.Allow("a", "one.test",
		up)}}}}
	f.MustPublish(good)
	require.Equal(t, 200, f.Get("n1", "a", "https://one.test/"))
	bad := &plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{fleet.Allow("a", "two.test",
		up)}}}}
	bad.Agents[0].Rules[0].Upstream = &plan.Upstream{Address: up.Address, CA: "this is no certificate"}
	_, err := f.Publish(bad)
	require.Error(t, err)

	code, _ = observed(t, f, "/readyz")
	require.Equal(t, http.StatusOK, code)
	code, body = observed(t, f, "/metrics")
	require.Equal(t, http.StatusOK, code)
	for _, line := range []string{
		`postern_control_nodes{state="converged"} 1`,
		`postern_control_publish_duration_seconds_count{result="converged"} 1`,
		`postern_control_publish_duration_seconds_count{result="rejected"} 1`,
		`postern_control_rollbacks_total{result="rejected"} 1`,
		`postern_control_nacks_total{type="clusters"} 1`,
		`postern_control_leaf_certificates_total{result="minted"} 1`,
		`postern_control_resources{type="listeners"} 2`,
		`postern_control_bundle_seq 1`,
		`postern_control_rejected 1`,
	} {
		require.Contains(t, strings.Split(body, "\n"), line)
	}
	// No name that the policy or an agent has is a label.
	require.NotContains(t, body, "one.test")
}

// TestEvents: the policy's history, with who did what.
func TestEvents(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	j := newJournal()
	restart(t, f, func(c *xds.Config) { c.Event = j.take }, "n1")
	up := f.NewUpstream("one.test", "two.test")
	key := f.Secret("key", "first")
	rule := fleet.Allow("a", "one.test", up)
	rule.Credential = "key"
	p := &plan.Plan{
		Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{rule}}},
		Credentials: []plan.Credential{{Name: "key", Kind: plan.KindBearer, Header: "authorization", Secret: "file://" +
			key}},
	}
	f.MustPublish(p)
	e := j.of(t, xds.EventPublished, 1)[0]
	require.Equal(t, uint64(1), e.Seq)
	require.Contains(t, e.By, "@")
	require.Equal(t, "rules: 1 added, 0 changed, 0 removed; credentials: 1 added, 0 changed, 0 removed", e.Detail)

	// Or else the second may be the first that is seen.
	j.of(t, xds.EventCredentialOpened, 1)
	f.Secret("key", "second")
	e = j.of(t, xds.EventSecretRotated, 1)[0]
	require.Equal(t, "key", e.Credential)
	require.NotContains(t, e.Detail, "second")
	require.Regexp(t, "^version [0-9a-f]{16} after [0-9a-f]{16}$", e.Detail)
	require.NoError(t, os.Remove(key))
	require.Contains(t, j.of(t, xds.EventCredentialClosed, 1)[0].Detail, "there is no file")
	f.Secret("key", "second")
	require.Regexp(t, "^version [0-9a-f]{16}$", j.of(t, xds.EventCredentialOpened, 2)[1].Detail)
	require.Len(t, j.of(t, xds.EventSecretRotated, 1), 1, "it is the same version")

	_, err := f.Operator().Kill(t.Context(), bundle.Killed{Agents: []string{"a"}})
	require.NoError(t, err)
	require.Equal(t, "a", j.of(t, xds.EventKilled, 1)[0].Detail)
	_, err = f.Operator().Unkill(t.Context(), bundle.Killed{Agents: []string{"a"}})
	require.NoError(t, err)
	require.Equal(t, "a", j.of(t, xds.EventUnkilled, 1)[0].Detail)

	p.Agents[0].Rules = append(p.Agents[0].Rules, fleet.Allow("a", "two.test", up))
	p.Agents[0].Rules[1].Upstream = &plan.Upstream{Address: up.Address, CA: "this is no certificate"}
	_, err = f.Publish(p)
	require.Error(t, err)
	require.Contains(t, j.of(t, xds.EventRefused, 1)[0].Detail, "Failed to load trusted CA")
	require.Len(t, j.of(t, xds.EventPublished, 1), 1, "the kill switch publishes the same plan")
}

// TestLeaseEndsOnce: by name, at its time, once, whoever was down meanwhile.
func TestLeaseEndsOnce(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 0)
	j := newJournal()
	restart(t, f, func(c *xds.Config) { c.Event = j.take })
	up := f.NewUpstream("one.test")
	end := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	rule := fleet.Allow("a", "one.test", up)
	rule.Expires, rule.Reason, rule.Owner = end.Format(time.RFC3339), "the release", "ops"
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{rule}}}})
	// It ends while the control plane is down.
	later := func(c *xds.Config) {
		c.Event = j.take
		c.Now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	}
	restart(t, f, later)
	e := j.of(t, xds.EventLeaseEnded, 1)[0]
	require.Equal(t, end, e.Time, "when it ended, not when it was noticed")
	require.Equal(t, []string{"a", "a/one.test", "the release", "ops"}, []string{e.Agent, e.Rule, e.Reason, e.Owner})
	require.Contains(t, e.Detail, "later")
	restart(t, f, later)
	require.Eventually(t, func() bool { s, err := f.API.Status(t.Context()); return err == nil && s.Seq == 1 },
		time.Minute, 10*time.Millisecond)
	require.Len(t, j.of(t, xds.EventLeaseEnded, 1), 1)
	_, body := observed(t, f, "/metrics")
	require.Contains(t, body, `postern_control_next_lease_end_seconds 0`)
}

// TestClockJumps: a clock that is set back does not make a lease longer, and
// one that is set forward and back does not bring a lease back.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := f.NewUpstream("short.test", "long.test")
	var mu sync.Mutex
	var shift time.Duration
	set := func(d time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		shift = d
	}
	j := newJournal()
	restart(t, f, func(c *xds.Config) {
		c.Event = j.take
		c.Now = func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return time.Now().Add(shift)
		}
	}, "n1")
	lease := func(host string, d time.Duration) plan.Rule {
		r := fleet.Allow("a", host, up)
		r.Expires = time.Now().Add(d).UTC().Format(time.RFC3339)
		return r
	}
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{lease("short.test",
		3*time.Second), lease("long.test", 2*time.Hour)}}}})
	require.Equal(t, 200, f.Get("n1", "a", "https://short.test/"))
	set(-24 * time.Hour)
	require.Equal(t, "a/short.test", j.of(t, xds.EventLeaseEnded, 1)[0].Rule, "although the clock says it is yesterday")
	require.Len(t, j.of(t, xds.EventClockSet, 1), 1)
	require.Eventually(t, func() bool { return f.Get("n1", "a", "https://short.test/") != 200 }, time.Minute,
		20*time.Millisecond)
	// What the agent has open is cut, once.
	require.Eventually(t, func() bool { return f.Get("n1", "a", "https://long.test/") == 200 }, time.Minute,
		20*time.Millisecond)
	set(3 * time.Hour)
	require.Equal(t, "a/long.test", j.of(t, xds.EventLeaseEnded, 2)[1].Rule)
	set(0)
	require.Eventually(t, func() bool { return f.Get("n1", "a", "https://long.test/") != 200 }, time.Minute,
		20*time.Millisecond)
	_, err := f.API.Sync(t.Context())
	require.NoError(t, err)
	require.NotEqual(t, 200, f.Get("n1", "a", "https://long.test/"), "what has ended stays so")
	j.mu.Lock()
	defer j.mu.Unlock()
	require.Len(t, j.ids, 3, "two leases, and what has no ID")
}

// TestProbe: a version that every node acknowledges, and that a node does not
// serve, is taken back; what is broken already does not stop an operator.
func TestProbe(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 2)
	up := f.NewUpstream("one.test", "two.test")
	var mu sync.Mutex
	broken := ""
	restart(t, f, func(c *xds.Config) {
		c.Probe = func(_ context.Context, node string, p *plan.Plan) error {
			mu.Lock()
			defer mu.Unlock()
			if node == broken && len(p.Agents[0].Rules) > 1 {
				return errors.New("no socket")
			}
			return nil
		}
	}, "n1", "n2")
	one := &plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{fleet.Allow("a", "one.test",
		up)}}}}
	two := &plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{fleet.Allow("a", "one.test",
		up), fleet.Allow("a", "two.test", up)}}}}
	f.MustPublish(one)
	for _, node := range []string{"n1", "n2"} {
		mu.Lock()
		broken = node
		mu.Unlock()
		_, err := f.Publish(two)
		var refused *api.Error
		require.ErrorAs(t, err, &refused)
		require.Contains(t, refused.Message, "node "+node+" has acknowledged the version and does not serve: no socket")
		require.Equal(t, node == "n1", strings.Contains(refused.Message, "canary"))
		for _, n := range []string{"n1", "n2"} {
			require.NotEqual(t, 200, f.Get(n, "a", "https://two.test/"))
			require.Equal(t, 200, f.Get(n, "a", "https://one.test/"))
		}
	}
	_, body := observed(t, f, "/metrics")
	require.Contains(t, body, `postern_control_rollbacks_total{result="unhealthy"} 2`)
	mu.Lock()
	broken = ""
	mu.Unlock()
	f.MustPublish(two)
	mu.Lock()
	broken = "n1"
	mu.Unlock()
	two.Agents[0].Rules[0].Methods = []string{"GET"}
	f.MustPublish(two)
}

// TestWatch: a client is told of every state that lasts, and waits in between.
func TestWatch(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := f.NewUpstream("one.test")
	ctx, cancel := context.WithCancel(t.Context())
	seen := make(chan *api.Status, 100)
	done := make(chan error, 1)
	go func() {
		done <- f.API.Watch(ctx, func(s *api.Status) error { seen <- s; return nil })
	}()
	until := func(what string, ok func(*api.Status) bool) {
		t.Helper()
		for {
			select {
			case s := <-seen:
				if ok(s) {
					return
				}
			case <-time.After(time.Minute):
				require.Fail(t, "not told of "+what)
			}
		}
	}
	until("the node", func(s *api.Status) bool { return s.Nodes[0].Connected && !s.Nodes[0].Since.IsZero() })
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{fleet.Allow("a",
		"one.test", up)}}}})
	until("the version", func(s *api.Status) bool { return s.Seq == 1 && s.Nodes[0].Version == s.Version })
	require.NoError(t, f.API.AddNode(t.Context(), "n2"))
	until("a node that is not there", func(s *api.Status) bool {
		return len(s.Nodes) == 2 &&
			s.Nodes[1].Since.IsZero()
	})
	v, err := f.API.Sync(t.Context())
	require.NoError(t, err)
	require.Equal(t, []api.Missing{{Node: "n2"}}, v.Missing)
	cancel()
	require.NoError(t, <-done)
}

// leaving is the context of a request that waits for a change: one happens as soon as it waits, and
// it leaves before it is told.
type leaving struct {
	context.Context
	change func()
	asked  int
	gone   chan struct{}
}

func (l *leaving) Done() <-chan struct{} {
	l.asked++
	switch l.asked {
	case 1:
		l.change()
	case 2:
		close(l.gone)
	}
	return l.gone
}

// TestStatusOfWhoLeft: nothing is worked out, or written, for a client that left while changes were
// gathered.
func TestStatusOfWhoLeft(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 0)
	ask := func(ctx context.Context, tag string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		f.Control.Handler().ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/v1/status"+tag, nil))
		return w
	}
	tag := ask(t.Context(), "").Header().Get("ETag")
	l := &leaving{
		Context: t.Context(), gone: make(chan struct{}), change: func() { require.NoError(t, f.Control.AddNode("n1")) },
	}
	w := ask(l, "?wait="+tag)
	require.Equal(t, 2, l.asked, "the client is asked for while changes are gathered")
	require.Empty(t, w.Body.String())
}
