package attack

import (
	"bufio"
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

// fronting is section B: one name at the door, another one inside.
var fronting = []Case{
	{ID: "B1", What: "CONNECT to an allowed host, another server name", Ways: []Way{Explicit, Balancer}, Run: func(s *seat) {
		for _, sni := range []string{s.host(evil), s.host(open), s.host(other), "canary.test"} {
			c := s.tunnel(s.host(api))
			t, err := s.handshake(c, sni)
			if err == nil { // an allowed name: the certificate exists, the destination is another
				a := exchange(t, "GET", request("GET", "/v1/x", sni))
				require.Equal(s, 403, a.Status, "%q: %s", sni, a)
				require.Contains(s, a.Body, string(plan.ReasonName))
			}
			c.Close()
			s.deny(plan.ReasonName)
		}
	}},
	{ID: "B1", What: "a destination that is passed through: another server name, none, no TLS", Ways: []Way{Explicit}, Rules: func(s string) []plan.Rule {
		return append(rulesOf(s), plan.Rule{ID: s + "/tun", Host: "tun." + s + ".test", Port: 443, Mode: plan.ModeTunnel})
	}, Run: func(s *seat) {
		for _, sni := range []string{s.host(evil), s.host(api), "tun." + s.name + ".test.evil.test", "*", "xdstp://", ""} {
			c := s.tunnel(s.host("tun."))
			_, err := c.Write(helloFor(sni))
			require.NoError(s, err)
			got, err := io.ReadAll(c)
			require.False(s, answer{Err: err}.hung(), "%q hangs", sni)
			require.Empty(s, got, "%q", sni)
			c.Close()
			if sni == "" {
				s.deny(plan.ReasonTLS)
			} else {
				s.deny(plan.ReasonName)
			}
		}
		c := s.tunnel(s.host("tun."))
		a := exchange(c, "GET", request("GET", "/", s.host("tun.")))
		require.True(s, a.refused() && !a.hung(), "%s", a)
		c.Close()
		s.deny(plan.ReasonTLS)
		t, err := s.handshake(s.tunnel(s.host("tun.")), s.host("tun."))
		require.NoError(s, err)
		require.Equal(s, 200, exchange(t, "GET", request("GET", "/", s.host("tun."))).Status)
		require.NoError(s, t.Close())
		s.allow("tun")
	}},
	{ID: "B2", What: "another host inside the tunnel", Ways: []Way{Explicit, Captured}, Run: func(s *seat) {
		for _, host := range []string{s.host(evil), s.host(open), s.host(other), "169.254.169.254", "localhost:8080", s.host(api) + ":8443", s.host(api) + ":80", "canary.test"} {
			a := exchange(s.secure(s.host(api)), "GET", request("GET", "/v1/x", host))
			require.Equal(s, 403, a.Status, "%q: %s", host, a)
			require.Contains(s, a.Body, string(plan.ReasonName))
			s.deny(plan.ReasonName)
		}
	}},
	{ID: "B2", What: "absolute form, two hosts, no host inside the tunnel", Ways: []Way{Explicit}, Run: func(s *seat) {
		h, e := s.host(api), s.host(evil)
		for _, raw := range []string{
			request("GET", "https://"+e+"/v1/x", h), request("GET", "http://"+e+"/v1/x", h),
			request("GET", "/v1/x", h, "Host: "+e), request("GET", "/v1/x", e, "Host: "+h),
			"GET /v1/x HTTP/1.1\r\n\r\n", request("GET", "/v1/x", ""), request("GET", "/v1/x", h+","+e), request("GET", "/v1/x", h+" "+e), request("GET", "/v1/x", h, " "+e), request("GET", "/v1/x", h, "Host : "+e),
		} {
			a := exchange(s.secure(h), "GET", raw)
			require.True(s, a.refused(), "%q: %s", raw, a)
			s.denyAs(a, plan.ReasonName)
		}
	}},
	{ID: "B3", What: "plain HTTP: URL and Host differ", Ways: []Way{Socket, Balancer}, Run: func(s *seat) {
		h, e := s.host(api), s.host(evil)
		for _, raw := range []string{
			request("GET", "http://"+h+"/v1/x", e), request("GET", "http://"+e+"/v1/x", h), request("GET", "http://"+h+":8080/v1/x", "localhost:8080"), request("GET", "http://"+e+"/v1/x", "localhost:8080"),
			request("GET", "https://"+h+"/v1/x", "localhost:8080"), request("GET", "/v1/x", h), request("GET", "/v1/x", e),
		} {
			a := s.raw(raw)
			require.Equal(s, 403, a.Status, "%q: %s", raw, a)
			s.deny(plan.ReasonScheme)
		}
		for _, raw := range []string{
			request("GET", "/v1/x", "localhost:8080", "Host: "+e), request("GET", "/v1/x", e, "Host: localhost:8080"), request("GET", "/v1/x", "localhost:8080", " "+e),
			"GET /v1/x HTTP/1.1\r\n\r\n", request("GET", "/v1/x", "localhost:8080", "Host : "+e),
		} {
			a := s.raw(raw)
			require.True(s, a.refused(), "%q: %s", raw, a)
			s.denyAs(a, plan.ReasonScheme)
		}
	}},
	{ID: "B3", What: "a gateway's host in the URL, another in Host: the URL counts", Ways: []Way{Gateway}, Run: func(s *seat) {
		a := s.raw(request("GET", "http://localhost:8080/v1/x", s.host(evil)))
		require.Equal(s, 200, a.Status, "%s", a)
		s.allow("api")
		require.Equal(s, s.host(api), s.arrivals()[0].Host)
	}},
	{ID: "B4", What: "an attacker's address with an allowed name", Ways: []Way{Captured}, Run: func(s *seat) {
		for _, address := range []string{"203.0.113.66:443", "[2001:db8::66]:443", "169.254.169.254:443", "10.0.0.1:443"} {
			t, err := s.handshake(s.dial("tcp", address), s.host(api))
			require.NoError(s, err)
			require.Equal(s, 200, exchange(t, "GET", request("GET", "/v1/x", s.host(api))).Status)
			s.allow("api")
		}
		for _, a := range s.arrivals() {
			require.Equal(s, addressOf(s.host(api))+":443", a.To, "the name decides, not the address")
			require.Equal(s, canary, a.Header.Get("X-Api-Key"))
		}
		a := exchange(s.dial("tcp", "203.0.113.66:80"), "GET", request("GET", "/v1/x", s.host(api)))
		require.Equal(s, 403, a.Status)
		s.deny(plan.ReasonScheme)
	}},
	{ID: "B4", What: "CONNECT to an attacker's address with an allowed server name", Ways: []Way{Explicit}, Run: func(s *seat) {
		for _, address := range []string{"203.0.113.66:443", "[2001:db8::66]:443"} {
			_, a := s.connect(address)
			require.Equal(s, 403, a.Status, "%s", a)
			s.deny(plan.ReasonHost)
		}
	}},
	{ID: "B5", What: "no server name", Ways: []Way{Explicit, Captured}, Run: func(s *seat) {
		_, err := s.handshake(s.tunnel(s.host(api)), "")
		require.Error(s, err)
		if s.way == Captured {
			s.deny(plan.ReasonHost)
		} else {
			s.deny(plan.ReasonTLS)
		}
	}},
	{ID: "B5", What: "strange server names: addresses, long, upper case, a secret's", Ways: []Way{Socket, Captured}, Run: func(s *seat) {
		for _, sni := range []string{
			"1.2.3.4", "127.0.0.1", strings.ToUpper(s.host(api)) + "..", "credential", "credential.key", "credential\x00key", "credential/key", "no-server-name.invalid", "*." + s.name + ".test",
			strings.Repeat("a", 63) + ".test", strings.Repeat("a.", 127) + "a", strings.Repeat("x", 255), " " + s.host(api), s.host(api) + " ", "l7/" + s.name, "intercept", "%REQ(X)%",
		} {
			c := s.tunnel(s.host(api))
			hello := helloFor(sni)
			_, err := c.Write(hello)
			require.NoError(s, err)
			got, err := io.ReadAll(c)
			require.False(s, answer{Err: err}.hung(), "%q hangs", sni)
			require.NotContains(s, string(got[:min(len(got), 1)]), "\x16", "%q: a handshake", sni)
			switch {
			case s.way == Captured && strings.HasSuffix(sni, "."):
				// No hello to the capture: it does not even ask the proxy.
			case s.way == Captured:
				s.deny(plan.ReasonHost)
			case strings.Contains(sni, "\x00"):
				s.deny(plan.ReasonTLS)
			default:
				s.deny(plan.ReasonName)
			}
			c.Close()
		}
	}},
	{ID: "B5", What: "server names that xDS takes for something else", Ways: []Way{Socket}, Run: func(s *seat) {
		// A node asks its control plane for the certificate by the server name, and
		// in xDS "*" is every resource there is. A fleet of its own: this is an
		// attack on all agents of a node.
		f := s.spare()
		up := f.NewUpstream("a.test", "b.test", "c.test")
		rule := func(agent, host string) plan.Rule {
			return plan.Rule{ID: agent + "/" + host, Host: host, Port: 443, Methods: []string{"GET"}, Paths: []string{plan.AnyPath}, Upstream: up.Pin(), Credential: "key"}
		}
		f.MustPublish(&plan.Plan{
			Stack: "test", Credentials: []plan.Credential{{Name: "key", Kind: plan.KindHeader, Header: "x-api-key", Secret: "file://" + f.Secret("key", "first")}},
			Agents: []plan.Agent{{Name: "attacker", Rules: []plan.Rule{rule("attacker", "a.test")}}, {Name: "victim", Rules: []plan.Rule{rule("victim", "b.test"), rule("victim", "c.test")}}},
		})
		require.Equal(s, 200, f.Get("n1", "victim", "https://b.test/"))
		pid := f.EnvoyPID("n1")
		for _, sni := range []string{"*", "xdstp:", "xdstp://", "xdstp://x/envoy.extensions.transport_sockets.tls.v3.Secret/*", "xdstp:///envoy.extensions.transport_sockets.tls.v3.Secret/a.test?x=y", "xdstp://%zz/", "XDSTP://x/y", "http://a.test/", "%", "a.test/*", "[", strings.Repeat("*", 255)} {
			c, err := f.Dial("n1", "attacker")(s.context(), "", "")
			require.NoError(s, err)
			_ = c.SetDeadline(time.Now().Add(patience))
			require.Equal(s, 200, exchange(c, "CONNECT", request("CONNECT", "a.test:443", "a.test:443")).Status)
			_, err = c.Write(helloFor(sni))
			require.NoError(s, err)
			got, err := io.ReadAll(c)
			require.False(s, answer{Err: err}.hung(), "%q hangs", sni)
			require.False(s, bytes.HasPrefix(got, []byte{0x16}), "%q: a handshake", sni)
			defer c.Close()
		}
		require.Equal(s, pid, f.EnvoyPID("n1"), "Envoy was restarted")
		// The others neither notice now ...
		began := time.Now()
		require.Equal(s, 200, f.Get("n1", "victim", "https://c.test/"), "a host whose certificate is not there yet")
		require.Less(s, time.Since(began), 10*time.Second)
		// ... nor when something changes.
		f.Secret("key", "second")
		require.Eventually(s, func() bool {
			up.Seen()
			status := f.Get("n1", "victim", "https://b.test/")
			seen := up.Seen()
			return status == 200 && len(seen) == 1 && seen[0].Header.Get("X-Api-Key") == "second"
		}, patience, pause, "a rotated secret arrives")
		require.Empty(s, f.Node("n1").Nack, "the node refused what it was sent")
	}},
	{ID: "B5", What: "encrypted client hello", Ways: []Way{Explicit}, Run: func(s *seat) {
		// The outer name must be the CONNECT's; what is inside is never opened, so
		// nothing but the outer name can be reached.
		for outer, inner := range map[string]string{s.host(evil): s.host(api), s.host(api): s.host(evil)} {
			t := tls.Client(s.tunnel(s.host(api)), &tls.Config{ServerName: inner, EncryptedClientHelloConfigList: echFor(outer), MinVersion: tls.VersionTLS13})
			require.Error(s, t.Handshake())
			if outer == s.host(evil) {
				s.deny(plan.ReasonName)
			} else {
				s.deny(plan.ReasonTLS) // the client's alert: it wanted the inner name
			}
		}
	}},
	{ID: "B5", What: "a hello split over many records and writes", Ways: []Way{Explicit, Captured}, Run: func(s *seat) {
		t, err := s.handshake(&splitter{Conn: s.tunnel(s.host(api))}, s.host(api))
		require.NoError(s, err)
		require.Equal(s, 200, exchange(t, "GET", request("GET", "/v1/x", s.host(api))).Status)
		s.allow("api")
		_, err = s.handshake(&splitter{Conn: s.tunnel(s.host(api))}, s.host(evil))
		require.Error(s, err)
		if s.way == Captured {
			s.deny(plan.ReasonHost)
		} else {
			s.deny(plan.ReasonName)
		}
	}},
	{ID: "B6", What: "another authority on a connection that is in use", Ways: []Way{Explicit, Captured}, Run: func(s *seat) {
		c := s.secure(s.host(api))
		r := bufio.NewReader(c)
		ask := func(host string) answer {
			_, err := io.WriteString(c, request("GET", "/v1/x", host))
			require.NoError(s, err)
			return receiveFrom(r, "GET")
		}
		for _, host := range []string{s.host(open), s.host(evil)} {
			require.Equal(s, 200, ask(s.host(api)).Status)
			s.allow("api")
			a := ask(host)
			require.Equal(s, 403, a.Status, "%s", a)
			s.deny(plan.ReasonName)
		}
	}},
	{ID: "B6", What: "another authority on a gateway's connection", Ways: []Way{Gateway}, Run: func(s *seat) {
		c := s.proxy()
		r := bufio.NewReader(c)
		for host, want := range map[string]int{"localhost:8080": 200, s.host(evil): 403, s.host(api): 403} {
			_, err := io.WriteString(c, request("GET", "/v1/x", host))
			require.NoError(s, err)
			require.Equal(s, want, receiveFrom(r, "GET").Status, host)
		}
		s.allow("api")
		s.deny(plan.ReasonScheme)
		s.deny(plan.ReasonScheme)
	}},
	{ID: "B6", What: "HTTP/2: :authority and Host switch on one connection", Ways: []Way{Explicit, Captured, Balancer}, Run: func(s *seat) {
		c := s.h2(s.secure(s.host(api), "h2"))
		get := func(authority string, more ...string) string {
			return c.ask(append([]string{":method", "GET", ":scheme", "https", ":path", "/v1/x", ":authority", authority}, more...)...)
		}
		require.Equal(s, "200", get(s.host(api)))
		s.allow("api")
		for _, authority := range []string{s.host(open), s.host(evil), s.host(api) + ":8443", "localhost:8080"} {
			require.Equal(s, "403", get(authority), authority)
			s.deny(plan.ReasonName)
		}
		require.Equal(s, "200", get(s.host(api)))
		s.allow("api")
		// Host next to :authority: what is forwarded is the policy's name.
		switch got := get(s.host(api), "host", s.host(evil)); got {
		case "200":
			s.allow("api")
		default:
			require.Contains(s, []string{"400", "reset"}, got)
			s.deny(plan.ReasonMalformed)
		}
	}},
	{ID: "B10", What: "early data behind a CONNECT", Ways: []Way{Socket, Balancer}, Run: func(s *seat) {
		// Refused: what follows is not read as a tunnel's, nor sent anywhere.
		authority := s.host(evil) + ":443"
		a := s.raw(request("CONNECT", authority, authority) + string(helloFor(s.host(api))))
		require.Equal(s, 403, a.Status)
		s.deny(plan.ReasonHost)
		s.quiet = true // the hello may be one more request that nobody can parse
		// Accepted: what follows is the tunnel's, so a request in it does not count as one.
		authority = s.host(api) + ":443"
		c := s.proxy()
		_, err := io.WriteString(c, request("CONNECT", authority, authority)+request("GET", "http://localhost:8080/v1/x", "localhost:8080"))
		require.NoError(s, err)
		r := bufio.NewReader(c)
		a = receiveFrom(r, "CONNECT")
		require.Equal(s, 200, a.Status, "%s", a)
		rest, err := io.ReadAll(r)
		require.False(s, answer{Err: err}.hung())
		require.Empty(s, rest)
		// TLS in the same packet.
		c = s.proxy()
		t, err := s.handshake(&prefixed{Conn: c, prefix: request("CONNECT", authority, authority)}, s.host(api))
		if err == nil {
			require.Equal(s, 403, exchange(t, "GET", request("GET", "/v2", s.host(api))).Status)
		}
	}},
	{ID: "B11", What: "plain HTTP is not a way around", Ways: []Way{Explicit, Captured}, Run: func(s *seat) {
		for _, host := range []string{s.host(evil), s.host(api), s.host(open), s.host(api) + ":443", "169.254.169.254"} {
			c := s.proxy()
			target := "http://" + host + "/v1/x"
			if s.way == Captured {
				c, target = s.dial("tcp", "198.51.100.9:80"), "/v1/x"
			}
			a := exchange(c, "GET", request("GET", target, host))
			require.Equal(s, 403, a.Status, "%q: %s", host, a)
			s.deny(plan.ReasonScheme)
		}
	}},
	{ID: "B11", What: "a client that speaks HTTP to port 443", Ways: []Way{Captured}, Run: func(s *seat) {
		a := exchange(s.dial("tcp", "198.51.100.9:443"), "GET", request("GET", "/v1/x", s.host(api)))
		require.Equal(s, 403, a.Status)
		s.deny(plan.ReasonScheme)
	}},
	{ID: "B12", What: "no TLS in the tunnel", Ways: []Way{Socket}, Run: func(s *seat) {
		for _, bytes := range []string{"SSH-2.0-OpenSSH_9.9\r\n", "GET / HTTP/1.1\r\nHost: " + s.host(api) + "\r\n\r\n", "\x00\x00\x00\x08\x04\xd2\x16\x2f", "\x16\x03\x01\xff\xff", "\x16\x03\x01\x00\x05hello", strings.Repeat("\x16", 20000)} {
			c := s.tunnel(s.host(api))
			_, _ = io.WriteString(c, bytes)
			got, err := io.ReadAll(c)
			require.False(s, answer{Err: err}.hung(), "%.10q hangs", bytes)
			require.NotContains(s, string(got), "HTTP/1.1 200", "%.10q", bytes)
			c.Close()
			s.deny(plan.ReasonTLS)
		}
	}},
	{ID: "B12", What: "a hello that never ends", Ways: []Way{Socket, Captured}, Run: func(s *seat) {
		each(s, []string{"\x16", "\x16\x03\x01\x02\x00\x01", string(helloFor(s.host(api))[:100])}, func(bytes string) {
			c := s.tunnel(s.host(api))
			_, err := io.WriteString(c, bytes)
			require.NoError(s, err)
			got, err := io.ReadAll(c)
			require.False(s, answer{Err: err}.hung(), "%.10q hangs", bytes)
			require.Empty(s, strings.ReplaceAll(string(got), resetMark, ""))
		})
		// No request and no name: nothing was decided, so there is no event.
	}},
	{ID: "B12", What: "TLS in TLS", Ways: []Way{Explicit, Captured}, Run: func(s *seat) {
		_, err := s.handshake(s.secure(s.host(api)), s.host(evil))
		require.Error(s, err)
		s.deny(plan.ReasonMalformed)
	}},
	{ID: "B12", What: "anything but HTTP and TLS into the capture", Ways: []Way{Captured}, Run: func(s *seat) {
		for _, bytes := range []string{"SSH-2.0-OpenSSH_9.9\r\n", "\x00\x01\x02\x03\r\n\r\n", "EHLO evil.test\r\n"} {
			a := exchange(s.dial("tcp", "198.51.100.9:443"), "GET", bytes)
			require.True(s, a.refused(), "%q: %s", bytes, a)
		}
		s.deny(plan.ReasonScheme)    // what is not TLS is told once for a place
		s.deny(plan.ReasonMalformed) // what may be HTTP is read as HTTP
	}},
}

// helloFor is the first flight of a TLS client that asks for any bytes at all
// as server name.
func helloFor(sni string) []byte {
	if sni == "" {
		return helloOf("")
	}
	// What crypto/tls sends as it is, of the same length; then patched.
	stand := strings.Repeat("q", len(sni))
	return bytes.Replace(helloOf(stand), []byte(stand), []byte(sni), 1)
}

// helloOf is the first flight of crypto/tls.
func helloOf(name string) []byte {
	a, b := net.Pipe()
	go func() {
		_ = tls.Client(a, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake() //nolint:gosec // only its hello is used
	}()
	_ = b.SetDeadline(time.Now().Add(patience))
	head := make([]byte, 5)
	_, _ = io.ReadFull(b, head)
	body := make([]byte, int(head[3])<<8|int(head[4]))
	_, _ = io.ReadFull(b, body)
	a.Close()
	b.Close()
	return append(head, body...)
}

// echFor is a list of one configuration for encrypted client hellos (RFC 9849)
// with the outer name.
func echFor(outer string) []byte {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	public := key.PublicKey().Bytes()
	body := append([]byte{7, 0, 0x20, 0, byte(len(public))}, public...)
	body = append(body, 0, 4, 0, 1, 0, 1, 64, byte(len(outer)))
	body = append(append(body, outer...), 0, 0)
	config := append([]byte{0xfe, 0x0d, byte(len(body) >> 8), byte(len(body))}, body...)
	return append([]byte{byte(len(config) >> 8), byte(len(config))}, config...)
}

// splitter sends the first TLS record in pieces: each its own record and write.
type splitter struct {
	net.Conn
	done bool
}

func (c *splitter) Write(p []byte) (int, error) {
	if c.done {
		return c.Conn.Write(p)
	}
	c.done = true
	for body := p[5:]; len(body) > 0; {
		n := min(7, len(body))
		if _, err := c.Conn.Write(append([]byte{p[0], p[1], p[2], 0, byte(n)}, body[:n]...)); err != nil {
			return 0, err
		}
		body = body[n:]
	}
	return len(p), nil
}

// prefixed sends a prefix with its first write, and reads the proxy's answer to
// it before anything else.
type prefixed struct {
	net.Conn
	prefix string
	r      *bufio.Reader
}

func (c *prefixed) Write(p []byte) (int, error) {
	n := len(c.prefix)
	sent, err := c.Conn.Write(append([]byte(c.prefix), p...))
	c.prefix = ""
	return max(0, sent-n), err
}

func (c *prefixed) Read(p []byte) (int, error) {
	if c.r == nil {
		c.r = bufio.NewReader(c.Conn)
		if a := receiveFrom(c.r, "CONNECT"); a.Status != 200 {
			return 0, fmt.Errorf("refused: %s", a)
		}
	}
	return c.r.Read(p)
}
