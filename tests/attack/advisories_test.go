package attack

import (
	"bytes"
	"io"
	"strings"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/postern/postern/plan"
)

// advisories are what Envoy's own security advisories describe, where it reaches
// our configuration and no other case tries it: docs/envoy-advisories.md.
var advisories = []Case{
	{ID: "X4", What: "CVE-2026-47774: HTTP/2 cookies in pieces count as headers (W20)", Ways: []Way{Explicit, Captured}, Run: func(s *seat) {
		var many, large []string
		for range 500 {
			many = append(many, "cookie", "a=b")
		}
		for range 30 {
			large = append(large, "cookie", strings.Repeat("c", 4<<10))
		}
		for what, cookies := range map[string][]string{"many": many, "large": large} {
			status := s.http2("GET", "/v1/x", cookies...)
			require.Contains(s, []string{"reset", "431", "400"}, status, what)
			if what == "many" {
				s.deny(plan.ReasonMalformed)
			}
		}
		s.works()
		s.quiet = true // what is too large for a header never becomes a request
	}},
	{ID: "X4", What: "CVE-2026-73550: HTTP/2 Host headers that are dropped count as headers (W20)", Ways: []Way{Explicit, Captured}, Run: func(s *seat) {
		var hosts []string
		for range 2000 {
			hosts = append(hosts, "host", s.host(api))
		}
		status := s.http2("GET", "/v1/x", hosts...)
		require.Contains(s, []string{"reset", "431", "400"}, status)
		s.deny(plan.ReasonMalformed)
		s.works()
	}},
	{ID: "X1", What: "CVE-2026-73513: HTTP/2 trailers that do not end the stream (W20)", Ways: []Way{Explicit, Captured}, Run: func(s *seat) {
		for _, trailers := range [][]string{{"x-trailer", "a"}, {":path", "/secret"}, {"content-length", "5"}} {
			c := s.h2(s.secure(s.host(api), "h2"))
			var head, tail bytes.Buffer
			c.encode(&head, s.http2Request("POST", "/v1/x")...)
			c.encode(&tail, trailers...)
			_ = c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndHeaders: true})
			_ = c.framer.WriteData(1, false, []byte("body"))
			_ = c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: tail.Bytes(), EndHeaders: true})
			_ = c.framer.WriteData(1, true, []byte("more"))
			for {
				frame, err := c.framer.ReadFrame()
				_, reset := frame.(*http2.RSTStreamFrame)
				_, gone := frame.(*http2.GoAwayFrame)
				if err != nil || reset || gone {
					require.False(s, answer{Err: err}.hung(), "no answer")
					break
				}
			}
		}
		s.works()
		// What came before the trailers was allowed, and may have been passed on.
		for _, r := range s.arrivals()[1:] {
			require.NotContains(s, r.URI, "/secret")
			s.allow("api")
		}
		s.quiet = true // how such a stream is logged is Envoy's business
	}},
	{ID: "B9", What: "CVE-2026-73548: a request sent before an upgrade is accepted is never one (W20)", Ways: []Way{Explicit}, Run: func(s *seat) {
		c := s.secure(s.host(api))
		_, err := io.WriteString(c, request("GET", "/v1/x", s.host(api), "Connection: Upgrade", "Upgrade: websocket")+
			request("GET", "/secret", s.host(evil)))
		require.NoError(s, err)
		_, _ = io.ReadAll(io.LimitReader(c, 4<<10))
		c.Close()
		s.allow("api") // the first
		s.quiet = true // what becomes of an upgrade that the upstream does not take is Envoy's business
	}},
}
