package xds_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/plan"
)

// verdict is what an agent can tell of a decision.
type verdict struct {
	Status int
	Rule   string      `json:"rule"`
	Reason plan.Reason `json:"reason"`
}

// do makes the request that r describes, over the way in that its scheme says.
func (f *fleet) do(nodeID string, r plan.Request) (verdict, http.Header) {
	f.t.Helper()
	client := f.client(nodeID, r.Agent)
	host := r.Host
	if r.Scheme == "http" || r.Port != 443 {
		host = net.JoinHostPort(r.Host, itoa(r.Port))
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
	tr := client.Transport.(*http.Transport)
	// As browsers and curl do; a certificate exists for the canonical name only.
	tr.TLSClientConfig.ServerName = strings.ToLower(r.Host)
	if r.SNI != "" {
		tr.TLSClientConfig = &tls.Config{ServerName: r.SNI, InsecureSkipVerify: true} //nolint:gosec // the test is of the proxy's check
	}
	resp, err := client.Do(req)
	if err != nil {
		// A refused CONNECT: Go says only the status text.
		require.ErrorContains(f.t, err, "Forbidden")
		return verdict{Status: 403}, nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(f.t, err)
	v := verdict{Status: resp.StatusCode}
	if resp.StatusCode != http.StatusOK && r.Method != http.MethodHead {
		require.NoError(f.t, json.Unmarshal(body, &v), "%s", body)
	}
	return v, resp.Header
}

func itoa(p uint16) string { return json.Number(strings.TrimSpace(string(mustJSON(p)))).String() }

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// policy is a plan with something of everything, served by up.
func policy(up *upstream) *plan.Plan {
	rule := func(id, host string, port uint16, methods, paths []string) plan.Rule {
		return plan.Rule{ID: id, Host: host, Port: port, Methods: methods, Paths: paths, Upstream: up.pin()}
	}
	gateway := rule("a/api", "api.test", 443, []string{"GET", "POST"}, []string{"/v1/*", "/v1/files/**"})
	gateway.Gateway = 8080
	return &plan.Plan{Stack: "test", Agents: []plan.Agent{
		{Name: "a", Rules: []plan.Rule{
			gateway,
			rule("a/api-admin", "api.test", 443, []string{"DELETE"}, []string{"/v1/admin"}),
			rule("a/open", "open.test", 443, []string{plan.AnyMethod}, []string{plan.AnyPath}),
			rule("a/port", "api.test", 8443, []string{"GET"}, []string{plan.AnyPath}),
		}},
		{Name: "b", Rules: []plan.Rule{rule("b/open", "open.test", 443, []string{"GET"}, []string{"/b/**"})}},
		{Name: "nobody"},
	}}
}

// TestEnvoyDecidesAsThePlanDoes sends generated requests to Envoy and to
// plan.Decide: verdict, rule and reason agree, what is denied does not reach
// the upstream, and there is exactly one event, which says the same.
func TestEnvoyDecidesAsThePlanDoes(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	up := f.newUpstream("api.test", "open.test")
	p := policy(up)
	f.mustPublish(p)
	events := 0
	rapid.Check(t, func(rt *rapid.T) {
		r := plan.Request{
			Agent:  rapid.SampledFrom([]string{"a", "b", "nobody"}).Draw(rt, "agent"),
			Scheme: "https",
			Host:   rapid.SampledFrom([]string{"api.test", "open.test", "API.test", "evil.test", "api.test.evil.test", "192.0.2.1"}).Draw(rt, "host"),
			Port:   rapid.SampledFrom([]uint16{443, 443, 443, 8443, 80}).Draw(rt, "port"),
			Method: rapid.SampledFrom([]string{"GET", "POST", "DELETE", "PUT", "HEAD", "TRACE", "PROPFIND"}).Draw(rt, "method"),
			Path: rapid.SampledFrom([]string{
				"/v1/x", "/v1/", "/v1", "/v1/x/y", "/v1/files/a/b", "/v1/files/", "/v1/files", "/v1/admin", "/b/c", "/v1/../v1/x", "/b/../v1/x", "/v1//x",
				"/v1/%2e%2e/secret", "/v1/a%2fb", "/v1/a%5Cb", "/v1/files/..%2f..%2fsecret", "/V1/x", "/v1/x;y=1", "/%76%31/x", "/",
			}).Draw(rt, "path"),
		}
		switch rapid.IntRange(0, 5).Draw(rt, "way") {
		case 0:
			r.Scheme, r.Host, r.Port = "http", rapid.SampledFrom([]string{"localhost", "127.0.0.1", "api.test", "evil.test"}).Draw(rt, "host"),
				rapid.SampledFrom([]uint16{8080, 8081}).Draw(rt, "port")
		case 1:
			r.Authority = rapid.SampledFrom([]string{"api.test", "open.test", "evil.test", "api.test:8443", "api.test:443"}).Draw(rt, "authority")
		}
		want := p.Decide(r)
		got, _ := f.do("n1", r)
		reached := up.seen()
		events++
		e := f.events(events)[events-1]
		require.Equal(t, want.Allow, len(reached) == 1, "reached the upstream: %+v %+v", r, got)
		require.Equal(t, want.Allow, e.Verdict == audit.Allow, "%+v %+v", r, e)
		require.Equal(t, want.Rule, e.Rule, "%+v %+v", r, e)
		require.Equal(t, want.Reason, e.Reason, "%+v %+v", r, e)
		require.Equal(t, r.Agent, e.Agent)
		if want.Allow {
			require.Equal(t, http.StatusOK, got.Status)
			require.Equal(t, reached[0].URL.EscapedPath(), e.Path, "what is logged is what was forwarded")
		} else {
			require.Equal(t, http.StatusForbidden, got.Status)
			if got.Rule != "" { // a refused CONNECT's body is not shown by Go
				require.Equal(t, want.Rule, got.Rule)
				require.Equal(t, want.Reason, got.Reason)
			}
		}
	})
	require.Len(t, f.events(events), events, "one event for each decision")
	for i, e := range f.events(events) {
		require.Equal(t, uint64(i+1), e.Seq)
	}
}

// TestConcurrentTunnels: agents and destinations that are connected at the same
// time never share what Envoy knows of each other's connection.
func TestConcurrentTunnels(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	up := f.newUpstream("api.test", "open.test")
	p := policy(up)
	p.Credentials = []plan.Credential{
		{Name: "a", Kind: "header", Header: "x-api-key", Secret: "file://" + f.secret("a", "key-of-a")},
		{Name: "b", Kind: "header", Header: "x-api-key", Secret: "file://" + f.secret("b", "key-of-b")},
	}
	p.Agents[0].Rules[2].Credential = "a"
	p.Agents[1].Rules[0].Credential = "b"
	f.mustPublish(p)
	// Every client keeps its tunnel open until the end.
	for i := range 30 {
		agent := []string{"a", "b"}[i%2]
		resp, err := f.client("n1", agent).Get("https://open.test/b/x") //nolint:noctx // bounded by the client
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, 200, resp.StatusCode)
		require.Equal(t, "key-of-"+agent, up.seen()[0].Header.Get("X-Api-Key"))
		if agent == "a" {
			got, _ := f.do("n1", plan.Request{Agent: "a", Scheme: "https", Host: "api.test", Port: 443, Method: "GET", Path: "/v1/x"})
			require.Equal(t, 200, got.Status)
			up.seen()
		}
	}
	for _, e := range f.events(45) {
		require.Equal(t, strings.SplitN(e.Rule, "/", 2)[0], e.Agent)
	}
}

// TestServerName: the name in the TLS handshake must be the CONNECT's, and a
// certificate exists for allowed names only.
func TestServerName(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	up := f.newUpstream("api.test", "open.test")
	p := policy(up)
	p.Credentials = []plan.Credential{{Name: "key", Kind: "header", Header: "x-api-key", Secret: "file://" + f.secret("key", "s3cr3t")}}
	p.Agents[0].Rules[0].Credential = "key"
	f.mustPublish(p)

	got, _ := f.do("n1", plan.Request{Agent: "a", Scheme: "https", Host: "api.test", Port: 443, SNI: "open.test", Authority: "open.test", Method: "GET", Path: "/v1/x"})
	require.Equal(t, verdict{403, "a/default", plan.ReasonName}, got, "allowed CONNECT, another allowed name inside")
	require.Empty(t, up.seen())

	// "\x00" cannot be sent: crypto/tls and BoringSSL refuse it. These can.
	for _, name := range []string{"evil.test", "API.test", "credential", "credential/key", "no-server-name.invalid", strings.Repeat("a", 63) + ".test"} {
		conn, err := f.dial("n1", "a")(t.Context(), "", "")
		require.NoError(t, err)
		_, err = io.WriteString(conn, "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n")
		require.NoError(t, err)
		head := make([]byte, 12)
		_, err = io.ReadFull(conn, head)
		require.NoError(t, err)
		require.Equal(t, "HTTP/1.1 200", string(head))
		require.NoError(t, discardHead(conn))
		tc := tls.Client(conn, &tls.Config{ServerName: name, InsecureSkipVerify: true}) //nolint:gosec // as above
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		require.Error(t, tc.HandshakeContext(ctx), "a certificate for %q", name)
		require.NoError(t, ctx.Err(), "the handshake for %q hangs", name)
		cancel()
		conn.Close()
	}
	require.Empty(t, up.seen())
	for _, e := range f.events(7) {
		require.Equal(t, audit.Deny, e.Verdict)
		require.Contains(t, []plan.Reason{plan.ReasonName, plan.ReasonTLS}, e.Reason)
	}
	// The fleet still works, and the credential was not touched.
	ok, _ := f.do("n1", plan.Request{Agent: "a", Scheme: "https", Host: "api.test", Port: 443, Method: "GET", Path: "/v1/x"})
	require.Equal(t, 200, ok.Status)
	require.Equal(t, "s3cr3t", up.seen()[0].Header.Get("X-Api-Key"))
}

// discardHead reads up to the empty line that ends a response's header.
func discardHead(r io.Reader) error {
	var last [4]byte
	for string(last[:]) != "\r\n\r\n" {
		copy(last[:], last[1:])
		if _, err := io.ReadFull(r, last[3:]); err != nil {
			return err
		}
	}
	return nil
}

// secret writes a secret file and returns its path.
func (f *fleet) secret(name, value string) string {
	f.t.Helper()
	path := filepath.Join(f.home.Root, "secret-"+name)
	tmp := path + ".new"
	require.NoError(f.t, os.WriteFile(tmp, []byte(value), 0o600))
	require.NoError(f.t, os.Rename(tmp, path))
	return path
}

// TestCredential: the agent's own keys never arrive, ours does, a rotation
// reaches the node, and a lost secret fails its route closed and no other.
func TestCredential(t *testing.T) {
	t.Parallel()
	const canary = "s3cr3t-canary-1"
	f := newFleet(t, 1)
	up := f.newUpstream("api.test", "open.test")
	p := policy(up)
	path := f.secret("key", canary+"\n")
	p.Credentials = []plan.Credential{
		{Name: "key", Kind: "header", Header: "authorization", Prefix: "Bearer ", Secret: "file://" + path},
		{Name: "lost", Kind: "header", Header: "x-api-key", Secret: "env://POSTERN_TEST_NO_SUCH_VARIABLE"},
	}
	p.Agents[0].Rules[0].Credential = "key"
	p.Agents[0].Rules[1].Credential = "lost"
	f.mustPublish(p)

	send := func(method, url string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
		require.NoError(t, err)
		for _, h := range []string{"Authorization", "X-Api-Key", "Api-Key", "X-Goog-Api-Key", "Cookie", "Proxy-Authorization", "X-Postern-Scope", "X-Envoy-Original-Path", "X-Forwarded-For"} {
			req.Header.Set(h, "agents-own")
		}
		resp, err := f.client("n1", "a").Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(body)
	}
	for _, url := range []string{"https://api.test/v1/x", "http://localhost:8080/v1/x"} {
		status, body := send("GET", url)
		require.Equal(t, 200, status, "%s: %s", url, body)
		got := up.seen()[0]
		require.Equal(t, []string{"Bearer " + canary}, got.Header.Values("Authorization"))
		for name, values := range got.Header {
			require.NotContains(t, values, "agents-own", name)
		}
	}
	// Without a credential of its own a destination gets nobody's.
	status, body := send("GET", "https://open.test/")
	require.Equal(t, 200, status, "%s %+v", body, f.events(3))
	require.Empty(t, up.seen()[0].Header.Get("Authorization"))

	status, body = send("DELETE", "https://api.test/v1/admin")
	require.Equal(t, 502, status)
	require.Contains(t, body, string(plan.ReasonCredential))
	require.Empty(t, up.seen(), "a request without its credential is not forwarded")

	arrives := func(want string) {
		t.Helper()
		require.Eventually(t, func() bool {
			status, _ := send("GET", "https://api.test/v1/x")
			got := up.seen()
			return want == "" && status == 502 && len(got) == 0 || want != "" && status == 200 && got[0].Header.Get("Authorization") == "Bearer "+want
		}, 10*time.Second, 20*time.Millisecond, "the upstream gets %q", want)
	}
	f.secret("key", "rotated")
	arrives("rotated")
	require.NoError(t, os.Remove(path))
	arrives("")
	s, err := f.api.Status(t.Context())
	require.NoError(t, err)
	require.False(t, s.Credentials[0].OK)
	require.Contains(t, s.Credentials[0].Problem, "there is no file")
	require.Contains(t, s.Credentials[1].Problem, "POSTERN_TEST_NO_SUCH_VARIABLE")
	status, _ = send("GET", "https://open.test/")
	require.Equal(t, 200, status, "other routes keep working")
	f.secret("key", "line\nbreak: injected")
	require.Eventually(t, func() bool {
		s, err := f.api.Status(t.Context())
		return err == nil && strings.Contains(s.Credentials[0].Problem, "line break")
	}, 10*time.Second, 20*time.Millisecond)
	arrives("")
	f.secret("key", canary)
	arrives(canary)

	// The value is in no file but its own, and in no dump.
	require.NoError(t, os.Rename(path, path+"-moved"))
	require.NoError(t, filepath.WalkDir(f.home.Root, func(p string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || p == path+"-moved" {
			return err
		}
		b, err := os.ReadFile(p)
		require.NoError(t, err)
		require.NotContains(t, string(b), canary, p)
		return nil
	}))
	require.NotContains(t, f.admin("n1", "/config_dump"), canary)
	require.NotContains(t, f.admin("n1", "/stats"), canary)
}

// admin reads a page of a node's admin interface.
func (f *fleet) admin(nodeID, page string) string {
	f.t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(f.home.NodeDir(nodeID), "admin.sock"))
	}}}
	req, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, "http://admin"+page, nil)
	require.NoError(f.t, err)
	resp, err := c.Do(req)
	require.NoError(f.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(f.t, err)
	return string(b)
}

