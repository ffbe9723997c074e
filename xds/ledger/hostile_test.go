package ledger

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/stretchr/testify/require"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/postern/postern/svid"
)

func ledgerFor(t *testing.T) *Ledger {
	t.Helper()
	return New(slog.New(slog.NewTextHandler(t.Output(), nil)), func(string) bool { return false })
}

// certified is the context of a stream over TLS with that node's certificate.
func certified(t *testing.T, node string) context.Context {
	t.Helper()
	cert := &x509.Certificate{URIs: []*url.URL{svid.ID{Stack: "test", Node: node}.URI()}}
	info := credentials.TLSInfo{State: tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{cert}}}}
	return peer.NewContext(t.Context(), &peer.Peer{AuthInfo: info})
}

func asks(node, url, nonce, refuses string) *discoveryv3.DeltaDiscoveryRequest {
	r := &discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: node}, TypeUrl: url, ResponseNonce: nonce}
	if refuses != "" {
		r.ErrorDetail = &rpcstatus.Status{Message: refuses}
	}
	return r
}

// TestHostileRefusal: what a node says of itself is bounded, and no terminal
// obeys it.
func TestHostileRefusal(t *testing.T) {
	t.Parallel()
	l := ledgerFor(t)
	l.Allow("n1")
	require.NoError(t, l.OnStreamDeltaRequest(1, asks("n1", resource.ListenerType, "", "")))
	l.OnStreamDeltaResponse(1, nil, &discoveryv3.DeltaDiscoveryResponse{
		TypeUrl: resource.ListenerType, Nonce: "1", SystemVersionInfo: "v",
	})
	require.NoError(t, l.OnStreamDeltaRequest(1,
		asks("n1", resource.ListenerType, "1", "\x1b]0;owned\a\x1b[2J\u202e\xff"+strings.Repeat("x", 4<<20))))
	n := l.Status()[0]
	for _, text := range []string{n.Nack, n.Types[0].Nack, l.Rejection("v").Message} {
		require.LessOrEqual(t, len(text), maxMessage+len("..."))
		require.NotContains(t, text, "\x1b")
		require.NotContains(t, text, "\a")
		require.NotContains(t, text, "\u202e")
		require.Contains(t, text, "owned")
	}
}

// TestHostileStream: a node that never answers, or asks for what does not exist,
// or opens stream after stream, is cut off.
func TestHostileStream(t *testing.T) {
	t.Parallel()
	l := ledgerFor(t)
	l.Allow("n1")
	var err error
	for i := 0; err == nil && i <= maxOutstanding+1; i++ {
		if err = l.OnStreamDeltaRequest(1, asks("n1", resource.SecretType, "", "")); err == nil {
			l.OnStreamDeltaResponse(1, nil, &discoveryv3.DeltaDiscoveryResponse{
				TypeUrl: resource.SecretType, Nonce: fmt.Sprint(i),
			})
		}
	}
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
	err = l.OnStreamDeltaRequest(2, asks("n1", "type.googleapis.com/made.up", "", ""))
	require.Equal(t, codes.InvalidArgument, status.Code(err))

	for i := range int64(maxStreams) {
		require.NoError(t, l.OnDeltaStreamOpen(certified(t, "web-1"), 10+i, ""))
	}
	require.Equal(t, codes.ResourceExhausted, status.Code(l.OnDeltaStreamOpen(certified(t, "web-1"), 99, "")))
	l.OnDeltaStreamClosed(99, nil)
	require.NoError(t, l.OnDeltaStreamOpen(certified(t, "web-2"), 100, ""))
	l.OnDeltaStreamClosed(10, nil)
	require.NoError(t, l.OnDeltaStreamOpen(certified(t, "web-1"), 101, ""))
	for i := range int64(200) {
		l.OnDeltaStreamClosed(i, nil)
	}
	require.Empty(t, l.opened)
	require.Empty(t, l.peers)
}

// TestJoinedNodeLeaves: a node that is part of the stack by its certificate
// leaves the list when it has been away for long, and not before; one that is
// there, or that an operator has named, never does.
func TestJoinedNodeLeaves(t *testing.T) {
	t.Parallel()
	l := ledgerFor(t)
	l.Allow("named")
	for i, id := range []string{"gone", "there"} {
		require.NoError(t, l.OnDeltaStreamOpen(certified(t, id), int64(i), ""))
		require.NoError(t, l.OnStreamDeltaRequest(int64(i), asks(id, resource.ListenerType, "", "")))
	}
	l.OnDeltaStreamClosed(0, nil)
	ids := func() (ids []string) {
		for _, n := range l.Status() {
			ids = append(ids, n.ID)
		}
		return ids
	}
	left := l.Status()[0].Since
	l.Forget(left.Add(away))
	require.Equal(t, []string{"gone", "named", "there"}, ids())
	l.Forget(left.Add(away + time.Second))
	require.Equal(t, []string{"named", "there"}, ids())
	require.False(t, l.Member("gone"))
	// With its certificate it is back at once.
	require.NoError(t, l.OnDeltaStreamOpen(certified(t, "gone"), 5, ""))
	require.NoError(t, l.OnStreamDeltaRequest(5, asks("gone", resource.ListenerType, "", "")))
	require.True(t, l.Member("gone"))
}

// TestEveryStreamCounts: a node has acknowledged what all its streams have: neither
// an older nor a newer one speaks for the others, and the end of one ends no other.
func TestEveryStreamCounts(t *testing.T) {
	t.Parallel()
	l := ledgerFor(t)
	l.Allow("n1")
	sent := func(stream int64, nonce string) {
		l.OnStreamDeltaResponse(stream, nil, &discoveryv3.DeltaDiscoveryResponse{
			TypeUrl: resource.ListenerType, Nonce: nonce, SystemVersionInfo: "v",
		})
	}
	settled := func() bool { _, ok := l.Settled("n1", resource.ListenerType, false); return ok }
	require.NoError(t, l.OnStreamDeltaRequest(1, asks("n1", resource.ClusterType, "", "")))
	require.False(t, settled(), "it never asked for listeners")
	require.NoError(t, l.OnStreamDeltaRequest(1, asks("n1", resource.ListenerType, "", "")))
	require.True(t, settled())
	require.NoError(t, l.OnStreamDeltaRequest(2, asks("n1", resource.ListenerType, "", "")))
	sent(1, "1")
	sent(2, "1")
	require.NoError(t, l.OnStreamDeltaRequest(2, asks("n1", resource.ListenerType, "1", "")))
	require.False(t, settled(), "the older one has not acknowledged")
	require.NoError(t, l.OnStreamDeltaRequest(1, asks("n1", resource.ListenerType, "1", "")))
	require.True(t, settled())
	sent(2, "2")
	require.NoError(t, l.OnStreamDeltaRequest(1, asks("n1", resource.ListenerType, "2", "")))
	require.False(t, settled(), "one does not acknowledge what the other was sent")
	l.OnDeltaStreamClosed(2, nil)
	require.True(t, settled())
	require.True(t, l.Online("n1"))
	l.OnDeltaStreamClosed(1, nil)
	require.False(t, l.Online("n1"))
	require.False(t, settled())
}
