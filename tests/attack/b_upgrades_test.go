package attack

import (
	"bufio"
	"io"
	"net"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

// upgrades is the part of section B where a connection changes what it carries.
var upgrades = []Case{
	{ID: "B7", What: "HTTP/2 in clear text on the socket, by prior knowledge", Ways: []Way{Socket, Balancer}, Run: func(s *seat) {
		c := s.h2(s.proxy())
		for _, authority := range []string{s.host(evil), s.host(api), s.host(api) + ":443"} {
			require.Equal(s, "403", c.ask(":method", "GET", ":scheme", "http", ":path", "/v1/x", ":authority", authority))
			s.deny(plan.ReasonScheme)
		}
		require.Contains(s, []string{"403", "400", "reset"}, c.ask(":method", "CONNECT", ":authority", s.host(evil)+":443"))
		s.quiet = true // what a refused CONNECT of HTTP/2 is logged as is Envoy's business
	}},
	{ID: "B7", What: "Upgrade: h2c", Ways: []Way{Socket, Gateway}, Run: func(s *seat) {
		const upgrade = "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"
		if s.way == Gateway {
			a := s.ask("GET", "/v1/switch", "Connection: Upgrade, HTTP2-Settings", upgrade)
			require.NotEqual(s, 101, a.Status)
			if a.Status == 200 {
				s.allow("api")
				require.Empty(s, s.arrivals()[0].Header.Get("Upgrade"))
			} else {
				s.quiet = true
			}
			return
		}
		a := s.raw(request("GET", "http://"+s.host(api)+"/", s.host(api), "Connection: Upgrade, HTTP2-Settings", upgrade))
		require.Equal(s, 403, a.Status)
		s.deny(plan.ReasonScheme)
	}},
	{ID: "B7", What: "h2c inside the tunnel: in clear, upgraded, and without ALPN", Ways: []Way{Explicit, Captured}, Run: func(s *seat) {
		if s.way == Explicit {
			a := exchange(s.tunnel(s.host(api)), "GET", preface)
			require.True(s, a.refused(), "%s", a)
			s.deny(plan.ReasonTLS)
		}
		a := s.ask("GET", "/v1/switch", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
		require.NotEqual(s, 101, a.Status)
		if a.Status == 200 {
			s.allow("api")
		} else {
			s.deny(plan.ReasonMalformed)
		}
		c := s.h2(s.secure(s.host(api)))
		require.Contains(s, []string{"403", "reset"}, c.ask(":method", "GET", ":scheme", "https", ":path", "/v2", ":authority", s.host(api)))
		s.deny(plan.ReasonPath)
	}},
	{ID: "B8", What: "CONNECT inside CONNECT", Ways: []Way{Explicit, Captured, Balancer}, Run: func(s *seat) {
		for _, authority := range []string{s.host(api) + ":443", s.host(evil) + ":443", "169.254.169.254:80"} {
			a := exchange(s.secure(s.host(api)), "CONNECT", request("CONNECT", authority, authority))
			require.True(s, a.refused() && !a.hung(), "%q: %s", authority, a)
			if authority == s.host(api)+":443" {
				s.deny(plan.ReasonMethod)
			} else {
				s.deny(plan.ReasonName)
			}
		}
		c := s.h2(s.secure(s.host(open), "h2"))
		require.NotEqual(s, "200", c.ask(":method", "CONNECT", ":authority", s.host(open)))
		s.deny(plan.ReasonMethod)
	}},
	{ID: "B8", What: "CONNECT to the proxy itself", Ways: []Way{Explicit}, Run: func(s *seat) {
		for _, authority := range []string{"127.0.0.1:3128", "localhost:3128", "localhost:8080", "127.0.0.1:8080", "[::1]:3128"} {
			_, a := s.connect(authority)
			require.Equal(s, 403, a.Status, "%q: %s", authority, a)
			s.deny(plan.ReasonHost)
		}
	}},
	{ID: "B9", What: "a WebSocket that is none, then a second request as its data", Ways: []Way{Explicit, Gateway}, Run: func(s *seat) {
		second := request("GET", "/v2/secret", s.host(evil))
		for _, c := range []struct {
			path   string
			header []string
		}{
			{"/v1/plain", []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="}}, // the upstream answers 200
			{"/v1/plain", []string{"Connection: notupgrade", "Upgrade: websocket"}},
		} {
			host := s.host(api)
			var conn net.Conn
			if s.way == Gateway {
				conn, host = s.proxy(), "localhost:8080"
			} else {
				conn = s.secure(host)
			}
			_, err := io.WriteString(conn, request("GET", c.path, host, c.header...)+second)
			require.NoError(s, err)
			r := bufio.NewReader(conn)
			a := receiveFrom(r, "GET")
			require.Equal(s, 200, a.Status, "%s", a)
			s.allow("api")
			if a = receiveFrom(r, "GET"); a.Status != 0 {
				require.Equal(s, 403, a.Status, "%s", a)
				if s.way == Gateway {
					s.deny(plan.ReasonScheme)
				} else {
					s.deny(plan.ReasonName)
				}
			} else {
				require.False(s, a.hung())
			}
			conn.Close()
		}
	}},
	{ID: "B9", What: "a WebSocket where a rule denies the header", Ways: []Way{Explicit, Captured, Gateway}, Rules: func(s string) []plan.Rule {
		return append(rulesOf(s), denial(s, "no-sockets", []plan.Condition{{Name: "upgrade", Present: true}}, nil))
	}, Run: func(s *seat) {
		for _, upgrade := range []string{"websocket", "WebSocket", "websocket\r\nUpgrade: websocket", "websocket, h2c", "raw"} {
			s.mustDeny(s.ask("GET", "/v1/switch", "Connection: Upgrade", "Upgrade: "+upgrade), upgrade)
			s.denyBy(plan.ReasonDenied, "no-sockets")
		}
		s.works()
	}},
	{ID: "B9", What: "a WebSocket stays with the one upstream; other upgrades do not exist", Ways: []Way{Explicit}, Run: func(s *seat) {
		c := s.secure(s.host(api))
		a := exchange(c, "GET", request("GET", "/v1/switch", s.host(api), "Connection: Upgrade", "Upgrade: websocket"))
		require.Equal(s, 101, a.Status, "%s", a)
		_, err := io.WriteString(c, request("GET", "/v2", s.host(evil)))
		require.NoError(s, err)
		echo := make([]byte, 16)
		_, err = io.ReadFull(c, echo)
		require.NoError(s, err)
		require.Equal(s, "GET /v2 HTTP/1.1", string(echo), "the upstream's echo")
		c.Close()
		s.allow("api")
		for _, upgrade := range []string{"raw", "tcp", "tls/1.0", "CONNECT", "connect-udp", "websocket2", "postern"} {
			a := s.ask("GET", "/v1/switch", "Connection: Upgrade", "Upgrade: "+upgrade)
			require.True(s, a.refused() && !a.hung(), "%s: %s", upgrade, a)
			s.deny(plan.ReasonMalformed)
		}
		a = s.ask("GET", "/v2/switch", "Connection: Upgrade", "Upgrade: websocket")
		require.Equal(s, 403, a.Status)
		s.deny(plan.ReasonPath)
	}},
	{ID: "B9", What: "an upgrade to CONNECT, and a CONNECT that is an upgrade", Ways: []Way{Socket, Gateway, Balancer}, Rules: func(s string) []plan.Rule {
		return append(rulesOf(s), plan.Rule{ID: s + "/tun", Host: "tun." + s + ".test", Port: 443, Mode: plan.ModeTunnel})
	}, Run: func(s *seat) {
		// Envoy chooses the filters of a request by the value of this header.
		for _, upgrade := range []string{"CONNECT", "connect", "CONNECT, websocket", "websocket, CONNECT", "websocket"} {
			header := []string{"Connection: Upgrade", "Upgrade: " + upgrade, "Authorization: Bearer " + ownKey, "X-Api-Key: " + ownKey}
			if s.way == Gateway {
				a := s.ask("GET", "/v1/x?key="+ownKey, header...)
				if upgrade == "websocket" {
					require.Equal(s, 200, a.Status, "%s", a)
					s.allow("api")
				} else {
					require.Equal(s, 403, a.Status, "%q: %s", upgrade, a)
					s.deny(plan.ReasonMalformed)
				}
				continue
			}
			if strings.EqualFold(upgrade, "CONNECT") {
				continue // what it is anyway
			}
			for _, host := range []string{api, "tun."} {
				authority := s.host(host) + ":443"
				a := s.raw(request("CONNECT", authority, authority, header...))
				require.True(s, a.refused() && !a.hung(), "%q %s: %s", upgrade, host, a)
				s.denyAs(a, plan.ReasonMalformed)
			}
		}
		s.ownKeyIsGone()
	}},
}
