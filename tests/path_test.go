package tests

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
	"github.com/postern/postern/xds/api"
)

var buildPostern = fleet.Built("postern", "./cmd/postern")

// postern returns the path of the operator's CLI, built from this tree next to postern-sandbox.
func postern(t testing.TB) string {
	t.Helper()
	_, err := buildInside()
	require.NoError(t, err)
	path, err := buildPostern()
	require.NoError(t, err)
	return path
}

const pathCanary = "c4n4ry-of-the-whole-path"

// pathStack has an upstream of the test's own, and an agent that it is denied to.
const pathStack = `version: 1
target: local
credentials:
  key: {kind: header, header: x-api-key, secret: "file:../../key"}
destinations:
  echo:
    host: echo.test
    methods: [GET, POST]
    paths: ["/v1/**"]
    credential: key
    gateway: 8080
    upstream: {address: "unix:../../echo.sock", ca: ../../ca.pem}
agents:
  # The one that works.
  demo:
    allow: [echo]   # and nothing else
  other:
    allow: []
proxies: {count: 2}
`

// path is a stack that is up, and a client's view of it.
type path struct {
	*checkout
	upstream *echo
}

// newPath brings a whole stack up: engine, control plane, two Envoys, an upstream.
func newPath(t testing.TB) *path {
	t.Helper()
	return newPathOf(t, strings.Replace(strings.Replace(pathStack, "allow: []", "allow: [nothing]", 1),
		"agents:", "  nothing: {host: nothing.test}\nagents:", 1))
}

// newPathOf is newPath for another stack file.
func newPathOf(t testing.TB, stack string) *path {
	t.Helper()
	c := newCheckout(t)
	root := filepath.Dir(c.dir)
	p := &path{checkout: c, upstream: newEcho(t, root, "echo.test")}
	require.NoError(t, os.WriteFile(filepath.Join(root, "key"), []byte(pathCanary), 0o600))
	c.write(stack)
	c.does("up")
	return p
}

// in is p with failures reported to a subtest.
func (p *path) in(t *testing.T) *path {
	c := *p.checkout
	c.t = t
	return &path{checkout: &c, upstream: p.upstream}
}

// result is how a command ended.
type result struct {
	stdout, stderr string
	status         int
	took           time.Duration
}

// run runs a command as the agent, in a folder of its own: in the checkout, the
// stack file would be a proposal from then on.
func (p *path) run(agent string, command ...string) result {
	p.t.Helper()
	work := filepath.Join(p.dir, "work")
	require.NoError(p.t, os.MkdirAll(work, 0o700))
	return p.posternIn(work, append([]string{"run", "--agent", agent, "--"}, command...)...)
}

// postern runs the CLI in the checkout.
func (p *path) postern(args ...string) result {
	p.t.Helper()
	return p.posternIn(p.dir, args...)
}

func (p *path) posternIn(dir string, args ...string) result {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), postern(p.t), args...)
	cmd.Dir, cmd.Env = dir, p.environ
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	if _, ok := err.(*exec.ExitError); !ok { //nolint:errorlint // exactly this type
		require.NoError(p.t, err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode(), time.Since(start)}
}

// ok requires that a command succeeded, and returns what it printed.
func (p *path) ok(r result) string {
	p.t.Helper()
	require.Zero(p.t, r.status, "%s%s", r.stdout, r.stderr)
	return r.stdout
}

func (p *path) events(f audit.Filter, n int) []audit.Event {
	p.t.Helper()
	var events []audit.Event
	require.Eventually(p.t, func() bool {
		var err error
		events, err = audit.Read(p.home.AuditDir(), f)
		require.NoError(p.t, err)
		return len(events) >= n
	}, time.Minute, 10*time.Millisecond)
	return events
}

// echo is an HTTPS server on a Unix socket that answers with the request's
// headers, except the value of the key, and remembers that.
type echo struct {
	mu   sync.Mutex
	keys []string
}

func newEcho(t testing.TB, dir, host string) *echo {
	t.Helper()
	e := &echo{}
	serveTLS(t, dir, host, "echo.sock", http.HandlerFunc(e.answer))
	return e
}

// serveTLS serves a host on a socket in the folder, with a certificate that ca.pem there vouches for.
func serveTLS(t testing.TB, dir, host, socket string, handler http.Handler) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	l, err := net.Listen("unix", filepath.Join(dir, socket))
	require.NoError(t, err)
	s := &http.Server{
		ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		Handler:   handler,
	}
	go func() { _ = s.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = s.Close() })
}

