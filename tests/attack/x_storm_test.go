package attack

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/plan"
)

// storms are what issue 4 asks for in addition to rivals.md: no request, however
// malformed, crashes or hangs an Envoy, gets another agent's policy, or passes
// without an event.
var storms = []Case{
	{ID: "X1", What: "2000 mutated requests", Ways: []Way{Socket, Explicit, Gateway, Balancer}, Run: func(s *seat) {
		seeds := []string{
			request("CONNECT", s.host(api)+":443", s.host(api)+":443"), request("CONNECT", s.host(evil)+":443", s.host(evil)+":443"), request("GET", "http://"+s.host(evil)+"/", s.host(evil)), request("GET", "/v1/x", "localhost:8080"),
			"POST /v1/x HTTP/1.1\r\nHost: localhost:8080\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "POST /v1/x HTTP/1.1\r\nHost: localhost:8080\r\nContent-Length: 5\r\n\r\nhello", preface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x01\x05\x00\x00\x00\x01\x82",
		}
		n := 1000
		if s.way != Socket && s.way != Balancer {
			n = 500
			seeds = []string{
				request("GET", "/v1/x", "@"), request("POST", "/v1/x", "@", "Content-Length: 5") + "hello", "POST /v1/x HTTP/1.1\r\nHost: @\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", request("GET", "/v2", "@"), request("GET", "/v1/x?key=1&a=b", s.host(evil)),
				request("GET", "/v1/x", "@", "Connection: Upgrade", "Upgrade: websocket"), preface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00",
			}
			host := s.host(api)
			if s.way == Gateway {
				host = "localhost:8080"
			}
			for i := range seeds {
				seeds[i] = strings.ReplaceAll(seeds[i], "@", host)
			}
		}
		var mu sync.Mutex
		refusals, grants := 0, 0
		storm(s, n, seeds, func(raw []byte) {
			var c net.Conn
			if s.way == Explicit {
				c = s.secure(s.host(api))
			} else {
				c = s.proxy()
			}
			defer c.Close()
			wait := 200 * time.Millisecond
			if slices.Contains(seeds[:len(seeds)-1], string(raw)) { // it is whole, and has an answer however slow the machine is
				wait = patience
			}
			_ = c.SetDeadline(time.Now().Add(wait))
			_, _ = c.Write(raw)
			a := receive(c, strings.SplitN(string(raw), " ", 2)[0])
			// Waiting for the rest of a request is not a hang: the limit on slow clients is X2's.
			mu.Lock()
			defer mu.Unlock()
			switch {
			case a.Status == 200 || a.Status == 101:
				grants++
			case a.Status >= 400:
				refusals++
			case a.Status != 0:
				s.Errorf("%q: %s", raw, a)
			}
		})
		s.quiet = true
		require.Positive(s, grants)
		require.Positive(s, refusals)
		// Every answer is an event, but for accepted CONNECTs; every request that arrived is an allowed one.
		require.Eventually(s, func() bool {
			denied, allowed := 0, 0
			for _, e := range s.events(s.name) {
				if e.Verdict == audit.Deny {
					denied++
				} else {
					allowed++
				}
			}
			return denied >= refusals && allowed >= len(s.arrivals())
		}, patience, 100*time.Millisecond, "%d refusals", refusals)
		s.uncounted()
		require.Equal(s, s.pid, s.fleet.EnvoyPID("n1"), "Envoy was restarted")
	}},
	{ID: "X1", What: "mutated TLS and HTTP/2 in the tunnel", Ways: []Way{Socket}, Run: func(s *seat) {
		hello := helloFor(s.host(api))
		storm(s, 150, []string{string(hello)}, func(raw []byte) {
			c := s.tunnel(s.host(api))
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(100 * time.Millisecond))
			_, _ = c.Write(raw)
			_, _ = io.ReadAll(c)
		})
		frames := "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x08\x06\x00\x00\x00\x00\x00AAAAAAAA" + "\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\xff\xff" + "\x00\x00\x03\x01\x05\x00\x00\x00\x01\x82\x87\x84" + "\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x08"
		storm(s, 150, []string{frames, strings.Repeat("\x00\x00\x03\x01\x05\x00\x00\x00\x01\x82\x87\x84", 50), strings.Repeat("\x00\x00\x00\x04\x00\x00\x00\x00\x00", 2000), "\x00\x00\x03\x01\x00\x00\x00\x00\x01\x82\x87\x84" + strings.Repeat("\x00\x00\x04\x09\x00\x00\x00\x00\x01\x00\x01a\x00", 500)}, func(raw []byte) {
			c := s.secure(s.host(api), "h2")
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(100 * time.Millisecond))
			_, _ = io.WriteString(c, preface)
			_, _ = c.Write(raw)
			_, _ = io.ReadAll(c)
		})
		s.quiet = true
		require.Equal(s, s.pid, s.fleet.EnvoyPID("n1"), "Envoy was restarted")
		require.Equal(s, 200, s.ask("GET", "/v1/works").Status)
		s.uncounted()
	}},
	{ID: "X2", What: "slow clients are cut off", Ways: []Way{Socket, Explicit}, Run: func(s *seat) {
		// All at the same time: what is waited for is Envoy's timeout for headers.
		starts := []string{"GET /v1/x HTTP/1.1\r\nHost: " + s.host(api) + "\r\nX: y", "G", "GET /v1/x HTTP/1.1\r\nHost: " + s.host(api) + "\r\n"}
		s.quiet = true
		each(s, starts, func(start string) {
			var c net.Conn
			if s.way == Explicit {
				c = s.secure(s.host(api))
			} else {
				c = s.proxy()
			}
			_, err := io.WriteString(c, start)
			require.NoError(s, err)
			stop := make(chan struct{})
			go func() { // a byte now and then does not help
				for {
					select {
					case <-stop:
						return
					case <-time.After(500 * time.Millisecond):
						_, _ = io.WriteString(c, "x")
					}
				}
			}()
			a := receive(c, "GET")
			close(stop)
			require.False(s, a.hung(), "%q is waited for for ever", start)
			require.True(s, a.refused(), "%s", a)
		})
		require.Eventually(s, func() bool {
			return len(s.events(s.name)) == len(starts)
		}, patience, pause, "an event for each")
	}},
	{ID: "X3", What: "many connections and streams of one agent leave the others theirs (W12)", Ways: []Way{Socket}, Run: func(s *seat) {
		var idle []net.Conn
		for range 400 {
			idle = append(idle, s.proxy())
		}
		for range 50 {
			idle = append(idle, s.tunnel(s.host(api)))
		}
		s.works()
		for _, c := range idle {
			c.Close()
		}
		// Streams that are opened and reset (rapid reset).
		c := s.h2(s.secure(s.host(open), "h2"))
		var block bytes.Buffer
		c.encode(&block, ":method", "GET", ":scheme", "https", ":path", "/reset", ":authority", s.host(open))
		for range 300 {
			if c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: c.next, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true}) != nil || c.framer.WriteRSTStream(c.next, http2.ErrCodeCancel) != nil {
				break
			}
			c.next += 2
		}
		s.works()
		s.uncounted()
	}},
	{ID: "X4", What: "oversized lines, headers, many headers", Ways: []Way{Socket, Explicit, Gateway, Balancer}, Run: func(s *seat) {
		big := strings.Repeat("a", 80<<10)
		var many []string
		for i := range 2000 {
			many = append(many, fmt.Sprintf("X-%d: y", i))
		}
		send := func(method, path, host string, header ...string) {
			var c net.Conn
			if s.way == Explicit {
				c = s.secure(s.host(api))
			} else {
				c = s.proxy()
			}
			a := exchange(c, method, request(method, path, host, header...))
			require.True(s, a.refused() && !a.hung(), "%.40q: %s", path, a)
			s.deny(plan.ReasonMalformed)
		}
		host := s.host(api)
		if s.way != Explicit {
			host = "localhost:8080"
		}
		send("GET", "/v1/"+big, host)
		send("GET", "/v1/x?"+big, host)
		send("GET", "/v1/x", host, "X-Big: "+big)
		send("GET", "/v1/x", host, many...)
		send("GET", "/v1/x", big)
		send("GET", "/v1/x", host, big+": y")
		if s.way == Socket {
			send("CONNECT", big+":443", big+":443")
		}
	}},
	{ID: "X4", What: "oversized bodies: announced, in chunks, longer than announced, by HTTP/2", Ways: []Way{Explicit, Captured, Gateway, Balancer}, Rules: func(s string) []plan.Rule {
		r := rulesOf(s)
		r[0].Limits = &plan.Limits{Body: 64 << 10}
		return r
	}, Run: func(s *seat) {
		post := func(header, body string) answer {
			c, host := s.line()
			defer c.Close()
			_, _ = io.WriteString(c, "POST /v1/x HTTP/1.1\r\nHost: "+host+"\r\n"+header+"\r\n\r\n"+body)
			r := bufio.NewReader(c)
			a := receiveFrom(r, "POST")
			if a.Status == 100 {
				a = receiveFrom(r, "POST")
			}
			return a
		}
		largest := strings.Repeat("b", 64<<10)
		require.Equal(s, 200, post(fmt.Sprint("Content-Length: ", len(largest)), largest).Status)
		s.allow("api")
		require.Len(s, s.arrivals()[0].Body, len(largest))
		for _, c := range []struct{ header, body string }{
			{fmt.Sprint("Content-Length: ", len(largest)+1), largest + "b"},
			{"Content-Length: 1000000000000", ""},
			{"Content-Length: 1000000000000\r\nExpect: 100-continue", ""},
			{"Transfer-Encoding: chunked", "10001\r\n" + largest + "b\r\n0\r\n\r\n"},
			{"Transfer-Encoding: chunked", strings.Repeat("8000\r\n"+largest[:32<<10]+"\r\n", 40)},
			{"Transfer-Encoding: chunked", strings.Repeat("1\r\nb\r\n", 64<<10+1)},
		} {
			a := post(c.header, c.body)
			require.Equal(s, 413, a.Status, "%q: %s", c.header, a)
			require.Contains(s, a.Body, string(plan.ReasonLimit))
			s.denyBy(plan.ReasonLimit, "api")
		}
		// What is beyond the announced end is another request, and is none.
		c, host := s.line()
		defer c.Close()
		_, _ = io.WriteString(c, "POST /v1/x HTTP/1.1\r\nHost: "+host+"\r\nContent-Length: 1\r\n\r\n"+largest)
		all := drain(c)
		require.Equal(s, 200, all[0].Status, "%s", all[0])
		s.allow("api")
		require.GreaterOrEqual(s, len(all), 2)
		require.True(s, all[1].refused() && !all[1].hung(), "%s", all[1])
		s.deny(plan.ReasonMalformed)
		if s.way != Gateway {
			h := s.h2(s.secure(s.host(api), "h2"))
			require.Equal(s, "413", h.post(strings.Repeat("b", 16<<10), 5, ":method", "POST", ":scheme", "https", ":path", "/v1/x", ":authority", s.host(api)))
			s.denyBy(plan.ReasonLimit, "api")
		}
		for _, a := range s.arrivals() {
			require.LessOrEqual(s, len(a.Body), len(largest), "no more than that gets through")
		}
		// What came of one that was cut off may be at the upstream, and is not a request there.
		s.any = true
		s.works()
	}},
	{ID: "X5", What: "agents at the same time never get each other's policy or credential", Ways: []Way{Explicit}, Run: func(s *seat) {
		// Its own requests, interleaved with those of all the other seats that run
		// now: what arrives under this name was sent by this agent.
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				host, want := s.host(api), canary
				if i%2 == 1 {
					host = s.host(open)
					want = ""
				}
				a := s.askHost(host, "GET", fmt.Sprintf("/v1/n%d?want=%s", i, map[bool]string{true: "key"}[want != ""]))
				if a.Status != 200 {
					s.Errorf("%s: %s", host, a)
				}
			})
		}
		wg.Wait()
		for i := range 40 {
			s.allow([]string{"api", "open"}[i%2])
		}
		for _, a := range s.arrivals() {
			require.Equal(s, strings.HasPrefix(a.Host, api), a.Header.Get("X-Api-Key") == canary, "%+v", a)
		}
	}},
}

