// Package fleet is a control plane and real Envoys for tests that look at what
// the data plane does: in this process, without an engine and without a sandbox.
package fleet

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/bundle"
	"github.com/postern/postern/envoy"
	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/node"
	"github.com/postern/postern/pki"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/xds"
	"github.com/postern/postern/xds/api"
	"github.com/postern/postern/xds/cache"
)

// Fleet is a control plane in this process and real Envoys.
type Fleet struct {
	t    testing.TB
	Home home.Folder
	API  *api.Client
	// Control is the control plane that StartControl began last.
	Control *xds.Control
	// Observability is what the control plane serves to monitoring.
	Observability http.Handler
	// CA is what agents trust; UpstreamCA is what signs upstreams.
	CA, UpstreamCA *CA
	// Envoy is the program that nodes started from now on run; "" means the
	// one that binary.Find finds.
	Envoy string
	// Modules is the folder with the libguard.so that nodes started from now on load; ""
	// means one that is built from this tree.
	Modules string
	// Heap bounds the memory of the Envoys that are started from now on, in bytes; 0: as a
	// node does.
	Heap uint64
	// Monitors are those of the nodes, by ID.
	Monitors map[string]*node.Monitor
	// Configure, if set, changes what the next StartControl starts with.
	Configure func(*xds.Config)
	// StopControl ends the control plane; StartControl begins a new one.
	StopControl func()
}

// New starts a control plane and n nodes, n1 to nN.
func New(t testing.TB, n int) *Fleet {
	t.Helper()
	// Not t.TempDir: a socket's path is short.
	root, err := os.MkdirTemp("", "postern")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })
	// Alone in its folder: a control plane looks at the state folders next to its own.
	return NewIn(t, home.Folder{Root: filepath.Join(root, "s")}, n)
}

// NewIn is New in a state folder, which may be one that a stack file has claimed.
func NewIn(t testing.TB, home home.Folder, n int) *Fleet {
	t.Helper()
	f := &Fleet{t: t, Home: home, CA: NewCA(t, "postern test"), UpstreamCA: NewCA(t, "upstream test"), Monitors: map[string]*node.Monitor{}}
	WriteHome(t, f.Home, f.CA)
	f.API = api.Dial(f.Home.ControlSocket())
	f.StartControl()
	for i := range n {
		f.StartNode("n" + strconv.Itoa(i+1))
	}
	return f
}

// WriteHome makes what a control plane needs to start.
func WriteHome(t testing.TB, home home.Folder, ca *CA) {
	t.Helper()
	require.NoError(t, os.MkdirAll(home.CADir(), 0o700))
	require.NoError(t, os.MkdirAll(home.ControlDir(), 0o700))
	require.NoError(t, os.WriteFile(home.CACert(), ca.PEM, 0o600))
	require.NoError(t, os.WriteFile(home.CAKey(), ca.KeyPEM(t), 0o600))
	err := bundle.MakeKey(home.OperatorKey(), home.Trusted())
	require.NoError(t, err)
}

