package dataplane

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
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
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/postern/postern/accesslog"
	"github.com/postern/postern/audit"
	"github.com/postern/postern/bundle"
	"github.com/postern/postern/envoy"
	"github.com/postern/postern/guard"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

// agent is an agent that makes one request, by bytes that most clients would not send.
type agent struct {
	t    *testing.T
	f    *fleet.Fleet
	name string

	mu    sync.Mutex
	conns []net.Conn
}

// dial connects to the agent's socket.
func (a *agent) dial() net.Conn {
	a.t.Helper()
	c, err := a.f.Dial("n1", a.name)(a.t.Context(), "", "")
	require.NoError(a.t, err)
	require.NoError(a.t, c.SetDeadline(time.Now().Add(time.Minute)))
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conns = append(a.conns, c)
	return c
}

// inside makes a CONNECT to the host, and TLS inside it.
func (a *agent) inside(host string, protocols ...string) net.Conn {
	a.t.Helper()
	c := a.dial()
	_, err := fmt.Fprintf(c, "CONNECT %s:443 HTTP/1.1\r\nHost: %s:443\r\n\r\n", host, host)
	require.NoError(a.t, err)
	head := bufio.NewReaderSize(c, 16)
	for line := ""; line != "\r\n"; {
		line, err = head.ReadString('\n')
		require.NoError(a.t, err)
	}
	require.Zero(a.t, head.Buffered())
	tc := tls.Client(c, &tls.Config{ServerName: host, RootCAs: a.f.CA.Pool(), NextProtos: protocols})
	require.NoError(a.t, tc.HandshakeContext(a.t.Context()))
	return tc
}

// ask sends a request and returns the whole answer, head and body.
func (a *agent) ask(c net.Conn, request string) string {
	a.t.Helper()
	_, _ = io.WriteString(c, strings.ReplaceAll(request, "\n", "\r\n"))
	var whole bytes.Buffer
	resp, err := http.ReadResponse(bufio.NewReader(io.TeeReader(c, &whole)), nil)
	if err != nil {
		return whole.String()
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	return whole.String()
}

// h2 sends the headers of one request by HTTP/2, and frames after it. It returns what came, until
// Envoy answers a ping, and why no more came. It asserts nothing, because the test may close the
// connection meanwhile.
func h2(c net.Conn, more func(*http2.Framer), headers ...string) string {
	f := http2.NewFramer(c, c)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for i := 0; i < len(headers); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: headers[i], Value: headers[i+1]})
	}
	_, err := io.WriteString(c, http2.ClientPreface)
	err = errors.Join(err, f.WriteSettings(), f.WriteHeaders(http2.HeadersFrameParam{
		StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: more == nil,
	}))
	if err != nil {
		return err.Error()
	}
	if more != nil {
		more(f)
	}
	said := ""
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return said + err.Error()
		}
		switch f := frame.(type) {
		case *http2.PingFrame: // the answer to ours: what came before it was read
			return said
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return said + frame.Header().String()
		case *http2.MetaHeadersFrame:
			said += f.PseudoValue("status") + " "
			if f.StreamEnded() {
				return said
			}
		case *http2.DataFrame:
			said += string(f.Data())
			if f.StreamEnded() {
				return said
			}
		}
	}
}

// hold sends a request that the upstream, or the DNS server, tells of on came, and does not answer.
func (a *agent) hold(c net.Conn, request string, came <-chan string) {
	a.t.Helper()
	_, err := io.WriteString(c, strings.ReplaceAll(request, "\n", "\r\n"))
	require.NoError(a.t, err)
	if came != nil {
		a.await(came)
	}
}

func (a *agent) await(came <-chan string) {
	a.t.Helper()
	select {
	case <-came:
	case <-time.After(time.Minute):
		require.Fail(a.t, "the request does not come as far as it should")
	}
}

// leave closes all connections.
func (a *agent) leave() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.conns {
		_ = c.Close()
	}
	return ""
}

func get(host string) string { return "GET /one HTTP/1.1\nHost: " + host + "\n\n" }

// head begins a request to one.test, for more headers.
const head = "GET /one HTTP/1.1\nHost: one.test\n"

// A cause is one way to have Envoy end a request.
type cause struct {
	// way is of the Details of a row, or "" if this is about none.
	way string
	run func(*agent) string
	// want is what the event says: verdict, reason, the rule without its agent, and status.
	want string
}