// TestPrivateAddresses: a name that resolves to a private or metadata address
// is refused after resolution, and only allowed names are ever asked for.
func TestPrivateAddresses(t *testing.T) {
	t.Parallel()
	addresses := map[string]string{
		"loopback.test.": "127.0.0.1", "metadata.test.": "169.254.169.254", "ten.test.": "10.1.2.3", "shared.test.": "100.100.100.200",
		"azure.test.": "168.63.129.16", "zero.test.": "0.0.0.0", "six.test.": "::1", "mapped.test.": "::ffff:127.0.0.1", "ula.test.": "fd00:ec2::254",
		"nat64.test.": "64:ff9b::7f00:1", "sixtofour.test.": "2002:7f00:1::1",
	}
	var mu sync.Mutex
	asked := map[string]bool{}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	started := make(chan struct{})
	server := &dns.Server{PacketConn: pc, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		name := q.Question[0].Name
		mu.Lock()
		asked[name] = true
		mu.Unlock()
		ip := net.ParseIP(addresses[name])
		h := dns.RR_Header{Name: name, Rrtype: q.Question[0].Qtype, Class: dns.ClassINET, Ttl: 1}
		mapped := strings.HasPrefix(addresses[name], "::ffff:")
		switch {
		case ip == nil:
			m.Rcode = dns.RcodeNameError
		case q.Question[0].Qtype == dns.TypeA && ip.To4() != nil && !mapped:
			m.Answer = append(m.Answer, &dns.A{Hdr: h, A: ip})
		case q.Question[0].Qtype == dns.TypeAAAA && (ip.To4() == nil || mapped):
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: h, AAAA: ip.To16()})
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = server.ActivateAndServe() }()
	<-started
	t.Cleanup(func() { _ = server.Shutdown() })

	f := newFleet(t, 1)
	p := &plan.Plan{Stack: "test", Resolvers: []string{pc.LocalAddr().String()}, Agents: []plan.Agent{{Name: "a"}}}
	for name := range addresses {
		host := strings.TrimSuffix(name, ".")
		p.Agents[0].Rules = append(p.Agents[0].Rules, plan.Rule{ID: "a/" + host, Host: host, Port: 443, Methods: []string{plan.AnyMethod}, Paths: []string{plan.AnyPath}})
	}
	f.mustPublish(p)
	n := 0
	for _, r := range p.Agents[0].Rules {
		resp, err := f.client("n1", "a").Get("https://" + r.Host + "/") //nolint:noctx // bounded by the client
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, 503, resp.StatusCode, r.Host)
		n++
		e := f.events(n)[n-1]
		require.Equal(t, audit.Deny, e.Verdict, "%+v", e)
		require.Equal(t, plan.ReasonAddress, e.Reason, "%+v", e)
		require.Equal(t, r.ID, e.Rule)
	}
	_, err = f.client("n1", "a").Get("https://evil.test/") //nolint:noctx,bodyclose // refused
	require.Error(t, err)
	f.events(n + 1)
	mu.Lock()
	defer mu.Unlock()
	for name := range asked {
		require.Contains(t, addresses, name, "a name outside the policy was looked up")
	}
}
