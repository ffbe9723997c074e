package dataplane

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/envoy"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
	"github.com/postern/postern/xds/api"
)

// live waits until the node, at that replica, has acknowledged all of p.
func live(t *testing.T, r *fleet.Replica, id string, p *plan.Plan) {
	t.Helper()
	version, err := p.Version()
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		n := nodeAt(t, r, id)
		return n.Connected && n.Version == version
	}, time.Minute, 10*time.Millisecond, "node %s", id)
}

func nodeAt(t *testing.T, r *fleet.Replica, id string) api.Node {
	t.Helper()
	s, err := r.API.Status(t.Context())
	require.NoError(t, err)
	for _, n := range s.Nodes {
		if n.ID == id {
			return n
		}
	}
	return api.Node{}
}

// TestPorts: behind a load balancer, an agent is the port that it arrives at.
func TestPorts(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 0)
	remote := f.NewRemote()
	control := remote.Replica("c1")
	up := f.NewUpstream("one.test", "two.test")
	one, two := fleet.FreePort(t), fleet.FreePort(t)
	p := &plan.Plan{Stack: "test", Agents: []plan.Agent{
		{Name: "a", Port: one, Rules: []plan.Rule{fleet.Allow("a", "one.test", up)}},
		{Name: "b", Port: two, Rules: []plan.Rule{fleet.Allow("b", "two.test", up)}},
	}}
	_, err := remote.Operator(control).Publish(t.Context(), p)
	require.NoError(t, err)
	id := remote.StartNode("n", control)
	require.Regexp(t, `^n-[a-z2-7]{16}$`, id)
	live(t, control, id, p)
	require.True(t, nodeAt(t, control, id).Joined)

	a, b := f.PortClient(one, fleet.Header()), f.PortClient(two, fleet.Header())
	for _, c := range []struct {
		client  *http.Client
		url     string
		allowed bool
	}{{a, "https://one.test/", true}, {a, "https://two.test/", false}, {b, "https://two.test/", true}, {
		b,
		"https://one.test/", false,
	}} {
		code, err := fleet.Get(t.Context(), c.client, c.url)
		if c.allowed {
			require.NoError(t, err)
			require.Equal(t, 200, code)
		} else {
			require.ErrorContains(t, err, "Forbidden", c.url)
		}
	}
	for name, first := range map[string][]byte{
		"none":      nil,
		"version 1": []byte("PROXY TCP4 192.0.2.7 192.0.2.8 40000 443\r\n"),
		"cut short": fleet.Header()[:20],
	} {
		_, err := fleet.Get(t.Context(), f.PortClient(one, first), "https://one.test/")
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), "Forbidden", "%s: closed, not decided", name)
	}
	require.Len(t, up.Seen(), 2)

	// Two agents cannot be the same port.
	p.Agents[1].Port = one
	_, err = remote.Operator(control).Publish(t.Context(), p)
	require.ErrorContains(t, err, "same port")
}

