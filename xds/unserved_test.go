package xds_test

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/envoy"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/svid"
	"github.com/postern/postern/tests/fleet"
)

// client is a node that is no Envoy: it asks for whatever it wants.
type client struct {
	id   string
	conn *grpc.ClientConn
}

// join makes a client that has joined under the name.
func join(t *testing.T, f *fleet.Fleet, r *fleet.Remote, control *fleet.Replica, name string) *client {
	t.Helper()
	m := r.Member(name, filepath.Join(f.Home.Root, "client-"+name), control)
	var chain, key []byte
	m.Write = func(c, k []byte) error { chain, key = c, k; return nil }
	id, _, err := m.Join(t.Context())
	require.NoError(t, err)
	pair, err := tls.X509KeyPair(chain, key)
	require.NoError(t, err)
	return &client{id, dial(t, r, control, pair)}
}

func dial(t *testing.T, r *fleet.Remote, control *fleet.Replica, pair tls.Certificate) *grpc.ClientConn {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(r.Cert)
	conn, err := grpc.NewClient(control.Address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: svid.ServerName, Certificates: []tls.Certificate{pair},
	})))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// ask makes one request for the names, as the node that id says, and returns the answer.
func (c *client) ask(ctx context.Context, id, url string,
	names ...string,
) (*discoveryv3.DeltaDiscoveryResponse, error) {
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(c.conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{
		Node: &corev3.Node{Id: id}, TypeUrl: url, ResourceNamesSubscribe: names,
	}); err != nil {
		return nil, err
	}
	return stream.Recv()
}

// TestCertificateIsTheNode: a stream is the node that its certificate names,
// of this stack, and not removed.
func TestCertificateIsTheNode(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 0)
	r := f.NewRemote()
	control := r.Replica("c1")
	n1, n2 := join(t, f, r, control, "n1"), join(t, f, r, control, "n2")
	_, err := n1.ask(t.Context(), n1.id, resource.ClusterType)
	require.NoError(t, err)
	for _, id := range []string{n2.id, "n1", "", "other"} {
		_, err := n1.ask(t.Context(), id, resource.ClusterType)
		require.Equal(t, codes.PermissionDenied, status.Code(err), "%q: %v", id, err)
	}
	// A node that an operator has added by name is no other's either.
	require.NoError(t, control.API.AddNode(t.Context(), "local"))
	_, err = n1.ask(t.Context(), "local", resource.ClusterType)
	require.Equal(t, codes.PermissionDenied, status.Code(err))
	s, err := control.API.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, uint64(5), s.Refused["mismatch"])

	require.NoError(t, control.API.RemoveNode(t.Context(), n1.id))
	_, err = n1.ask(t.Context(), n1.id, resource.ClusterType)
	require.Equal(t, codes.PermissionDenied, status.Code(err))
	again := r.Member("n1", filepath.Join(f.Home.Root, "client-n1"), control)
	ctx, cancel := context.WithCancel(t.Context())
	again.Log = cancelOn(t, cancel, "was removed")
	_, _, err = again.Join(ctx)
	require.ErrorIs(t, err, context.Canceled)

	// The same authority, by mistake, for another stack.
	cert, err := r.Authority("other").Issue("n1", n1key(t, f), time.Now())
	require.NoError(t, err)
	key, err := os.ReadFile(filepath.Join(f.Home.Root, "client-n1", "node.key"))
	require.NoError(t, err)
	pair, err := tls.X509KeyPair(cert, key)
	require.NoError(t, err)
	foreign := &client{"n1", dial(t, r, control, pair)}
	_, err = foreign.ask(t.Context(), "n1", resource.ClusterType)
	require.Equal(t, codes.Unavailable, status.Code(err))
	s, err = control.API.Status(t.Context())
	require.NoError(t, err)
	require.NotZero(t, s.Refused["identity"])
}

// cancelOn is a log that cancels when a line has the text.
func cancelOn(t *testing.T, cancel func(), text string) *slog.Logger {
	return slog.New(slog.NewTextHandler(waiter(func(b []byte) {
		_, _ = t.Output().Write(b)
		if strings.Contains(string(b), text) {
			cancel()
		}
	}), nil))
}

type waiter func([]byte)

func (w waiter) Write(b []byte) (int, error) {
	w(b)
	return len(b), nil
}

func n1key(t *testing.T, f *fleet.Fleet) any {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(f.Home.Root, "client-n1", "node.key"))
	require.NoError(t, err)
	block, _ := pem.Decode(b)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	require.NoError(t, err)
	return key.(crypto.Signer).Public()
}

// TestOnlyWhatIsNeeded: a node that asks for everything by name gets no
// credential that no live rule uses, and nothing that another stack has.
func TestOnlyWhatIsNeeded(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 0)
	r := f.NewRemote()
	control := r.Replica("c1")
	up := f.NewUpstream("one.test")
	p := &plan.Plan{Stack: "test"}
	use := func(agent, credential, expires string, deny bool) {
		rule := fleet.Allow(agent, "one.test", up)
		rule.Credential, rule.Expires, rule.Deny = credential, expires, deny
		p.Agents = append(p.Agents, plan.Agent{Name: agent, Rules: []plan.Rule{rule}})
	}
	use("a", "used", "", false)
	use("b", "expired", "2020-01-01T00:00:00Z", false)
	use("c", "killed", "", false)
	var names []string
	for _, name := range []string{"expired", "killed", "unused", "used"} {
		p.Credentials = append(p.Credentials, plan.Credential{
			Name: name, Kind: plan.KindHeader, Header: "x-key", Secret: "file://" + f.Secret(name, "CANARY-"+name),
		})
		names = append(names, envoy.SecretName(name))
	}
	names = append(names, "one.test", "two.test", "*")
	_, err := r.Operator(control).Publish(t.Context(), p)
	require.NoError(t, err)
	_, err = r.Operator(control).Kill(t.Context(), bundle.Killed{Agents: []string{"c"}})
	require.NoError(t, err)

	n := join(t, f, r, control, "n1")
	types := []string{
		resource.SecretType, resource.ClusterType, resource.ListenerType, resource.ScopedRouteType, resource.RouteType,
		resource.EndpointType, resource.RuntimeType, resource.ExtensionConfigType, resource.VirtualHostType,
	}
	for _, url := range types {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		resp, err := n.ask(ctx, n.id, url, names...)
		cancel()
		if err != nil {
			require.NotEqual(t, codes.DeadlineExceeded, status.Code(err), url)
			continue // not served at all
		}
		for _, res := range resp.GetResources() {
			text := string(res.GetResource().GetValue())
			for _, name := range []string{"expired", "killed", "unused"} {
				require.NotContains(t, text, "CANARY-"+name, "%s %q", url, res.GetName())
			}
			require.Equal(t, res.GetName() == envoy.SecretName("used"), strings.Contains(text, "CANARY-used"), "%s %q",
				url, res.GetName())
			require.NotEqual(t, "two.test", res.GetName())
			if res.GetName() == envoy.SecretName("killed") {
				s := &tlsv3.Secret{}
				require.NoError(t, res.GetResource().UnmarshalTo(s))
				require.Empty(t, s.GetGenericSecret().GetSecret().GetInlineBytes(), "a node that had it forgets it")
			}
		}
	}
}