// storm gives n mutations of the seeds to f, a few at a time. They are the same
// in every run.
func storm(s *seat, n int, seeds []string, f func([]byte)) {
	s.Helper()
	r := rand.New(rand.NewSource(int64(n)))
	var all [][]byte
	for _, seed := range seeds {
		all = append(all, []byte(seed))
	}
	for range n {
		all = append(all, mutate(r, seeds))
	}
	var wg sync.WaitGroup
	work := make(chan []byte)
	for range 16 {
		wg.Go(func() {
			for raw := range work {
				done := make(chan struct{})
				go func() {
					defer close(done)
					f(raw)
				}()
				<-done
			}
		})
	}
	for _, raw := range all {
		work <- raw
	}
	close(work)
	wg.Wait()
}

// tokens are what parsers care about.
var tokens = []string{
	"\r\n", "\n", "\r", "\x00", " ", "\t", ":", "/", "//", "..", "%2e%2e", "%00", "%2f", "@", "#", "?", "&", ";", ",", "\\", "\"", "[", "]", "HTTP/1.0", "HTTP/1.1", "HTTP/2.0", "Content-Length: 5\r\n", "Content-Length: 99999999999999999999\r\n",
	"Transfer-Encoding: chunked\r\n", "Transfer-Encoding: x\r\n", "Host: evil.test\r\n", "Connection: close\r\n", "Upgrade: h2c\r\n", "X-Postern-Scope: connect/x\r\n", "\xff", "\x80", "0\r\n\r\n", "ffffffff", "-1", "GET", "CONNECT", "TRACE", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}

