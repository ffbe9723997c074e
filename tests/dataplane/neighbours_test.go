package dataplane

import (
	"bytes"
	"context"
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
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/guard"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

// connectTo opens a CONNECT of the agent to the authority, and returns its status.
func connectTo(t *testing.T, f *fleet.Fleet, agent, authority string) (net.Conn, string) {
	t.Helper()
	conn, err := f.Dial("n1", agent)(t.Context(), "", "")
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	_, _ = fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", authority, authority)
	head := make([]byte, len("HTTP/1.1 200"))
	if _, err := io.ReadFull(conn, head); err != nil {
		return conn, "closed"
	}
	_ = discardHead(conn)
	return conn, strings.TrimPrefix(string(head), "HTTP/1.1 ")
}

// TestNeighbourConnects: an agent that has as many CONNECTs open as it can leaves
// the others theirs.
func TestNeighbourConnects(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := f.NewUpstream("one.test")
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{
		{Name: "a", Rules: []plan.Rule{fleet.Allow("a", "one.test", up)}}, {Name: "b", Rules: []plan.Rule{fleet.Allow("b", "one.test", up)}},
	}})
	var conns []net.Conn
	for range 1100 {
		if conn, status := connectTo(t, f, "a", "one.test:443"); status == "200" {
			conns = append(conns, conn)
		}
	}
	accepted := len(conns)
	require.Greater(t, accepted, 900)
	for range 20 {
		require.Equal(t, 200, f.Get("n1", "b", "https://one.test/"), "with %d CONNECTs of a open", accepted)
	}
	// On a slow machine Envoy has given up the first by now.
	still := 0
	for _, conn := range conns {
		_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			still++
		}
	}
	require.LessOrEqual(t, still, 1024, "an agent's own bound")
}

// TestNeighbourNames: W13. An agent whose names wait for a name server leaves the others
// their resolver.
func TestNeighbourNames(t *testing.T) {
	t.Parallel()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	var waiting atomic.Int64
	started := make(chan struct{})
	server := &dns.Server{PacketConn: pc, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		if strings.HasSuffix(q.Question[0].Name, ".slow.test.") {
			waiting.Add(1)
			return // never
		}
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.IPv4(127, 0, 0, 1)})
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = server.ActivateAndServe() }()
	<-started
	t.Cleanup(func() { _ = server.Shutdown() })

	f := fleet.New(t, 1)
	any := func(id, host string, mode string) plan.Rule {
		r := plan.Rule{ID: id, Host: host, Port: 443, Mode: mode}
		if mode == "" {
			r.Methods, r.Paths = []string{plan.AnyMethod}, []string{plan.AnyPath}
		}
		return r
	}
	f.MustPublish(&plan.Plan{Stack: "test", Resolvers: []string{pc.LocalAddr().String()}, Agents: []plan.Agent{
		{Name: "a", Rules: []plan.Rule{any("a/slow", "*.slow.test", plan.ModeTunnel), any("a/slower", "*.b.slow.test", plan.ModeTunnel), any("a/slowest", "*.c.slow.test", plan.ModeTunnel)}},
		{Name: "b", Rules: []plan.Rule{any("b/one", "one.test", ""), any("b/wild", "*.wild.test", "")}},
	}})
	// New names come no faster than certificates would.
	status := ""
	for i := 0; status != "429" && i < 5000; i++ {
		var conn net.Conn
		conn, status = connectTo(t, f, "a", fmt.Sprintf("y%d.c.slow.test:443", i))
		conn.Close()
	}
	require.Equal(t, "429", status)
	events, err := audit.Read(f.Home.AuditDir(), audit.Filter{})
	require.NoError(t, err)
	for _, e := range events {
		if e.Status == 429 {
			require.Equal(t, plan.ReasonLimit, e.Reason, "%+v", e)
		}
	}
	var flood sync.WaitGroup
	defer flood.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i := range 1200 {
		host := fmt.Sprintf("x%d.slow.test", i)
		if i%2 == 1 {
			host = fmt.Sprintf("x%d.b.slow.test", i)
		}
		conn, status := connectTo(t, f, "a", host+":443")
		if status != "200" {
			continue
		}
		flood.Go(func() {
			_ = tls.Client(conn, &tls.Config{ServerName: host, InsecureSkipVerify: true}).HandshakeContext(ctx) //nolint:gosec // it gets no answer
		})
	}
	require.Eventually(t, func() bool { return waiting.Load() > 200 }, time.Minute, 10*time.Millisecond)
	// Resolved, and refused for what it resolves to.
	require.Equal(t, 403, f.Get("n1", "b", "https://one.test/"))
	require.Equal(t, 403, f.Get("n1", "b", "https://x.wild.test/"))
}