// TestMoves: a node whose control plane dies takes the other one, and no
// request notices. What it is sent there is what it has.
func TestMoves(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 0)
	remote := f.NewRemote()
	replicas := []*fleet.Replica{remote.Replica("c1"), remote.Replica("c2")}
	up := f.NewUpstream("one.test")
	port := fleet.FreePort(t)
	rule := fleet.Allow("a", "one.test", up)
	rule.Credential = "key"
	p := &plan.Plan{
		Stack: "test", Agents: []plan.Agent{{Name: "a", Port: port, Rules: []plan.Rule{rule}}},
		Credentials: []plan.Credential{{Name: "key", Kind: plan.KindHeader, Header: "x-key", Secret: "file://" +
			f.Secret("key", "value")}},
	}
	_, err := remote.Operator(replicas...).Publish(t.Context(), p)
	require.NoError(t, err)
	id := remote.StartNode("n", replicas...)
	var at int
	require.Eventually(t, func() bool {
		for i, r := range replicas {
			if nodeAt(t, r, id).Connected {
				at = i
				return true
			}
		}
		return false
	}, time.Minute, 10*time.Millisecond)
	live(t, replicas[at], id, p)
	stat := func(name string) string { return f.Admin("n", "/stats?filter=^"+name+"$") }
	before := stat("listener_manager.(listener_added|listener_modified|listener_removed|listener_in_place_updated)") +
		stat("cluster_manager.cluster_(added|modified|removed)")

	// One connection that stays, and new ones, all the time.
	client := f.PortClient(port, fleet.Header())
	var wg sync.WaitGroup
	var stopped atomic.Bool
	var done atomic.Int64
	failed := make(chan error, 4)
	for i := range 2 {
		wg.Go(func() {
			for !stopped.Load() {
				if i == 1 {
					client := f.PortClient(port, fleet.Header())
					client.Transport.(*http.Transport).DisableKeepAlives = true
					if code, err := fleet.Get(t.Context(), client, "https://one.test/"); err != nil || code != 200 {
						failed <- fmt.Errorf("a new connection: %d: %w", code, err)
						return
					}
				} else if code, err := fleet.Get(t.Context(), client, "https://one.test/"); err != nil || code != 200 {
					failed <- fmt.Errorf("the connection that stays: %d: %w", code, err)
					return
				}
				done.Add(1)
			}
		})
	}
	require.Eventually(t, func() bool { return done.Load() > 20 }, time.Minute, time.Millisecond)
	replicas[at].Stop()
	live(t, replicas[1-at], id, p)
	n := done.Load()
	require.Eventually(t, func() bool { return done.Load() > n+50 }, time.Minute, time.Millisecond)
	stopped.Store(true)
	wg.Wait()
	close(failed)
	require.NoError(t, <-failed)
	require.Equal(t, before, stat("listener_manager.(listener_added|listener_modified|listener_removed|listener_in_place_updated)")+stat("cluster_manager.cluster_(added|modified|removed)"),
		"nothing but leaf certificates was sent again")
	for _, r := range up.Seen() {
		require.Equal(t, "value", r.Header.Get("X-Key"))
	}

	// And it goes on there.
	rule.ID, rule.Deny, rule.Credential = "a/deny", true, ""
	p.Agents[0].Rules = append(p.Agents[0].Rules, rule)
	_, err = remote.Operator(replicas[1-at]).Publish(t.Context(), p)
	require.NoError(t, err)
	code, err := fleet.Get(t.Context(), f.PortClient(port, fleet.Header()), "https://one.test/")
	require.NoError(t, err)
	require.Equal(t, 403, code)
}

// TestListensOnNothing: a node that never had a configuration opens no port.
func TestListensOnNothing(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 0)
	remote := f.NewRemote()
	control := remote.Replica("c1")
	id := remote.StartNode("n", control)
	require.Eventually(t, func() bool { return nodeAt(t, control, id).Connected }, time.Minute, 10*time.Millisecond)
	require.Empty(t, f.Admin("n", "/listeners"))
	info, err := os.Stat(filepath.Join(f.Home.NodeDir("n"), envoy.IdentityPath))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
}

// TestEvicted: a node that an operator evicts is refused at every replica, told
// or not, also when it comes back, and cannot renew its certificate. What it
// refused does not hold up what is published.
func TestEvicted(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 0)
	remote := f.NewRemote()
	told, other := remote.Replica("c1"), remote.Replica("c2")
	up := f.NewUpstream("one.test")
	p := &plan.Plan{Stack: "test", Agents: []plan.Agent{{
		Name: "a", Port: fleet.FreePort(t), Rules: []plan.Rule{fleet.Allow("a", "one.test", up)},
	}}}
	o := remote.Operator(told)
	_, err := o.Publish(t.Context(), p)
	require.NoError(t, err)
	id := remote.StartNode("n", other)
	live(t, other, id, p)

	_, err = o.Evict(t.Context(), []string{id})
	require.NoError(t, err)
	require.True(t, told.Control.Removed(id))
	require.Eventually(t, func() bool { return other.Control.Removed(id) }, time.Minute, 10*time.Millisecond)
	require.Empty(t, nodeAt(t, other, id).ID, "it left the list")
	member := remote.Member("n", f.Home.NodeDir("n"), told, other)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, _, err = member.Join(ctx)
	require.Error(t, err, "also with the token")

	p.Agents[0].Rules = append(p.Agents[0].Rules, fleet.Allow("a", "two.test", up))
	_, err = remote.Operator(told, other).Publish(t.Context(), p)
	require.NoError(t, err)
	require.Empty(t, nodeAt(t, other, id).ID)
	b, err := o.Current(t.Context())
	require.NoError(t, err)
	require.Contains(t, b.Evicted, id, "kept, for a control plane that starts again")
	fresh := remote.Replica("c3")
	require.Eventually(t, func() bool { return fresh.Control.Removed(id) }, time.Minute, 10*time.Millisecond)
}