// cannot are the ways that this test does not cause, and why.
var cannot = map[string]string{
	guard.Unrecorded:      "such requests are counted, not logged: TestSupervisorHangs in tests/faults",
	guard.Full:            "a fourth of Envoy's memory: TestNeighbourUnread",
	guard.MadeUp:          "a thousand names at 20 a second: TestMadeUpNames",
	guard.Ended:           "the control plane is down at the end of a rule: TestRulesEndWithoutControlPlane",
	guard.Failed:          "the guard takes 128 headers, and Envoy refuses more than 100 before",
	"dns_cache_overflow":  "5,000 names below a wildcard need as many certificates, which are minted at 20 a second",
	"stream_idle_timeout": "an hour",
	"request_payload_exceeded_retry_buffer_limit": "a race of 16 MiB of a body against two retries",
}

// TestAnswers causes each row of the table with a real Envoy. The agent is told what the log
// is.
func TestAnswers(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := f.NewUpstream("one.test", "busy.test", "rate.test", "body.test", "s3.test", "narrow.test", "x.wild.test")
	// Who asks for a name, or of the rude upstream for a path, has the other end tell of it.
	var mu sync.Mutex
	waiting := map[string]chan string{}
	came := func(what string) chan string {
		mu.Lock()
		defer mu.Unlock()
		if waiting[what] == nil {
			waiting[what] = make(chan string, 10_000)
		}
		return waiting[what]
	}
	resolver := serveNames(t, map[string]string{"private.test.": "10.0.0.1", "tunnelled.test.": "10.0.0.1"}, came)
	rude := serveRudely(t, f, "rude.test", came)

	causes := []cause{
		{"via_upstream", func(a *agent) string { return a.ask(a.inside("one.test"), get("one.test")) }, "allow allowed one 200"},
		{"websocket_handshake_unsuccessful", func(a *agent) string {
			said := a.ask(a.inside("rude.test"),
				"GET /empty HTTP/1.1\nHost: rude.test\nUpgrade: websocket\nConnection: upgrade\n\n")
			require.Contains(a.t, said, `"reason":"allowed"`)
			require.Contains(a.t, said, "the destination did not accept the WebSocket")
			return said
		}, "allow allowed rude 200"},
		{"direct_response", func(a *agent) string {
			return a.ask(a.dial(), "CONNECT evil.test:443 HTTP/1.1\nHost: evil.test:443\n\n")
		}, "deny host_not_allowed default 403"},
		{"route_not_found", func(a *agent) string { return a.ask(a.inside("x.wild.test"), get("y.wild.test")) }, "deny name_mismatch default 403"},
		{"dns_resolution_failure{address_denied}", func(a *agent) string { return a.ask(a.inside("private.test"), get("private.test")) }, "deny address_not_allowed private 403"},
		{guard.Ambiguous, func(a *agent) string {
			return a.ask(a.inside("narrow.test"), "GET /v1/x HTTP/1.1\nHost: narrow.test\nX-HTTP-Method-Override: DELETE\n\n")
		}, "deny ambiguous_request default 403"},
		{"failed_to_inject_credential", func(a *agent) string { return a.ask(a.inside("lost.test"), get("lost.test")) }, "deny credential_unavailable lost 502"},
		{"local_rate_limited", func(a *agent) string {
			a.ask(a.inside("rate.test"), get("rate.test"))
			return a.ask(a.inside("rate.test"), get("rate.test"))
		}, "deny limit_exceeded rate 429"},
		{"upstream_reset_before_response_started{overflow}", func(a *agent) string {
			a.hold(a.inside("busy.test"), "POST / HTTP/1.1\nHost: busy.test\nContent-Length: 9\n\n", nil)
			require.Eventually(a.t, func() bool { return up.Open() > 0 }, time.Minute, time.Millisecond)
			return a.ask(a.inside("busy.test"), get("busy.test"))
		}, "deny limit_exceeded busy 429"},
		{"dynamic_forward_proxy_pending_request_overflow", func(a *agent) string { return a.manyNames() }, "deny limit_exceeded slow 429"},
		{"request_payload_too_large", func(a *agent) string {
			return a.ask(a.inside("body.test"), "POST / HTTP/1.1\nHost: body.test\nContent-Length: 11\n\n12345678901")
		}, "deny limit_exceeded body 413"},
		{"request_payload_too_large", func(a *agent) string { // after its beginning was sent on
			return a.ask(a.inside("body.test"), "POST / HTTP/1.1\nHost: body.test\nTransfer-Encoding: chunked\n\nb\n12345678901\n0\n\n")
		}, "deny limit_exceeded body 413"},
		{"upgrade_failed", func(a *agent) string {
			return a.ask(a.inside("one.test"), head+"Upgrade: foo\nConnection: upgrade\n\n")
		}, "deny malformed_request default 403"},
		{guard.SignedBody, func(a *agent) string {
			return a.ask(a.inside("s3.test"), "PUT / HTTP/1.1\nHost: s3.test\nContent-Length: 1\nX-Amz-Content-Sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD\n\n1")
		}, "deny malformed_request default 422"},
		{"missing_host_header", func(a *agent) string { return a.ask(a.inside("one.test"), "GET / HTTP/1.1\n\n") }, "deny malformed_request default 400"},
		{"http.", func(a *agent) string { return a.ask(a.dial(), "GET /x HTTP/1.1\nHost: localhost:8080\n b.test\n\n") }, "deny malformed_request default 400"},
		{"invalid_path", func(a *agent) string {
			return a.ask(a.inside("one.test"), "GET /one HTTP/1.1\nHost: one.test\nConnection: Upgrade\nUpgrade: connect-udp\n\n")
		}, "deny malformed_request default 404"},
		{"path_normalization_failed", func(a *agent) string { return a.ask(a.inside("one.test"), "GET /x#y HTTP/1.1\nHost: one.test\n\n") }, "deny malformed_request default 400"},
		{"absolute_path_rejected", func(a *agent) string { return a.ask(a.inside("one.test"), "OPTIONS * HTTP/1.1\nHost: one.test\n\n") }, "deny malformed_request default 404"},
		{"low_version", func(a *agent) string { return a.ask(a.inside("one.test"), "GET / HTTP/1.0\nHost: one.test\n\n") }, "deny malformed_request default 426"},
		{"request_header_timeout", func(a *agent) string { return a.ask(a.inside("one.test"), "GET / HTTP/1.1\nHost: one") }, "deny malformed_request default 408"},
		{"http1.", func(a *agent) string { return a.ask(a.dial(), "garbage\n\n") }, "deny malformed_request default 400"},
		{"http1.", func(a *agent) string {
			return a.ask(a.inside("one.test"), head+"A: "+strings.Repeat("a", 20<<10)+"\n\n")
		}, "deny malformed_request default 431"},
		{"http1.", func(a *agent) string { // 501, and still not the destination's
			return a.ask(a.inside("one.test"), "POST / HTTP/1.1\nHost: one.test\nTransfer-Encoding: foo\n\n0\n\n")
		}, "deny malformed_request default 501"},
		{"http1.", func(a *agent) string { // after its beginning was sent on
			return a.ask(a.inside("one.test"), "POST / HTTP/1.1\nHost: one.test\nTransfer-Encoding: chunked\n\n1\nx\nzz\n\n")
		}, "allow malformed_request one 400"},
		{"http2.", func(a *agent) string {
			return h2(a.inside("one.test", "h2"), nil, append(headers("one.test"), "a_b", "c")...)
		}, "deny malformed_request default 0"},
		{"dns_resolution_failure", func(a *agent) string { return a.ask(a.inside("nobody.test"), get("nobody.test")) }, "allow upstream_failed nobody 503"},
		{"upstream_reset_before_response_started", func(a *agent) string { return a.ask(a.inside("gone.test"), get("gone.test")) }, "allow upstream_failed gone 503"},
		{"upstream_reset_before_response_started", func(a *agent) string { // whoever is there is another
			return a.ask(a.inside("wrong.test"), get("wrong.test"))
		}, "allow upstream_failed wrong 503"},
		{"upstream_reset_before_response_started", func(a *agent) string {
			return a.ask(a.inside("rude.test"), "GET /garbage HTTP/1.1\nHost: rude.test\n\n")
		}, "allow upstream_failed rude 502"},
		{"upstream_reset_after_response_started", func(a *agent) string { return a.ask(a.inside("rude.test"), "GET /half HTTP/1.1\nHost: rude.test\n\n") }, "allow upstream_failed rude 200"},
		{"downstream_remote_disconnect", func(a *agent) string {
			a.hold(a.inside("rude.test"), "GET /hold-1 HTTP/1.1\nHost: rude.test\n\n", came("/hold-1"))
			return a.leave()
		}, "allow allowed rude 0"},
		{"downstream_remote_disconnect", func(a *agent) string {
			a.hold(a.inside("x.slow.test"), get("x.slow.test"), came("x.slow.test."))
			return a.leave()
		}, "error not_sent wild 0"},
		{"downstream_remote_disconnect", func(a *agent) string { // before the request was whole
			_, _ = io.WriteString(a.inside("one.test"), "GET / HTTP/1.1\r\nHost: o")
			return a.leave()
		}, "deny malformed_request default 0"},
		{"http2.remote_reset", func(a *agent) string {
			return h2(a.inside("rude.test", "h2"), func(f *http2.Framer) {
				a.await(came("/hold-2"))
				_ = f.WriteRSTStream(1, http2.ErrCodeCancel)
				_ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
				_ = f.WritePing(false, [8]byte{})
			}, headers("rude.test", "/hold-2")...)
		}, "allow allowed rude 0"},
		{"http2.remote_reset", func(a *agent) string {
			return h2(a.inside("y.slow.test", "h2"), func(f *http2.Framer) {
				a.await(came("y.slow.test."))
				_ = f.WriteRSTStream(1, http2.ErrCodeCancel)
				_ = f.WritePing(false, [8]byte{})
			}, headers("y.slow.test")...)
		}, "error not_sent wild 0"},
		{"http2.remote_refuse", func(a *agent) string {
			return h2(a.inside("z.slow.test", "h2"), func(f *http2.Framer) {
				a.await(came("z.slow.test."))
				_ = f.WriteRSTStream(1, http2.ErrCodeRefusedStream)
				_ = f.WritePing(false, [8]byte{})
			}, headers("z.slow.test")...)
		}, "error not_sent wild 0"},
		{"downstream_local_disconnect", func(a *agent) string {
			a.hold(a.dial(), "GET /hold-3 HTTP/1.1\nHost: localhost:8080\n\n", came("/hold-3"))
			_, err := f.Operator().Kill(a.t.Context(), bundle.Killed{Agents: []string{a.name}})
			require.NoError(a.t, err)
			return ""
		}, "allow allowed rude 0"},
		// What has no row.
		{"", func(a *agent) string { return a.tunnel("tunnelled.test") }, "error upstream_failed tunnelled 0"},
		{"", func(a *agent) string { return a.tunnel("lost-tunnel.test") }, "allow upstream_failed lost-tunnel 0"},
	}
	p := &plan.Plan{Stack: "test", Resolvers: []string{resolver}, Credentials: []plan.Credential{
		{Name: "lost", Kind: plan.KindHeader, Header: "x-api-key", Secret: "env://POSTERN_TEST_NO_SUCH_VARIABLE"},
		{Name: "sign", Kind: plan.KindAWSSigV4, Service: "s3", Region: "eu-west-1", Secret: "file://" + f.Secret("aws", `{"access_key_id":"AKIDEXAMPLE","secret_access_key":"secret"}`)},
	}}
	gone := &plan.Upstream{Address: "unix:" + filepath.Join(f.Home.Root, "nobody.sock")}
	for i := range causes {
		agent := plan.Agent{Name: fmt.Sprintf("r%d", i)}
		add := func(host string, pin *plan.Upstream, change func(*plan.Rule)) {
			r := plan.Rule{ID: agent.Name + "/" + strings.TrimSuffix(host, ".test"), Host: host, Port: 443, Methods: []string{plan.AnyMethod}, Paths: []string{plan.AnyPath}, Upstream: pin}
			if change != nil {
				change(&r)
			}
			agent.Rules = append(agent.Rules, r)
		}
		tunnel := func(r *plan.Rule) { r.Mode, r.Methods, r.Paths = plan.ModeTunnel, nil, nil }
		add("one.test", up.Pin(), nil)
		add("wrong.test", up.Pin(), nil)
		add("private.test", nil, nil)
		add("slow.test", nil, nil)
		add("nobody.test", nil, nil)
		add("gone.test", gone, nil)
		add("*.slow.test", nil, func(r *plan.Rule) { r.ID = agent.Name + "/wild" })
		add("*.wild.test", up.Pin(), func(r *plan.Rule) { r.ID = agent.Name + "/wilder" })
		add("rude.test", rude, func(r *plan.Rule) { r.Gateway = 8080 })
		add("busy.test", up.Pin(), func(r *plan.Rule) { r.Limits = &plan.Limits{Concurrent: 1} })
		add("rate.test", up.Pin(), func(r *plan.Rule) { r.Limits = &plan.Limits{Requests: 1, Per: 3600} })
		add("body.test", up.Pin(), func(r *plan.Rule) { r.Limits = &plan.Limits{Body: 10} })
		add("s3.test", up.Pin(), func(r *plan.Rule) { r.Credential = "sign" })
		add("lost.test", up.Pin(), func(r *plan.Rule) { r.Credential = "lost" })
		add("narrow.test", up.Pin(), func(r *plan.Rule) { r.Paths = []string{"/v1/*"} })
		add("tunnelled.test", nil, tunnel)
		add("lost-tunnel.test", gone, tunnel)
		p.Agents = append(p.Agents, agent)
	}
	f.MustPublishLarge(p)

	caused := map[string]bool{}
	for i, c := range causes {
		caused[c.way] = true
		t.Run(fmt.Sprintf("%s %s", c.way, c.want), func(t *testing.T) {
			t.Parallel()
			a := &agent{t: t, f: f, name: fmt.Sprintf("r%d", i)}
			said := c.run(a)
			a.leave()
			var e audit.Event
			require.Eventually(t, func() bool {
				events, err := audit.Read(f.Home.AuditDir(), audit.Filter{Agent: a.name})
				require.NoError(t, err)
				for _, one := range events {
					if e = one; e.Over() && fmt.Sprintf("%s %s %s %d", e.Verdict, e.Reason, strings.TrimPrefix(e.Rule, a.name+"/"), e.Status) == c.want {
						return true
					}
				}
				return false
			}, time.Minute, 10*time.Millisecond, "the last event is %+v, and the answer %q", &e, said)
			if e.Detail != "" && e.Reason != plan.ReasonName {
				require.Contains(t, e.Detail, c.way)
			}
			answer := accesslog.AnswerTo(c.way)
			if _, body, ok := strings.Cut(said, "\r\n\r\n"); ok && answer.Replies() && strings.HasPrefix(body, "{") {
				var told struct{ Reason, Rule, Error, Agent string }
				require.NoError(t, json.Unmarshal([]byte(body), &told), body)
				if e.Verdict == audit.Allow && e.Reason == plan.ReasonMalformed {
					e.Rule = plan.DefaultRule(a.name) // Envoy does not look whether an upstream was tried
				}
				require.Equal(t, []string{string(e.Reason), e.Rule, a.name}, []string{told.Reason, told.Rule, told.Agent})
				require.NotEmpty(t, told.Error)
				if answer.Message != "" {
					require.Equal(t, answer.Message, told.Error)
				}
			}
		})
	}
	for _, row := range accesslog.Answers {
		for _, way := range row.Details {
			require.NotEqual(t, caused[way], cannot[way] != "", "%s is caused, or is among those that cannot be", way)
		}
	}
}

