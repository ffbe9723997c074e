package cache

import (
	"log/slog"
	"slices"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/stream/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/postern/postern/xds/ledger"
)

// slowNode is a node's stream that acknowledges only when the test says so.
type slowNode struct {
	t       *testing.T
	c       *Cache
	respond chan cachev3.DeltaResponse
	subs    map[string]*stream.Subscription
	cancels map[string]func()
	has     map[string][]string
}

// asks subscribes to everything of a type, or acknowledges its last response.
func (n *slowNode) asks(url, nonce string) {
	n.t.Helper()
	if cancel := n.cancels[url]; cancel != nil {
		cancel()
	}
	if n.subs[url] == nil {
		sub := stream.NewDeltaSubscription(nil, nil, nil, true)
		n.subs[url] = &sub
	}
	cancel, err := n.c.CreateDeltaWatch(&discoveryv3.DeltaDiscoveryRequest{
		Node: &corev3.Node{Id: "n1"}, TypeUrl: url, ResponseNonce: nonce,
	}, *n.subs[url], n.respond)
	require.NoError(n.t, err)
	n.cancels[url] = cancel
}

// takes applies every response that was sent, in the order of the stream, as Envoy does: a scope is
// named after its cluster, and the node must have the cluster. takes returns the types of the
// responses.
func (n *slowNode) takes() (urls []string) {
	n.t.Helper()
	for {
		select {
		case resp := <-n.respond:
			raw, err := resp.GetDeltaDiscoveryResponse()
			require.NoError(n.t, err)
			got := &discoveryv3.DeltaDiscoveryResponse{}
			require.NoError(n.t, proto.Unmarshal(raw.ProtoReflect().GetUnknown(), got))
			url := raw.GetTypeUrl()
			for _, gone := range got.GetRemovedResources() {
				n.has[url] = slices.DeleteFunc(n.has[url], func(name string) bool { return name == gone })
			}
			for _, r := range got.GetResources() {
				n.has[url] = append(n.has[url], r.GetName())
				if url == resource.ScopedRouteType {
					require.Contains(n.t, n.has[resource.ClusterType], r.GetName(), "unknown cluster")
				}
			}
			n.subs[url].SetReturnedResources(resp.GetNextVersionMap())
			urls = append(urls, url)
		default:
			return urls
		}
	}
}

// TestNoScopeBeforeItsCluster: a plan that is published again while a slow node has not yet
// acknowledged that its clusters were taken back reaches the node in order.
func TestNoScopeBeforeItsCluster(t *testing.T) {
	t.Parallel()
	l := ledger.New(slog.New(slog.DiscardHandler), func(string) bool { return false })
	l.Allow("n1")
	c := New(l, nil)
	with := func(names ...string) map[string]*Table {
		tables := map[string]*Table{}
		for _, url := range []string{resource.ClusterType, resource.ScopedRouteType} {
			tables[url] = NewTable()
			for _, name := range names {
				tables[url].put(&discoveryv3.Resource{Name: name, Version: "1"})
			}
		}
		return tables
	}
	n := &slowNode{t, c, make(chan cachev3.DeltaResponse, 20), map[string]*stream.Subscription{},
		map[string]func(){}, map[string][]string{}}
	c.Publish("1", with("a"))
	for _, url := range []string{resource.ClusterType, resource.ScopedRouteType} {
		n.asks(url, "")
		n.takes()
		n.asks(url, "1")
	}
	require.Equal(t, []string{"a"}, n.has[resource.ScopedRouteType])

	// The node takes the new clusters, and is late with its answer. The plan is taken back.
	c.Publish("2", with("a", "b"))
	require.Equal(t, []string{resource.ClusterType, resource.ScopedRouteType}, n.takes())
	c.Publish("1", with("a"))
	require.Empty(t, n.takes(), "both types are unanswered")
	n.asks(resource.ScopedRouteType, "2")
	n.asks(resource.ClusterType, "2")
	require.ElementsMatch(t, []string{resource.ClusterType, resource.ScopedRouteType}, n.takes())
	n.asks(resource.ScopedRouteType, "3")

	// Now the removal of cluster b is unanswered, and the scopes wait for news.
	c.Publish("2", with("a", "b"))
	require.Empty(t, n.takes(), "the scopes wait for their clusters")
	require.False(t, c.Converged("n1"))
	n.asks(resource.ClusterType, "3")
	require.Equal(t, []string{resource.ClusterType, resource.ScopedRouteType}, n.takes())
	n.asks(resource.ClusterType, "4")
	n.asks(resource.ScopedRouteType, "4")
	require.ElementsMatch(t, []string{"a", "b"}, n.has[resource.ScopedRouteType])

	// The first answer is due even if it had to wait and is empty.
	c.Publish("3", with("a", "b", "c"))
	require.Equal(t, []string{resource.ClusterType, resource.ScopedRouteType}, n.takes())
	c.Publish("4", with("a", "b", "c", "d"))
	n.asks(resource.ListenerType, "")
	require.Empty(t, n.takes(), "clusters and scopes of version 4 come first")
	n.asks(resource.ClusterType, "5")
	require.Equal(t, []string{resource.ClusterType}, n.takes())
	n.asks(resource.ScopedRouteType, "5")
	require.Equal(t, []string{resource.ScopedRouteType, resource.ListenerType}, n.takes())

	for _, cancel := range n.cancels {
		cancel()
	}
	require.Empty(t, c.watches)
	require.Empty(t, c.waiting)
}
