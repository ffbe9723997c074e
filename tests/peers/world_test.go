package peers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"embed"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/template"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/node"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

const (
	benchHost     = "bench.test"
	benchAddress  = "203.0.113.10"
	eventsHost    = "events.bench.test"
	eventsAddress = "203.0.113.11"
	// key is what the proxies inject; squid.conf and gateway.conf have it too.
	key = "sk-bench-0001"
	// streams of a turn, events of one stream, and how far apart they are.
	streams = 4
	events  = 20
	apart   = 5 * time.Millisecond
)

//go:embed testdata
var testdata embed.FS

// world is an upstream and who wants to reach it.
type world struct {
	fleet *fleet.Fleet
	// dir is where the peers have their files.
	dir string
	// roots are what all clients trust: one authority signs the upstream and
	// what the proxies present.
	roots *x509.CertPool
	// verified are the certificates that were, by proxy and host.
	verified sync.Map
}

func newWorld(b *testing.B) *world {
	b.Helper()
	w := &world{fleet: fleet.New(b, 0), roots: x509.NewCertPool()}
	w.dir = filepath.Join(w.fleet.Home.Root, "peers")
	require.NoError(b, os.Mkdir(w.dir, 0o700))
	w.roots.AppendCertsFromPEM(w.fleet.CA.PEM)
	leaf := w.fleet.CA.Issue(b, benchHost, "*."+benchHost)
	leafKey, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	require.NoError(b, err)
	caKey, err := os.ReadFile(w.fleet.Home.CAKey())
	require.NoError(b, err)
	w.write(b, "upstream.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Certificate[0]}))
	w.write(b, "upstream.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: leafKey}))
	w.write(b, "upstream-ca.pem", w.fleet.CA.PEM)
	w.write(b, "ca-bundle.pem", append(caKey, w.fleet.CA.PEM...))
	serveNames(b)
	serveEvents(b, leaf)
	w.start(b, "upstream", benchAddress+":443", nil, nginx(b), "-p", w.dir, "-c", w.config(b, "upstream.conf"))
	return w
}

func (w *world) write(b *testing.B, name string, data []byte) {
	b.Helper()
	require.NoError(b, os.WriteFile(filepath.Join(w.dir, name), data, 0o600))
}

// config writes a file of testdata with the working folder filled in.
func (w *world) config(b *testing.B, name string) string {
	b.Helper()
	t, err := template.ParseFS(testdata, "testdata/"+name)
	require.NoError(b, err)
	path := filepath.Join(w.dir, name)
	f, err := os.Create(path)
	require.NoError(b, err)
	require.NoError(b, t.Execute(f, w.dir))
	require.NoError(b, f.Close())
	return path
}

// start runs a program until the end of the benchmark and returns its process
// when it listens on address.
func (w *world) start(b *testing.B, name, address string, environ []string, command ...string) int {
	b.Helper()
	out, err := os.Create(filepath.Join(w.dir, name+".out"))
	require.NoError(b, err)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Dir, cmd.Env = out, out, w.dir, append(os.Environ(), environ...)
	require.NoError(b, cmd.Start())
	b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		_ = out.Close()
	})
	require.Eventually(b, func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	}, 30*time.Second, 20*time.Millisecond, "%s listens", name)
	return cmd.Process.Pid
}

// serveNames answers for everything below bench.test.
func serveNames(b *testing.B) {
	b.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:53")
	require.NoError(b, err)
	s := &dns.Server{PacketConn: c, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			address := benchAddress
			if strings.EqualFold(q.Question[0].Name, eventsHost+".") {
				address = eventsAddress
			}
			m.Answer = append(m.Answer, &dns.A{
				Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.ParseIP(address),
			})
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = s.ActivateAndServe() }()
	b.Cleanup(func() { _ = s.Shutdown() })
}

// serveEvents streams events that say when they were sent.
func serveEvents(b *testing.B, leaf tls.Certificate) {
	b.Helper()
	l, err := net.Listen("tcp", eventsAddress+":443")
	require.NoError(b, err)
	pad := strings.Repeat("x", 80)
	s := &http.Server{
		ReadHeaderTimeout: time.Minute,
		// HTTP/1.1, as the other upstream: not all of the peers can do more.
		TLSConfig:    &tls.Config{Certificates: []tls.Certificate{leaf}, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12},
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			tick := time.NewTicker(apart)
			defer tick.Stop()
			for range events {
				fmt.Fprintf(w, "data: %d %s\n\n", time.Now().UnixNano(), pad)
				w.(http.Flusher).Flush()
				<-tick.C
			}
		}),
	}
	go func() { _ = s.ServeTLS(l, "", "") }()
	b.Cleanup(func() { _ = s.Close() })
}

func tcp(address string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", address)
	}
}

// direct is not a proxy: what is left is the client and the upstream.
func direct() *proxy { return &proxy{name: "no proxy", direct: true, dial: tcp(benchAddress + ":443")} }

// newPlan allows bench.test, its events, and n more destinations.
func newPlan(secret string, n int) *plan.Plan {
	a := plan.Agent{Name: "a"}
	add := func(name, host string, gateway uint16) {
		a.Rules = append(a.Rules, plan.Rule{
			ID: "a/" + name, Host: host, Port: 443, Methods: []string{"GET", "POST"}, Paths: []string{"/v1/**"}, Credential: "key", Gateway: gateway,
		})
	}
	add("bench", benchHost, 8080)
	add("events", eventsHost, 0)
	for i := range n {
		add("h"+strconv.Itoa(i), newHost(i), 0)
	}
	return &plan.Plan{
		Stack: "bench", Resolvers: []string{"127.0.0.1:53"},
		Credentials: []plan.Credential{{Name: "key", Kind: plan.KindHeader, Header: "x-api-key", Secret: "file://" + secret}},
		Agents:      []plan.Agent{a},
	}
}

