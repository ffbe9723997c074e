package ledger

import (
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/postern/postern/xds/api"
)

// sends books that the stream was sent a version of the listeners.
func (l *Ledger) sends(stream int64, nonce, version string) {
	l.OnStreamDeltaResponse(stream, nil, &discoveryv3.DeltaDiscoveryResponse{
		TypeUrl: resource.ListenerType, Nonce: nonce, SystemVersionInfo: version,
	})
}

// TestKinds: what is served, in the order in which it can be referred to.
func TestKinds(t *testing.T) {
	t.Parallel()
	require.Equal(t, []Kind{
		{"secrets", "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"},
		{"clusters", "type.googleapis.com/envoy.config.cluster.v3.Cluster"},
		{"scopes", "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"},
		{"listeners", "type.googleapis.com/envoy.config.listener.v3.Listener"},
	}, Kinds)
	require.Equal(t, "scopes", KindName("type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"))
	require.Equal(t, "other", KindName("type.googleapis.com/envoy.config.route.v3.RouteConfiguration"))
}

// TestPrintable: what a node says has at most 2000 bytes.
func TestPrintable(t *testing.T) {
	t.Parallel()
	require.Equal(t, strings.Repeat("x", 2000), printable(strings.Repeat("x", 2000)))
	require.Equal(t, strings.Repeat("x", 2000)+"...", printable(strings.Repeat("x", 2001)))
}

// TestStreamsOfARemovedNode: a stream stays that of the node that it named first, and counts for
// nothing once that was removed.
func TestStreamsOfARemovedNode(t *testing.T) {
	t.Parallel()
	l := ledgerFor(t)
	l.Allow("n1")
	l.Allow("n2")
	ask := func(stream int64, node string) codes.Code {
		r := asks(node, resource.ListenerType, "", "")
		if node == "" {
			r.Node = nil
		}
		return status.Code(l.OnStreamDeltaRequest(stream, r))
	}
	require.Equal(t, codes.OK, ask(1, "n1"))
	require.Equal(t, codes.OK, ask(1, ""))
	require.Equal(t, codes.PermissionDenied, ask(1, "n2"))
	l.Remove("n1")
	require.Equal(t, codes.PermissionDenied, ask(1, "n1"))
	require.Equal(t, codes.PermissionDenied, ask(1, ""))
	require.Equal(t, []string{"n2"}, ids(l))
	l.sends(1, "1", "v")
	l.Allow("n1")
	require.False(t, l.Online("n1"))
	require.Equal(t, codes.OK, ask(1, "n1"), "it has to connect again")
	require.False(t, l.Online("n1"))
	require.Equal(t, codes.OK, ask(2, "n1"))
	require.Equal(t, codes.OK, ask(1, "n1"))
	l.sends(1, "1", "v")
	l.sends(99, "1", "v")
	require.Equal(t, 1, l.Status()[0].Streams)
	_, settled := l.Settled("n1", resource.ListenerType, false)
	require.True(t, settled)
	l.OnDeltaStreamClosed(1, nil)
	require.True(t, l.Online("n1"))
	require.False(t, l.Online("nobody"))
	require.Equal(t, []string{"n1"}, l.Connected())
	require.Equal(t, []api.Missing{{Node: "n2"}}, l.Missing())
}

func ids(l *Ledger) (out []string) {
	for _, n := range l.Status() {
		out = append(out, n.ID)
	}
	return out
}

// TestUnsubscribing: no node takes away what all of them have. Secrets are each node's own.
func TestUnsubscribing(t *testing.T) {
	t.Parallel()
	l := ledgerFor(t)
	l.Allow("n1")
	for url, want := range map[string][]string{
		resource.ListenerType: {"*"}, resource.ClusterType: {"*"}, resource.ScopedRouteType: {"*"},
		resource.SecretType: {"a", "*", "b"},
	} {
		r := asks("n1", url, "", "")
		r.ResourceNamesUnsubscribe = []string{"a", "*", "b"}
		require.NoError(t, l.OnStreamDeltaRequest(1, r))
		require.Equal(t, want, r.GetResourceNamesUnsubscribe(), url)
	}
}

// TestRejections: who refused what and why, until the type is accepted or the refusal forgiven.
func TestRejections(t *testing.T) {
	t.Parallel()
	l := ledgerFor(t)
	l.Allow("n1")
	require.NoError(t, l.OnStreamDeltaRequest(1, asks("n1", resource.ListenerType, "", "")))
	refuse := func(version, why string) {
		l.sends(1, version, version)
		r := asks("n1", resource.ListenerType, version, "x")
		r.ErrorDetail.Message = why
		require.NoError(t, l.OnStreamDeltaRequest(1, r))
	}
	require.Nil(t, l.Rejection(""))
	refuse("v1", "bad")
	require.Equal(t, &api.Rejection{Version: "v1", Node: "n1", Type: "listeners", Message: "bad"}, l.Rejection("v1"))
	require.Nil(t, l.Rejection("v2"))
	require.Nil(t, l.Rejection(""))
	l.Forgive("v2")
	require.NotNil(t, l.Rejection("v1"))
	l.Forgive("v1")
	require.Nil(t, l.Rejection("v1"))
	require.Empty(t, l.Status()[0].Types[0].Nack)
	refuse("v3", "")
	require.Equal(t, "it gives no reason", l.Rejection("v3").Message)
	require.Equal(t, 2, l.Refusals())
	l.sends(1, "again", "v3")
	require.NoError(t, l.OnStreamDeltaRequest(1, asks("n1", resource.ListenerType, "again", "")))
	require.Nil(t, l.Rejection("v3"))
	require.Equal(t, 2, l.Refusals())
	refuse("v4", "worse")
	l.OnDeltaStreamClosed(1, nil)
	require.Nil(t, l.Rejection("v4"), "it is not connected")
	require.Equal(t, "worse", l.Status()[0].Types[0].Nack)
}

