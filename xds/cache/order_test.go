package cache

import (
	"log/slog"
	"maps"
	"slices"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/stream/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/postern/postern/xds/ledger"
)

// slowNode is one stream of an Envoy that answers when the test says so. What Envoy does was seen
// with the real one: see TestAgentsAgain of tests/dataplane.
type slowNode struct {
	t       *rapid.T
	c       *Cache
	respond chan cachev3.DeltaResponse
	subs    map[string]*stream.Subscription
	cancels map[string]func()
	// has are the versions of the resources that work in the node, by type and name.
	has map[string]map[string]string
	// unanswered are the types whose last response was taken, and not acknowledged.
	unanswered []string
}

// asks subscribes to everything of a type, or acknowledges its last response.
func (n *slowNode) asks(url string) {
	nonce := "1"
	if n.subs[url] == nil {
		if n.has[url] == nil {
			n.has[url] = map[string]string{}
		}
		sub := stream.NewDeltaSubscription(nil, nil, maps.Clone(n.has[url]), true)
		n.subs[url], nonce = &sub, ""
	} else {
		n.cancels[url]()
	}
	cancel, err := n.c.CreateDeltaWatch(&discoveryv3.DeltaDiscoveryRequest{
		Node: &corev3.Node{Id: "n1"}, TypeUrl: url, ResponseNonce: nonce,
	}, *n.subs[url], n.respond)
	require.NoError(n.t, err)
	n.cancels[url] = cancel
}

// connects begins another stream, on which the node asks for each type for which it has asked
// before, and says what it has.
func (n *slowNode) connects() {
	for _, cancel := range n.cancels {
		cancel()
	}
	before := n.subs
	n.respond, n.subs, n.unanswered = make(chan cachev3.DeltaResponse, 20), map[string]*stream.Subscription{}, nil
	for _, url := range []string{resource.ClusterType, resource.ListenerType, resource.ScopedRouteType} {
		if before[url] != nil {
			n.asks(url)
		}
	}
}

// takes applies the responses that were sent, in the order of the stream.
func (n *slowNode) takes() {
	for {
		select {
		case resp := <-n.respond:
			raw, err := resp.GetDeltaDiscoveryResponse()
			require.NoError(n.t, err)
			got := &discoveryv3.DeltaDiscoveryResponse{}
			require.NoError(n.t, proto.Unmarshal(raw.ProtoReflect().GetUnknown(), got))
			n.apply(raw.GetTypeUrl(), got)
			n.subs[raw.GetTypeUrl()].SetReturnedResources(resp.GetNextVersionMap())
			n.unanswered = append(n.unanswered, raw.GetTypeUrl())
		default:
			return
		}
	}
}

func (n *slowNode) apply(url string, got *discoveryv3.DeltaDiscoveryResponse) {
	listens := len(n.has[resource.ListenerType]) > 0
	if url == resource.ScopedRouteType && !listens {
		return // nobody subscribes to scopes
	}
	for _, name := range got.GetRemovedResources() {
		delete(n.has[url], name)
	}
	for _, r := range got.GetResources() {
		if url == resource.ScopedRouteType {
			require.Contains(n.t, n.has[resource.ClusterType], r.GetName(), "unknown cluster")
		}
		n.has[url][r.GetName()] = r.GetVersion()
	}
	switch {
	case url != resource.ListenerType:
	case len(n.has[url]) == 0:
		clear(n.has[resource.ScopedRouteType])
	case !listens && n.subs[resource.ScopedRouteType] == nil:
		n.asks(resource.ScopedRouteType)
	}
}

// TestSlowNode: whatever is published while a node is late, it is sent no scope before its cluster,
// and in the end it has what was published last.
func TestSlowNode(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := ledger.New(slog.New(slog.DiscardHandler), func(string) bool { return false })
		l.Allow("n1")
		c := New(l, nil)
		n := &slowNode{
			t, c, make(chan cachev3.DeltaResponse, 20),
			map[string]*stream.Subscription{},
			map[string]func(){},
			map[string]map[string]string{},
			nil,
		}
		n.asks(resource.ClusterType)
		n.takes()
		n.asks(resource.ListenerType)
		urls := []string{resource.ClusterType, resource.ScopedRouteType, resource.ListenerType}
		acknowledges := func(i int) {
			url := n.unanswered[i]
			n.unanswered = slices.Delete(n.unanswered, i, i+1)
			n.asks(url)
		}
		var last map[string]string
		t.Repeat(map[string]func(*rapid.T){
			"publish": func(t *rapid.T) {
				names, versions := rapid.SampledFrom([]string{"a", "b", "c"}), rapid.SampledFrom([]string{"1", "2"})
				last = rapid.MapOfN(names, versions, 0, 3).Draw(t, "agents")
				steps := map[string]*Table{}
				for _, url := range urls {
					steps[url] = NewTable()
					for name, version := range last {
						steps[url].put(&discoveryv3.Resource{Name: name, Version: version})
					}
				}
				if both := c.Union(steps); both != nil && rapid.Bool().Draw(t, "in two steps") {
					c.Publish("", both)
				}
				c.Publish("", steps)
			},
			"take":    func(*rapid.T) { n.takes() },
			"connect": func(*rapid.T) { n.connects() },
			"acknowledge": func(t *rapid.T) {
				if len(n.unanswered) == 0 {
					t.Skip("everything is acknowledged")
				}
				acknowledges(rapid.IntRange(0, len(n.unanswered)-1).Draw(t, "which"))
			},
		})
		for n.takes(); len(n.unanswered) > 0; n.takes() {
			acknowledges(0)
		}
		for _, url := range urls {
			require.True(t, maps.Equal(last, n.has[url]), "%s: %v, not %v", url, n.has[url], last)
		}
		for _, cancel := range n.cancels {
			cancel()
		}
		require.Empty(t, c.watches)
		require.Empty(t, c.waiting)
	})
}