// TestUnknownAnswer: what Envoy itself answers for a reason that the table does not know is an error, here that the node
// has no descriptors left.
func TestUnknownAnswer(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := f.NewUpstream("one.test")
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{{
		ID: "a/one", Host: "one.test", Port: 443, Methods: []string{plan.AnyMethod}, Paths: []string{plan.AnyPath}, Upstream: up.Pin(), Gateway: 8080,
	}}}}})
	a := &agent{t: t, f: f, name: "a"}
	defer a.leave()
	path := filepath.Join(f.Home.NodeDir("n1"), envoy.PressurePath)
	press := func(part string) {
		require.NoError(t, os.WriteFile(path+".test", []byte(part), 0o600))
		require.NoError(t, os.Rename(path+".test", path))
	}
	const request = "GET / HTTP/1.1\nHost: localhost:8080\n\n"
	said, until := "", time.Now().Add(time.Minute)
	// Under pressure Envoy accepts no connection and closes an idle connection. So a request begins before.
	for !strings.Contains(said, " 503 ") {
		require.True(t, time.Now().Before(until), "the last answer is %q", said)
		c := a.dial()
		if said = a.ask(c, request); !strings.Contains(said, " 200 ") {
			continue // the pressure before has not ended yet
		}
		_, err := io.WriteString(c, request[:10])
		require.NoError(t, err)
		// The node's supervisor writes the file as well, when a descriptor is opened or closed.
		require.Eventually(t, func() bool {
			press("0.76")
			return strings.Contains(f.Admin("n1", "/stats?filter=stop_accepting_requests.active"), ": 1")
		}, time.Minute, envoy.PressureInterval)
		said = a.ask(c, request[10:])
		press("0")
	}
	require.Contains(t, said, `"reason":"proxy_error"`)
	require.Contains(t, said, `"error":"the request failed at the proxy"`)
	require.Eventually(t, func() bool {
		events, err := audit.Read(f.Home.AuditDir(), audit.Filter{Denied: true})
		require.NoError(t, err)
		return slices.ContainsFunc(events, func(e audit.Event) bool {
			return e.Verdict == audit.Error && e.Reason == plan.ReasonUnknown && e.Detail == "overload" && e.Status == 503
		})
	}, time.Minute, 10*time.Millisecond)
}

