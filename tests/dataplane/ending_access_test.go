package dataplane

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/bundle"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

// TestNarrowingCuts: who loses access loses what is open, within a second;
// who gains, and everybody else, keeps it.
func TestNarrowingCuts(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 2)
	up := f.NewUpstream("one.test", "two.test")
	p := func(a, b []string) *plan.Plan {
		agent := func(name string, hosts []string) plan.Agent {
			g := plan.Agent{Name: name}
			for _, h := range hosts {
				g.Rules = append(g.Rules, fleet.Allow(name, h, up))
			}
			return g
		}
		return &plan.Plan{Stack: "test", Agents: []plan.Agent{agent("a", a), agent("b", b)}}
	}
	f.MustPublish(p([]string{"one.test"}, []string{"one.test"}))
	one := f.OpenStream(up, "n1", "a", "https://one.test/")
	other := f.OpenStream(up, "n2", "b", "https://one.test/")
	tunnel, err := f.Dial("n2", "a")(t.Context(), "", "")
	require.NoError(t, err)
	_, err = io.WriteString(tunnel, "CONNECT one.test:443 HTTP/1.1\r\nHost: one.test:443\r\n\r\n")
	require.NoError(t, err)
	_, err = io.ReadFull(tunnel, make([]byte, 12))
	require.NoError(t, err)

	f.MustPublish(p([]string{"one.test", "two.test"}, []string{"one.test"}))
	one.RequireOpen()
	other.RequireOpen()

	f.MustPublish(p([]string{"two.test"}, []string{"one.test"}))
	one.RequireCut()
	require.NoError(t, tunnel.SetReadDeadline(time.Now().Add(time.Minute)))
	_, err = io.Copy(io.Discard, tunnel)
	var late net.Error
	require.False(t, errors.As(err, &late) && late.Timeout(), "the tunnel goes on")
	other.RequireOpen()
	require.Equal(t, 200, f.Get("n1", "a", "https://two.test/"))
	require.Equal(t, 0, f.Get("n1", "a", "https://one.test/"))
}

// TestKill: no new request and no open one, on every node, also after both
// control plane and Envoy were restarted, until it is taken back.
func TestKill(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 2)
	up := f.NewUpstream("one.test")
	p := &plan.Plan{Stack: "test", Agents: []plan.Agent{
		{Name: "a", Rules: []plan.Rule{fleet.Allow("a", "one.test", up)}},
		{Name: "b", Rules: []plan.Rule{fleet.Allow("b", "one.test", up)}},
	}}
	f.MustPublish(p)
	s := f.OpenStream(up, "n1", "a", "https://one.test/")
	other := f.OpenStream(up, "n1", "b", "https://one.test/")
	_, err := f.Operator().Kill(t.Context(), bundle.Killed{Agents: []string{"a"}})
	require.NoError(t, err)
	s.RequireCut()
	other.RequireOpen()
	for _, n := range []string{"n1", "n2"} {
		require.Equal(t, 0, f.Get(n, "a", "https://one.test/"))
		require.Equal(t, 200, f.Get(n, "b", "https://one.test/"))
	}
	f.MustPublish(p) // what is published later does not bring it back
	require.Equal(t, 0, f.Get("n1", "a", "https://one.test/"))
	f.StopControl()
	f.StartControl()
	require.Eventually(t, func() bool { return f.Node("n1").Version != "" }, time.Minute, 20*time.Millisecond)
	require.Equal(t, 0, f.Get("n1", "a", "https://one.test/"))
	require.Eventually(t, func() bool {
		return slices.ContainsFunc(f.Events(1), func(e audit.Event) bool {
			return e.Agent == "a" && e.Reason == plan.ReasonKilled && e.Verdict == audit.Deny
		})
	}, time.Minute, 20*time.Millisecond)

	_, err = f.Operator().Kill(t.Context(), bundle.Killed{Stack: true})
	require.NoError(t, err)
	require.Equal(t, 0, f.Get("n1", "b", "https://one.test/"))
	status, err := f.API.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, status.Killed)
	_, err = f.Operator().Unkill(t.Context(), bundle.Killed{Stack: true, Agents: []string{"a"}})
	require.NoError(t, err)
	require.Equal(t, 200, f.Get("n1", "a", "https://one.test/"))
	require.Equal(t, 200, f.Get("n1", "b", "https://one.test/"))
}

// TestTwoOperators: of two who publish at once one wins, and the other is told
// who and what.
func TestTwoOperators(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := f.NewUpstream("one.test")
	results := make(chan error, 8)
	for i := range cap(results) {
		go func() {
			r := fleet.Allow("a", "one.test", up)
			r.Owner = string(rune('a' + i))
			_, err := f.Operator().Publish(t.Context(),
				&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{r}}}})
			results <- err
		}()
	}
	won := 0
	for range cap(results) {
		err := <-results
		var conflict *bundle.ConflictError
		if err == nil {
			won++
		} else {
			require.ErrorAs(t, err, &conflict)
			require.NotEmpty(t, conflict.Theirs.By)
		}
	}
	require.Positive(t, won)
	history, err := f.Operator().History(t.Context())
	require.NoError(t, err)
	live := 0
	for _, b := range history {
		if f.Operator().Proven(t.Context(), b) == nil {
			live++
		}
	}
	require.Equal(t, won, live, "who was not told that it is live has nothing live")
	status, err := f.API.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, history[0].Seq, status.Seq)
}

