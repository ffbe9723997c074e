package scale_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/postern/postern/xds"
)

// clientsEnv makes this test binary be the simulated nodes instead.
const clientsEnv = "POSTERN_SCALE_CLIENTS"

func TestMain(m *testing.M) {
	if socket := os.Getenv(clientsEnv); socket != "" {
		simulate(socket)
		return
	}
	xds.CollectLess() // as posternd does
	os.Exit(m.Run())
}

// clients are simulated nodes in a process of their own, so that the memory and
// the CPU of the control plane can be told from theirs.
type clients struct {
	in  io.Writer
	out *json.Decoder
	pid int
}

// order asks the process of the clients for something.
type order struct {
	// Connect makes these nodes connect, all at once.
	Connect []string
	// Secrets are what they ask for by name.
	Secrets []string
}

// report answers an order: what the clients have received since they began.
type report struct{ Bytes, Responses int64 }

func startClients(t testing.TB, socket string) *clients {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), clientsEnv+"="+socket)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, in.Close())
		require.NoError(t, cmd.Wait())
	})
	return &clients{in: in, out: json.NewDecoder(out), pid: cmd.Process.Pid}
}

// do returns when the clients have done what they were asked for: those that
// connect have received and acknowledged everything once.
func (c *clients) do(t testing.TB, o order) report {
	t.Helper()
	b, err := json.Marshal(o)
	require.NoError(t, err)
	_, err = c.in.Write(append(b, '\n'))
	require.NoError(t, err)
	var r report
	require.NoError(t, c.out.Decode(&r))
	return r
}

// simulate is the process of the clients. It ends with its standard input.
func simulate(socket string) {
	var bytes, responses atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	orders := bufio.NewScanner(os.Stdin)
	orders.Buffer(nil, 1<<20)
	for orders.Scan() {
		var o order
		if err := json.Unmarshal(orders.Bytes(), &o); err != nil {
			panic(err)
		}
		var done sync.WaitGroup
		for _, id := range o.Connect {
			done.Add(1)
			n := &client{id: id, secrets: o.Secrets, bytes: &bytes, responses: &responses, ready: sync.OnceFunc(done.Done)}
			go func() {
				if err := n.run(ctx, socket); ctx.Err() == nil {
					fmt.Fprintln(os.Stderr, "simulated node", id, "ends:", err)
					os.Exit(1)
				}
			}()
		}
		done.Wait()
		if err := json.NewEncoder(os.Stdout).Encode(report{bytes.Load(), responses.Load()}); err != nil {
			panic(err)
		}
	}
}

// client is one simulated node: it asks for what Envoy asks for, in Envoy's
// order, and acknowledges everything.
type client struct {
	id               string
	secrets          []string
	bytes, responses *atomic.Int64
	ready            func()
}

func (c *client) run(ctx context.Context, socket string) error {
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(1<<30)),
		grpc.WithStaticStreamWindowSize(1<<20), grpc.WithStaticConnWindowSize(1<<20))
	if err != nil {
		return err
	}
	defer conn.Close()
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName)
	if err != nil {
		return err
	}
	next := []*discoveryv3.DeltaDiscoveryRequest{
		{Node: &corev3.Node{Id: c.id, Cluster: "test"}, TypeUrl: resource.ClusterType},
		{TypeUrl: resource.ListenerType},
		{TypeUrl: resource.ScopedRouteType},
	}
	if len(c.secrets) > 0 {
		next = append(next, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.SecretType, ResourceNamesSubscribe: c.secrets})
	}
	// asked is the type whose first response is awaited.
	asked := ""
	for {
		if asked == "" {
			if len(next) == 0 {
				c.ready()
			} else {
				if err := s.SendMsg(next[0]); err != nil {
					return err
				}
				asked, next = next[0].GetTypeUrl(), next[1:]
			}
		}
		var r response
		if err := s.RecvMsg(&r); err != nil {
			return err
		}
		c.bytes.Add(int64(r.size))
		c.responses.Add(1)
		if err := s.SendMsg(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.typeURL, ResponseNonce: r.nonce}); err != nil {
			return err
		}
		if r.typeURL == asked {
			asked = ""
		}
	}
}

// response is what a client needs of a response. The resources are not decoded:
// the clients share the machine with what is measured.
type response struct {
	typeURL, nonce string
	size           int
}

// rawCodec is the codec of protocol buffers, but for a response.
type rawCodec struct{}

var _ encoding.CodecV2 = rawCodec{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, err := proto.Marshal(v.(proto.Message))
	return mem.BufferSlice{mem.SliceBuffer(b)}, err
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	r := v.(*response)
	r.size = data.Len()
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	for b := buf.ReadOnlyData(); len(b) > 0; {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		size := protowire.ConsumeFieldValue(number, kind, b[n:])
		if size < 0 {
			return protowire.ParseError(size)
		}
		field := b[n : n+size]
		b = b[n+size:]
		switch number { // of DeltaDiscoveryResponse
		case 4:
			v, _ := protowire.ConsumeBytes(field)
			r.typeURL = strings.Clone(string(v))
		case 5:
			v, _ := protowire.ConsumeBytes(field)
			r.nonce = strings.Clone(string(v))
		}
	}
	return nil
}
