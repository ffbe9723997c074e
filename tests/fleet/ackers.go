package fleet

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// Acker is a client of the control plane that says it is a node, takes everything
// and acknowledges it. It is not an Envoy: it is for tests of the control plane that
// need a node, or one that is not the node whose name it has.
type Acker struct {
	cancel context.CancelFunc
	ended  chan error

	mu sync.Mutex
	// version is that of the newest response.
	version string
}

// StartAcker opens a stream at the control plane's socket. It waits for nothing.
func StartAcker(t testing.TB, socket, id string) *Acker {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30)))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	a := &Acker{cancel: cancel, ended: make(chan error, 1)}
	go func() {
		a.ended <- a.run(ctx, conn, id)
		_ = conn.Close()
	}()
	t.Cleanup(cancel)
	return a
}

func (a *Acker) run(ctx context.Context, conn *grpc.ClientConn, id string) error {
	s, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	for _, url := range []string{resource.ClusterType, resource.ListenerType, resource.ScopedRouteType} {
		if err := s.Send(&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: id}, TypeUrl: url}); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	for {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		a.mu.Lock()
		a.version = r.GetSystemVersionInfo()
		a.mu.Unlock()
		if err := s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()}); err != nil {
			return err
		}
	}
}

// Version is that of what came last.
func (a *Acker) Version() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.version
}

// Stop ends the stream.
func (a *Acker) Stop() {
	a.cancel()
	a.ended <- <-a.ended
}

// Refused returns why the control plane has ended the stream; "" if Stop did.
func (a *Acker) Refused() string {
	err := <-a.ended
	a.ended <- err
	if s, ok := status.FromError(err); ok && s.Code() != codes.Canceled {
		return s.Message()
	}
	return ""
}