// handshake makes TLS with a server name inside a CONNECT of the agent.
func handshake(t *testing.T, f *fleet.Fleet, agent, host, name string) error {
	t.Helper()
	conn, status := connectTo(t, f, agent, host+":443")
	defer conn.Close()
	require.Equal(t, "200", status, "%s to %s", agent, host)
	// Without a verification: that there is a certificate tells enough.
	return tls.Client(conn, &tls.Config{ServerName: name, InsecureSkipVerify: true}).HandshakeContext(t.Context()) //nolint:gosec // see above
}

// TestNeighbourCertificates: an agent that makes up names until it gets no more certificates
// leaves the agents with the same wildcard theirs.
func TestNeighbourCertificates(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := f.NewUpstream("x.wild.test")
	wild := func(agent string) plan.Agent {
		r := fleet.Allow(agent, "*.wild.test", up)
		r.ID = agent + "/wild"
		return plan.Agent{Name: agent, Rules: []plan.Rule{r}}
	}
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{wild("a"), wild("b")}})
	made := func(agent string, n int) bool {
		name := fmt.Sprintf("n%d.wild.test", n)
		conn, status := connectTo(t, f, agent, name+":443")
		defer conn.Close()
		return status == "200" && tls.Client(conn, &tls.Config{ServerName: name, RootCAs: f.CA.Pool()}).HandshakeContext(t.Context()) == nil
	}
	n := 0
	for made("a", n) {
		n++
		require.Less(t, n, 2000, "a bound of its own")
	}
	require.Greater(t, n, 400)
	for i := range 50 {
		require.True(t, made("b", n+i), "one that nobody has asked for")
		require.True(t, made("b", i), "one that the other agent has, too")
	}
	require.Equal(t, 200, f.Get("n1", "b", "https://x.wild.test/"))
}

// TestMadeUpNames: W13. An agent makes up so many names below its wildcards, and no more, however
// long it tries. It still has those, and another agent with the same wildcard has its own.
func TestMadeUpNames(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := f.NewUpstream("x.wild.test")
	wild := func(agent string) plan.Agent {
		r := fleet.Allow(agent, "*.wild.test", up)
		r.ID = agent + "/wild"
		return plan.Agent{Name: agent, Rules: []plan.Rule{r}}
	}
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{wild("a"), wild("b")}})
	connects := func(agent string, n int) string {
		conn, status := connectTo(t, f, agent, fmt.Sprintf("n%d.wild.test:443", n))
		conn.Close()
		return status
	}
	n := 0
	madeUp := func() bool {
		events, err := audit.Read(f.Home.AuditDir(), audit.Filter{Agent: "a"})
		require.NoError(t, err)
		return slices.ContainsFunc(events, func(e audit.Event) bool { return e.Detail == guard.MadeUp })
	}
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		if connects("a", n) == "200" {
			n++
			require.LessOrEqual(t, n, guard.MaxMadeUp)
			continue
		}
		if n == guard.MaxMadeUp && madeUp() {
			break
		}
		select {
		case <-tick.C: // 20 a second
		case <-t.Context().Done():
			t.FailNow()
		}
	}
	require.Equal(t, "200", connects("a", 0))
	require.Equal(t, "200", connects("b", n))
	require.Equal(t, "200", connects("b", 0))
}