func (f *Fleet) StartControl() {
	f.t.Helper()
	log := slog.New(slog.NewTextHandler(f.t.Output(), nil))
	config := xds.Config{
		Store: f.Home.BundleURL(), Stack: f.Home.Stack(), Trusted: f.Home.Trusted(), CACert: f.Home.CACert(), CAKey: f.Home.CAKey(), State: f.Home.ControlDir(),
		Envoy: envoy.Options{Roots: f.Home.CACert()},
		Prepare: func(node string, p *plan.Plan) error {
			for _, a := range p.Agents {
				if err := os.MkdirAll(f.Home.AgentDir(node, a.Name), 0o700); err != nil {
					return err
				}
			}
			return nil
		},
		Agents: hostpath.In(filepath.Dir(f.Home.Root)), Log: log,
	}
	if f.Configure != nil {
		f.Configure(&config)
	}
	c, err := xds.New(config)
	require.NoError(f.t, err)
	f.Control, f.Observability = c, c.Observability()
	nodes, err := net.Listen("unix", f.Home.XDSSocket())
	require.NoError(f.t, err)
	operators, err := net.Listen("unix", f.Home.ControlSocket())
	require.NoError(f.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	g := grpc.NewServer(cache.ServerOption())
	c.Register(ctx, g)
	h := &http.Server{Handler: c.Handler(), ReadHeaderTimeout: time.Minute}
	var wg sync.WaitGroup
	wg.Go(func() { _ = c.Run(ctx) })
	wg.Go(func() { _ = g.Serve(nodes) })
	wg.Go(func() { _ = h.Serve(operators) })
	var once sync.Once
	f.StopControl = func() {
		once.Do(func() {
			cancel()
			g.Stop()
			_ = h.Close()
			wg.Wait()
		})
	}
	f.t.Cleanup(f.StopControl)
}

// StartNode starts a node and waits until it is connected.
func (f *Fleet) StartNode(id string) {
	f.t.Helper()
	binary := f.Envoy
	if binary == "" {
		binary = Envoy(f.t)
	}
	require.NoError(f.t, f.API.AddNode(f.t.Context(), id))
	monitor := node.NewMonitor(f.Home.NodeDir(id))
	f.Monitors[id] = monitor
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	modules := f.Modules
	if modules == "" {
		modules = Modules(f.t)
	}
	go func() {
		done <- node.Run(ctx, node.Config{
			ID: id, Stack: "test", Dir: f.Home.NodeDir(id), XDS: "../../control/xds.sock", Audit: f.Home.AuditDir(), Envoy: binary, Modules: modules, Heap: f.Heap,
			Monitor: monitor, Log: slog.New(slog.DiscardHandler),
		})
	}()
	f.t.Cleanup(func() {
		cancel()
		require.NoError(f.t, <-done)
	})
	require.Eventually(f.t, func() bool { return f.Node(id).Connected }, time.Minute, 10*time.Millisecond, "node %s connects", id)
}

func (f *Fleet) Node(id string) api.Node {
	f.t.Helper()
	s, err := f.API.Status(f.t.Context())
	require.NoError(f.t, err)
	for _, n := range s.Nodes {
		if n.ID == id {
			return n
		}
	}
	return api.Node{}
}

func (f *Fleet) Publish(p *plan.Plan) (*api.Converged, error) {
	f.t.Helper()
	return f.Operator().Publish(f.t.Context(), p)
}

// Operator is who publishes to the fleet.
func (f *Fleet) Operator() *bundle.Operator { return Operator(f.Home) }

// Operator is who publishes to the stack of the folder.
func Operator(home home.Folder) *bundle.Operator {
	return &bundle.Operator{
		Store: &bundle.Store{URL: home.BundleURL(), Stack: home.Stack(), Trusted: home.Trusted(), Authority: bundle.CertificateIn(home.CACert())},
		Key:   home.OperatorKey(), Controls: []*api.Client{api.Dial(home.ControlSocket())},
	}
}

// MustPublish publishes the plan. Where a node has not acknowledged in time, the machine is slow:
// it is published again.
func (f *Fleet) MustPublish(p *plan.Plan) {
	f.t.Helper()
	_, err := f.Publish(p)
	for range 5 {
		if err == nil || !late.MatchString(err.Error()) {
			break
		}
		f.t.Log("publishes again: ", err)
		_, err = f.Publish(p)
	}
	require.NoError(f.t, err)
}

// late is what an operator is told if a node, or the control plane, has not answered in time.
var late = regexp.MustCompile(`did not acknowledge version .*: context deadline exceeded|has not answered for`)

// MustPublishLarge publishes a plan with many agents, fifty more of them at a time: on a slow
// machine a node takes longer for all of them at once than it has.
func (f *Fleet) MustPublishLarge(p *plan.Plan) {
	f.t.Helper()
	for n := 50; n < len(p.Agents); n += 50 {
		part := *p
		part.Agents = p.Agents[:n]
		f.MustPublish(&part)
	}
	f.MustPublish(p)
}

// Client is the agent: its HTTP client goes through its socket on a node.
func (f *Fleet) Client(nodeID, agent string) *http.Client {
	c := AgentClient(f.CA, f.Dial(nodeID, agent))
	f.t.Cleanup(c.CloseIdleConnections)
	return c
}

// AgentClient is an HTTP client that trusts ca and whose proxy is what dial connects to.
func AgentClient(ca *CA, dial func(context.Context, string, string) (net.Conn, error)) *http.Client {
	return AgentClientOf(ca.Pool(), dial)
}

// Pool has the authority in it, and no other.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.PEM)
	return pool
}