func newHost(i int) string { return "h" + strconv.Itoa(i) + "." + benchHost }

// postern starts a node with a policy of n more destinations and returns the
// ways to it: as a proxy and as a gateway.
func (w *world) postern(b *testing.B, n int) (forward, gateway *proxy) {
	b.Helper()
	f := w.fleet
	binary := fleet.Envoy(b)
	require.NoError(b, f.API.AddNode(b.Context(), "n1"))
	config, err := json.Marshal(node.Config{ID: "n1", Stack: "bench", Dir: f.Home.NodeDir("n1"), XDS: "../../control/xds.sock", Audit: f.Home.AuditDir(), Envoy: binary, Modules: fleet.Modules(b)})
	require.NoError(b, err)
	self, err := os.Executable()
	require.NoError(b, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), envNode+"="+string(config))
	cmd.Stdout, cmd.Stderr = b.Output(), b.Output()
	require.NoError(b, cmd.Start())
	b.Cleanup(func() {
		require.NoError(b, cmd.Process.Signal(syscall.SIGTERM))
		require.NoError(b, cmd.Wait())
	})
	require.Eventually(b, func() bool { return f.Node("n1").Connected }, 20*time.Second, 10*time.Millisecond, "the node connects")
	f.MustPublish(newPlan(f.Secret("key", key), n))
	dial := f.Dial("n1", "a")
	p := proxy{name: "Postern", pid: cmd.Process.Pid, dial: func(ctx context.Context) (net.Conn, error) { return dial(ctx, "", "") }}
	g := p
	g.gateway, g.host = true, "localhost:8080"
	return &p, &g
}

// squid starts Squid with ssl-bump.
func (w *world) squid(b *testing.B) *proxy {
	b.Helper()
	config := w.config(b, "squid.conf")
	out, err := exec.Command("/usr/lib/squid/security_file_certgen", "-c", "-s", filepath.Join(w.dir, "squid-certs"), "-M", "4MB").CombinedOutput()
	require.NoError(b, err, "%s (tools/packages.sh bench installs Squid)", out)
	pid := w.start(b, "squid", "127.0.0.1:3130", nil, "/usr/sbin/squid", "-N", "-f", config)
	return &proxy{name: "Squid", pid: pid, dial: tcp("127.0.0.1:3130")}
}

// mitmproxy starts mitmdump.
func (w *world) mitmproxy(b *testing.B) *proxy {
	b.Helper()
	binary, err := filepath.Abs("../../.cache/peers/bin/mitmdump")
	require.NoError(b, err)
	_, err = os.Stat(binary)
	require.NoError(b, err, "tools/packages.sh bench installs mitmproxy")
	bundle, err := os.ReadFile(filepath.Join(w.dir, "ca-bundle.pem"))
	require.NoError(b, err)
	w.write(b, "mitmproxy-ca.pem", bundle)
	pid := w.start(b, "mitmproxy", "127.0.0.1:3131", []string{"PEERS_LOG=" + filepath.Join(w.dir, "mitmproxy.jsonl"), "PEERS_KEY=" + key},
		binary, "-q", "--listen-host", "127.0.0.1", "--listen-port", "3131", "--set", "confdir="+w.dir,
		"--set", "ssl_verify_upstream_trusted_ca="+filepath.Join(w.dir, "upstream-ca.pem"), "-s", w.config(b, "addon.py"))
	return &proxy{name: "mitmproxy", pid: pid, dial: tcp("127.0.0.1:3131")}
}

// nginxGateway starts nginx as a gateway.
func (w *world) nginxGateway(b *testing.B) *proxy {
	b.Helper()
	pid := w.start(b, "gateway", "127.0.0.1:3132", nil, nginx(b), "-p", w.dir, "-c", w.config(b, "gateway.conf"))
	return &proxy{name: "nginx", pid: pid, dial: tcp("127.0.0.1:3132"), gateway: true, host: "localhost:3132"}
}

// bare starts an Envoy that does nothing but forward: no CONNECT, no policy, no
// log, a key that is written in its configuration. What it needs is the least that
// anything made of Envoy does.
func (w *world) bare(b *testing.B, intercepts bool) *proxy {
	b.Helper()
	binary := fleet.Envoy(b)
	p := &proxy{name: "bare Envoy", dial: tcp("127.0.0.1:3133"), plain: true}
	config, address := "bare-tls.yaml", "127.0.0.1:3133"
	if !intercepts {
		config, address = "bare-gateway.yaml", "127.0.0.1:3134"
		p.gateway, p.host, p.dial = true, benchHost, tcp(address)
	}
	p.pid = w.start(b, config, address, nil, binary, "--config-path", w.config(b, config), "--concurrency", "1", "--disable-hot-restart", "--log-level", "error")
	return p
}

func nginx(b *testing.B) string {
	b.Helper()
	path := "/usr/sbin/nginx"
	_, err := os.Stat(path)
	require.NoError(b, err, "tools/packages.sh bench installs nginx")
	return path
}