// TestLease: a rule ends by itself, also in a control plane that was started after.
func TestLease(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := f.NewUpstream("one.test", "lease.test")
	lease := fleet.Allow("a", "lease.test", up)
	lease.Expires = time.Now().Add(10 * time.Second).UTC().Format(time.RFC3339)
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{fleet.Allow("a",
		"one.test", up), lease}}}})
	require.Equal(t, 200, f.Get("n1", "a", "https://lease.test/"))
	require.Eventually(t, func() bool { return f.Get("n1", "a", "https://lease.test/") == 0 }, time.Minute,
		50*time.Millisecond)
	// What the agent has open is cut, once, after the rule is gone.
	require.Eventually(t, func() bool { return f.Get("n1", "a", "https://one.test/") == 200 }, time.Minute,
		20*time.Millisecond)
	f.StopControl()
	f.StartControl()
	require.Eventually(t, func() bool { return f.Node("n1").Connected }, time.Minute, 20*time.Millisecond)
	require.Equal(t, 0, f.Get("n1", "a", "https://lease.test/"))
}

// TestRulesEndWithoutControlPlane: a rule ends although nobody is there to take it away, for new
// connections, open ones and new tunnels. A later rule that allows the same decides from then on.
func TestRulesEndWithoutControlPlane(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := f.NewUpstream("one.test", "lease.test", "tunnel.test", "stays.test", "through.test")
	ends := time.Now().Add(15 * time.Second).UTC().Format(time.RFC3339)
	allow := func(id, host, ends, mode string) plan.Rule {
		r := fleet.Allow("a", host, up)
		r.ID, r.Expires = "a/"+id, ends
		if mode == plan.ModeTunnel {
			r.Mode, r.Methods, r.Paths = mode, nil, nil
		}
		return r
	}
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{
		fleet.Allow("a", "one.test", up),
		allow("lease", "lease.test", ends, ""), allow("tunnel", "tunnel.test", ends, plan.ModeTunnel),
		allow("first", "stays.test", ends, ""), allow("last", "stays.test", "", ""),
		allow("first-through", "through.test", ends, plan.ModeTunnel),
		allow("through", "through.test", "", plan.ModeTunnel),
	}}}})
	connect := func(host string) string {
		c, err := f.Dial("n1", "a")(t.Context(), "", "")
		require.NoError(t, err)
		defer c.Close()
		_, err = io.WriteString(c, "CONNECT "+host+":443 HTTP/1.1\r\nHost: "+host+":443\r\n\r\n")
		require.NoError(t, err)
		status := make([]byte, len("HTTP/1.1 200"))
		_, err = io.ReadFull(c, status)
		require.NoError(t, err)
		return string(status[len("HTTP/1.1 "):])
	}
	client := fleet.AgentClient(f.CA, f.Dial("n1", "a"))
	defer client.CloseIdleConnections()
	kept := func() int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://lease.test/", nil)
		require.NoError(t, err)
		resp, err := client.Do(req)
		require.NoError(t, err)
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return resp.StatusCode
	}
	require.Equal(t, 200, kept())
	require.Equal(t, "200", connect("tunnel.test"))
	require.Equal(t, "200", connect("through.test"))
	for _, host := range []string{"one", "stays"} { // their certificates are minted by the control plane
		require.Equal(t, 200, f.Get("n1", "a", "https://"+host+".test/"))
	}
	f.StopControl()
	require.Eventually(t, func() bool { return kept() == 403 }, time.Minute, 200*time.Millisecond)
	require.Equal(t, 403, f.Get("n1", "a", "https://lease.test/"))
	require.Equal(t, "403", connect("tunnel.test"))
	require.Equal(t, 200, f.Get("n1", "a", "https://one.test/"))
	require.Equal(t, 200, f.Get("n1", "a", "https://stays.test/"))
	require.Equal(t, "200", connect("through.test"))
	// What the log says: who decided, before the end and afterwards.
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		said := map[string]bool{}
		events, err := audit.Read(f.Home.AuditDir(), audit.Filter{})
		require.NoError(c, err)
		for _, e := range events {
			said[fmt.Sprintf("%s %s %s", strings.TrimSuffix(e.Host, ".test:443"), e.Rule, e.Reason)] = true
		}
		for _, want := range []string{
			"lease a/lease allowed", "lease a/lease rule_ended", "tunnel a/tunnel rule_ended",
			"stays a/first allowed", "stays a/last allowed",
		} {
			require.Contains(c, said, want)
		}
		require.NotContains(c, said, "stays a/first rule_ended")
	}, time.Minute, 50*time.Millisecond)
}