func (e *echo) answer(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	e.keys = append(e.keys, r.Header.Get("X-Api-Key"))
	e.mu.Unlock()
	switch {
	case strings.HasPrefix(r.URL.Path, "/v1/fail"):
		w.WriteHeader(http.StatusTeapot)
	case strings.HasPrefix(r.URL.Path, "/acme/"): // as a git host that wants a password
		w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
		w.WriteHeader(http.StatusUnauthorized)
	}
	r.Header.Del("X-Api-Key")
	_, _ = io.Copy(io.Discard, r.Body) // otherwise this server may reset the stream, which curl takes for an error
	_ = json.NewEncoder(w).Encode(map[string]any{"path": r.URL.Path, "header": r.Header})
}

// seen returns the keys that arrived since the last call.
func (e *echo) seen() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	k := e.keys
	e.keys = nil
	return k
}

// TestWholePath is the main job: a sandboxed program reaches one allowed host
// with a credential it never sees, and nothing else.
func TestWholePath(t *testing.T) {
	t.Parallel()
	p := newPath(t)

	t.Run("ways in", func(t *testing.T) {
		p := p.in(t)
		for name, command := range map[string][]string{
			"proxy variables":        {"curl", "-sS", "https://echo.test/v1/x"},
			"no proxy variable":      {"curl", "-sS", "--noproxy", "*", "https://echo.test/v1/x"},
			"gateway":                {"curl", "-sS", "http://localhost:8080/v1/x"},
			"node fetch":             {"env", "-u", "HTTP_PROXY", "-u", "HTTPS_PROXY", "-u", "http_proxy", "-u", "https_proxy", "node", "-e", "fetch('https://echo.test/v1/x').then(r=>r.text()).then(console.log)"},
			"python without proxies": {"python3", "-c", "import urllib.request as u; print(u.build_opener(u.ProxyHandler({})).open('https://echo.test/v1/x').read().decode())"},
		} {
			out := p.ok(p.run("demo", command...))
			require.Contains(t, out, `"path":"/v1/x"`, name)
			require.Equal(t, []string{pathCanary}, p.upstream.seen(), name)
		}
		for _, e := range p.events(audit.Filter{Agent: "demo"}, 5) {
			require.Equal(t, audit.Allow, e.Verdict)
			require.Equal(t, "demo/echo", e.Rule)
			require.Equal(t, "key", e.Credential)
		}
	})

	t.Run("nothing else", func(t *testing.T) {
		p := p.in(t)
		node := p.home.NodeDir("n1")
		for name, command := range map[string]string{
			"IP literal":             "curl -sS --noproxy '*' https://192.0.2.7/",
			"metadata":               "curl -sSf --noproxy '*' http://169.254.169.254/",
			"metadata via the proxy": "curl -sSf http://169.254.169.254/",
			"another port":           "curl -sS --noproxy '*' http://192.0.2.7:8443/",
			"DNS elsewhere":          "python3 -c \"" + `import socket; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(2); s.sendto(bytes.fromhex('123401000001000000000000046563686f04746573740000010001'),('8.8.8.8',53)); r=s.recv(512)[3]&15; print(r); exit(r)` + "\"",
			"another agent's socket": "curl -sS --unix-socket " + filepath.Join(node, "agents/other/proxy.sock") + " http://x/",
			"own socket by its path": "curl -sS --unix-socket " + filepath.Join(node, "agents/demo/proxy.sock") + " http://x/",
			"xDS":                    "curl -sS --unix-socket " + p.home.XDSSocket() + " http://x/",
			"operator API":           "curl -sS --unix-socket " + p.home.ControlSocket() + " http://x/v1/status",
			"Envoy's admin":          "curl -sS --unix-socket " + filepath.Join(node, "admin.sock") + " http://x/",
			"denied host":            "curl -sS https://evil.test/",
			"denied path":            "curl -sSf https://echo.test/v2",
			"the secret's file":      "cat " + filepath.Join(filepath.Dir(p.dir), "key"),
			"the CA's key":           "cat " + p.home.CAKey(),
			"the stack file":         "echo 'version: 2' >> ../stacks/local.yaml",
		} {
			r := p.run("demo", "sh", "-c", command)
			require.NotZero(t, r.status, "%s: %s%s", name, r.stdout, r.stderr)
			require.Less(t, r.took, time.Minute, "%s hangs", name)
			require.Empty(t, p.upstream.seen(), name)
		}
		r := p.run("other", "curl", "-sS", "https://echo.test/v1/x")
		require.NotZero(t, r.status)
		require.Contains(t, r.stderr, "denied by policy")
		require.Contains(t, r.stderr, "other/default")
		require.Contains(t, r.stderr, "postern allow echo.test --agent other")
		require.Empty(t, p.upstream.seen())
	})

	t.Run("the credential is nowhere", func(t *testing.T) {
		p := p.in(t)
		out := p.ok(p.run("demo", "sh", "-c", `
			curl -sS -D - https://echo.test/v1/fail
			env; set
			for f in /proc/[0-9]*/environ /proc/[0-9]*/cmdline; do tr '\0' '\n' < $f; done 2>/dev/null
			find / -xdev -type f -size -200k -not -path '/usr/*' -not -path '/proc/*' -not -path '/sys/*' -exec cat {} + 2>/dev/null
			cat /proc/mounts`))
		require.Contains(t, out, "418", "the request to which the upstream answered an error")
		require.NotContains(t, out, pathCanary)
		require.Equal(t, []string{pathCanary}, p.upstream.seen())
		for name, content := range files(t, p.home.Root) {
			require.NotContains(t, content, pathCanary, name)
		}
	})

	t.Run("live change", func(t *testing.T) {
		p := p.in(t)
		before, err := os.ReadFile(p.stackFile())
		require.NoError(t, err)
		out := p.ok(p.postern("allow", "new.test", "--agent", "demo", "--method", "GET", "--path", "/a/**"))
		require.Regexp(t, `version [0-9a-f]{16} live on 2/2 nodes after [0-9.]+ ms`, out)
		require.Contains(t, p.ok(p.postern("explain", "https://new.test/a/b", "--agent", "demo")), "allowed")
		require.Contains(t, p.ok(p.postern("revoke", "new.test", "--agent", "demo")), "live on 2/2 nodes")
		after, err := os.ReadFile(p.stackFile())
		require.NoError(t, err)
		require.Equal(t, string(before), string(after))
		require.Contains(t, p.ok(p.postern("status")), "live on 2/2 nodes")

		// The last two publications were the allow and its revocation.
		require.Contains(t, p.ok(p.postern("history")), "new.test")
		require.Contains(t, p.ok(p.postern("rollback")), "new.test")
		require.Contains(t, p.ok(p.postern("push")), "live on 2/2 nodes", "the stack file counts again")

		require.Contains(t, p.ok(p.postern("kill", "--agent", "demo")), "demo killed on 2 nodes")
		r := p.run("demo", "curl", "-sS", "https://echo.test/v1/x")
		require.NotZero(t, r.status)
		require.Contains(t, r.stderr, string(plan.ReasonKilled))
		require.Contains(t, p.ok(p.postern("status")), "killed: demo")
		p.ok(p.postern("unkill", "--agent", "demo"))
		p.ok(p.run("demo", "curl", "-sS", "https://echo.test/v1/x"))
		p.upstream.seen()
	})

	t.Run("audit", func(t *testing.T) {
		p := p.in(t)
		var e audit.Event
		out := p.ok(p.postern("audit", "--denied", "--agent", "other", "--json"))
		require.NoError(t, json.Unmarshal([]byte(strings.SplitN(out, "\n", 2)[0]), &e))
		require.Equal(t, plan.ReasonHost, e.Reason)
		require.Equal(t, "echo.test:443", e.Host)
		require.Contains(t, p.ok(p.postern("audit", "--host", "echo.test")), "demo/echo")
	})
}

