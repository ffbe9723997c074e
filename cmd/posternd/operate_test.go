package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/envoy"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
	"github.com/postern/postern/xds"
	"github.com/postern/postern/xds/api"
)

// TestProbe: a real Envoy whose socket folder is made unusable.
func TestProbe(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 2)
	f.StopControl()
	var acknowledged atomic.Pointer[func(string)]
	f.Configure = func(c *xds.Config) {
		c.Probe = func(ctx context.Context, id string, p *plan.Plan) error {
			if do := acknowledged.Load(); do != nil && len(p.Agents) > 1 {
				(*do)(id)
			}
			return probe(f.Home)(ctx, id, p)
		}
	}
	f.StartControl()
	for _, id := range []string{"n1", "n2"} {
		require.Eventually(t, func() bool { return f.Node(id).Connected }, time.Minute, 10*time.Millisecond)
	}
	up := f.NewUpstream("one.test", "two.test")
	policy := func(agents ...string) *plan.Plan {
		p := &plan.Plan{Stack: "test"}
		for _, a := range agents {
			p.Agents = append(p.Agents, plan.Agent{Name: a, Rules: []plan.Rule{{
				ID: a + "/one", Host: "one.test", Port: 443, Methods: []string{plan.AnyMethod}, Paths: []string{plan.AnyPath}, Upstream: up.Pin(),
			}}})
		}
		return p
	}
	socket := func(id, agent string) string { return filepath.Join(f.Home.NodeDir(id), envoy.AgentSocket(agent)) }
	f.MustPublish(policy("a"))
	require.Equal(t, 200, f.Get("n2", "a", "https://one.test/"))

	// Envoy acknowledges before its workers have closed the socket.
	takenBack := func(id string) {
		t.Helper()
		require.Eventually(t, func() bool {
			c, err := net.Dial("unix", socket(id, "b"))
			if err == nil {
				_ = c.Close()
			}
			return err != nil
		}, time.Minute, 10*time.Millisecond, "taken back everywhere")
	}
	// Something is in the way of the socket of a new agent, on the second node.
	require.NoError(t, os.MkdirAll(filepath.Join(socket("n2", "b"), "in-the-way"), 0o700))
	_, err := f.Publish(policy("a", "b"))
	var refused *api.Error
	require.ErrorAs(t, err, &refused)
	require.Contains(t, refused.Message, "cannot bind 'agents/b/proxy.sock'")
	for _, id := range []string{"n1", "n2"} {
		require.Equal(t, 200, f.Get(id, "a", "https://one.test/"))
		takenBack(id)
	}
	require.NoError(t, os.RemoveAll(socket("n2", "b")))

	// Every node acknowledges, and then the folder of one is gone.
	gone := func(id string) {
		if id == "n2" {
			require.NoError(t, os.RemoveAll(f.Home.AgentDir("n2", "b")))
		}
	}
	acknowledged.Store(&gone)
	_, err = f.Publish(policy("a", "b"))
	require.ErrorAs(t, err, &refused)
	require.Contains(t, refused.Message, "node n2 has acknowledged the version and does not serve: the socket of agent b takes no connection")
	require.Equal(t, 200, f.Get("n2", "a", "https://one.test/"))
	takenBack("n1")
	acknowledged.Store(nil)

	f.MustPublish(policy("a", "b"))
	require.Equal(t, 200, f.Get("n2", "b", "https://one.test/"))

	// What is broken already does not keep anybody from taking access away.
	require.NoError(t, os.Remove(socket("n1", "a")))
	f.MustPublish(policy("a"))
	require.Error(t, probe(f.Home)(t.Context(), "n1", policy("a")))
}