// headers are those of a request by HTTP/2.
func headers(host string, path ...string) []string {
	return []string{":method", "POST", ":scheme", "https", ":authority", host, ":path", append(path, "/")[0]}
}

// manyNames makes more requests wait for a name than may, and returns the first answer.
func (a *agent) manyNames() string {
	said := make(chan string, 4)
	for range 4 {
		c := a.inside("slow.test", "h2")
		go func() {
			said <- h2(c, func(f *http2.Framer) {
				for i := range 98 {
					var block bytes.Buffer
					e := hpack.NewEncoder(&block)
					for _, h := range []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: "slow.test"}, {Name: ":path", Value: "/"}} {
						_ = e.WriteField(h)
					}
					_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(3 + 2*i), BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
				}
			}, headers("slow.test")...)
		}()
	}
	return <-said
}

// tunnel makes a CONNECT to the host, and asks for TLS inside it.
func (a *agent) tunnel(host string) string {
	c := a.dial()
	_, err := fmt.Fprintf(c, "CONNECT %s:443 HTTP/1.1\r\nHost: %s:443\r\n\r\n", host, host)
	require.NoError(a.t, err)
	b := make([]byte, 1<<10)
	n, err := c.Read(b)
	require.NoError(a.t, err)
	require.Contains(a.t, string(b[:n]), " 200 ")
	require.Error(a.t, tls.Client(c, &tls.Config{ServerName: host, RootCAs: a.f.CA.Pool()}).HandshakeContext(a.t.Context()))
	return ""
}

