package dataplane

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

// tunnelled is a client that trusts the upstream itself, as in a tunnel no one
// else is there.
func tunnelled(f *fleet.Fleet, agent, sni string) *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(f.UpstreamCA.PEM)
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{
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
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	_, err = io.Copy(io.Discard, conn)
	require.NoError(t, err, "closed by the proxy")
	require.Empty(t, up.Seen())
}
