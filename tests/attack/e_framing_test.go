package attack

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/plan"
)

// each calls f for every item, all at the same time: most of them wait for
// Envoy to close a connection.
func each[T any](s *seat, items []T, f func(T)) {
	s.Helper()
	var wg sync.WaitGroup
	for _, item := range items {
		wg.Go(func() {
			done := make(chan struct{})
			go func() {
				defer close(done)
				f(item) // may end this goroutine
			}()
			<-done
		})
	}
	wg.Wait()
}

// line is a connection for requests to the api host, by the seat's way, and the Host
// header to use on it.
func (s *seat) line() (net.Conn, string) {
	s.Helper()
	if s.way == Gateway {
		return s.proxy(), "localhost:8080"
	}
	return s.secure(s.host(api)), s.host(api)
}

// smuggled is the request that must never be one.
func (s *seat) smuggled() string {
	return request("GET", "/v1/smuggled", s.host(open), "X-Smuggled: yes")
}

// drain reads responses until the connection ends or nothing more is owed.
func drain(c net.Conn) []answer {
	var all []answer
	for r := bufio.NewReader(c); ; {
		a := receiveFrom(r, "GET")
		if a.Status == 0 {
			return append(all, a)
		}
		all = append(all, a)
	}
}

// framing is section E: where one parser sees one request and another sees two,
// or the same one elsewhere.
var framing = []Case{
	{ID: "E1", What: "contradictory lengths: CL and TE, two CL, bad CL, chunkedx", Ways: []Way{Explicit, Gateway, Captured, Balancer}, Run: func(s *seat) {
		each(s, []string{
			"Content-Length: 4\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 4", "Content-Length: 4\r\nContent-Length: 40", "Content-Length: 4, 40", "Content-Length: -1", "Content-Length: +4", "Content-Length: 0x4",
			"Content-Length: 4 ", "Content-Length: 99999999999999999999", "Transfer-Encoding: chunkedx", "Transfer-Encoding: xchunked", "Transfer-Encoding: chunked, identity", "Transfer-Encoding: identity", "Transfer-Encoding: gzip, chunked",
			"Transfer-Encoding : chunked", "Transfer-Encoding:\tchunked", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "Transfer-Encoding: \"chunked\"", "X: y\r\n Transfer-Encoding: chunked", "transfer_encoding: chunked", "Content-Length:\r\n 4", "Content_Length: 4",
		}, func(headers string) {
			c, host := s.line()
			// By the one reading the body ends before the smuggled request, by the other after it.
			_, err := io.WriteString(c, "POST /v1/x HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n"+headers+"\r\n\r\n0\r\n\r\n"+s.smuggled())
			require.NoError(s, err)
			if t, ok := c.(interface{ CloseWrite() error }); ok {
				_ = t.CloseWrite()
			}
			for _, a := range drain(c) {
				require.False(s, a.hung(), "%q hangs", headers)
			}
			c.Close()
		})
		s.nothingSmuggled()
	}},
	{ID: "E1", What: "line ends, folding, spaces, control characters, chunks", Ways: []Way{Explicit, Gateway, Captured, Balancer}, Run: func(s *seat) {
		each(s, []string{
			"POST /v1/x HTTP/1.1\nHost: @\nContent-Length: 0\n\n", "POST /v1/x HTTP/1.1\r\nHost: @\r\nX: y\r\n\tfolded\r\nContent-Length: 0\r\n\r\n", "POST /v1/x HTTP/1.1\r\nHost: @\r\nX: a\nContent-Length: 400\r\nContent-Length: 0\r\n\r\n",
			"POST /v1/x HTTP/1.1\r\nHost: @\r\nX: a\rContent-Length: 400\r\n\r\n", "POST /v1/x HTTP/1.1\r\nHost: @\r\nX: a\x00b\r\n\r\n", "POST /v1/x HTTP/1.1\r\nHost: @\r\nX\x01: a\r\n\r\n", "POST /v1/x HTTP/1.1\r\nHost: @\r\n: a\r\n\r\n", "POST /v1/x HTTP/1.1\r\nHost: @\r\nno colon\r\n\r\n",
			"POST  /v1/x  HTTP/1.1\r\nHost: @\r\n\r\n", "POST /v1/x HTTP/1.1 \r\nHost: @\r\n\r\n", "POST /v1/x HTTP/1.2\r\nHost: @\r\n\r\n", "POST /v1/x HTTP/0.9\r\nHost: @\r\n\r\n", "POST /v1/x\r\nHost: @\r\n\r\n", "POST /v1/x HTTP/2.0\r\nHost: @\r\n\r\n",
			"POST /v1/x HTTP/1.1\r\nHost: @\r\nTransfer-Encoding: chunked\r\n\r\n5;x=\"\r\n\"\r\nhello\r\n0\r\n\r\n", "POST /v1/x HTTP/1.1\r\nHost: @\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", "POST /v1/x HTTP/1.1\r\nHost: @\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
			"POST /v1/x HTTP/1.1\r\nHost: @\r\nTransfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n", "POST /v1/x HTTP/1.1\r\nHost: @\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n", "POST /v1/x HTTP/1.1\r\nHost: @\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n",
			"POST /v1/x HTTP/1.1\r\nHost: @\r\nTransfer-Encoding: chunked\r\nTrailer: Authorization\r\n\r\n0\r\nAuthorization: Bearer own\r\nX-Api-Key: own\r\nHost: evil.test\r\n\r\n",
			"GET /v1/x HTTP/1.1\r\nHost: @\r\nContent-Length: " + fmt.Sprint(len(s.smuggled())) + "\r\nExpect: 100-continue\r\n\r\n", "\r\n\r\nGET /v1/x HTTP/1.1\r\nHost: @\r\nExpect: nonsense\r\n\r\n",
		}, func(raw string) {
			c, host := s.line()
			_, err := io.WriteString(c, strings.Replace(raw, "@", host, 1)+s.smuggled())
			require.NoError(s, err)
			if t, ok := c.(*watched).Conn.(interface{ CloseWrite() error }); ok {
				_ = t.CloseWrite()
			}
			r := bufio.NewReader(c)
			for range 3 {
				a := receiveFrom(r, "GET")
				require.False(s, a.hung(), "%q hangs", raw)
				if a.Status == 0 {
					break
				}
			}
			c.Close()
		})
		s.nothingSmuggled()
		for _, a := range s.arrivals() {
			require.Empty(s, a.Trailer.Get("Authorization"))
			require.Empty(s, a.Trailer.Get("X-Api-Key"))
		}
	}},
	{ID: "E1", What: "a body of GET or HEAD, which a server takes for the next request", Ways: []Way{
		Explicit, Gateway, Captured, Balancer,
	}, Run: func(s *seat) {
		body := s.smuggled()
		for length, raw := range map[string]string{
			"Content-Length: " + fmt.Sprint(len(body)): body,
			"Transfer-Encoding: chunked":               fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body),
		} {
			c, host := s.line()
			_, err := io.WriteString(c, "GET /v1/deaf HTTP/1.1\r\nHost: "+host+"\r\n"+length+"\r\n\r\n"+raw)
			require.NoError(s, err)
			require.Equal(s, 403, receiveFrom(bufio.NewReader(c), "GET").Status)
			s.deny(plan.ReasonAmbiguous)
			c.Close()
			if s.way == Gateway {
				continue // HEAD is not allowed there
			}
			c = s.secure(s.host(open))
			_, err = io.WriteString(c, "HEAD /v1/deaf HTTP/1.1\r\nHost: "+s.host(open)+"\r\n"+length+"\r\n\r\n"+raw)
			require.NoError(s, err)
			require.Equal(s, 403, receiveFrom(bufio.NewReader(c), "HEAD").Status)
			s.deny(plan.ReasonAmbiguous)
			c.Close()
		}
	}},
	{ID: "E2", What: "a pipelined second request to another path or host", Ways: []Way{Explicit, Gateway, Captured, Balancer}, Run: func(s *seat) {
		for _, second := range []string{request("GET", "/v2/secret", "@"), request("PUT", "/v1/x", "@", "Content-Length: 0"), request("GET", "/v1/x", s.host(evil)), request("GET", "/v1/x", s.host(open))} {
			c, host := s.line()
			_, err := io.WriteString(c, request("GET", "/v1/x", host)+strings.Replace(second, "@", host, 1))
			require.NoError(s, err)
			r := bufio.NewReader(c)
			require.Equal(s, 200, receiveFrom(r, "GET").Status)
			s.allow("api")
			require.Equal(s, 403, receiveFrom(r, "GET").Status, "%q", second)
			switch {
			case strings.Contains(second, "/v2"):
				s.deny(plan.ReasonPath)
			case strings.HasPrefix(second, "PUT"):
				s.deny(plan.ReasonMethod)
			case s.way == Gateway:
				s.deny(plan.ReasonScheme)
			default:
				s.deny(plan.ReasonName)
			}
			_, err = io.WriteString(c, request("GET", "/v1/y", host))
			require.NoError(s, err)
			require.Equal(s, 200, receiveFrom(r, "GET").Status)
			s.allow("api")
			c.Close()
		}
	}},
	{ID: "E3", What: "paths in other spellings: decided, and forwarded, as plan.Decide reads them", Ways: []Way{Explicit, Gateway}, Run: func(s *seat) {
		for _, path := range []string{
			"/v1/../secret", "/v1/%2e%2e/secret", "/v1/.%2e/secret", "/v1/%2E%2E%2Fsecret", "/v1/..%2fsecret", "/v1/..%2Fsecret", "/v1/..%5csecret", `/v1/..\secret`, "/v1//../../secret", "//v1/x", "//secret", "/v1//x", "/./v1/x", "/secret/../v1/x", "/v1/x/..", "/v1/x/../",
			"/v1/;/../secret", "/v1/..;/secret", "/v1/x;y=z", "/v1/..;x=y/secret", "/v1%2fx", "/v1%2f..%2fsecret", "/v1/%252e%252e/secret", "/v1/%c0%ae%c0%ae/secret", "/v1/%u002e%u002e/secret", "/v1/x%00", "/v1/x%00/../secret", "/v1/x%0a", "/v1/x%0d%0aX:%20y",
			"/v1/x%20HTTP/1.1", "/V1/x", "/%76%31/x", "/v1/%", "/v1/%zz", "/v1/%2", "/v1", "/v1/", "/", "*", "v1/x", "?/v1/x", "/secret?/v1/x", "/v1/x?/../secret", "/v1/\xff", "/v1/\u00e9", "/v1/x\x7f", "/v1/{x}", "/v1/|x", "/v1/^x",
		} {
			before := len(s.arrivals())
			a := s.ask("GET", path)
			clean, _, _ := strings.Cut(path, "?")
			r := plan.Request{Agent: s.name, Scheme: "https", Host: s.host(api), Port: 443, Method: "GET", Path: clean}
			if s.way == Gateway {
				r.Scheme, r.Host, r.Port = "http", "localhost", 8080
			}
			d := s.plan.Decide(r)
			if a.Status == 200 {
				require.True(s, d.Allow, "%q: allowed, and plan.Decide says %+v", path, d)
				s.allow("api")
				got := s.arrivals()[before]
				want, err := plan.NormalizePath(clean)
				require.NoError(s, err)
				forwarded, _, _ := strings.Cut(got.URI, "?")
				require.Equal(s, want, forwarded, "%q: what is forwarded is what was decided on", path)
				continue
			}
			require.True(s, a.refused() && !a.hung(), "%q: %s", path, a)
			if a.Status == 403 {
				require.False(s, d.Allow, "%q: denied, and plan.Decide allows it", path)
				s.deny(d.Reason)
			} else {
				s.deny(plan.ReasonMalformed)
			}
		}
	}},
	{ID: "E3", What: "a denied path, as a server may decode it, where everything else is allowed", Ways: []Way{Explicit, Captured, Gateway}, Rules: func(s string) []plan.Rule {
		admin, keys := denial(s, "admin", nil, nil), denial(s, "keys", nil, nil)
		admin.Paths, keys.Paths = []string{"/admin/**"}, []string{"/v1/*/keys"}
		return append(everything(s), admin, keys)
	}, Run: func(s *seat) {
		for _, path := range []string{
			"/admin", "/admin/", "/admin/x", "/Admin/x", "/%61dmin/x", "//admin/x", "/x/../admin", "/admin/x;y", "/admin/a%2Fb", "/admin%2Fx", "/admin;x/y", "/;x/admin", "/%2fadmin/x", "/%5cadmin", `/admin\x`, "/.%2fadmin/x",
			"/v1/..%2fadmin", "/v1/%2e%2e%2fadmin/x", "/v1/..%5Cadmin", "/v1/%252e%252e/admin", "/v1/x/..;/../admin", "/v1/%2e%2e;/admin", "/admin%252fx", "/%2561dmin", "/admin%3bx/y", "/admin%20/x", "/admin./x", "/admin%09", "/%c0%afadmin", "/admin%3fx", "/admin%23/y", "/%u0061dmin", "/x/%",
		} {
			s.mustDeny(s.ask("GET", path), path)
			s.denyBy(plan.ReasonDenied, "admin")
		}
		for _, path := range []string{"/v1/x/keys", "/v1/group%2Fproject/keys", "/v1/a;b/keys", "/V1/x/KEYS/", "/v1%2fx%2fkeys", "/v1/x/;/keys"} {
			s.mustDeny(s.ask("DELETE", path), path)
			s.denyBy(plan.ReasonDenied, "keys")
		}
		for _, path := range []string{"/", "/administrator", "/x/admin", "/@scope%2Fname", "/v1/group%2Fadmin/files", "/v1/x;y", "/100%25/x"} {
			require.Equal(s, 200, s.ask("GET", path).Status, "%s", path)
			s.allow("api")
		}
	}},
	{ID: "E3", What: "fragments and absolute URLs in the request line", Ways: []Way{Explicit}, Run: func(s *seat) {
		for _, target := range []string{"/v1/x#/../secret", "/secret#/v1/x", "https://" + s.host(api) + "/secret", "https://" + s.host(api) + "/v1/../secret", "https://" + s.host(api) + "#/v1/x", "https://" + s.host(api) + "?/v1/x", "https://" + s.host(api)} {
			a := s.ask("GET", target)
			require.True(s, a.refused() && !a.hung(), "%q: %s", target, a)
			s.denyAs(a, plan.ReasonPath)
		}
	}},
	{ID: "E4", What: "methods: TRACE, TRACK, lower case, unknown, none", Ways: []Way{Explicit, Gateway, Captured, Balancer}, Run: func(s *seat) {
		for _, method := range []string{"TRACE", "TRACK", "DELETE", "PUT", "PATCH", "get", "Get", "GETT", "PRI", "DEBUG", "PROPFIND", "OPTIONS", "HEAD", "X-GET"} {
			a := s.ask(method, "/v1/x")
			require.True(s, a.refused() && !a.hung(), "%q: %s", method, a)
			s.denyAs(a, plan.ReasonMethod)
		}
		for _, method := range []string{"", "G(T", "GET,POST", "GET\x00", "\"GET\"", strings.Repeat("A", 5000)} {
			a := s.ask(method, "/v1/x")
			require.True(s, a.refused() && !a.hung(), "%q: %s", method, a)
			s.denyAs(a, plan.ReasonMethod)
		}
	}},
	{ID: "E4", What: "TRACE where every method is allowed", Ways: []Way{Explicit, Captured}, Run: func(s *seat) {
		for _, host := range []string{s.host(open), s.host(h2)} {
			for _, method := range []string{"TRACE", "TRACK", "CONNECT"} {
				a := s.askHost(host, method, "/v1/x")
				require.True(s, a.refused() && !a.hung(), "%q: %s", method, a)
				if method == "CONNECT" {
					s.deny(plan.ReasonMalformed) // "/v1/x" is not an authority
				} else {
					s.denyAs(a, plan.ReasonMethod)
				}
			}
		}
	}},
	{ID: "E5", What: "an authentication header many times", Ways: []Way{Explicit, Gateway, Captured, Balancer}, Run: func(s *seat) {
		a := s.ask("GET", "/v1/x", "X-Api-Key: own", "X-API-KEY: own2", "x-api-key: own3", "Authorization: Bearer own", "authorization: Basic own", "Cookie: a=own", "Cookie: b=own")
		require.Equal(s, 200, a.Status, "%s", a)
		s.allow("api")
		require.Equal(s, []string{canary}, s.arrivals()[0].Header.Values("X-Api-Key"))
		require.NotContains(s, fmt.Sprint(s.arrivals()), "own")
	}},
	{ID: "E5", What: "a denial by a header is not evaded by sending it twice", Ways: []Way{Explicit, Gateway, Captured}, Rules: func(s string) []plan.Rule {
		return append(rulesOf(s), denial(s, "present", []plan.Condition{{Name: "x-dangerous", Present: true}}, nil), denial(s, "value", []plan.Condition{{Name: "x-mode", Value: "bad"}}, nil))
	}, Run: func(s *seat) {
		for _, c := range [][2]string{
			{"present", "X-Dangerous: 1"},
			{"present", "X-Dangerous: 1\r\nX-Dangerous: 2"},
			{"present", "X-Dangerous:"},
			{"present", "x-DANGEROUS: " + strings.Repeat("x", 1000)},
			{"value", "X-Mode: bad"},
			{"value", "X-Mode: bad\r\nX-Mode: good"},
			{"value", "X-Mode: good\r\nX-Mode: bad"},
		} {
			s.mustDeny(s.ask("GET", "/v1/x", c[1]), c[1])
			s.denyBy(plan.ReasonDenied, c[0])
		}
	}},
	{ID: "E5", What: "a denial by a parameter is not evaded by sending it twice", Ways: []Way{Explicit, Gateway, Captured}, Rules: func(s string) []plan.Rule {
		return append(rulesOf(s), denial(s, "present", nil, []plan.Condition{{Name: "force", Present: true}}), denial(s, "value", nil, []plan.Condition{{Name: "mode", Value: "bad"}}))
	}, Run: func(s *seat) {
		for _, c := range [][2]string{
			{"present", "force"},
			{"present", "a=b&f%6frce=1"},
			{"present", "force=1&force=2"},
			{"present", "force&force"},
			{"value", "mode=bad"},
			{"value", "m%6Fde=%62ad"},
			{"value", "mode=good&mode=bad"},
			{"value", "mode=bad&mode=good"},
		} {
			s.mustDeny(s.ask("GET", "/v1/x?"+c[1]), c[1])
			s.denyBy(plan.ReasonDenied, c[0])
		}
	}},
	{ID: "E5", What: "a denial by a parameter or header, as a server may read them", Ways: []Way{Explicit, Captured, Gateway}, Rules: func(s string) []plan.Rule {
		return append(everything(s), denial(s, "query", nil, []plan.Condition{{Name: "q", Value: "a b"}}), denial(s, "header", []plan.Condition{{Name: "x-mode", Value: "bad"}}, nil))
	}, Run: func(s *seat) {
		for _, query := range []string{"q=a+b", "q=a%20b", "x=1;q=a+b", "q=a+b;x", "q[]=a+b", "q%5B0%5D=a%20b", "Q=A+B", "+q=a+b", "q=+a+b", "%71=%61%2520b", "q=x&q=a+b"} {
			s.mustDeny(s.ask("GET", "/v1/x?"+query), query)
			s.denyBy(plan.ReasonDenied, "query")
		}
		for _, header := range []string{"X-Mode: Bad", "X-Mode: good, bad", "X-Mode: bad,good", "X-Mode: bad;q=1", "X-Mode: \"bad\"", "x-mode:\tbad \t", "X-Mode: \xff, bad", "X-Mode: good\r\nX-Mode: BAD"} {
			s.mustDeny(s.ask("GET", "/v1/x", header), header)
			s.denyBy(plan.ReasonDenied, "header")
		}
		require.Equal(s, 200, s.ask("GET", "/v1/x?q=ab&xq=a+b", "X-Mode: not-bad").Status)
		s.allow("api")
	}},
	{ID: "E5", What: "a condition on a header is not met by one of several values", Ways: []Way{Explicit, Gateway, Captured}, Rules: func(s string) []plan.Rule {
		r := rulesOf(s)
		r[0].Headers = []plan.Condition{{Name: "x-version", Value: "2"}}
		return r
	}, Run: func(s *seat) {
		require.Equal(s, 200, s.ask("GET", "/v1/x", "X-Version: 2").Status)
		s.allow("api")
		for _, headers := range []string{"X-Version: 2\r\nX-Version: 3", "X-Version: 3\r\nX-Version: 2", "X-Version: 2,3", "X-Version: 1", "X-Version:"} {
			s.mustDeny(s.ask("GET", "/v1/x", headers), headers)
			s.deny(plan.ReasonCondition)
		}
	}},
	{ID: "E5", What: "a condition on a parameter is not met by one of several values", Ways: []Way{Explicit, Gateway, Captured}, Rules: func(s string) []plan.Rule {
		r := rulesOf(s)
		r[0].Query = []plan.Condition{{Name: "mode", Value: "safe"}}
		return r
	}, Run: func(s *seat) {
		require.Equal(s, 200, s.ask("GET", "/v1/x?mode=safe").Status)
		s.allow("api")
		for _, query := range []string{"x", "mode", "mode=", "Mode=safe", "mode=safe;x=y", "mode=safe%00"} {
			s.mustDeny(s.ask("GET", "/v1/x?"+query), query)
			s.deny(plan.ReasonCondition)
		}
		for _, query := range []string{"mode=safe&mode=x", "mode=x&mode=safe", "mode=safe&m%6fde=x", "mode=safe&mode"} {
			s.mustDeny(s.ask("GET", "/v1/x?"+query), query)
			s.deny(plan.ReasonAmbiguous)
		}
	}},
	{ID: "E6", What: "headers that only a proxy may set", Ways: []Way{Explicit, Gateway, Socket, Captured, Balancer}, Run: func(s *seat) {
		someone := bystander
		headers := []string{
			"X-Postern-Scope: connect/" + someone, "X-Postern-Agent: " + someone, "X-Postern-Secret: own", "X-Postern-Connect: evil.test:443", "X-Postern-Host: evil.test", "X-Postern-Anything: spoofed",
			"X-Envoy-Original-Path: /spoofed", "X-Envoy-Original-Dst-Host: 127.0.0.1:9", "X-Envoy-Upstream-Alt-Stat-Name: spoofed", "X-Envoy-Internal: true", "X-Envoy-Upstream-Rq-Timeout-Ms: 1", "X-Envoy-Retry-On: 5xx", "X-Envoy-Max-Retries: 9", "X-Envoy-Decorator-Operation: spoofed",
			"X-Envoy-External-Address: 1.2.3.4", "X-Envoy-Expected-Rq-Timeout-Ms: 1", "X-Envoy-Force-Trace: true", "X-Envoy-Hedge-On-Per-Try-Timeout: true", "X-Envoy-Ip-Tags: spoofed",
			"X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: http", "X-Forwarded-Host: evil.test", "X-Forwarded-Client-Cert: spoofed", "X-Forwarded-Anything: spoofed", "Proxy-Authorization: Basic spoofed", "Proxy-Connection: keep-alive",
		}
		if s.way == Socket {
			authority := s.host(evil) + ":443"
			a := s.raw(request("CONNECT", authority, authority, headers...))
			require.Equal(s, 403, a.Status)
			require.Contains(s, a.Body, `"`+s.name+`"`)
			s.deny(plan.ReasonHost)
			authority = s.host(api) + ":443"
			c := s.proxy()
			require.Equal(s, 200, exchange(c, "CONNECT", request("CONNECT", authority, authority, headers...)).Status)
			t, err := s.handshake(c, s.host(api))
			require.NoError(s, err)
			require.Equal(s, 200, exchange(t, "GET", request("GET", "/v1/x", s.host(api))).Status)
			s.allow("api")
			return
		}
		a := s.ask("GET", "/v1/x", headers...)
		require.Equal(s, 200, a.Status, "%s", a)
		s.allow("api")
		for name, values := range s.arrivals()[0].Header {
			for _, prefix := range []string{"X-Postern-", "X-Envoy-", "Proxy-"} {
				require.False(s, strings.HasPrefix(name, prefix), "%s: %s arrives", name, values)
			}
			require.NotContains(s, fmt.Sprint(values), "spoofed", name)
			require.NotContains(s, fmt.Sprint(values), "evil.test", name)
			require.NotContains(s, fmt.Sprint(values), "127.0.0.1", name)
		}
	}},
	{ID: "E6", What: "Connection names the headers to drop", Ways: []Way{Explicit, Captured}, Run: func(s *seat) {
		for _, named := range []string{"x-api-key", "X-Api-Key, close", "host", "x-postern-scope", ":authority", "authorization"} {
			a := s.ask("GET", "/v1/x", "Connection: "+named)
			if a.Status == 200 {
				s.allow("api")
				continue
			}
			require.True(s, a.refused() && !a.hung(), "%q: %s", named, a)
			s.deny(plan.ReasonMalformed)
		}
		for _, arrived := range s.arrivals() {
			require.Equal(s, canary, arrived.Header.Get("X-Api-Key"), "the credential cannot be talked away")
		}
	}},
	{ID: "E7", What: "log injection by method, path, host, header", Ways: []Way{Explicit, Socket}, Run: func(s *seat) {
		const forged = `","agent":"forged","verdict":"allow`
		if s.way == Explicit {
			for _, path := range []string{`/v1/` + forged, "/v2/%0a{%22agent%22:%22forged%22}", "/v2/\u2028x", `/v2/\u000a`, "/v2/\\", "/v2/%25REQ(x-api-key)%25", "/v2/%REQ(x-api-key)%", "/v2/\x1b[31m", "/v2/" + strings.Repeat("a", 9000)} {
				a := s.ask("GET", path, "User-Agent: "+forged, "Referer: "+forged)
				require.NotZero(s, a.Status, "%q", path)
				switch a.Status {
				case 200:
					s.allow("api")
				case 403:
					s.deny(plan.ReasonPath)
				default:
					s.deny(plan.ReasonMalformed)
				}
			}
		} else {
			for _, host := range []string{forged + ":443", "evil\u2028.test:443", "%REQ(x):443", "evil.test\\n:443", "<script>:443", "$(id):443", strings.Repeat("e", 9000) + ":443"} {
				_, a := s.connect(host)
				require.True(s, a.refused(), "%q: %s", host, a)
				s.denyAs(a, plan.ReasonHost)
				if a.Body != "" {
					require.True(s, json.Valid([]byte(a.Body)), "%q: %s", host, a.Body)
				}
			}
		}
		segments, err := filepath.Glob(filepath.Join(s.fleet.Home.AuditDir(), "n1", "*.jsonl"))
		require.NoError(s, err)
		text, err := os.ReadFile(segments[len(segments)-1])
		require.NoError(s, err)
		whole := text[:strings.LastIndexByte(string(text), '\n')+1]
		for l := range strings.Lines(string(whole)) {
			var e audit.Event
			require.NoError(s, json.Unmarshal([]byte(l), &e), "%s", l)
			require.NotEqual(s, "forged", e.Agent)
			require.Less(s, len(l), 8192, "an event is bounded")
			require.NotContains(s, l, "\x1b")
		}
	}},
	{ID: "E8", What: "an upstream certificate with NUL in its name, or for another one", Ways: []Way{Explicit}, Rules: anyway("nul.", "wrong."), Run: func(s *seat) {
		for _, name := range []string{"nul.", "wrong."} {
			a := s.askHost(s.host(name), "GET", "/")
			require.Equal(s, 503, a.Status, "%s: %s", name, a)
			s.wanted = append(s.wanted, fmt.Sprintf("allow %s %s/%s", plan.ReasonUpstream, s.name, strings.Trim(name, ".")))
		}
		require.Empty(s, s.arrivals())
		s.lookedUp = true
	}},
}

