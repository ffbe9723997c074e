package attack

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/plan"
)

// Way is a way in to the data plane.
type Way string

// The ways in.
const (
	// Explicit is a forward proxy: CONNECT for TLS.
	Explicit Way = "explicit"
	// Captured is the sandbox's transparent capture: the client knows nothing.
	Captured Way = "captured"
	// Socket is the agent's Unix socket, with bytes that no client sends.
	Socket Way = "socket"
	// Gateway is plain HTTP to a gateway's port in the sandbox.
	Gateway Way = "gateway"
	// Balancer is the agent's TCP port, behind a load balancer that says who
	// connects (PROXY protocol, version 2), with bytes as by Socket.
	Balancer Way = "balancer"
	// Inside is the sandbox itself: what the agent's programs can try there.
	Inside Way = "inside"
	// Operator is what an operator writes: the stack file and what follows.
	Operator Way = "operator"
)

// Case is one attack.
type Case struct {
	// ID is that of rivals.md, section 2.2.
	ID, What string
	Ways     []Way
	// Rules, if set, are the agent's instead of the usual ones; the argument
	// is the agent's name and the suffix of its hosts.
	Rules func(s string) []plan.Rule
	// Twin says that another agent, the seat's twin, has the same rules: the two share routes.
	Twin bool
	// Zone, if set, says where names are; see world.zone.
	Zone func(s string) map[string][][]string
	Run  func(s *seat)
	// Known, if set, is why the attack succeeds today. It is reported as
	// FAILED; the suite fails once it no longer succeeds.
	Known string
}

// seat is an agent of its own that one case attacks from, by one way in.
// Its methods stop the case when something fails that has to work.
type seat struct {
	*Case
	*arena
	way  Way
	name string

	sandboxed *sandboxed
	conns     []net.Conn

	mu   sync.Mutex
	read bytes.Buffer

	wanted  []string
	reached int
	// quiet: the number of events is not known beforehand.
	quiet bool
	// any: the number of requests that arrive is not known either.
	any bool
	// framed: of the requests in what is malformed none is the smuggled one, however many arrive.
	framed bool
	// lookedUp: a name may be asked for although nothing arrives.
	lookedUp bool
	failures []string
	took     time.Duration
}

// Errorf implements require.TestingT.
func (s *seat) Errorf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = append(s.failures, strings.TrimSpace(fmt.Sprintf(format, args...)))
}

// FailNow implements require.TestingT.
func (s *seat) FailNow() { runtime.Goexit() }

// Helper is for require.
func (s *seat) Helper() {}

// host is a name of this seat: of a rule if the prefix is one of the constants.
func (s *seat) host(prefix string) string { return prefix + s.name + ".test" }

// deny and allow say which event must be there, exactly once for each call.
// The rule is the default one for a denial, and otherwise named.
func (s *seat) deny(reason plan.Reason) {
	s.wanted = append(s.wanted, fmt.Sprintf("deny %s %s", reason, plan.DefaultRule(s.name)))
}

func (s *seat) denyBy(reason plan.Reason, rule string) {
	s.wanted = append(s.wanted, fmt.Sprintf("deny %s %s/%s", reason, s.name, rule))
}

// allow also says that one request reaches an upstream.
func (s *seat) allow(rule string) {
	s.reached++
	s.wanted = append(s.wanted, fmt.Sprintf("allow %s %s/%s", plan.ReasonAllowed, s.name, rule))
}

// denyAs is deny for a request that Envoy may also find unreadable: which it
// is, is its parser's business, but the event must say the same as the answer.
func (s *seat) denyAs(a answer, reason plan.Reason) {
	if a.Status == http.StatusForbidden {
		s.deny(reason)
	} else {
		s.deny(plan.ReasonMalformed)
	}
}

// context ends with nothing: everything that is asked for has its own patience.
func (s *seat) context() context.Context { return context.Background() }

// execute runs the case and then looks at what came of it.
func (s *seat) execute() {
	start := time.Now()
	defer func() { s.took = time.Since(start) }()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer s.closeConns()
		if s.way == Captured || s.way == Inside || s.way == Gateway {
			var err error
			s.sandboxed, err = startSandbox(s.arena, s.name)
			require.NoError(s, err)
		}
		s.Run(s)
	}()
	<-done
	if s.way != Operator {
		settled := make(chan struct{})
		go func() {
			defer close(settled)
			s.settle()
		}()
		<-settled
	}
	if s.sandboxed != nil {
		s.sandboxed.close()
	}
}

func (s *seat) closeConns() {
	for _, c := range s.conns {
		c.Close()
	}
}