// TestCertificatesTellNothing: whether there is a certificate for a host tells an agent only
// where it may go itself. What another agent may reach looks like what nobody may.
func TestCertificatesTellNothing(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := f.NewUpstream("mine.test", "theirs.test", "x.mine-wild.test", "x.theirs-wild.test", "both.mine-wild.test")
	rules := func(agent string, hosts ...string) plan.Agent {
		a := plan.Agent{Name: agent}
		for i, host := range hosts {
			r := fleet.Allow(agent, host, up)
			r.ID = fmt.Sprintf("%s/%d", agent, i)
			a.Rules = append(a.Rules, r)
		}
		return a
	}
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{
		rules("a", "mine.test", "*.mine-wild.test"), rules("b", "theirs.test", "*.theirs-wild.test", "both.mine-wild.test"),
	}})
	for _, host := range []string{"theirs.test", "x.theirs-wild.test", "both.mine-wild.test"} {
		require.NoError(t, handshake(t, f, "b", host, host), "the node has it from now on")
	}
	for _, host := range []string{"mine.test", "x.mine-wild.test", "both.mine-wild.test"} {
		require.NoError(t, handshake(t, f, "a", host, host), "its own")
		nobodys := handshake(t, f, "a", host, "nobodys.test")
		require.Error(t, nobodys)
		for _, name := range []string{"theirs.test", "x.theirs-wild.test", "y.theirs-wild.test", "y.mine-wild.test"} {
			err := handshake(t, f, "a", host, name)
			require.Error(t, err, "CONNECT to %s, TLS for %s", host, name)
			require.Equal(t, nobodys.Error(), err.Error(), "CONNECT to %s, TLS for %s", host, name)
		}
	}
}

// TestNeighbourUploads: what an agent sends, and an upstream does not take, stays with
// the agent: Envoy's memory does not grow with it.
func TestNeighbourUploads(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	// Shakes hands, and reads no more.
	path := filepath.Join(f.Home.Root, "deaf.sock")
	l, err := tls.Listen("unix", path, &tls.Config{Certificates: []tls.Certificate{f.UpstreamCA.Issue(t, "one.test")}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = conn.Read(make([]byte, 1)) }()
			t.Cleanup(func() { _ = conn.Close() })
		}
	}()
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{{
		ID: "a/one", Host: "one.test", Port: 443, Methods: []string{plan.AnyMethod}, Paths: []string{plan.AnyPath}, Upstream: &plan.Upstream{Address: "unix:" + path, CA: string(f.UpstreamCA.PEM)},
	}}}}})
	allocated := func() uint64 {
		var memory struct {
			Allocated uint64 `json:"allocated,string"`
		}
		require.NoError(t, json.Unmarshal([]byte(f.Admin("n1", "/memory")), &memory))
		return memory.Allocated
	}
	before := allocated()
	var sent atomic.Int64
	var uploads sync.WaitGroup
	defer uploads.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 8 {
		client := f.Client("n1", "a")
		client.Timeout = 0
		for range 12 {
			uploads.Go(func() {
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://one.test/", counting{&sent})
				if err != nil {
					t.Error(err)
					return
				}
				if resp, err := client.Do(req); err == nil {
					resp.Body.Close()
				}
			})
		}
	}
	// Until nothing more is taken.
	last := int64(-1)
	require.Eventually(t, func() bool {
		now := sent.Load()
		still := now > 0 && now == last
		last = now
		return still
	}, time.Minute, time.Second)
	t.Logf("%d MiB of %d", (allocated()-before)>>20, sent.Load()>>20)
	require.Less(t, allocated()-before, uint64(100<<20), "Envoy holds %d MiB of %d that were sent", (allocated()-before)>>20, sent.Load()>>20)
	cancel()
}

