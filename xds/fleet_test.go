package xds_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/envoy"
	"github.com/postern/postern/node"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/xds"
	"github.com/postern/postern/xds/api"
	"github.com/postern/postern/xds/bundle"
)

// fleet is a control plane in this process and real Envoys.
type fleet struct {
	t    testing.TB
	home stacks.Home
	api  *api.Client
	// ca is what agents trust; upstreamCA is what signs upstreams.
	ca, upstreamCA *testCA
	// stop ends one node.
	stop map[string]context.CancelFunc
	// stopControl ends the control plane; startControl begins a new one.
	stopControl func()
}

// newFleet starts a control plane and n nodes, n1 to nN.
func newFleet(t testing.TB, n int) *fleet {
	t.Helper()
	// Not t.TempDir: a socket's path is short.
	root, err := os.MkdirTemp("", "postern")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })
	f := &fleet{t: t, home: stacks.Home{Root: root}, ca: newCA(t, "postern test"), upstreamCA: newCA(t, "upstream test"), stop: map[string]context.CancelFunc{}}
	require.NoError(t, os.MkdirAll(f.home.CADir(), 0o700))
	require.NoError(t, os.MkdirAll(f.home.ControlDir(), 0o700))
	require.NoError(t, os.WriteFile(f.home.CACert(), f.ca.certPEM, 0o600))
	require.NoError(t, os.WriteFile(f.home.CAKey(), f.ca.keyPEM(t), 0o600))
	f.api = api.Dial(f.home.ControlSocket())
	f.startControl()
	for i := range n {
		f.startNode("n" + strconv.Itoa(i+1))
	}
	return f
}

func (f *fleet) startControl() {
	f.t.Helper()
	log := slog.New(slog.NewTextHandler(f.t.Output(), nil))
	c, err := xds.New(xds.Config{
		Store: f.home.BundleURL(), CACert: f.home.CACert(), CAKey: f.home.CAKey(), State: f.home.ControlDir(),
		Envoy: envoy.Options{Roots: f.home.CACert()},
		Prepare: func(node string, p *plan.Plan) error {
			for _, a := range p.Agents {
				if err := os.MkdirAll(f.home.AgentDir(node, a.Name), 0o700); err != nil {
					return err
				}
			}
			return nil
		},
		Log: log,
	})
	require.NoError(f.t, err)
	nodes, err := net.Listen("unix", f.home.XDSSocket())
	require.NoError(f.t, err)
	operators, err := net.Listen("unix", f.home.ControlSocket())
	require.NoError(f.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	g := grpc.NewServer()
	c.Register(ctx, g)
	h := &http.Server{Handler: c.Handler(), ReadHeaderTimeout: time.Minute}
	var wg sync.WaitGroup
	wg.Go(func() { _ = c.Run(ctx) })
	wg.Go(func() { _ = g.Serve(nodes) })
	wg.Go(func() { _ = h.Serve(operators) })
	var once sync.Once
	f.stopControl = func() {
		once.Do(func() {
			cancel()
			g.Stop()
			_ = h.Close()
			wg.Wait()
		})
	}
	f.t.Cleanup(f.stopControl)
}

// startNode starts a node and waits until it is connected.
func (f *fleet) startNode(id string) {
	f.t.Helper()
	binary, err := envoy.Binary()
	require.NoError(f.t, err)
	require.NoError(f.t, f.api.AddNode(f.t.Context(), id))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- node.Run(ctx, node.Config{
			ID: id, Stack: "test", Dir: f.home.NodeDir(id), XDS: "../../control/xds.sock", Audit: f.home.AuditDir(), Envoy: binary,
			Log: slog.New(slog.DiscardHandler),
		})
	}()
	f.stop[id] = cancel
	f.t.Cleanup(func() {
		cancel()
		require.NoError(f.t, <-done)
	})
	require.Eventually(f.t, func() bool { return f.node(id).Connected }, 20*time.Second, 10*time.Millisecond, "node %s connects", id)
}

func (f *fleet) node(id string) api.Node {
	f.t.Helper()
	s, err := f.api.Status(f.t.Context())
	require.NoError(f.t, err)
	for _, n := range s.Nodes {
		if n.ID == id {
			return n
		}
	}
	return api.Node{}
}

func (f *fleet) publish(p *plan.Plan) (*api.Converged, error) {
	f.t.Helper()
	return bundle.Publish(f.t.Context(), f.home.BundleURL(), f.api, p)
}

func (f *fleet) mustPublish(p *plan.Plan) {
	f.t.Helper()
	_, err := f.publish(p)
	require.NoError(f.t, err)
}

// client is the agent: its HTTP client goes through its socket on a node.
func (f *fleet) client(nodeID, agent string) *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(f.ca.certPEM)
	tr := &http.Transport{
		Proxy:             http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.invalid:3128"}),
		DialContext:       f.dial(nodeID, agent),
		TLSClientConfig:   &tls.Config{RootCAs: pool},
		ForceAttemptHTTP2: true,
	}
	f.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (f *fleet) dial(nodeID, agent string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(f.home.NodeDir(nodeID), envoy.AgentSocket(agent)))
	}
}

// events returns the events of a node once there are at least n.
func (f *fleet) events(n int) []audit.Event {
	f.t.Helper()
	var got []audit.Event
	require.Eventually(f.t, func() bool {
		var err error
		got, err = audit.Read(f.home.AuditDir(), audit.Filter{})
		require.NoError(f.t, err)
		return len(got) >= n
	}, 10*time.Second, 10*time.Millisecond, "%d events", n)
	return got
}

// upstream is a TLS server on a Unix socket that remembers what reached it.
type upstream struct {
	address string
	ca      string

	mu       sync.Mutex
	requests []*http.Request
}

// newUpstream starts a server for the hosts, by a certificate for each.
func (f *fleet) newUpstream(hosts ...string) *upstream {
	f.t.Helper()
	path := filepath.Join(f.home.Root, "upstream-"+hosts[0]+".sock")
	l, err := net.Listen("unix", path)
	require.NoError(f.t, err)
	u := &upstream{address: "unix:" + path, ca: string(f.upstreamCA.certPEM)}
	s := &http.Server{
		ReadHeaderTimeout: time.Minute,
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{f.upstreamCA.issue(f.t, hosts...)}},
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			u.mu.Lock()
			u.requests = append(u.requests, r)
			u.mu.Unlock()
			_, _ = io.WriteString(w, "hello from "+r.Host)
		}),
	}
	go func() { _ = s.ServeTLS(l, "", "") }()
	f.t.Cleanup(func() { _ = s.Close() })
	return u
}

// seen returns what reached the upstream since the last call.
func (u *upstream) seen() []*http.Request {
	u.mu.Lock()
	defer u.mu.Unlock()
	r := u.requests
	u.requests = nil
	return r
}

func (u *upstream) pin() *plan.Upstream { return &plan.Upstream{Address: u.address, CA: u.ca} }

type testCA struct {
	cert    *x509.Certificate
	certPEM []byte
	key     *ecdsa.PrivateKey
}

func newCA(t testing.TB, name string) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &testCA{cert: cert, certPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key: key}
}

func (ca *testCA) keyPEM(t testing.TB) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(ca.key)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func (ca *testCA) issue(t testing.TB, hosts ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: hosts, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &key.PublicKey, ca.key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