// settle checks events, upstreams, look-ups and what the agent has read.
func (s *seat) settle() {
	var got []string
	var events []audit.Event
	for end := time.Now().Add(patience); ; {
		events = s.events(s.name)
		got = got[:0]
		for _, e := range events {
			got = append(got, fmt.Sprintf("%s %s %s", e.Verdict, e.Reason, e.Rule))
		}
		if len(got) >= len(s.wanted) || time.Now().After(end) {
			break
		}
		<-time.After(20 * time.Millisecond)
	}
	if !s.quiet {
		slices.Sort(got)
		slices.Sort(s.wanted)
		if !slices.Equal(s.wanted, got) {
			s.Errorf("events: want\n    %s\n  got\n    %s\n%+v", strings.Join(s.wanted, "\n    "), strings.Join(got, "\n    "), events)
		}
	}
	r, err := s.world.record()
	require.NoError(s, err)
	arrived := r.arrivals("." + s.name + ".test")
	if len(arrived) != s.reached && !s.any {
		s.Errorf("%d requests reached an upstream, want %d: %+v", len(arrived), s.reached, arrived)
	}
	for _, a := range arrived {
		if s.framed && (a.URI != "/v1/x" || a.Host != s.host(api) || a.Header.Get("X-Smuggled") != "") {
			s.Errorf("smuggled: %+v", a)
		}
		host, _, _ := strings.Cut(a.Host, ":")
		if !s.mayReach(host) || a.SNI != host {
			s.Errorf("reached %s (server name %s, at %s)", a.Host, a.SNI, a.To)
		}
	}
	for name := range r.Queries {
		if strings.HasSuffix(name, s.name+".test") && !s.mayReach(name) {
			s.Errorf("%s was looked up", name)
		}
		if s.reached == 0 && s.Zone == nil && !s.lookedUp && !s.any && strings.HasSuffix(name, "."+s.name+".test") {
			s.Errorf("%s was looked up although nothing was allowed", name)
		}
	}
	s.mu.Lock()
	read := s.read.String()
	s.mu.Unlock()
	for _, value := range []string{canary, second} {
		for _, form := range spellings(value) {
			if strings.Contains(read, form) {
				s.Errorf("the agent got to see the credential, as %q", form)
			}
		}
	}
}

func (s *seat) mayReach(host string) bool { return leads(plan.Agent(s.agent()), host, "") }

// spellings are the forms in which a value could leak. Base64 has three, by
// what is before the value; at its ends are bits of what is around it.
func spellings(value string) []string {
	forms := []string{value, hex.EncodeToString([]byte(value)), strings.ToUpper(hex.EncodeToString([]byte(value))), url.QueryEscape(value)}
	for before := range 3 {
		for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			text := e.EncodeToString([]byte(strings.Repeat("x", before) + value))
			forms = append(forms, text[(before*8+5)/6:(before+len(value))*8/6])
		}
	}
	return forms
}

// watched keeps what the agent reads.
type watched struct {
	net.Conn
	s *seat
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	w.s.saw(p[:n])
	return n, err
}

func (s *seat) saw(p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read.Write(p)
}

// proxy connects to the agent's socket or port on the node, or by a port of the
// sandbox.
func (s *seat) proxy() net.Conn {
	s.Helper()
	switch s.way {
	case Captured, Inside:
		return s.dial("tcp", "127.0.0.1:3128")
	case Gateway:
		return s.dial("tcp", "127.0.0.1:8080")
	case Balancer:
		c := s.balanced()
		_, err := c.Write(proxyHeader())
		require.NoError(s, err)
		return c
	}
	var d net.Dialer
	c, err := d.DialContext(context.Background(), "unix", filepath.Join(s.fleet.Home.AgentDir("n1", s.name), "proxy.sock"))
	require.NoError(s, err)
	return s.keep(c)
}

func (s *seat) keep(c net.Conn) net.Conn {
	_ = c.SetDeadline(time.Now().Add(patience))
	s.mu.Lock()
	s.conns = append(s.conns, c)
	s.mu.Unlock()
	return &watched{Conn: c, s: s}
}

// dial connects from inside the sandbox; it must work.
func (s *seat) dial(network, addr string) net.Conn {
	s.Helper()
	c, out, err := s.sandboxed.do(order{Net: network, Addr: addr})
	require.NoError(s, err)
	require.Empty(s, out.Error, "dial %s", addr)
	return s.keep(c)
}

// undialable requires that nothing answers there; it returns why.
func (s *seat) undialable(network, addr string) string {
	s.Helper()
	c, out, err := s.sandboxed.do(order{Net: network, Addr: addr})
	require.NoError(s, err)
	defer c.Close()
	if out.Error == "" && strings.HasPrefix(network, "udp") {
		_, _ = c.Write([]byte("x"))
		_ = c.SetDeadline(time.Now().Add(300 * time.Millisecond))
		b, _ := io.ReadAll(c)
		require.Empty(s, strings.ReplaceAll(string(b), resetMark, ""), "%s %s answers", network, addr)
		return "silence"
	}
	require.NotEmpty(s, out.Error, "%s %s answers", network, addr)
	require.NotContains(s, out.Error, "timeout", "%s %s hangs", network, addr)
	return out.Error
}