// AgentClientOf is AgentClient for a pool of authorities.
func AgentClientOf(pool *x509.CertPool, dial func(context.Context, string, string) (net.Conn, error)) *http.Client {
	return &http.Client{Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Transport: &http.Transport{
		Proxy:             http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.invalid:3128"}),
		DialContext:       dial,
		TLSClientConfig:   &tls.Config{RootCAs: pool},
		ForceAttemptHTTP2: true,
	}}
}

func (f *Fleet) Dial(nodeID, agent string) func(context.Context, string, string) (net.Conn, error) {
	return DialPath(filepath.Join(f.Home.NodeDir(nodeID), envoy.AgentSocket(agent)))
}

// DialPath connects to the Unix socket, whatever address is asked for.
func DialPath(path string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
}

// Events returns the events once there are at least n, one for each request that is over.
func (f *Fleet) Events(n int) []audit.Event {
	f.t.Helper()
	var got []audit.Event
	require.Eventually(f.t, func() bool {
		var err error
		got, err = audit.Read(f.Home.AuditDir(), audit.Filter{})
		require.NoError(f.t, err)
		got = slices.DeleteFunc(got, func(e audit.Event) bool { return !e.Over() })
		return len(got) >= n
	}, time.Minute, 10*time.Millisecond, "%d events", n)
	return got
}

// Upstream is a TLS server on a Unix socket that remembers what reached it.
type Upstream struct {
	Address string
	// CA is the PEM of what signed its certificate.
	CA string

	mu       sync.Mutex
	requests []*http.Request
	open     int
}

// NewUpstream starts a server for the hosts, by a certificate for each.
func (f *Fleet) NewUpstream(hosts ...string) *Upstream {
	f.t.Helper()
	return NewUpstream(f.t, f.Home, f.UpstreamCA, hosts...)
}

// NewUpstream starts a server for the hosts, with its socket in home.
func NewUpstream(t testing.TB, home home.Folder, ca *CA, hosts ...string) *Upstream {
	t.Helper()
	path := filepath.Join(home.Root, "upstream-"+hosts[0]+".sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	u := &Upstream{Address: "unix:" + path, CA: string(ca.PEM)}
	s := &http.Server{
		ReadHeaderTimeout: time.Minute,
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, hosts...)}},
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			u.mu.Lock()
			u.requests = append(u.requests, r)
			u.open++
			u.mu.Unlock()
			defer func() {
				u.mu.Lock()
				u.open--
				u.mu.Unlock()
			}()
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, "hello from "+r.Host)
		}),
	}
	go func() { _ = s.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = s.Close() })
	return u
}

// Open is how many requests are in progress.
func (u *Upstream) Open() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.open
}

// Seen returns what reached the upstream since the last call.
func (u *Upstream) Seen() []*http.Request {
	u.mu.Lock()
	defer u.mu.Unlock()
	r := u.requests
	u.requests = nil
	return r
}

func (u *Upstream) Pin() *plan.Upstream { return &plan.Upstream{Address: u.Address, CA: u.CA} }

// Allow returns a rule by which the agent may send every request to the host, which up serves.
func Allow(agent, host string, up *Upstream) plan.Rule {
	return plan.Rule{
		ID: agent + "/" + host, Host: host, Port: 443, Methods: []string{plan.AnyMethod}, Paths: []string{plan.AnyPath},
		Upstream: up.Pin(),
	}
}

// CA is a certificate authority for a test.
type CA struct {
	cert *x509.Certificate
	// PEM of its certificate.
	PEM []byte
	key *ecdsa.PrivateKey
}

