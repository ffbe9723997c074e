package dataplane

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

// policy is a plan with something of everything, served by up.
func policy(up *fleet.Upstream) *plan.Plan {
	rule := func(id, host string, port uint16, methods, paths []string) plan.Rule {
		return plan.Rule{ID: id, Host: host, Port: port, Methods: methods, Paths: paths, Upstream: up.Pin()}
	}
	any := []string{plan.AnyMethod}
	denies := func(r plan.Rule) plan.Rule {
		r.Deny, r.Upstream = true, nil
		return r
	}
	conditional := rule("a/git", "git.test", 443, []string{"GET"}, []string{"/r/info/refs"})
	conditional.Query = []plan.Condition{{Name: "service", Value: "git-upload-pack"}}
	conditional.Headers = []plan.Condition{{Name: "x-a", Value: "1"}, {Name: "x-b", Present: true}}
	forced := denies(rule("a/no-force", "git.test", 443, any, []string{plan.AnyPath}))
	forced.Query = []plan.Condition{{Name: "force", Value: "1"}}
	forced.Headers = []plan.Condition{{Name: "x-b", Value: "deny"}}
	gateway := rule("a/api", "api.test", 443, []string{"GET", "POST"}, []string{"/v1/*", "/v1/files/**"})
	gateway.Gateway = 8080
	return &plan.Plan{Stack: "test", Agents: []plan.Agent{
		{Name: "a", Rules: []plan.Rule{
			gateway,
			rule("a/api-admin", "api.test", 443, []string{"DELETE"}, []string{"/v1/admin"}),
			rule("a/open", "open.test", 443, []string{plan.AnyMethod}, []string{plan.AnyPath}),
			rule("a/port", "api.test", 8443, []string{"GET"}, []string{plan.AnyPath}),
			rule("a/wild", "*.wild.test", 443, []string{"GET", "POST"}, []string{plan.AnyPath}),
			rule("a/wilder", "*.b.wild.test", 443, []string{"PUT"}, []string{plan.AnyPath}),
			rule("a/exact", "x.wild.test", 443, []string{"DELETE"}, []string{"/v1/*"}),
			denies(rule("a/no-admin", "*.wild.test", 443, any, []string{"/v1/admin"})),
			denies(rule("a/no-one", "no.wild.test", 443, any, []string{plan.AnyPath})),
			denies(rule("a/no-put", "open.test", 443, []string{"PUT"}, []string{plan.AnyPath})),
			denies(rule("a/no-files", "api.test", 443, any, []string{"/v1/files/a/b"})),
			conditional, forced,
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
	f := fleet.New(t, 1)
	up := f.NewUpstream("api.test", "open.test", "git.test", "*.wild.test", "*.b.wild.test")
	p := policy(up)
	f.MustPublish(p)
	events := 0
	rapid.Check(t, func(rt *rapid.T) {
		r := plan.Request{
			Agent:  rapid.SampledFrom([]string{"a", "b", "nobody"}).Draw(rt, "agent"),
			Scheme: "https",
			Host: rapid.SampledFrom([]string{
				"api.test", "open.test", "API.test", "evil.test", "api.test.evil.test", "192.0.2.1", "a.wild.test",
				"a.b.wild.test", "b.wild.test",
				"x.wild.test", "wild.test", "no.wild.test", "git.test",
			}).Draw(rt, "host"),
			Port: rapid.SampledFrom([]uint16{443, 443, 443, 8443, 80}).Draw(rt, "port"),
			Method: rapid.SampledFrom([]string{
				"GET", "POST", "DELETE", "PUT", "put", "HEAD", "TRACE", "PROPFIND",
			}).Draw(rt, "method"),
			Path: rapid.SampledFrom([]string{
				"/v1/x", "/v1/", "/v1", "/v1/x/y", "/v1/files/a/b", "/v1/files/", "/v1/files", "/v1/admin", "/b/c",
				"/v1/../v1/x", "/b/../v1/x", "/v1//x",
				"/v1/%2e%2e/secret", "/v1/a%2fb", "/v1/a%5Cb", "/v1/files/..%2f..%2fsecret", "/V1/x", "/v1/x;y=1",
				"/%76%31/x", "/",
				"/v1/admin;x", "/v1%2fadmin", "/V1/ADMIN/", "/;/v1/admin", "/x/..%2fv1/admin", "/v1/files%2Fa/b",
				"/v1/files/a;x/b", "/@scope%2fname",
				"/v1/%252e%252e", "/v1/files/%c0%ae%c0%ae/x", "/v1/files/..%ef%bc%8f", "/v1/files/%0d", "/v1/(S(x))",
				"/v1/files/caf%C3%A9",
			}).Draw(rt, "path"),
		}
		if r.Host == "git.test" {
			r.Path = "/r/info/refs"
			r.Query = rapid.SampledFrom([]string{
				"service=git-upload-pack", "service=git-receive-pack",
				"service=git-upload-pack&service=git-receive-pack", "", "service", "a=1&service=git%2dupload-pack&b",
				"service=git-upload-pack&%73ervice=git-receive-pack", "Service=git-upload-pack",
				"aservice=git-upload-pack", "service=git-upload-packs",
				"service=git-upload-pack&force=1", "service=git-upload-pack&force=2&force=1",
				"service=git-upload-pack&force=1&f%6frce=2",
				"service=git-upload-pack&force[]=1", "service=git-upload-pack&x;force=1",
				"service=git-upload-pack&FORCE=+1", "service=git-upload-pack&x=\xff&force=1",
				"service=git-upload-pack&x=\xff",
				"service=git-upload-pack;service=git-receive-pack",
				"service=git-upload-pack&service[]=git-receive-pack",
				"service=git-upload-pack&[service=git-receive-pack",
				"service=git-upload-pack&+service=git-receive-pack", "service=git-upload-pack&service%00=x",
				"service=git-upload-pack&ser%2576ice=x", "service=git-upload-pack&_method=PUT",
			}).Draw(rt, "query")
			r.Header = map[string][]string{
				"x-a": rapid.SampledFrom([][]string{
					{"1"}, {"1"}, {"2"}, {"1", "1"}, {"1", "2"}, {"11"}, {""}, {"1,1"}, nil,
				}).Draw(rt, "x-a"),
				"x-b": rapid.SampledFrom([][]string{
					{"1"}, {"", "x"}, {"deny"}, {"x", "deny"}, {"x,Deny"}, {"\xff"}, {"\xff;deny"}, nil,
				}).Draw(rt, "x-b"),
			}
		}
		switch rapid.IntRange(0, 5).Draw(rt, "way") {
		case 0:
			r.Scheme, r.Host, r.Port = "http",
				rapid.SampledFrom([]string{"localhost", "127.0.0.1", "api.test", "evil.test"}).Draw(rt, "host"),
				rapid.SampledFrom([]uint16{8080, 8081}).Draw(rt, "port")
			// These are malformed over HTTP/1.
			r.Query, r.Method = strings.ReplaceAll(r.Query, "\xff", ""), strings.ToUpper(r.Method)
		case 1:
			r.Authority = rapid.SampledFrom([]string{
				"api.test", "open.test", "evil.test", "api.test:8443", "api.test:443", "a.wild.test", "b.wild.test:443",
			}).Draw(rt, "authority")
		}
		want := p.Decide(r)
		got, _ := f.Do("n1", r)
		reached := up.Seen()
		events++
		e := f.Events(events)[events-1]
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
	require.Len(t, f.Events(events), events, "one event for each decision")
	for i, e := range f.Events(events) {
		require.Equal(t, uint64(i+1), e.Seq)
	}
}

// TestDenialIsReadable: JSON for programs, plain text for who asks for text.
func TestDenialIsReadable(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	f.MustPublish(policy(f.NewUpstream("api.test")))
	for accept, want := range map[string]string{
		"": `{"agent":"a","error":"denied by policy","hint":"an operator can allow it: postern allow HOST --agent a --stack=test --method METHOD --path PATH",` +
			`"reason":"path_not_allowed","request":"GET api.test","rule":"a/default"}` + "\n",
		"text/html,*/*;q=0.8": "denied by policy: GET api.test\nagent: a\nreason: path_not_allowed\nrule: a/default\n" +
			"hint: an operator can allow it: postern allow HOST --agent a --stack=test --method METHOD --path PATH\n",
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://api.test/<script>", nil)
		require.NoError(t, err)
		req.Header.Set("Accept", accept)
		resp, err := f.Client("n1", "a").Do(req)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 403, resp.StatusCode)
		require.Equal(t, want, string(body))
	}
}

// TestFailureIsReadable: what is not a denial has a reason as well, the log's.
func TestFailureIsReadable(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	p := policy(f.NewUpstream("api.test"))
	p.Agents[0].Rules[2].Upstream = &plan.Upstream{Address: "unix:" + filepath.Join(f.Home.Root, "nobody.sock")}
	f.MustPublish(p)
	const hint = `"hint":"an operator sees why with: postern audit --agent a --stack=test"`
	ask := func(url string, header http.Header) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		require.NoError(t, err)
		req.Header = header
		resp, err := f.Client("n1", "a").Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp, string(body)
	}
	resp, body := ask("https://open.test/", http.Header{})
	require.Equal(t, 503, resp.StatusCode)
	require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
	for _, part := range []string{
		`"error":"the destination cannot be reached, or its certificate does not verify"`, `"reason":"upstream_failed"`,
		`"rule":"a/open"`, `"agent":"a"`, hint,
	} {
		require.Contains(t, body, part)
	}
	// Not where it is, nor who is there instead.
	for _, as := range []string{"application/json", "text/plain"} {
		for _, url := range []string{"https://open.test/", "https://x.wild.test/"} {
			resp, body := ask(url, http.Header{"Accept": {as}})
			require.Equal(t, 503, resp.StatusCode)
			for _, part := range []string{
				"nobody.sock", "api.test", "SAN", "TLS_error", "delayed", "upstream_reset", "remote",
			} {
				require.NotContains(t, body, part, url)
			}
		}
	}
	resp, body = ask("https://open.test/", http.Header{"Accept": {"text/plain"}})
	require.Equal(t, 503, resp.StatusCode)
	require.Equal(t, "text/plain; charset=utf-8", resp.Header.Get("Content-Type"))
	require.Contains(t, body, "\nreason: upstream_failed\nrule: a/open\n")
	// More than Envoy reads of a header.
	resp, body = ask("http://localhost:8080/v1/x", http.Header{"X-Long": {strings.Repeat("x", 100<<10)}})
	require.Equal(t, 431, resp.StatusCode)
	for _, part := range []string{
		`"error":"the request is malformed or too large"`, `"reason":"malformed_request"`, `"rule":"a/default"`,
		`"agent":"a"`, hint,
	} {
		require.Contains(t, body, part)
	}
	// What is no HTTP.
	conn, err := f.Dial("n1", "a")(t.Context(), "", "")
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET http://api.test/ HTTP/1.1\r\nHost : x\r\n\r\n")
	require.NoError(t, err)
	raw, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Regexp(t, `^HTTP/1.1 400 Bad Request\r\n`, string(raw))
	require.Contains(t, string(raw), `"reason":"malformed_request"`)
	for i, want := range slices.Concat(slices.Repeat([]plan.Reason{plan.ReasonUpstream}, 6),
		slices.Repeat([]plan.Reason{plan.ReasonMalformed}, 2)) {
		require.Equal(t, want, f.Events(8)[i].Reason)
	}
}

// TestConcurrentTunnels: agents and destinations that are connected at the same
// time never share what Envoy knows of each other's connection.
func TestConcurrentTunnels(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := f.NewUpstream("api.test", "open.test")
	p := policy(up)
	p.Credentials = []plan.Credential{
		{Name: "a", Kind: "header", Header: "x-api-key", Secret: "file://" + f.Secret("a", "key-of-a")},
		{Name: "b", Kind: "header", Header: "x-api-key", Secret: "file://" + f.Secret("b", "key-of-b")},
	}
	p.Agents[0].Rules[2].Credential = "a"
	p.Agents[1].Rules[0].Credential = "b"
	f.MustPublish(p)
	// Every client keeps its tunnel open until the end.
	for i := range 30 {
		agent := []string{"a", "b"}[i%2]
		resp, err := f.Client("n1", agent).Get("https://open.test/b/x")
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, 200, resp.StatusCode)
		require.Equal(t, "key-of-"+agent, up.Seen()[0].Header.Get("X-Api-Key"))
		if agent == "a" {
			got, _ := f.Do("n1", plan.Request{
				Agent: "a", Scheme: "https", Host: "api.test", Port: 443, Method: "GET", Path: "/v1/x",
			})
			require.Equal(t, 200, got.Status)
			up.Seen()
		}
	}
	for _, e := range f.Events(45) {
		require.Equal(t, strings.SplitN(e.Rule, "/", 2)[0], e.Agent)
	}
}

// TestServerName: the name in the TLS handshake must be the CONNECT's, and a
// certificate exists for allowed names only.
func TestServerName(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := f.NewUpstream("api.test", "open.test")
	p := policy(up)
	p.Credentials = []plan.Credential{{Name: "key", Kind: "header", Header: "x-api-key", Secret: "file://" +
		f.Secret("key", "s3cr3t")}}
	p.Agents[0].Rules[0].Credential = "key"
	of := p.Agents[1].Rules[0]
	of.ID, of.Host = "b/only", "only-b.test"
	p.Agents[1].Rules = append(p.Agents[1].Rules, of)
	f.MustPublish(p)

	// Whether there is a certificate for a host would tell that an agent is allowed it.
	// "\x00" cannot be sent: crypto/tls and BoringSSL refuse it. These can.
	for _, name := range []string{
		"open.test", "only-b.test", "x.wild.test", "evil.test", "API.test", "credential", "credential/key",
		"no-server-name.invalid", strings.Repeat("a", 63) + ".test",
	} {
		conn, err := f.Dial("n1", "a")(t.Context(), "", "")
		require.NoError(t, err)
		_, err = io.WriteString(conn, "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n")
		require.NoError(t, err)
		head := make([]byte, 12)
		_, err = io.ReadFull(conn, head)
		require.NoError(t, err)
		require.Equal(t, "HTTP/1.1 200", string(head))
		require.NoError(t, discardHead(conn))
		tc := tls.Client(conn, &tls.Config{ServerName: name, InsecureSkipVerify: true}) //nolint:gosec // as above
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		require.Error(t, tc.HandshakeContext(ctx), "a certificate for %q", name)
		require.NoError(t, ctx.Err(), "the handshake for %q hangs", name)
		cancel()
		conn.Close()
	}
	require.Empty(t, up.Seen())
	for _, e := range f.Events(9) {
		require.Equal(t, audit.Deny, e.Verdict)
		require.Contains(t, []plan.Reason{plan.ReasonName, plan.ReasonTLS}, e.Reason)
	}
	// The fleet still works, and the credential was not touched.
	ok, _ := f.Do("n1", plan.Request{
		Agent: "a", Scheme: "https", Host: "api.test", Port: 443, Method: "GET", Path: "/v1/x",
	})
	require.Equal(t, 200, ok.Status)
	require.Equal(t, "s3cr3t", up.Seen()[0].Header.Get("X-Api-Key"))
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

// TestCredential: the agent's own keys never arrive, ours does, a rotation
// reaches the node, and a lost secret fails its route closed and no other.
func TestCredential(t *testing.T) {
	t.Parallel()
	const canary = "s3cr3t-canary-1"
	f := fleet.New(t, 1)
	up := f.NewUpstream("api.test", "open.test")
	p := policy(up)
	path := f.Secret("key", canary+"\n")
	p.Credentials = []plan.Credential{
		{Name: "key", Kind: "header", Header: "authorization", Prefix: "Bearer ", Secret: "file://" + path},
		{Name: "lost", Kind: "header", Header: "x-api-key", Secret: "env://POSTERN_TEST_NO_SUCH_VARIABLE"},
	}
	p.Agents[0].Rules[0].Credential = "key"
	p.Agents[0].Rules[1].Credential = "lost"
	f.MustPublish(p)

	send := func(method, url string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
		require.NoError(t, err)
		for _, h := range []string{
			"Authorization", "X-Api-Key", "Api-Key", "X-Goog-Api-Key", "Cookie", "Proxy-Authorization",
			"X-Postern-Scope", "X-Envoy-Original-Path", "X-Forwarded-For",
		} {
			req.Header.Set(h, "agents-own")
		}
		resp, err := f.Client("n1", "a").Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(body)
	}
	for _, url := range []string{"https://api.test/v1/x", "http://localhost:8080/v1/x"} {
		status, body := send("GET", url)
		require.Equal(t, 200, status, "%s: %s", url, body)
		got := up.Seen()[0]
		require.Equal(t, []string{"Bearer " + canary}, got.Header.Values("Authorization"))
		for name, values := range got.Header {
			require.NotContains(t, values, "agents-own", name)
		}
	}
	// Without a credential of its own a destination gets nobody's.
	status, body := send("GET", "https://open.test/")
	require.Equal(t, 200, status, "%s %+v", body, f.Events(3))
	require.Empty(t, up.Seen()[0].Header.Get("Authorization"))

	status, body = send("DELETE", "https://api.test/v1/admin")
	require.Equal(t, 502, status)
	require.Contains(t, body, string(plan.ReasonCredential))
	require.Empty(t, up.Seen(), "a request without its credential is not forwarded")

	arrives := func(want string) {
		t.Helper()
		require.Eventually(t, func() bool {
			status, _ := send("GET", "https://api.test/v1/x")
			got := up.Seen()
			return want == "" && status == 502 && len(got) == 0 || want != "" && status == 200 &&
				got[0].Header.Get("Authorization") == "Bearer "+want
		}, time.Minute, 20*time.Millisecond, "the upstream gets %q", want)
	}
	f.Secret("key", "rotated")
	arrives("rotated")
	require.NoError(t, os.Remove(path))
	arrives("")
	s, err := f.API.Status(t.Context())
	require.NoError(t, err)
	require.False(t, s.Credentials[0].OK)
	require.Contains(t, s.Credentials[0].Problem, "there is no file")
	require.Contains(t, s.Credentials[1].Problem, "POSTERN_TEST_NO_SUCH_VARIABLE")
	status, _ = send("GET", "https://open.test/")
	require.Equal(t, 200, status, "other routes keep working")
	f.Secret("key", "line\nbreak: injected")
	require.Eventually(t, func() bool {
		s, err := f.API.Status(t.Context())
		return err == nil && strings.Contains(s.Credentials[0].Problem, "line break")
	}, time.Minute, 20*time.Millisecond)
	arrives("")
	f.Secret("key", canary)
	arrives(canary)

	// The value is in no file but its own, and in no dump.
	require.NoError(t, os.Rename(path, path+"-moved"))
	require.NoError(t, filepath.WalkDir(f.Home.Root, func(p string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || p == path+"-moved" {
			return err
		}
		b, err := os.ReadFile(p)
		require.NoError(t, err)
		require.NotContains(t, string(b), canary, p)
		return nil
	}))
	require.NotContains(t, f.Admin("n1", "/config_dump"), canary)
	require.NotContains(t, f.Admin("n1", "/stats"), canary)
}

// TestPrivateAddresses: a name that resolves to a private or metadata address
// is refused after resolution, and only allowed names are ever asked for.
func TestPrivateAddresses(t *testing.T) {
	t.Parallel()
	addresses := map[string]string{
		"loopback.test.": "127.0.0.1", "metadata.test.": "169.254.169.254", "ten.test.": "10.1.2.3",
		"shared.test.": "100.100.100.200",
		"azure.test.":  "168.63.129.16", "zero.test.": "0.0.0.0", "six.test.": "::1", "mapped.test.": "::ffff:127.0.0.1",
		"ula.test.":   "fd00:ec2::254",
		"nat64.test.": "64:ff9b::7f00:1", "sixtofour.test.": "2002:7f00:1::1",
	}
	var mu sync.Mutex
	asked := map[string]bool{}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	started := make(chan struct{})
	server := &dns.Server{
		PacketConn: pc, NotifyStartedFunc: func() { close(started) },
		Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
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
		}),
	}
	go func() { _ = server.ActivateAndServe() }()
	<-started
	t.Cleanup(func() { _ = server.Shutdown() })

	f := fleet.New(t, 1)
	p := &plan.Plan{Stack: "test", Resolvers: []string{pc.LocalAddr().String()}, Agents: []plan.Agent{{Name: "a"}}}
	for name := range addresses {
		host := strings.TrimSuffix(name, ".")
		p.Agents[0].Rules = append(p.Agents[0].Rules,
			plan.Rule{
				ID: "a/" + host, Host: host, Port: 443, Methods: []string{plan.AnyMethod},
				Paths: []string{plan.AnyPath},
			})
	}
	f.MustPublish(p)
	n := 0
	for _, r := range p.Agents[0].Rules {
		resp, err := f.Client("n1", "a").Get("https://" + r.Host + "/")
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, 403, resp.StatusCode, r.Host)
		require.JSONEq(t, `{"agent":"a","error":"denied by policy","reason":"address_not_allowed","request":"GET `+r.Host+`","rule":"`+r.ID+`",`+
			`"hint":"its address is private or a metadata address; an operator can name the destination's address with upstream: in the stack file"}`, string(body))
		n++
		e := f.Events(n)[n-1]
		require.Equal(t, audit.Deny, e.Verdict, "%+v", e)
		require.Equal(t, plan.ReasonAddress, e.Reason, "%+v", e)
		require.Equal(t, r.ID, e.Rule)
	}
	_, err = f.Client("n1", "a").Get("https://evil.test/") //nolint:bodyclose // refused
	require.Error(t, err)
	f.Events(n + 1)
	mu.Lock()
	defer mu.Unlock()
	for name := range asked {
		require.Contains(t, addresses, name, "a name outside the policy was looked up")
	}
}