// counting is a body without an end.
type counting struct{ sent *atomic.Int64 }

func (c counting) Read(b []byte) (int, error) {
	c.sent.Add(int64(len(b)))
	return len(b), nil
}

// TestNeighbourWaits: an agent that asks for more than its part, while another one
// works, is answered as it should be. What waits, and for how long, is in cmd/libguard.
func TestNeighbourWaits(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := newEcho(t, f, "one.test")
	rule := func(agent string) plan.Rule {
		return plan.Rule{
			ID: agent + "/one", Host: "one.test", Port: 443, Methods: []string{http.MethodPost}, Paths: []string{"/in"}, Upstream: up.pin, Gateway: 8080,
		}
	}
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{rule("a")}}, {Name: "b", Rules: []plan.Rule{rule("b")}}}})
	up.answer(func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprint(w, r.ContentLength) })
	post := func(client *http.Client, url string, size int) (int, string) {
		resp, err := client.Post(url, "text/plain", bytes.NewReader(make([]byte, size)))
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	// Two agents work from here on: one that waits for each answer, and one with 30 clients.
	client := func(agent string) *http.Client {
		c := f.Client("n1", agent)
		c.Timeout = 5 * time.Minute
		return c
	}
	status, body := post(client("b"), "https://one.test/in", 7)
	require.Equal(t, 200, status, body)
	const each, clients = 100, 30
	var wg sync.WaitGroup
	for i := range clients {
		c, base := client("a"), []string{"https://one.test", "http://localhost:8080"}[i%2]
		wg.Go(func() {
			for j := range each {
				switch size := j % 7 * 10000; {
				case j%5 == 0:
					if status, body := post(c, base+"/out", size); status != 403 {
						t.Errorf("%s: %d %s", base, status, body)
						return
					}
				default:
					if status, body := post(c, base+"/in", size); status != 200 || body != strconv.Itoa(size) {
						t.Errorf("%s: %d %s, want %d bytes", base, status, body, size)
						return
					}
				}
			}
		})
	}
	wg.Wait()
}

// TestNeighbourDownloads: what an agent downloads beyond its part, while another one works,
// arrives whole, with its trailers.
func TestNeighbourDownloads(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := newEcho(t, f, "one.test")
	rule := func(agent string) plan.Rule {
		return plan.Rule{ID: agent + "/one", Host: "one.test", Port: 443, Methods: []string{http.MethodGet}, Paths: []string{plan.AnyPath}, Upstream: up.pin, Gateway: 8080}
	}
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{rule("a")}}, {Name: "b", Rules: []plan.Rule{rule("b")}}}})
	body := make([]byte, 3<<20+7)
	for i := range body {
		body[i] = byte(i * i >> 8)
	}
	up.answer(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/small" {
			return
		}
		w.Header().Set("Trailer", "X-End")
		_, _ = w.Write(body)
		w.Header().Set("X-End", "yes")
	})
	small := func() int { return f.Get("n1", "b", "https://one.test/small") }
	require.Equal(t, 200, small())
	var wg sync.WaitGroup
	for i := range 24 {
		client, base := f.Client("n1", "a"), []string{"https://one.test/", "http://localhost:8080/"}[i%2]
		client.Timeout = 5 * time.Minute
		wg.Go(func() {
			for range 2 {
				resp, err := client.Get(base)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || !bytes.Equal(body, got) {
					t.Errorf("%s: %d bytes of %d: %v", base, len(got), len(body), err)
					return
				}
				if i%2 == 0 && resp.Trailer.Get("X-End") != "yes" {
					t.Errorf("%s: the trailers are %v", base, resp.Trailer)
				}
			}
		})
	}
	for range 20 {
		require.Equal(t, 200, small())
	}
	wg.Wait()
}