// serveNames is a DNS server. It does not answer for what is below slow.test, and tells of it on came.
func serveNames(t *testing.T, addresses map[string]string, came func(string) chan string) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	server := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m, name := new(dns.Msg).SetReply(q), q.Question[0].Name
		if strings.HasSuffix(name, "slow.test.") {
			came(name) <- name
			return
		}
		ip, ok := addresses[name]
		if !ok {
			m.Rcode = dns.RcodeNameError
		} else if q.Question[0].Qtype == dns.TypeA {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.ParseIP(ip)})
		}
		_ = w.WriteMsg(m)
	})}
	started := make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	go func() { _ = server.ActivateAndServe() }()
	<-started
	t.Cleanup(func() { _ = server.Shutdown() })
	return pc.LocalAddr().String()
}

// serveRudely is an upstream that does what the path says. It tells of what it does not answer on came.
func serveRudely(t *testing.T, f *fleet.Fleet, host string, came func(string) chan string) *plan.Upstream {
	t.Helper()
	path := filepath.Join(f.Home.Root, "rude.sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	certificate := f.UpstreamCA.Issue(t, host)
	answer := func(c net.Conn) {
		defer c.Close()
		tc := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{certificate}})
		r, err := http.ReadRequest(bufio.NewReader(tc))
		if err != nil {
			return
		}
		switch r.URL.Path {
		case "/garbage":
			_, _ = io.WriteString(tc, "not HTTP\r\n\r\n")
		case "/half":
			_, _ = io.WriteString(tc, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
		case "/empty":
			_, _ = io.WriteString(tc, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		default:
			came(r.URL.Path) <- r.URL.Path
			_, _ = io.Copy(io.Discard, tc)
		}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go answer(c)
		}
	}()
	return &plan.Upstream{Address: "unix:" + path, CA: string(f.UpstreamCA.PEM)}
}
