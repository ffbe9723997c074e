package xds_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/envoy"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
	"github.com/postern/postern/xds"
	"github.com/postern/postern/xds/api"
)

// replicas are two control planes of one stack, a and b, with a real Envoy each.
func replicas(t *testing.T) (a, b *fleet.Fleet, o *bundle.Operator) {
	t.Helper()
	a, b = fleet.New(t, 0), fleet.New(t, 0)
	o = a.Operator()
	for name, f := range map[string]*fleet.Fleet{"a": a, "b": b} {
		f.StopControl()
		f.Configure = func(c *xds.Config) {
			c.Store, c.Stack, c.Trusted, c.Replica = o.URL, o.Stack, o.Trusted, name
			c.CACert, c.CAKey = a.Home.CACert(), a.Home.CAKey()
		}
		f.StartControl()
		f.StartNode("n1")
	}
	return a, b, o
}

func seqOf(t *testing.T, f *fleet.Fleet) uint64 {
	t.Helper()
	s, err := f.API.Status(t.Context())
	require.NoError(t, err)
	return s.Seq
}

// TestReplicas: what one replica proves the other serves too; told or not, and
// back after it was away. What one does not take, both give back.
func TestReplicas(t *testing.T) {
	t.Parallel()
	a, b, o := replicas(t)
	up := a.NewUpstream("one.test", "two.test")
	// Both fleets' agents trust their own authority; the nodes present a's.
	reach := func(f *fleet.Fleet, url string) int {
		client := fleet.AgentClient(a.CA, f.Dial("n1", "a"))
		defer client.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		require.NoError(t, err)
		resp, err := client.Do(req)
		if err != nil {
			return 0
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	policy := func(hosts ...string) *plan.Plan {
		p := plan.Agent{Name: "a"}
		for _, h := range hosts {
			p.Rules = append(p.Rules, fleet.Allow("a", h, up))
		}
		return &plan.Plan{Stack: "test", Agents: []plan.Agent{p}}
	}
	follows := func(f *fleet.Fleet, seq uint64) {
		require.Eventually(t, func() bool { return seqOf(t, f) == seq }, time.Minute, 10*time.Millisecond,
			"publication %d", seq)
	}

	// Through a; b finds it.
	o.Controls = []*api.Client{a.API}
	_, err := o.Publish(t.Context(), policy("one.test"))
	require.NoError(t, err)
	follows(b, 1)
	require.Equal(t, 200, reach(b, "https://one.test/"))
	for _, f := range []*fleet.Fleet{a, b} {
		require.Equal(t, a.Node("n1").Version, f.Node("n1").Version)
	}

	// Through both.
	o.Controls = []*api.Client{a.API, b.API}
	v, err := o.Publish(t.Context(), policy("one.test", "two.test"))
	require.NoError(t, err)
	require.Equal(t, 2, v.Nodes)
	require.Equal(t, 200, reach(a, "https://two.test/"))
	require.Equal(t, 200, reach(b, "https://two.test/"))

	// Through the store alone.
	o.Controls = nil
	v, err = o.Publish(t.Context(), policy("one.test"))
	require.NoError(t, err)
	require.Equal(t, 2, v.Nodes)
	require.NotEqual(t, 200, reach(a, "https://two.test/"))
	require.NotEqual(t, 200, reach(b, "https://two.test/"))

	// While b is away.
	b.StopControl()
	o.Controls = []*api.Client{a.API, b.API}
	_, err = o.Publish(t.Context(), policy("one.test", "two.test"))
	require.NoError(t, err)
	b.StartControl()
	follows(b, 4)
	require.Eventually(t, func() bool { return reach(b, "https://two.test/") == 200 }, time.Minute,
		20*time.Millisecond)

	// b cannot take it: a file is where its sockets for another agent would be.
	require.NoError(t, os.WriteFile(b.Home.AgentDir("n1", "z"), nil, 0o600))
	refused := policy("one.test")
	refused.Agents = append(refused.Agents, plan.Agent{Name: "z"})
	_, err = o.Publish(t.Context(), refused)
	require.Error(t, err)
	follows(a, 6)
	follows(b, 6)
	require.Equal(t, 200, reach(a, "https://two.test/"))
	require.Equal(t, 200, reach(b, "https://two.test/"))
	history, err := o.History(t.Context())
	require.NoError(t, err)
	require.Contains(t, history[0].Note, "takes back 5: ")

	// Killed through one.
	o.Controls = []*api.Client{b.API}
	_, err = o.Kill(t.Context(), bundle.Killed{Agents: []string{"a"}})
	require.NoError(t, err)
	follows(a, 7)
	require.Zero(t, reach(a, "https://one.test/"))
	require.Zero(t, reach(b, "https://one.test/"))
}

// TestReplicaRefuses: what Envoy refuses at the second replica is taken back at
// the first too, where it was live already; told, and through the store alone.
func TestReplicaRefuses(t *testing.T) {
	t.Parallel()
	a, b, o := replicas(t)
	up := a.NewUpstream("one.test", "two.test")
	reach := func(f *fleet.Fleet, host string) int {
		client := fleet.AgentClient(a.CA, f.Dial("n1", "a"))
		defer client.CloseIdleConnections()
		code, err := fleet.Get(t.Context(), client, "https://"+host+"/")
		if err != nil {
			return 0
		}
		return code
	}
	good := &plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{fleet.Allow("a", "one.test",
		up)}}}}
	o.Controls = []*api.Client{a.API, b.API}
	_, err := o.Publish(t.Context(), good)
	require.NoError(t, err)
	require.Equal(t, 200, reach(b, "one.test"))
	// A folder is where that node's socket for another agent would be.
	require.NoError(t, os.MkdirAll(filepath.Join(b.Home.NodeDir("n1"), envoy.AgentSocket("z"), "x"), 0o700))
	bad := &plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{fleet.Allow("a", "one.test",
		up), fleet.Allow("a", "two.test", up)}}, {Name: "z"}}}

	version, err := good.Version()
	require.NoError(t, err)
	for name, controls := range map[string][]*api.Client{"told": {a.API, b.API}, "through the store": nil} {
		o.Controls = controls
		before := seqOf(t, a)
		_, err = o.Publish(t.Context(), bad)
		require.ErrorContains(t, err, "rejected listeners", name)
		for _, f := range []*fleet.Fleet{a, b} {
			require.Eventually(t, func() bool { return seqOf(t, f) == before+2 }, time.Minute, 10*time.Millisecond,
				name)
			s, err := f.API.Status(t.Context())
			require.NoError(t, err)
			require.Equal(t, version, s.Version, name)
			require.Eventually(t, func() bool { return f.Node("n1").Version == version }, time.Minute,
				10*time.Millisecond, name)
			require.Equal(t, 200, reach(f, "one.test"), name)
			require.NotEqual(t, 200, reach(f, "two.test"), name)
		}
		require.Contains(t, b.Node("n1").Nack, "agents/z", "%s: Envoy's own words", name)
	}
	history, err := o.History(t.Context())
	require.NoError(t, err)
	require.Contains(t, history[0].Note, "takes back 4: ")
}
