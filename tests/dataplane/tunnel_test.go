package xds_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

// tunnelled is a client that trusts the upstream itself, as in a tunnel no one
// else is there.
func tunnelled(f *fleet.Fleet, agent, sni string) *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(f.UpstreamCA.PEM)
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		Proxy:             http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.invalid:3128"}),
		DialContext:       f.Dial("n1", agent),
		TLSClientConfig:   &tls.Config{RootCAs: pool, ServerName: sni},
		DisableKeepAlives: true,
	}}
}

// TestTunnel: TLS goes through untouched, to the destination that was allowed
// and under its name only; the event says which rule and how much.
func TestTunnel(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := f.NewUpstream("db.test", "other.test", "*.wild.test")
	tunnel := func(id, host string) plan.Rule {
		return plan.Rule{ID: id, Host: host, Port: 443, Mode: plan.ModeTunnel, Upstream: up.Pin()}
	}
	any := []string{plan.AnyMethod}
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{
		{Name: "a", Rules: []plan.Rule{
			tunnel("a/db", "db.test"), tunnel("a/wild", "*.wild.test"),
			{ID: "a/no", Deny: true, Host: "no.wild.test", Port: 443, Methods: any, Paths: []string{plan.AnyPath}},
		}},
		{Name: "b", Rules: []plan.Rule{tunnel("b/data", "db.test")}},
	}})
	for _, c := range []struct {
		agent, host, sni string
		rule             string
		reason           plan.Reason
	}{
		{"a", "db.test", "", "a/db", plan.ReasonAllowed},
		{"b", "db.test", "", "b/data", plan.ReasonAllowed},
		{"a", "x.wild.test", "", "a/wild", plan.ReasonAllowed},
		{"a", "no.wild.test", "", "a/no", plan.ReasonDenied},
		{"a", "db.test", "other.test", "a/default", plan.ReasonName},
		{"b", "x.wild.test", "", "b/default", plan.ReasonHost},
	} {
		before := len(f.Events(0))
		resp, err := tunnelled(f, c.agent, c.sni).Get("https://" + c.host + "/v1/x")
		if c.reason == plan.ReasonAllowed {
			require.NoError(t, err, "%+v", c)
			require.NoError(t, resp.Body.Close())
			require.Len(t, up.Seen(), 1)
		} else {
			require.Error(t, err, "%+v", c)
			require.Empty(t, up.Seen())
		}
		e := f.Events(before + 1)[before]
		require.Equal(t, c.rule, e.Rule, "%+v", e)
		require.Equal(t, c.reason, e.Reason, "%+v", e)
		require.Equal(t, c.agent, e.Agent)
		if c.reason == plan.ReasonAllowed {
			require.Positive(t, e.Received)
			require.Equal(t, c.host+":443", e.Host)
		}
	}
	// What is not TLS does not get through a tunnel.
	conn, err := f.Dial("n1", "a")(t.Context(), "", "")
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "CONNECT db.test:443 HTTP/1.1\r\nHost: db.test:443\r\n\r\nSSH-2.0-x\r\n")
	require.NoError(t, err)
	require.NoError(t, conn.SetDeadline(time.Now().Add(8*time.Second)))
	_, err = io.Copy(io.Discard, conn)
	require.NoError(t, err, "closed by the proxy")
	require.Empty(t, up.Seen())
}

// TestLimits: each limit is an answer that says so, an event, and nobody else's.
func TestLimits(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := f.NewUpstream("rate.test", "body.test", "slow.test", "one.test")
	rule := func(agent, host string, l plan.Limits) plan.Rule {
		r := open(agent, host, up)
		r.Limits = &l
		return r
	}
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{
		{Name: "a", Rules: []plan.Rule{
			rule("a", "rate.test", plan.Limits{Requests: 3, Per: 3600}), rule("a", "body.test", plan.Limits{Body: 1000}),
			rule("a", "slow.test", plan.Limits{Upload: 64 << 10}), rule("a", "one.test", plan.Limits{Concurrent: 1}),
		}},
		{Name: "b", Rules: []plan.Rule{rule("b", "rate.test", plan.Limits{Requests: 3, Per: 3600})}},
	}})
	postAs := func(kind, host string, size int) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+host+"/", bytes.NewReader(make([]byte, size)))
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
	r := open("a", "one.test", up)
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
	require.Eventually(t, func() bool { return f.Get("n1", "a", "https://one.test/") == 429 }, 5*time.Second, 20*time.Millisecond)
	require.Equal(t, 429, f.Get("n1", "a", "http://localhost:8080/"), "the gateway's are counted, too")
	resp, err := f.Client("n1", "a").Get("https://one.test/")
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, 429, resp.StatusCode)
	require.JSONEq(t, `{"agent":"a","error":"a limit of the policy is exceeded","reason":"limit_exceeded","rule":"a/one.test","request":"GET one.test",`+
		`"detail":"upstream_reset_before_response_started{overflow}","hint":"an operator can raise it: limits: in the stack file"}`, string(body))
	require.NoError(t, pw.Close())
	require.Equal(t, 200, <-status)
	require.Eventually(t, func() bool { return f.Get("n1", "a", "https://one.test/") == 200 }, 5*time.Second, 20*time.Millisecond)
}

// TestLease: a rule ends by itself, also in a control plane that was started after.
func TestLease(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := f.NewUpstream("one.test", "lease.test")
	lease := open("a", "lease.test", up)
	lease.Expires = time.Now().Add(5 * time.Second).UTC().Format(time.RFC3339)
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{open("a", "one.test", up), lease}}}})
	require.Equal(t, 200, f.Get("n1", "a", "https://lease.test/"))
	require.Eventually(t, func() bool { return f.Get("n1", "a", "https://lease.test/") == 0 }, 20*time.Second, 50*time.Millisecond)
	// What the agent has open is cut, once, after the rule is gone.
	require.Eventually(t, func() bool { return f.Get("n1", "a", "https://one.test/") == 200 }, 5*time.Second, 20*time.Millisecond)
	f.StopControl()
	f.StartControl()
	require.Eventually(t, func() bool { return f.Node("n1").Connected }, 10*time.Second, 20*time.Millisecond)
	require.Equal(t, 0, f.Get("n1", "a", "https://lease.test/"))
}