// mutate changes one of the seeds in one to four places.
func mutate(r *rand.Rand, seeds []string) []byte {
	b := []byte(seeds[r.Intn(len(seeds))])
	for range 1 + r.Intn(4) {
		if len(b) == 0 {
			break
		}
		at := r.Intn(len(b))
		switch r.Intn(7) {
		case 0:
			b[at] ^= 1 << r.Intn(8)
		case 1:
			b = slices.Insert(b, at, []byte(tokens[r.Intn(len(tokens))])...)
		case 2:
			b = slices.Delete(b, at, min(len(b), at+1+r.Intn(8)))
		case 3:
			b = slices.Insert(b, at, b[at:min(len(b), at+1+r.Intn(40))]...)
		case 4:
			b[at] = byte(r.Intn(256))
		case 5:
			b = append(b, seeds[r.Intn(len(seeds))]...)
		case 6:
			b = b[:at+1]
		}
	}
	return b
}

// uncounted says that nobody knows how many requests arrive: but each is legal.
func (s *seat) uncounted() {
	s.Helper()
	s.quiet, s.any = true, true
	s.legal()
}

// legal requires of everything that arrived that the policy allows it.
func (s *seat) legal() {
	s.Helper()
	for _, a := range s.arrivals() {
		path, query, _ := strings.Cut(a.URI, "?")
		d := s.plan.Decide(plan.Request{Agent: s.name, Scheme: "https", Host: a.Host, Port: 443, Method: a.Method, Path: path, Query: query})
		if !d.Allow {
			s.Errorf("%s %s%s arrived, and the policy says %+v", a.Method, a.Host, a.URI, d)
		}
	}
}
