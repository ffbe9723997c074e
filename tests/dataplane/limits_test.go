package dataplane

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

// TestBandwidth: upload and download are bounded for an agent's destination as a
// whole, whatever rules, paths and gateways lead there, and for nobody else.
func TestBandwidth(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	hosts := []string{"up.test", "down.test", "x.wild.test", "y.wild.test", "z.wild.test"}
	up := newEcho(t, f, hosts...)
	const rate, size = 64 << 10, 64 << 10
	up.answer(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			_, _ = w.Write(make([]byte, size))
		}
	})
	p := &plan.Plan{Stack: "test"}
	for _, agent := range []string{"a", "b"} {
		rules := func(name, host string, gateway uint16, l plan.Limits) []plan.Rule {
			one := plan.Rule{
				ID: agent + "/" + name, Host: host, Port: 443, Methods: []string{"GET", "POST"},
				Paths: []string{"/one", "/two"}, Upstream: up.pin, Limits: &l, Gateway: gateway,
			}
			two := one
			two.ID, two.Paths = agent+"/"+name+"-more", []string{"/three/**"}
			return []plan.Rule{one, two}
		}
		p.Agents = append(p.Agents, plan.Agent{Name: agent, Rules: slices.Concat(
			rules("down", "down.test", 8080, plan.Limits{Download: rate}),
			rules("up", "up.test", 8081, plan.Limits{Upload: rate}),
			rules("wild", "*.wild.test", 0, plan.Limits{Download: rate}),
		)})
	}
	f.MustPublish(p)
	send := func(agent, method, url string) {
		var body io.Reader
		if method == http.MethodPost {
			body = bytes.NewReader(make([]byte, size))
		}
		req, err := http.NewRequestWithContext(t.Context(), method, url, body)
		if err != nil {
			t.Error(err)
			return
		}
		resp, err := f.Client("n1", agent).Do(req)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		n, err := io.Copy(io.Discard, resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK || method == http.MethodGet && n != size {
			t.Errorf("%s: %d, %d bytes, %v", url, resp.StatusCode, n, err)
		}
	}
	// together is how long it takes until all are there.
	together := func(agent, method string, urls ...string) time.Duration {
		start := time.Now()
		var wg sync.WaitGroup
		for _, u := range urls {
			wg.Go(func() { send(agent, method, u) })
		}
		wg.Wait()
		return time.Since(start)
	}
	// inTime requires that they never take less, and at least once no more: then the machine was not slow.
	inTime := func(least, most time.Duration, agent, method string, urls ...string) {
		took := together(agent, method, urls...)
		for i := 0; i < 10 && took > most; i++ {
			took = together(agent, method, urls...)
		}
		if took < least || took > most {
			t.Errorf("%s: 64 KiB each, at 64 KiB/s if they are limited, took %v", urls, took)
		}
	}
	var wg sync.WaitGroup
	for agent, urls := range map[string][][]string{
		"a": {
			{
				"https://down.test/one", "https://down.test/two", "https://down.test/three/x",
				"http://localhost:8080/one",
			},
			{
				"https://x.wild.test/one", "https://y.wild.test/one", "https://z.wild.test/two",
				"https://x.wild.test/three/x",
			},
		},
		// Were they one, eight would take 8 s.
		"b": {{
			"https://down.test/one", "https://down.test/two", "https://down.test/three/x", "http://localhost:8080/one",
		}},
	} {
		for _, u := range urls {
			wg.Go(func() {
				inTime(2500*time.Millisecond, 7*time.Second, agent, http.MethodGet, u...)
			})
		}
	}
	wg.Go(func() {
		inTime(2500*time.Millisecond, 7*time.Second, "a", http.MethodPost, "https://up.test/one", "https://up.test/two",
			"https://up.test/three/x", "http://localhost:8081/one")
	})
	wg.Wait()
	// What is not limited is not slowed down, and another limit is another bucket.
	inTime(0, 2*time.Second, "a", http.MethodGet, "https://up.test/one", "https://up.test/two", "https://up.test/three/x")
	for i := range p.Agents {
		for j := range p.Agents[i].Rules {
			p.Agents[i].Rules[j].Limits = &plan.Limits{Download: 1 << 30, Upload: 1 << 30}
		}
	}
	f.MustPublish(p)
	inTime(0, 2*time.Second, "a", http.MethodGet, "https://down.test/one", "https://down.test/two",
		"http://localhost:8080/one")
}