// TestClients: real package clients get what an operator allowed by naming the
// client, and nothing without that.
func TestClients(t *testing.T) {
	t.Parallel()
	p := newPath(t)
	for client, command := range map[string][]string{
		"pip": {"sh", "-c", "cd /tmp && pip download --no-deps six"},
		"npm": {"npm", "view", "is-number", "version"},
		"go":  {"sh", "-c", "cd /tmp && go mod init x && go mod download github.com/google/uuid@v1.6.0"},
	} {
		r := p.run("demo", command...)
		require.NotZero(t, r.status, "%s: %s%s", client, r.stdout, r.stderr)
		require.Less(t, r.took, 2*time.Minute, "%s hangs: %s", client, r.stderr)
		require.Contains(t, r.stderr, "denied by policy", client)
		require.Contains(t, r.stderr, "demo/default", client)
		require.Contains(t, r.stderr, "postern allow ", client)

		since := time.Now()
		require.Contains(t, p.ok(p.postern("allow", "--client", client, "--agent", "demo")), "live on 2/2 nodes")
		p.ok(p.run("demo", command...))
		allowed := p.events(audit.Filter{Agent: "demo", Since: since}, 1)
		for _, e := range allowed {
			require.Equal(t, audit.Allow, e.Verdict, "%s: %+v", client, e)
			require.NotEqual(t, "CONNECT", e.Method, "intercepted, not tunnelled: %+v", e)
		}
	}
	s, err := api.Dial(p.home.ControlSocket()).Status(t.Context())
	require.NoError(t, err)
	require.Nil(t, s.Rejected)
}
