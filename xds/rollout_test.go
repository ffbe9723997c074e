package xds_test

import (
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
	"github.com/postern/postern/xds/api"
)

// TestAllowAndRevoke: after each publish, every node decides by the new version.
func TestAllowAndRevoke(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 2)
	up := f.NewUpstream("one.test", "two.test")
	with := func(hosts ...string) *plan.Plan {
		a := plan.Agent{Name: "a"}
		for _, h := range hosts {
			a.Rules = append(a.Rules, fleet.Allow("a", h, up))
		}
		return &plan.Plan{Stack: "test", Agents: []plan.Agent{a}}
	}
	for i := range 20 {
		p := with("one.test")
		if i%2 == 1 {
			p = with("one.test", "two.test")
		}
		v, err := f.Publish(p)
		require.NoError(t, err)
		version, err := p.Version()
		require.NoError(t, err)
		require.Equal(t, version, v.Version)
		require.Equal(t, 2, v.Nodes)
		for _, n := range []string{"n1", "n2"} {
			require.Equal(t, version, f.Node(n).Version)
			require.Equal(t, 200, f.Get(n, "a", "https://one.test/"))
			require.Equal(t, i%2 == 1, f.Get(n, "a", "https://two.test/") == 200, "round %d", i)
		}
	}
}

// TestRejected: what one node refuses is taken back from all.
func TestRejected(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 2)
	up := f.NewUpstream("one.test", "two.test")
	good := &plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{fleet.Allow("a", "one.test",
		up)}}}}
	f.MustPublish(good)
	before, err := good.Version()
	require.NoError(t, err)

	bad := &plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{fleet.Allow("a", "two.test",
		up)}}}}
	bad.Agents[0].Rules[0].Upstream = &plan.Upstream{Address: up.Address, CA: "this is no certificate"}
	_, err = f.Publish(bad)
	var refused *api.Error
	require.ErrorAs(t, err, &refused)
	require.Contains(t, refused.Rejection.Message, "Failed to load trusted CA certificates", "Envoy's own words")
	require.Equal(t, "clusters", refused.Rejection.Type)
	for _, n := range []string{"n1", "n2"} {
		require.Equal(t, 200, f.Get(n, "a", "https://one.test/"))
		require.NotEqual(t, 200, f.Get(n, "a", "https://two.test/"))
	}
	s, err := f.API.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, before, s.Version)
	stored, err := f.Operator().Read(t.Context())
	require.NoError(t, err)
	require.Equal(t, good, stored)
	f.MustPublish(good)
	bad.Agents[0].Rules[0].Upstream = up.Pin()
	f.MustPublish(bad)
	require.Equal(t, 200, f.Get("n1", "a", "https://two.test/"))
}

// TestControlPlaneRestarts: nodes keep deciding while it is away, reconnect,
// and get no other answer from the new one.
func TestControlPlaneRestarts(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := f.NewUpstream("one.test", "two.test")
	p := &plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{fleet.Allow("a", "one.test",
		up)}}}}
	f.MustPublish(p)
	require.Equal(t, 200, f.Get("n1", "a", "https://one.test/"))
	f.StopControl()
	require.Equal(t, 200, f.Get("n1", "a", "https://one.test/"), "while the control plane is away")
	f.StartControl()
	version, err := p.Version()
	require.NoError(t, err)
	require.Eventually(t, func() bool { return f.Node("n1").Version == version }, time.Minute, 20*time.Millisecond)
	require.Equal(t, 200, f.Get("n1", "a", "https://one.test/"))
	p.Agents[0].Rules = append(p.Agents[0].Rules, fleet.Allow("a", "two.test", up))
	f.MustPublish(p)
	require.Equal(t, 200, f.Get("n1", "a", "https://two.test/"))
}

// TestEnvoyKilled: the supervisor starts it again, with the same policy, and
// the audit log declares what it cannot know.
func TestEnvoyKilled(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := f.NewUpstream("one.test")
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{fleet.Allow("a",
		"one.test", up)}}}})
	require.Equal(t, 200, f.Get("n1", "a", "https://one.test/"))
	f.Events(1)
	require.NoError(t, syscall.Kill(f.EnvoyPID("n1"), syscall.SIGKILL))
	require.Eventually(t, func() bool { return f.Get("n1", "a", "https://one.test/") == 200 }, time.Minute,
		20*time.Millisecond)
	events := f.Events(3)
	require.Equal(t, audit.Gap, events[1].Verdict)
	require.Contains(t, events[1].Detail, "signal: killed")
	require.Equal(t, []uint64{1, 2, 3}, []uint64{events[0].Seq, events[1].Seq, events[2].Seq})
}

// TestUnknownNode: the control plane refuses who is not part of the stack, and
// a stream that says it is somebody else half-way.
func TestUnknownNode(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 0)
	require.NoError(t, f.API.AddNode(t.Context(), "n1"))
	conn, err := grpc.NewClient("unix:"+f.Home.XDSSocket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
	ask := func(ids ...string) error {
		stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(t.Context())
		require.NoError(t, err)
		for _, id := range ids {
			if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{
				Node: &corev3.Node{Id: id}, TypeUrl: resource.ClusterType,
			}); errors.Is(err, io.EOF) {
				break
			}
			if _, err = stream.Recv(); err != nil {
				return err
			}
		}
		return nil
	}
	require.NoError(t, ask("n1"))
	for _, ids := range [][]string{{"n2"}, {""}, {"n1", "n2"}, {strings.Repeat("x", 1000)}} {
		err := ask(ids...)
		require.Equal(t, codes.PermissionDenied, status.Code(err), "%v", err)
	}
	require.NoError(t, f.API.RemoveNode(t.Context(), "n1"))
	require.Equal(t, codes.PermissionDenied, status.Code(ask("n1")))
	require.Error(t, f.API.AddNode(t.Context(), "..%2f..%2fetc"))
}