// TestRequestsAreCounted for a destination, over rules, paths and hosts below a
// wildcard; a gateway counts by itself.
func TestRequestsAreCounted(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := newEcho(t, f, "rate.test", "x.wild.test", "y.wild.test", "z.wild.test")
	rule := func(id, host, path string, requests uint32) plan.Rule {
		return plan.Rule{
			ID: id, Host: host, Port: 443, Methods: []string{"GET"}, Paths: []string{path}, Upstream: up.pin,
			Limits: &plan.Limits{Requests: requests, Per: 3600},
		}
	}
	one, two := rule("a/one", "rate.test", "/one", 4), rule("a/two", "rate.test", "/two", 4)
	one.Gateway, two.Gateway = 8080, 8080
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{one, two, rule("a/wild",
		"*.wild.test", plan.AnyPath, 2), rule("a/exact", "z.wild.test", "/one", 3)}}}})
	for _, c := range []struct {
		want int
		url  string
	}{
		{200, "https://rate.test/one"},
		{200, "https://rate.test/two"},
		{403, "https://rate.test/denied"}, // counts as well
		{200, "https://rate.test/one"},
		{429, "https://rate.test/two"},
		{429, "https://rate.test/denied"},
		{200, "http://localhost:8080/one"},
		{200, "http://127.0.0.1:8080/two"},
		{200, "http://localhost:8080/two"},
		{403, "http://localhost:8080/denied"},
		{429, "http://localhost:8080/one"},
		{200, "https://x.wild.test/one"},
		{200, "https://y.wild.test/one"},
		{429, "https://x.wild.test/one"},
		// A host that is written out has its own.
		{200, "https://z.wild.test/one"},
		{200, "https://z.wild.test/by-the-wildcard"},
		{200, "https://z.wild.test/one"},
		{429, "https://z.wild.test/by-the-wildcard"},
	} {
		require.Equal(t, c.want, f.Get("n1", "a", c.url), c.url)
	}
}

// TestBodyOfUnknownLength is held to the limit while it comes.
func TestBodyOfUnknownLength(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := f.NewUpstream("body.test")
	r := fleet.Allow("a", "body.test", up)
	r.Limits = &plan.Limits{Body: 1000}
	r.Gateway = 8080
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{r}}}})
	for _, base := range []string{"https://body.test/", "http://localhost:8080/"} {
		for size, want := range map[int]int{1000: 200, 1001: 413, 1 << 20: 413} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base,
				io.MultiReader(bytes.NewReader(make([]byte, size))))
			require.NoError(t, err)
			require.Zero(t, req.ContentLength, "its length is not known")
			resp, err := f.Client("n1", "a").Do(req)
			require.NoError(t, err)
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			resp.Body.Close()
			require.Equal(t, want, resp.StatusCode, "%s %d: %s", base, size, body)
			if want == 413 {
				require.Contains(t, string(body), `"reason":"limit_exceeded"`)
			}
		}
	}
}

// TestLimits: each limit is an answer that says so, an event, and nobody else's.
func TestLimits(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := f.NewUpstream("rate.test", "body.test", "slow.test", "one.test")
	rule := func(agent, host string, l plan.Limits) plan.Rule {
		r := fleet.Allow(agent, host, up)
		r.Limits = &l
		return r
	}
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{
		{Name: "a", Rules: []plan.Rule{
			rule("a", "rate.test", plan.Limits{Requests: 3, Per: 3600}),
			rule("a", "body.test", plan.Limits{Body: 1000}),
			rule("a", "slow.test", plan.Limits{Upload: 64 << 10}), rule("a", "one.test", plan.Limits{Concurrent: 1}),
		}},
		{Name: "b", Rules: []plan.Rule{rule("b", "rate.test", plan.Limits{Requests: 3, Per: 3600})}},
	}})
	postAs := func(kind, host string, size int) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+host+"/",
			bytes.NewReader(make([]byte, size)))
		require.NoError(t, err)
		req.Header.Set("Content-Type", kind)
		resp, err := f.Client("n1", "a").Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(b)
	}
	post := func(host string, size int) (int, string) { return postAs("text/plain", host, size) }
	for range 3 {
		require.Equal(t, 200, f.Get("n1", "a", "https://rate.test/"))
	}
	status, body := post("rate.test", 1)
	require.Equal(t, 429, status)
	require.Contains(t, body, `"reason":"limit_exceeded"`)
	require.Equal(t, 200, f.Get("n1", "b", "https://rate.test/"), "another agent's requests are its own")

	status, _ = post("body.test", 1000)
	require.Equal(t, 200, status)
	up.Seen()
	status, body = post("body.test", 1001)
	require.Equal(t, 413, status)
	require.Contains(t, body, `"reason":"limit_exceeded"`)

	// A refusal is 200 to a gRPC client, which looks at grpc-status; to the log it is none.
	for host, size := range map[string]int{"rate.test": 1, "body.test": 1001} {
		status, _ = postAs("application/grpc", host, size)
		require.Equal(t, 200, status)
	}
	require.Empty(t, up.Seen())

	start := time.Now()
	status, _ = post("slow.test", 128<<10)
	require.Equal(t, 200, status)
	require.Greater(t, time.Since(start), 500*time.Millisecond, "128 KiB at 64 KiB/s")

	events, err := audit.Read(f.Home.AuditDir(), audit.Filter{})
	require.NoError(t, err)
	limited := 0
	for _, e := range events {
		if e.Reason == plan.ReasonLimit {
			limited++
			require.Equal(t, audit.Deny, e.Verdict)
			require.True(t, strings.HasPrefix(e.Rule, "a/"), "%+v", e)
		}
	}
	require.Equal(t, 4, limited, "%+v", events)
}