// everything is a rule that allows everything at the api host.
func everything(s string) []plan.Rule {
	r := rulesOf(s)[0]
	r.Methods, r.Paths = []string{plan.AnyMethod}, []string{plan.AnyPath}
	return []plan.Rule{r}
}

// denial is a rule that denies everything at the api host that meets conditions.
func denial(s, name string, headers, query []plan.Condition) plan.Rule {
	return plan.Rule{
		ID: s + "/" + name, Deny: true, Host: api + s + ".test", Port: 443, Gateway: 8080, Methods: []string{plan.AnyMethod}, Paths: []string{plan.AnyPath}, Headers: headers, Query: query,
	}
}

// mustDeny reports an answer other than 403, and continues.
func (s *seat) mustDeny(a answer, what string) {
	if a.Status != http.StatusForbidden {
		s.Errorf("%q: %s", what, a)
	}
}

// nothingSmuggled requires that no upstream sees the smuggled request as one.
func (s *seat) nothingSmuggled() {
	s.Helper()
	// How many requests there are in what is malformed is for Envoy to say. Each that arrived has
	// an event, and settle looks at each, also at what arrives late.
	s.quiet, s.any, s.lookedUp, s.framed = true, true, true, true
	arrived := s.arrivals()
	require.Eventually(s, func() bool {
		allowed := 0
		for _, e := range s.events(s.name) {
			if e.Verdict == audit.Allow {
				allowed++
			}
		}
		return allowed >= len(arrived)
	}, patience, pause)
}