// sh runs a script in the sandbox.
func (s *seat) sh(script string) (string, int) {
	s.Helper()
	c, out, err := s.sandboxed.do(order{Sh: script})
	require.NoError(s, err)
	c.Close()
	require.Empty(s, out.Error)
	s.saw([]byte(out.Output))
	return out.Output, out.Status
}

// fails requires that a script in the sandbox fails, for want of permission and
// not of a program: that would be no test.
func (s *seat) fails(script string) {
	s.Helper()
	out, status := s.sh(script)
	require.NotZero(s, status, "%s\n%s", script, out)
	require.NotEqual(s, 127, status, "%s: there is no such program\n%s", script, out)
	require.NotRegexp(s, `(?m)^(sh: |/bin/sh: ).*: not found$`, out, "%s: there is no such program", script)
}

// answer is what came back: a status, or the end of the connection.
type answer struct {
	Status int
	Header http.Header
	Body   string
	Err    error
}

func (a answer) String() string { return fmt.Sprintf("%d %v %.300q", a.Status, a.Err, a.Body) }

// refused reports whether nothing was granted: an error status, or the
// connection was closed, and in time.
func (a answer) refused() bool { return a.Status >= 400 || a.Status == 0 && !a.hung() }

func (a answer) hung() bool { return errors.Is(a.Err, os.ErrDeadlineExceeded) }

// receive reads one response.
func receive(c net.Conn, method string) answer {
	return receiveFrom(bufio.NewReader(c), method)
}

func receiveFrom(r *bufio.Reader, method string) answer {
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		return answer{Err: err}
	}
	a := answer{Status: resp.StatusCode, Header: resp.Header}
	if method == http.MethodConnect && resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusSwitchingProtocols {
		return a
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	a.Body, a.Err = string(b), err
	return a
}

// exchange sends bytes on a connection and reads one response.
func exchange(c net.Conn, method, raw string) answer {
	// The other side may have closed already: then there is an answer to read.
	_, _ = io.WriteString(c, raw)
	return receive(c, method)
}

// raw sends bytes to the proxy, on a connection of their own.
func (s *seat) raw(raw string) answer {
	s.Helper()
	c := s.proxy()
	defer c.Close()
	method, _, _ := strings.Cut(raw, " ")
	return exchange(c, method, raw)
}

// connect asks for a tunnel.
func (s *seat) connect(authority string) (net.Conn, answer) {
	s.Helper()
	c := s.proxy()
	return c, exchange(c, "CONNECT", "CONNECT "+authority+" HTTP/1.1\r\nHost: "+authority+"\r\n\r\n")
}

// tunnel is the bytes below TLS to a host: a CONNECT that must work, or a
// captured connection to anywhere.
func (s *seat) tunnel(host string) net.Conn {
	s.Helper()
	if s.way == Captured {
		return s.dial("tcp", "198.51.100.7:443")
	}
	c, a := s.connect(host + ":443")
	require.Equal(s, 200, a.Status, "CONNECT %s: %s", host, a)
	return c
}

// handshake does TLS for a server name, and verifies the certificate for it.
func (s *seat) handshake(c net.Conn, sni string, alpn ...string) (*tls.Conn, error) {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.fleet.CA.PEM)
	config := &tls.Config{RootCAs: pool, ServerName: sni, NextProtos: alpn}
	if sni == "" {
		config.InsecureSkipVerify = true
	}
	t := tls.Client(&watched{Conn: c, s: s}, config)
	return t, t.Handshake()
}

// secure is a connection in TLS to a host, which must work.
func (s *seat) secure(host string, alpn ...string) net.Conn {
	s.Helper()
	t, err := s.handshake(s.tunnel(host), host, alpn...)
	require.NoError(s, err)
	return &watched{Conn: t, s: s}
}

// request is the text of a request without a body.
func request(method, target, host string, header ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, target, host)
	for _, h := range header {
		b.WriteString(h + "\r\n")
	}
	return b.String() + "\r\n"
}

// ask makes a request to the api host by the seat's own way in.
func (s *seat) ask(method, path string, header ...string) answer {
	s.Helper()
	return s.askHost(s.host(api), method, path, header...)
}

func (s *seat) askHost(host, method, path string, header ...string) answer {
	s.Helper()
	if s.way == Gateway {
		local := fmt.Sprintf("localhost:%d", s.agent().gatewayTo(host))
		return exchange(s.dial("tcp", local), method, request(method, path, local, header...))
	}
	return exchange(s.secure(host), method, request(method, path, host, header...))
}

// works requires that what is allowed still is.
func (s *seat) works() {
	s.Helper()
	a := s.ask("GET", "/v1/works")
	require.Equal(s, 200, a.Status, "%s", a)
	s.allow("api")
}

// arrivals are what reached upstreams for this seat.
func (s *seat) arrivals() []Arrival {
	s.Helper()
	r, err := s.world.record()
	require.NoError(s, err)
	return r.arrivals("." + s.name + ".test")
}