// TestConcurrent: no more than the limit's requests are under way.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := f.NewUpstream("one.test")
	r := fleet.Allow("a", "one.test", up)
	r.Limits, r.Gateway = &plan.Limits{Concurrent: 1}, 8080
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{r}}}})

	// The first request stays under way until its body ends: the upstream
	// answers only then.
	pr, pw := io.Pipe()
	status := make(chan int, 1)
	go func() {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "https://one.test/", pr)
		if err != nil {
			status <- 0
			return
		}
		resp, err := f.Client("n1", "a").Do(req)
		if err != nil {
			status <- 0
			return
		}
		resp.Body.Close()
		status <- resp.StatusCode
	}()
	_, err := pw.Write([]byte("x"))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return f.Get("n1", "a", "https://one.test/") == 429 }, time.Minute,
		20*time.Millisecond)
	require.Equal(t, 429, f.Get("n1", "a", "http://localhost:8080/"), "the gateway's are counted, too")
	resp, err := f.Client("n1", "a").Get("https://one.test/")
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, 429, resp.StatusCode)
	require.JSONEq(t, `{"agent":"a","error":"a limit of the policy is exceeded","reason":"limit_exceeded","rule":"a/one.test","request":"GET one.test",`+
		`"detail":"upstream_reset_before_response_started{overflow}","hint":"an operator can raise the limit with limits: in the stack file"}`, string(body))
	require.NoError(t, pw.Close())
	require.Equal(t, 200, <-status)
	require.Eventually(t, func() bool { return f.Get("n1", "a", "https://one.test/") == 200 }, time.Minute,
		20*time.Millisecond)
}

// TestConcurrentHTTP1: with an upstream that speaks HTTP/1.1 a request beyond the limit is
// refused as well, instead of waiting for one of the others to end.
func TestConcurrentHTTP1(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	path := filepath.Join(f.Home.Root, "one.sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	held, release := make(chan string, 100), make(chan struct{})
	s := &http.Server{
		ReadHeaderTimeout: time.Minute,
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{f.UpstreamCA.Issue(t, "one.test")}},
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){}, // not HTTP/2
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			held <- r.Proto
			<-release
		}),
	}
	go func() { _ = s.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = s.Close() })
	const limit = 3
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{{
		ID: "a/one", Host: "one.test", Port: 443, Methods: []string{plan.AnyMethod}, Paths: []string{plan.AnyPath},
		Gateway:  8080,
		Upstream: &plan.Upstream{Address: "unix:" + path, CA: string(f.UpstreamCA.PEM)},
		Limits:   &plan.Limits{Concurrent: limit},
	}}}}})
	urls := []string{"https://one.test/", "http://localhost:8080/"}
	var inside sync.WaitGroup
	for i := range limit {
		inside.Go(func() {
			if status := f.Get("n1", "a", urls[i%2]); status != 200 {
				t.Errorf("within the limit: %d", status)
			}
		})
		require.Equal(t, "HTTP/1.1", <-held)
	}
	for i := range 10 {
		require.Equal(t, 429, f.Get("n1", "a", urls[i%2]))
	}
	require.Empty(t, held)
	close(release)
	inside.Wait()
	require.Eventually(t, func() bool { return f.Get("n1", "a", "https://one.test/") == 200 }, time.Minute,
		20*time.Millisecond)
}
