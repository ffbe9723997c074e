package fleet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/bundle"
	"github.com/postern/postern/envoy"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/node"
	"github.com/postern/postern/svid"
	"github.com/postern/postern/xds"
	"github.com/postern/postern/xds/api"
	"github.com/postern/postern/xds/cache"
)

// Remote is what nodes on other machines join with: the fleet's authority and
// a token. Stack is "test".
type Remote struct {
	f *Fleet
	// Cert and Key are the PEM of the fleet's authority.
	Cert, Key []byte
	// Token is what nodes join with.
	Token  string
	hashes svid.Tokens
}

// Replica is a control plane with a port for nodes on other machines. It reads
// the fleet's store, and is told of publications through its API.
type Replica struct {
	Address string
	API     *api.Client
	Control *xds.Control
	// Stop ends it at once.
	Stop func()
}

// NewRemote makes a fleet's authority and a token.
func (f *Fleet) NewRemote() *Remote {
	f.t.Helper()
	r := &Remote{f: f}
	var err error
	r.Cert, r.Key, err = svid.NewAuthority("test", time.Now())
	require.NoError(f.t, err)
	token, hash := svid.NewToken()
	r.Token = token
	r.hashes, err = svid.ParseTokens([]byte(hash))
	require.NoError(f.t, err)
	return r
}

// Authority is that of a stack whose fleet has the same key.
func (r *Remote) Authority(stack string) *svid.Authority {
	r.f.t.Helper()
	a, err := svid.LoadAuthority(stack, r.Cert, r.Key)
	require.NoError(r.f.t, err)
	return a
}

// Replica starts a control plane that keeps its state in a folder of that name.
func (r *Remote) Replica(name string) *Replica {
	t := r.f.t
	t.Helper()
	dir := filepath.Join(r.f.Home.Root, name)
	require.NoError(t, os.MkdirAll(dir, 0o700))
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	s := &svid.Server{Authority: r.Authority("test"), Tokens: func() (svid.Tokens, error) { return r.hashes, nil }, Log: log}
	c, err := xds.New(xds.Config{
		Store: r.f.Home.BundleURL(), Stack: r.f.Home.Stack(), Trusted: r.f.Home.Trusted(), Replica: name, CACert: r.f.Home.CACert(), CAKey: r.f.Home.CAKey(), State: dir,
		Fleet: s, Envoy: envoy.Options{Roots: r.f.Home.CACert()}, Agents: hostpath.In(filepath.Dir(r.f.Home.Root)), Log: log,
	})
	require.NoError(t, err)
	s.Removed = c.Removed
	ctx, cancel := context.WithCancel(context.Background())
	nodes, err := s.Listen(ctx, "127.0.0.1:0")
	require.NoError(t, err)
	socket := filepath.Join(dir, "control.sock")
	operators, err := net.Listen("unix", socket)
	require.NoError(t, err)
	g := grpc.NewServer(cache.ServerOption(), grpc.Creds(svid.Credentials()))
	c.Register(ctx, g)
	h := &http.Server{Handler: c.Handler(), ReadHeaderTimeout: time.Minute}
	var wg sync.WaitGroup
	wg.Go(func() { _ = c.Run(ctx) })
	wg.Go(func() { _ = g.Serve(nodes) })
	wg.Go(func() { _ = h.Serve(operators) })
	var once sync.Once
	replica := &Replica{Address: nodes.Addr().String(), API: api.Dial(socket), Control: c}
	replica.Stop = func() {
		once.Do(func() {
			cancel()
			g.Stop()
			_ = h.Close()
			wg.Wait()
		})
	}
	t.Cleanup(replica.Stop)
	return replica
}

// Operator is who publishes to the replicas.
func (r *Remote) Operator(controls ...*Replica) *bundle.Operator {
	o := Operator(r.f.Home)
	o.Controls = nil
	for _, c := range controls {
		o.Controls = append(o.Controls, c.API)
	}
	return o
}

// Member is the join of a node whose folder is dir.
func (r *Remote) Member(name, dir string, controls ...*Replica) *svid.Member {
	t := r.f.t
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o700))
	ca, token := filepath.Join(dir, "fleet-ca.pem"), filepath.Join(dir, "token")
	require.NoError(t, os.WriteFile(ca, r.Cert, 0o600))
	require.NoError(t, os.WriteFile(token, []byte(r.Token+"\n"), 0o600))
	m := &svid.Member{
		Stack: "test", Name: name, Token: token, Authority: ca, Dir: dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Write: func(chain, key []byte) error {
			b, err := envoy.Identity(chain, key)
			if err != nil {
				return err
			}
			return atomicfile.Write(filepath.Join(dir, envoy.IdentityPath), b, 0o600)
		},
	}
	for _, c := range controls {
		m.Controls = append(m.Controls, c.Address)
	}
	return m
}

// StartNode joins a node and runs its Envoy. It returns the node's ID.
func (r *Remote) StartNode(name string, controls ...*Replica) string {
	t := r.f.t
	t.Helper()
	binary := Envoy(t)
	dir := r.f.Home.NodeDir(name)
	m := r.Member(name, dir, controls...)
	id, authority, err := m.Join(t.Context())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	modules := Modules(t)
	go func() { done <- m.Keep(ctx) }()
	go func() {
		done <- node.Run(ctx, node.Config{
			ID: id, Stack: "test", Dir: dir, Audit: r.f.Home.AuditDir(), Envoy: binary, Modules: modules, Log: slog.New(slog.DiscardHandler),
			Remote: &envoy.Remote{
				Controls: m.Controls, Authority: string(authority), ServerName: svid.ServerName, URI: svid.ControlURI("test").String(),
			},
		})
	}()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		require.NoError(t, <-done)
	})
	return id
}

// ports counts the calls of [FreePort], from somewhere on: tests in another checkout ask for others.
var ports atomic.Uint32

func init() { ports.Store(rand.Uint32()) }

// FreePort returns a TCP port on which nobody listens, another one each time. It is below those that
// the kernel gives to connections, so that none of them takes it before it is used.
func FreePort(t testing.TB) uint16 {
	t.Helper()
	const first, last = 10000, 18000 // which a stack file may give to an agent, too
	for range last - first {
		port := uint16(first + ports.Add(1)%(last-first))
		l, err := net.Listen("tcp", fmt.Sprintf("0.0.0.0:%d", port))
		if err == nil {
			require.NoError(t, l.Close())
			return port
		}
	}
	require.FailNow(t, "every port is in use")
	return 0
}

// Header is the PROXY protocol header, version 2, of a load balancer that was
// connected to from a documentation address.
func Header() []byte {
	b := []byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c")
	b = append(b, 192, 0, 2, 7, 192, 0, 2, 8)
	b = binary.BigEndian.AppendUint16(b, 40000)
	return binary.BigEndian.AppendUint16(b, 443)
}

// PortClient is an agent whose connections arrive at a node's port after the
// bytes of first.
func (f *Fleet) PortClient(port uint16, first []byte) *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(f.CA.PEM)
	tr := &http.Transport{
		Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.invalid:3128"}),
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
			if err != nil {
				return nil, err
			}
			_, err = c.Write(first)
			return c, err
		},
		TLSClientConfig: &tls.Config{RootCAs: pool},
	}
	f.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}