// TestStatus: what people see of a node, of its newest stream or the last.
func TestStatus(t *testing.T) {
	t.Parallel()
	l := ledgerFor(t)
	l.Allow("b")
	joins(t, "a")(l)
	before := l.Status()
	require.Equal(t, []string{"a", "b"}, ids(l))
	require.Equal(t, []bool{true, false}, []bool{before[0].Joined, before[1].Joined})
	require.Equal(t, api.Node{ID: "b"}, before[1])
	require.Equal(t, []api.Type{{Name: "listeners"}}, before[0].Types)
	require.Equal(t, []any{true, 1}, []any{before[0].Connected, before[0].Streams})
	require.True(t, before[0].LastAck.IsZero())
	require.NoError(t, l.OnDeltaStreamOpen(certified(t, "a"), 2, ""))
	require.NoError(t, l.OnStreamDeltaRequest(2, asks("a", resource.ListenerType, "", "")))
	for stream, version := range []string{1: "old", 2: "new"} {
		if version != "" {
			l.sends(int64(stream), "1", version)
			require.NoError(t, l.OnStreamDeltaRequest(int64(stream), asks("a", resource.ListenerType, "1", "")))
		}
	}
	now := l.Status()[0]
	require.Equal(t, []any{2, "new", ""}, []any{now.Streams, now.Types[0].Version, now.Types[0].Nack})
	require.WithinDuration(t, time.Now(), now.Types[0].AckedAt, time.Minute)
	require.WithinDuration(t, time.Now(), now.LastAck, time.Minute)
	l.OnDeltaStreamClosed(2, nil)
	after := l.Status()[0]
	require.Equal(t, []any{1, "old", now.Since}, []any{after.Streams, after.Types[0].Version, after.Since})
	l.OnDeltaStreamClosed(1, nil)
	after = l.Status()[0]
	require.Equal(t, []any{false, 0, "old"}, []any{after.Connected, after.Streams, after.Types[0].Version})
	require.True(t, after.Since.After(now.Since))
}

// TestSettled: a type that is optional counts where a stream asks for it.
func TestSettled(t *testing.T) {
	t.Parallel()
	l := ledgerFor(t)
	l.Allow("n1")
	settled := func(optional bool) [2]any {
		asking, ok := l.Settled("n1", resource.ListenerType, optional)
		return [2]any{asking, ok}
	}
	require.Equal(t, [2]any{0, false}, settled(true), "it is not connected")
	require.NoError(t, l.OnStreamDeltaRequest(1, asks("n1", resource.ClusterType, "", "")))
	require.Equal(t, [2]any{0, true}, settled(true))
	require.Equal(t, [2]any{0, false}, settled(false))
	require.NoError(t, l.OnStreamDeltaRequest(2, asks("n1", resource.ListenerType, "", "")))
	require.Equal(t, [2]any{1, true}, settled(true))
	require.Equal(t, false, settled(false)[1])
	require.NoError(t, l.OnStreamDeltaRequest(1, asks("n1", resource.ListenerType, "", "")))
	require.Equal(t, [2]any{2, true}, settled(false))
	l.sends(1, "1", "v")
	require.Equal(t, false, settled(true)[1])
}

// TestStreamsAreCounted: the end of one of a node's streams makes room for one.
func TestStreamsAreCounted(t *testing.T) {
	t.Parallel()
	l := ledgerFor(t)
	for i := range int64(16) {
		require.NoError(t, l.OnDeltaStreamOpen(certified(t, "n1"), i, ""))
	}
	l.OnDeltaStreamClosed(3, nil)
	require.NoError(t, l.OnDeltaStreamOpen(certified(t, "n1"), 20, ""))
	require.Equal(t, codes.ResourceExhausted, status.Code(l.OnDeltaStreamOpen(certified(t, "n1"), 21, "")))
	require.NoError(t, l.OnDeltaStreamOpen(t.Context(), 22, ""), "over the socket")
}

// TestWhoWaitsIsWoken: by everything that happens.
func TestWhoWaitsIsWoken(t *testing.T) {
	t.Parallel()
	l := ledgerFor(t)
	for i, do := range []func(){
		l.Notify,
		func() { l.Allow("n1") },
		func() { _ = l.OnStreamDeltaRequest(1, asks("n1", resource.ListenerType, "", "")) },
		func() { _ = l.OnStreamDeltaRequest(2, asks("n2", resource.ListenerType, "", "")) },
		func() { l.sends(1, "1", "v") },
		func() { l.OnDeltaStreamClosed(1, nil) },
		func() { l.Remove("n1") },
	} {
		next := l.Next()
		do()
		select {
		case <-next:
		default:
			require.Fail(t, "nobody is woken", i)
		}
	}
}
