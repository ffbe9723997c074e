package attack

import (
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

// http2Request is the header of a GET to the api host, and what follows.
func (s *seat) http2Request(method, path string, header ...string) []string {
	return append([]string{":method", method, ":scheme", "https", ":path", path, ":authority", s.host(api)}, header...)
}

// http2 sends one request on a connection of its own, as what is malformed may end that.
func (s *seat) http2(method, path string, header ...string) string {
	s.Helper()
	c := s.secure(s.host(api), "h2")
	defer c.Close()
	return s.h2(c).ask(s.http2Request(method, path, header...)...)
}

// framing2 is what of section E depends on the protocol, by HTTP/2: there is no
// text to be read in two ways, but there are frames.
var framing2 = []Case{
	{ID: "E3", What: "HTTP/2: paths in other spellings", Ways: []Way{Explicit, Captured, Balancer}, Run: func(s *seat) {
		for _, path := range []string{
			"/v1/../secret", "/v1/%2e%2e/secret", "/v1/.%2e/secret", "/v1/..%2fsecret", `/v1/..\secret`, "/v1//../../secret", "//v1/x", "/v1//x", "/./v1/x", "/secret/../v1/x", "/v1/..;/secret", "/v1%2fx", "/v1/%252e%252e/secret",
			"/v1/%c0%ae%c0%ae/secret", "/v1/x%00", "/V1/x", "/%76%31/x", "/v1/%", "/v1/%zz", "/v1", "/v1/", "/", "*", "v1/x", "?/v1/x", "/secret?/v1/x", "/v1/x?/../secret", "/v1/x#/../secret", "https://" + s.host(api) + "/secret",
		} {
			before := len(s.arrivals())
			status := s.http2("GET", path)
			clean, _, _ := strings.Cut(path, "?")
			d := s.plan.Decide(plan.Request{Agent: s.name, Scheme: "https", Host: s.host(api), Port: 443, Method: "GET", Path: clean})
			switch status {
			case "200":
				require.True(s, d.Allow, "%q: allowed, and plan.Decide says %+v", path, d)
				s.allow("api")
				want, err := plan.NormalizePath(clean)
				require.NoError(s, err)
				forwarded, _, _ := strings.Cut(s.arrivals()[before].URI, "?")
				require.Equal(s, want, forwarded, "%q: what is forwarded is what was decided on", path)
			case "403":
				require.False(s, d.Allow, "%q: denied, and plan.Decide allows it", path)
				s.deny(d.Reason)
			default:
				require.NotEqual(s, "2", status[:1], "%q: %s", path, status)
				s.deny(plan.ReasonMalformed)
			}
		}
	}},
	{ID: "E4", What: "HTTP/2: methods", Ways: []Way{Explicit, Captured}, Run: func(s *seat) {
		for _, method := range []string{"TRACE", "TRACK", "DELETE", "PUT", "get", "GETT", "PRI", "OPTIONS", "HEAD", "GET,POST"} {
			status := s.http2(method, "/v1/x")
			require.NotEqual(s, "2", status[:1], "%q: %s", method, status)
			if status == "403" {
				s.deny(plan.ReasonMethod)
			} else {
				s.deny(plan.ReasonMalformed)
			}
		}
		require.Equal(s, "403", s.http2("DELETE", "/v1/x", "x-http-method-override", "GET"))
		s.deny(plan.ReasonMethod)
	}},
	{ID: "E5", What: "HTTP/2: headers and parameters many times", Ways: []Way{Explicit, Captured, Balancer}, Rules: func(s string) []plan.Rule {
		r := append(rulesOf(s), denial(s, "value", []plan.Condition{{Name: "x-mode", Value: "bad"}}, nil), denial(s, "parameter", nil, []plan.Condition{{Name: "mode", Value: "bad"}}))
		r[0].Headers = []plan.Condition{{Name: "x-version", Value: "2"}}
		return r
	}, Run: func(s *seat) {
		ok := []string{"x-version", "2"}
		require.Equal(s, "200", s.http2("GET", "/v1/x", append(ok, "x-api-key", "own", "x-api-key", "own2", "authorization", "Bearer own", "cookie", "a=own", "cookie", "b=own")...))
		s.allow("api")
		require.Equal(s, []string{canary}, s.arrivals()[0].Header.Values("X-Api-Key"))
		require.Empty(s, s.arrivals()[0].Header.Get("Authorization")+s.arrivals()[0].Header.Get("Cookie"))
		for _, headers := range [][]string{{"x-version", "2", "x-version", "3"}, {"x-version", "3", "x-version", "2"}, {"x-version", "2,3"}, {"x-version", ""}, nil} {
			require.Equal(s, "403", s.http2("GET", "/v1/x", headers...), "%q", headers)
			s.deny(plan.ReasonCondition)
		}
		for _, headers := range [][]string{{"x-mode", "bad", "x-mode", "good"}, {"x-mode", "good", "x-mode", "bad"}} {
			require.Equal(s, "403", s.http2("GET", "/v1/x", append(headers, ok...)...), "%q", headers)
			s.denyBy(plan.ReasonDenied, "value")
		}
		for _, query := range []string{"mode=bad&mode=good", "mode=good&mode=bad", "m%6Fde=%62ad"} {
			require.Equal(s, "403", s.http2("GET", "/v1/x?"+query, ok...), "%q", query)
			s.denyBy(plan.ReasonDenied, "parameter")
		}
	}},
	{ID: "E6", What: "HTTP/2: headers that only a proxy may set, and those of a connection", Ways: []Way{Explicit, Captured, Balancer}, Run: func(s *seat) {
		require.Equal(s, "200", s.http2("GET", "/v1/x", "x-postern-scope", "connect/"+bystander, "x-postern-secret", "spoofed", "x-postern-injected", "spoofed", "x-postern-rest", "spoofed", "x-envoy-original-path", "/spoofed", "x-envoy-retry-on", "5xx",
			"x-forwarded-for", "127.0.0.1", "x-forwarded-host", "evil.test", "proxy-authorization", "Basic spoofed"))
		s.allow("api")
		for name, values := range s.arrivals()[0].Header {
			require.False(s, strings.HasPrefix(name, "X-Postern-") || strings.HasPrefix(name, "X-Envoy-") || strings.HasPrefix(name, "Proxy-"), "%s: %s arrives", name, values)
			require.NotRegexp(s, `spoofed|evil\.test|127\.0\.0\.1`, strings.Join(values, ","), name)
		}
		// Not allowed in HTTP/2 (RFC 9113, 8.2.2); a second authority, a path that
		// comes twice, one that comes late.
		strange := [][]string{
			{"connection", "x-api-key"},
			{"transfer-encoding", "chunked"},
			{"keep-alive", "timeout=5"},
			{"proxy-connection", "keep-alive"},
			{"upgrade", "h2c"},
			{"te", "gzip"},
			{"host", s.host(open)},
			{":path", "/secret"},
			{":authority", s.host(open)},
			{":method", "DELETE"},
			{"content-length", "5"},
			{"X-Upper", "y"},
			{"x y", "z"},
			{"x", "a\r\nx-injected: b"},
			{"x", "a\x00b"},
		}
		// At the same time, as Envoy is slow to close a connection.
		statuses, numbers := make([]string, len(strange)), make([]int, len(strange))
		for i := range numbers {
			numbers[i] = i
		}
		each(s, numbers, func(i int) { statuses[i] = s.http2("GET", "/v1/x", strange[i]...) })
		for i, status := range statuses {
			if status == "200" {
				// It may be dropped instead; below it must be.
				s.allow("api")
				continue
			}
			require.NotEmpty(s, status, "%q", strange[i])
			require.NotEqual(s, "2", status[:1], "%q: %s", strange[i], status)
			s.deny(plan.ReasonMalformed)
		}
		for _, a := range s.arrivals() {
			require.Equal(s, "/v1/x", a.URI)
			require.Equal(s, s.host(api), a.Host)
			require.Equal(s, "GET", a.Method)
			require.Equal(s, canary, a.Header.Get("X-Api-Key"), "the credential cannot be talked away")
			require.Empty(s, a.Header.Get("X-Injected")+a.Header.Get("Transfer-Encoding")+a.Header.Get("Upgrade"))
		}
	}},
}