func NewCA(t testing.TB, name string) *CA {
	t.Helper()
	key, err := pki.NewKey()
	require.NoError(t, err)
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := pki.Sign(template, template, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &CA{cert: cert, PEM: pki.PEM(der), key: key}
}

// Public is the key of the certificate.
func (ca *CA) Public() *ecdsa.PublicKey { return &ca.key.PublicKey }

// KeyPEM is the private key.
func (ca *CA) KeyPEM(t testing.TB) []byte {
	t.Helper()
	key, err := pki.KeyPEM(ca.key)
	require.NoError(t, err)
	return key
}

func (ca *CA) Issue(t testing.TB, hosts ...string) tls.Certificate {
	t.Helper()
	key, err := pki.NewKey()
	require.NoError(t, err)
	template := &x509.Certificate{
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: hosts, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := pki.Sign(template, ca.cert, &key.PublicKey, ca.key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Verdict is what an agent can tell of a decision.
type Verdict struct {
	Status int
	Rule   string      `json:"rule"`
	Reason plan.Reason `json:"reason"`
}

// Do makes the request that r describes, over the way in that its scheme says.
func (f *Fleet) Do(nodeID string, r plan.Request) (Verdict, http.Header) {
	f.t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(f.CA.PEM)
	return f.DoTrusting(nodeID, r, roots)
}

// DoTrusting is Do for a client with roots of its own.
func (f *Fleet) DoTrusting(nodeID string, r plan.Request, roots *x509.CertPool) (Verdict, http.Header) {
	f.t.Helper()
	client := f.Client(nodeID, r.Agent)
	host := r.Host
	if r.Scheme == "http" || r.Port != 443 {
		host = net.JoinHostPort(r.Host, strconv.Itoa(int(r.Port)))
	}
	req, err := http.NewRequestWithContext(f.t.Context(), r.Method, r.Scheme+"://"+host+"/", nil)
	require.NoError(f.t, err)
	req.URL.Opaque = r.Path // as it is, without Go's cleaning
	if r.Scheme == "http" {
		req.URL.Opaque = "//" + host + r.Path
	}
	if r.Authority != "" {
		req.Host = r.Authority
	}
	req.URL.RawQuery = r.Query
	for name, values := range r.Header {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	tr := client.Transport.(*http.Transport)
	defer client.CloseIdleConnections()
	tr.TLSClientConfig.RootCAs = roots
	// As browsers and curl do; a certificate exists for the canonical name only.
	tr.TLSClientConfig.ServerName = strings.ToLower(r.Host)
	if r.SNI != "" {
		tr.TLSClientConfig = &tls.Config{ServerName: r.SNI, InsecureSkipVerify: true} //nolint:gosec // the test is of the proxy's check
	}
	resp, err := client.Do(req)
	if err != nil {
		// A refused CONNECT: Go says only the status text.
		require.ErrorContains(f.t, err, "Forbidden")
		return Verdict{Status: 403}, nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(f.t, err)
	v := Verdict{Status: resp.StatusCode}
	if resp.StatusCode != http.StatusOK && r.Method != http.MethodHead {
		require.NoError(f.t, json.Unmarshal(body, &v), "%s", body)
	}
	return v, resp.Header
}

// Secret writes a secret file and returns its path.
func (f *Fleet) Secret(name, value string) string {
	f.t.Helper()
	path := filepath.Join(f.Home.Root, "secret-"+name)
	tmp := path + ".new"
	require.NoError(f.t, os.WriteFile(tmp, []byte(value), 0o600))
	require.NoError(f.t, os.Rename(tmp, path))
	return path
}

// Admin reads a page of a node's admin interface.
func (f *Fleet) Admin(nodeID, page string) string {
	f.t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: DialPath(filepath.Join(f.Home.NodeDir(nodeID), envoy.AdminSocket))}}
	req, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, "http://admin"+page, nil)
	require.NoError(f.t, err)
	resp, err := c.Do(req)
	require.NoError(f.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(f.t, err)
	return string(b)
}

// Get is the status of a GET by the agent, or 0 if it could not be made.
func (f *Fleet) Get(nodeID, agent, url string) int {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, url, nil)
	require.NoError(f.t, err)
	client := AgentClient(f.CA, f.Dial(nodeID, agent))
	// A kept connection counts toward the agent's budget on the node.
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// EnvoyPID finds the Envoy whose working folder is the node's.
func (f *Fleet) EnvoyPID(id string) int {
	f.t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*")
	require.NoError(f.t, err)
	for _, p := range procs {
		if dir, err := os.Readlink(p + "/cwd"); err == nil && dir == f.Home.NodeDir(id) {
			pid, err := strconv.Atoi(filepath.Base(p))
			require.NoError(f.t, err)
			return pid
		}
	}
	require.Fail(f.t, "no Envoy of node "+id)
	return 0
}
