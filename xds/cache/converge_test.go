package cache

import (
	"log/slog"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/xds/ledger"
)

// TestConverged: a node that never asked for something has not converged. It need not ask for
// secrets, nor for scopes as long as there is no listener.
func TestConverged(t *testing.T) {
	t.Parallel()
	l := ledger.New(slog.New(slog.DiscardHandler), func(string) bool { return false })
	l.Allow("n1")
	c := New(l, nil)
	require.False(t, c.Converged("n1"), "it has no stream")
	waits := func(url string) {
		t.Helper()
		require.NoError(t, l.OnStreamDeltaRequest(1, &discoveryv3.DeltaDiscoveryRequest{
			Node: &corev3.Node{Id: "n1"}, TypeUrl: url,
		}))
		c.park(watchKey{node: "n1", url: url}, &watch{})
	}
	waits(resource.ClusterType)
	require.False(t, c.Converged("n1"), "it never asked for listeners")
	waits(resource.ListenerType)
	require.True(t, c.Converged("n1"))
	c.tables[resource.ListenerType].put(&discoveryv3.Resource{Name: "agent/a", Version: "1"})
	require.False(t, c.Converged("n1"), "it never asked for the listener's scopes")
	waits(resource.ScopedRouteType)
	require.True(t, c.Converged("n1"))
	waits(resource.SecretType)
	require.True(t, c.Converged("n1"))
	c.unpark(watchKey{node: "n1", url: resource.SecretType}, c.tables[resource.SecretType])
	require.False(t, c.Converged("n1"), "something is on its way to it")
}
