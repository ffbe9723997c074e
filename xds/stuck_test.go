package xds_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

// stuck is a fleet of two nodes of which the first has stopped to answer while a
// publication is rolled out: how that ends arrives at failed. Go lets it answer again.
func stuck(t *testing.T, rules func(f *fleet.Fleet,
	up *fleet.Upstream) []plan.Agent,
) (f *fleet.Fleet, up *fleet.Upstream, failed chan error, goOn func()) {
	t.Helper()
	f = fleet.New(t, 2)
	up = f.NewUpstream("one.test", "two.test")
	agents := rules(f, up)
	f.MustPublish(&plan.Plan{Stack: "test", Agents: agents})
	pid := f.EnvoyPID("n1")
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	goOn = func() { require.NoError(t, syscall.Kill(pid, syscall.SIGCONT)) }
	t.Cleanup(goOn)
	more := &plan.Plan{Stack: "test", Agents: append([]plan.Agent{{Name: "a", Rules: append([]plan.Rule{fleet.Allow("a",
		"two.test", up)}, agents[0].Rules...)}}, agents[1:]...)}
	version, err := more.Version()
	require.NoError(t, err)
	failed = make(chan error, 1)
	go func() {
		_, err := f.Operator().Publish(t.Context(), more)
		failed <- err
	}()
	require.Eventually(t, func() bool {
		s, err := f.API.Status(t.Context())
		require.NoError(t, err)
		return s.Wanted == version
	}, time.Minute, 5*time.Millisecond)
	return f, up, failed, goOn
}

// TestKillDoesNotWait: a node that does not answer holds up what is published,
// and no kill.
func TestKillDoesNotWait(t *testing.T) {
	t.Parallel()
	f, up, failed, goOn := stuck(t, func(_ *fleet.Fleet, up *fleet.Upstream) []plan.Agent {
		return []plan.Agent{
			{Name: "a", Rules: []plan.Rule{fleet.Allow("a", "one.test", up)}},
			{Name: "b", Rules: []plan.Rule{fleet.Allow("b", "one.test", up)}},
		}
	})
	s := f.OpenStream(up, "n2", "a", "https://one.test/")
	other := f.OpenStream(up, "n2", "b", "https://one.test/")
	killed := make(chan error, 1)
	go func() {
		_, err := f.Operator().Kill(t.Context(), bundle.Killed{Agents: []string{"a"}})
		killed <- err
	}()
	s.RequireCut()
	denied := []int{0, 403} // by the proxy, or in a tunnel that it has opened a moment ago
	require.Contains(t, denied, f.Get("n2", "a", "https://one.test/"))
	require.ErrorContains(t, <-failed, "publication 3 could not wait; the previous version stays live")
	require.Contains(t, denied, f.Get("n2", "a", "https://two.test/"))
	other.RequireOpen()
	require.Empty(t, killed, "one node has not confirmed it yet")
	goOn()
	require.NoError(t, <-killed)
	require.Contains(t, denied, f.Get("n1", "a", "https://one.test/"))
	require.Equal(t, 200, f.Get("n1", "b", "https://one.test/"))
}

// TestKillThroughTheStoreDoesNotWait: nor does one that no control plane was told of.
func TestKillThroughTheStoreDoesNotWait(t *testing.T) {
	t.Parallel()
	f, up, failed, goOn := stuck(t, func(_ *fleet.Fleet, up *fleet.Upstream) []plan.Agent {
		return []plan.Agent{{Name: "a", Rules: []plan.Rule{fleet.Allow("a", "one.test", up)}}}
	})
	s := f.OpenStream(up, "n2", "a", "https://one.test/")
	o := f.Operator()
	o.Controls = nil
	_, err := o.Kill(t.Context(), bundle.Killed{Agents: []string{"a"}})
	require.ErrorContains(t, err, "no control plane has reported", "there is but one, which needs not to")
	s.RequireCut()
	require.ErrorContains(t, <-failed, "publication 3 could not wait")
	goOn()
	require.Eventually(t, func() bool { return f.Get("n1", "a", "https://one.test/") == 0 }, time.Minute,
		10*time.Millisecond)
}

// TestLeaseDoesNotWait: nor does the end of a lease.
func TestLeaseDoesNotWait(t *testing.T) {
	t.Parallel()
	var ends time.Time
	f, up, failed, _ := stuck(t, func(_ *fleet.Fleet, up *fleet.Upstream) []plan.Agent {
		ends = time.Now().Add(10 * time.Second).Truncate(time.Second)
		lease := fleet.Allow("b", "one.test", up)
		lease.Expires = ends.UTC().Format(time.RFC3339)
		return []plan.Agent{
			{Name: "a", Rules: []plan.Rule{fleet.Allow("a", "one.test", up)}}, {Name: "b", Rules: []plan.Rule{lease}},
		}
	})
	s := f.OpenStream(up, "n2", "b", "https://one.test/")
	f.Control.Kick() // a secret has changed: that may wait
	s.RequireCut()
	require.False(t, time.Now().Before(ends), "it was cut before its time")
	require.Equal(t, 0, f.Get("n2", "b", "https://one.test/"))
	require.ErrorContains(t, <-failed, "the end of a lease could not wait; the previous version stays live")
	require.Equal(t, 200, f.Get("n2", "a", "https://one.test/"))
}

// TestTakenBackIsCut: what was opened by a publication that was taken back is cut.
func TestTakenBackIsCut(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 2)
	up := f.NewUpstream("one.test", "two.test")
	p := func(hosts ...string) *plan.Plan {
		a := plan.Agent{Name: "a"}
		for _, h := range hosts {
			a.Rules = append(a.Rules, fleet.Allow("a", h, up))
		}
		return &plan.Plan{Stack: "test", Agents: []plan.Agent{a, {Name: "b"}}}
	}
	f.MustPublish(p("one.test"))
	pid := f.EnvoyPID("n2") // not the one that is asked first
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	t.Cleanup(func() { require.NoError(t, syscall.Kill(pid, syscall.SIGCONT)) })
	failed, killed := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := f.Operator().Publish(t.Context(), p("one.test", "two.test"))
		failed <- err
	}()
	require.Eventually(t, func() bool { return f.Get("n1", "a", "https://two.test/") == 200 }, time.Minute,
		5*time.Millisecond)
	s := f.OpenStream(up, "n1", "a", "https://two.test/")
	s.RequireOpen()
	go func() { // another agent, which stops the roll-out
		_, err := f.Operator().Kill(t.Context(), bundle.Killed{Agents: []string{"b"}})
		killed <- err
	}()
	s.RequireCut()
	require.Equal(t, 0, f.Get("n1", "a", "https://two.test/"))
	require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
	require.Error(t, <-failed)
	require.NoError(t, <-killed)
	require.Equal(t, 0, f.Get("n1", "a", "https://two.test/"))
	require.Eventually(t, func() bool { return f.Get("n1", "a", "https://one.test/") == 200 }, time.Minute,
		10*time.Millisecond)
}

// TestNoAnswer: a publication that a node does not answer is taken back, and what
// was taken back is not what `postern rollback` goes to.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	f, _, failed, _ := stuck(t, func(_ *fleet.Fleet, up *fleet.Upstream) []plan.Agent {
		return []plan.Agent{{Name: "a", Rules: []plan.Rule{fleet.Allow("a", "one.test", up)}}}
	})
	require.ErrorContains(t, <-failed, "canary n1: node n1 did not acknowledge version")
	require.Equal(t, 200, f.Get("n2", "a", "https://one.test/"))
	require.Equal(t, 0, f.Get("n2", "a", "https://two.test/"))
}
