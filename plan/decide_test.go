package plan

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var testPlan = &Plan{Agents: []Agent{
	{Name: "a", Rules: []Rule{
		{ID: "a/read", Host: "h.test", Port: 443, Methods: []string{"GET", "HEAD"}, Paths: []string{"/v1/**"}, Credential: "k"},
		{ID: "a/write", Host: "h.test", Port: 443, Methods: []string{"POST"}, Paths: []string{"/v1/items", "/v2/**"}},
		{ID: "a/late", Host: "h.test", Port: 443, Methods: []string{"GET"}, Paths: []string{"/v1/x"}},
		{ID: "a/other", Host: "h.test", Port: 8443, Methods: []string{AnyMethod}, Paths: []string{AnyPath}},
		{ID: "a/api", Host: "api.test", Port: 443, Methods: []string{"POST"}, Paths: []string{"/v1/messages"}, Credential: "m", Gateway: 8080},
	}},
	{Name: "b", Rules: []Rule{{ID: "b/h", Host: "b.test", Port: 443, Methods: []string{AnyMethod}, Paths: []string{AnyPath}}}},
	{Name: "none"},
}}

func TestDecide(t *testing.T) {
	t.Parallel()
	allowed := func(rule, credential string) Decision {
		return Decision{Allow: true, Rule: rule, Reason: ReasonAllowed, Credential: credential}
	}
	denied := func(reason Reason, nearest string) Decision {
		return Decision{Rule: "a/default", Reason: reason, Nearest: nearest}
	}
	base := Request{Agent: "a", Scheme: "https", Host: "h.test", Port: 443, Method: "GET", Path: "/v1/x"}
	for _, c := range []struct {
		name   string
		change func(*Request)
		want   Decision
	}{
		{"the first rule that matches", func(*Request) {}, allowed("a/read", "k")},
		{"another rule of the host", func(r *Request) { r.Method, r.Path = "POST", "/v1/items" }, allowed("a/write", "")},
		{"host in capitals", func(r *Request) { r.Host = "H.Test" }, allowed("a/read", "k")},
		{"host with a trailing dot", func(r *Request) { r.Host = "h.test." }, denied(ReasonHost, "")},
		{"path in another spelling", func(r *Request) { r.Path = "/v2/..//v1/%78" }, allowed("a/read", "k")},
		{"names that agree", func(r *Request) { r.SNI, r.Authority = "H.test", "h.TEST:443" }, allowed("a/read", "k")},
		{"authority without port", func(r *Request) { r.Authority = "h.test" }, allowed("a/read", "k")},
		{"another port", func(r *Request) { r.Port, r.Authority = 8443, "h.test:8443" }, allowed("a/other", "")},

		{"unknown agent", func(r *Request) { r.Agent = "c" }, Decision{Reason: ReasonAgent}},
		{"no agent", func(r *Request) { r.Agent = "" }, Decision{Reason: ReasonAgent}},
		{"agent without rules", func(r *Request) { r.Agent = "none" }, Decision{Rule: "none/default", Reason: ReasonHost}},
		{"another agent's host", func(r *Request) { r.Host = "b.test" }, denied(ReasonHost, "")},
		{"port that is not named", func(r *Request) { r.Port = 444 }, denied(ReasonHost, "a/read")},
		{"address", func(r *Request) { r.Host = "127.0.0.1" }, denied(ReasonHost, "")},
		{"no host", func(r *Request) { r.Host = "" }, denied(ReasonHost, "")},
		{"suffix of a host", func(r *Request) { r.Host = "evil-h.test" }, denied(ReasonHost, "")},

		{"SNI of another allowed host", func(r *Request) { r.SNI = "api.test" }, denied(ReasonName, "a/read")},
		{"authority of another allowed host", func(r *Request) { r.Authority = "api.test" }, denied(ReasonName, "a/read")},
		{"authority with another port", func(r *Request) { r.Authority = "h.test:8443" }, denied(ReasonName, "a/read")},
		{"authority without its port", func(r *Request) { r.Port, r.Authority = 8443, "h.test" }, denied(ReasonName, "a/other")},
		{"authority with user", func(r *Request) { r.Authority = "u@h.test" }, denied(ReasonName, "a/read")},
		{"SNI with a Kelvin sign", func(r *Request) { r.SNI = "\u212a.test" }, denied(ReasonName, "a/read")},
		{"name before path", func(r *Request) { r.SNI, r.Path = "b.test", "/nope" }, denied(ReasonName, "a/read")},

		{"method", func(r *Request) { r.Method = "DELETE" }, denied(ReasonMethod, "a/read")},
		{"method of the path's rule", func(r *Request) { r.Path = "/v2/x" }, denied(ReasonMethod, "a/write")},
		{"method of no rule, whatever the path", func(r *Request) { r.Method, r.Path = "DELETE", "/v9" }, denied(ReasonMethod, "a/read")},
		{"method in lower case", func(r *Request) { r.Method = "get" }, denied(ReasonMethod, "a/read")},
		{"no method", func(r *Request) { r.Method = "" }, denied(ReasonMethod, "a/read")},
		{"CONNECT is not any method", func(r *Request) { r.Port, r.Method = 8443, "CONNECT" }, denied(ReasonMethod, "a/other")},
		{"TRACE is not any method", func(r *Request) { r.Port, r.Method = 8443, "TRACE" }, denied(ReasonMethod, "a/other")},
		{"TRACK is not any method", func(r *Request) { r.Port, r.Method = 8443, "TRACK" }, denied(ReasonMethod, "a/other")},
		{"the star is not a valid method", func(r *Request) { r.Method = "*" }, denied(ReasonMethod, "a/read")},

		{"path", func(r *Request) { r.Path = "/admin" }, denied(ReasonPath, "a/read")},
		{"path that leaves", func(r *Request) { r.Path = "/v1/../admin" }, denied(ReasonPath, "a/read")},
		{"escaped path that leaves", func(r *Request) { r.Path = "/v1/%2e%2e/admin" }, denied(ReasonPath, "a/read")},
		{"parameter path that leaves", func(r *Request) { r.Path = "/v1/..;/admin" }, denied(ReasonPath, "a/read")},
		{"hidden parameter path", func(r *Request) { r.Path = "/v1/%2e%2e;/admin" }, denied(ReasonPath, "a/read")},
		{"escaped slash", func(r *Request) { r.Path = "/v1/..%2fadmin" }, denied(ReasonPath, "a/read")},
		{"backslash", func(r *Request) { r.Path = `/v1\..\admin` }, denied(ReasonPath, "a/read")},
		{"malformed path", func(r *Request) { r.Path = "v1" }, denied(ReasonMalformed, "")},
		{"path with query", func(r *Request) { r.Path = "/v1/x?y" }, denied(ReasonMalformed, "")},
		{"no path", func(r *Request) { r.Path = "" }, denied(ReasonMalformed, "")},

		{"plain http", func(r *Request) { r.Scheme, r.Port = "http", 80 }, denied(ReasonScheme, "a/read")},
		{"plain http to the TLS port", func(r *Request) { r.Scheme = "http" }, denied(ReasonScheme, "a/read")},
		{"no scheme", func(r *Request) { r.Scheme = "" }, denied(ReasonScheme, "a/read")},
		{"loopback without gateway", func(r *Request) { r.Scheme, r.Host, r.Port = "http", "localhost", 8081 }, denied(ReasonScheme, "")},
		{"port 0: no gateway", func(r *Request) { r.Scheme, r.Host, r.Port = "http", "localhost", 0 }, denied(ReasonScheme, "")},
		{"another agent's gateway", func(r *Request) { r.Agent, r.Scheme, r.Host, r.Port = "b", "http", "localhost", 8080 }, Decision{Rule: "b/default", Reason: ReasonScheme}},
		{"gateway by another name", func(r *Request) { r.Scheme, r.Host, r.Port = "http", "h.test", 8080 }, denied(ReasonScheme, "a/read")},
		{"gateway", func(r *Request) {
			*r = Request{Agent: "a", Scheme: "http", Host: "localhost", Port: 8080, Method: "POST", Path: "/v1/messages"}
		}, allowed("a/api", "m")},
		{"gateway by address", func(r *Request) {
			*r = Request{Agent: "a", Scheme: "http", Host: "127.0.0.1", Port: 8080, Method: "POST", Path: "/v1/messages"}
		}, allowed("a/api", "m")},
		{"gateway, wrong path", func(r *Request) {
			*r = Request{Agent: "a", Scheme: "http", Host: "localhost", Port: 8080, Method: "POST", Path: "/v1/models"}
		}, denied(ReasonPath, "a/api")},
		{"gateway, wrong method", func(r *Request) {
			*r = Request{Agent: "a", Scheme: "http", Host: "localhost", Port: 8080, Method: "GET", Path: "/v1/messages"}
		}, denied(ReasonMethod, "a/api")},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := base
			c.change(&r)
			require.Empty(t, cmp.Diff(c.want, testPlan.Decide(r)))
		})
	}
}

// TestWithout: what is left has its order, and what it is left of stays as it was.
func TestWithout(t *testing.T) {
	t.Parallel()
	ids := func(p *Plan) []string {
		var all []string
		for _, a := range p.Agents {
			for _, r := range a.Rules {
				all = append(all, r.ID)
			}
		}
		return all
	}
	whole := []string{"a/read", "a/write", "a/late", "a/other", "a/api", "b/h"}
	for gone, want := range map[string][]string{
		"": whole, "a/read": whole[1:], "b/h": whole[:5], "a/late a/api": {"a/read", "a/write", "a/other", "b/h"}, strings.Join(whole, " "): nil,
	} {
		require.Equal(t, want, ids(testPlan.Without(func(r *Rule) bool { return slices.Contains(strings.Fields(gone), r.ID) })), gone)
		require.Equal(t, whole, ids(testPlan))
	}
}

// TestReasons: all of them, as events have them.
func TestReasons(t *testing.T) {
	t.Parallel()
	require.ElementsMatch(t, []Reason{
		"allowed", "agent_unknown", "host_not_allowed", "method_not_allowed", "path_not_allowed", "condition_not_met", "ambiguous_request", "denied_by_rule", "plain_http_not_allowed", "name_mismatch",
		"agent_killed", "address_not_allowed", "credential_unavailable", "upstream_failed", "tls_handshake_failed", "limit_exceeded", "malformed_request", "rule_ended", "not_recorded", "not_sent", "proxy_error",
	}, Reasons)
}

func TestAgentOf(t *testing.T) {
	t.Parallel()
	for rule, want := range map[string]string{"a/api": "a", "a/api/read": "a", DefaultRule("b-1"): "b-1", "": ""} {
		require.Equal(t, want, AgentOf(rule))
	}
}

// TestNearest: of what is not allowed by its host, the rule that comes closest.
func TestNearest(t *testing.T) {
	t.Parallel()
	p := &Plan{Agents: []Agent{{Name: "a", Rules: []Rule{
		{ID: "a/no", Deny: true, Host: "www.api.example.test", Port: 443, Methods: []string{AnyMethod}, Paths: []string{AnyPath}},
		{ID: "a/docs", Host: "docs.example.test", Port: 443, Methods: []string{AnyMethod}, Paths: []string{AnyPath}},
		{ID: "a/api", Host: "api.example.test", Port: 8443, Methods: []string{AnyMethod}, Paths: []string{AnyPath}},
		{ID: "a/api-later", Host: "api.example.test", Port: 8443, Methods: []string{"GET"}, Paths: []string{"/x"}},
		{ID: "a/wild", Host: "*.cdn.test", Port: 443, Methods: []string{AnyMethod}, Paths: []string{AnyPath}},
	}}}}
	for _, c := range []struct {
		scheme, host string
		port         uint16
		want         string
	}{
		{"https", "api.example.test", 443, "a/api"},
		{"https", "www.api.example.test", 443, "a/api"}, // what denies is not near
		{"https", "www.example.test", 443, "a/docs"},
		{"https", "www.example.test", 8443, "a/api"},
		{"https", "x.cdn.test", 8443, "a/wild"},
		{"https", "cdn.test", 443, "a/wild"},
		{"https", "evil.test", 443, ""},
		{"https", "evil.test", 8443, ""},
		{"https", "192.0.2.1", 443, ""},
		{"http", "API.example.test", 80, "a/api"},
		{"http", "x.cdn.test", 443, "a/wild"},
		{"http", "localhost", 8080, ""},
	} {
		d := p.Decide(Request{Agent: "a", Scheme: c.scheme, Host: c.host, Port: c.port, Method: "GET", Path: "/"})
		require.False(t, d.Allow)
		require.Equal(t, c.want, d.Nearest, "%s://%s:%d", c.scheme, c.host, c.port)
	}
}

func TestTheZeroPlanAllowsNothing(t *testing.T) {
	t.Parallel()
	require.Equal(t, Decision{Reason: ReasonAgent}, (&Plan{}).Decide(Request{}))
	require.False(t, (&Plan{Agents: []Agent{{}}}).Decide(Request{Scheme: "https", Port: 443, Path: "/", Method: "GET"}).Allow)
	empty := &Plan{Agents: []Agent{{Name: "a", Rules: []Rule{{ID: "a/x", Host: "x.test", Port: 443}}}}}
	require.False(t, empty.Decide(Request{Agent: "a", Scheme: "https", Host: "x.test", Port: 443, Path: "/", Method: "GET"}).Allow)
}

func genPlan(t *rapid.T, label string) *Plan {
	p := &Plan{}
	for _, name := range []string{"k", "l"} {
		if rapid.Bool().Draw(t, label+name) {
			p.Credentials = append(p.Credentials, Credential{Name: name, Kind: "header", Header: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "header"), Secret: "env://S", Prefix: rapid.SampledFrom([]string{"", "P "}).Draw(t, "prefix")})
		}
	}
	if rapid.Bool().Draw(t, "resolvers") {
		p.Resolvers = []string{"192.0.2.1:53"}
	}
	for _, agent := range []string{"a", "b"} {
		if !rapid.Bool().Draw(t, label+agent) {
			continue
		}
		a := Agent{Name: agent}
		for _, d := range rapid.Permutation([]string{"x", "y", "z"}).Draw(t, "order")[:rapid.IntRange(0, 3).Draw(t, "rules")] {
			r := Rule{ID: agent + "/" + d, Host: d + ".test", Port: rapid.SampledFrom([]uint16{443, 8443}).Draw(t, "port"), Methods: []string{rapid.SampledFrom([]string{AnyMethod, "GET"}).Draw(t, "method")}, Paths: []string{AnyPath}}
			if rapid.Bool().Draw(t, "more") {
				r.Credential, r.Gateway = "k", 8080
				r.Upstream = &Upstream{Address: "192.0.2.1:443", CA: rapid.SampledFrom([]string{"", "A", "B"}).Draw(t, "ca")}
			}
			a.Rules = append(a.Rules, r)
		}
		p.Agents = append(p.Agents, a)
	}
	return p
}

func TestDiffIsEmptyExactlyForEqualPlans(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := genPlan(t, "a"), genPlan(t, "b")
		if rapid.Bool().Draw(t, "same") {
			data, err := json.Marshal(a)
			require.NoError(t, err)
			b = &Plan{}
			require.NoError(t, json.Unmarshal(data, b))
		}
		va, err := a.Version()
		require.NoError(t, err)
		vb, err := b.Version()
		require.NoError(t, err)
		changes := Diff(a, b)
		require.Equal(t, va == vb, len(changes) == 0, "%v", changes)
		// The way back takes what the way there brought.
		count := func(changes []Change, kind string) int {
			return len(slices.DeleteFunc(slices.Clone(changes), func(c Change) bool { return c.Kind != kind }))
		}
		back := Diff(b, a)
		require.Equal(t, count(changes, "+"), count(back, "-"))
		require.Equal(t, count(changes, "~"), count(back, "~"))
	})
}

func TestDiff(t *testing.T) {
	t.Parallel()
	old := &Plan{
		Credentials: []Credential{{Name: "k", Kind: "header", Header: "x-api-key", Secret: "env://K"}, {Name: "old", Kind: "bearer", Secret: "env://O"}},
		Agents:      testPlan.Agents[:2],
	}
	a := testPlan.Agents[0]
	a.Rules = []Rule{a.Rules[1], a.Rules[0], a.Rules[4]}
	a.Rules[2].Methods = []string{AnyMethod}
	a.Rules[2].Upstream = &Upstream{Address: "192.0.2.1:443", CA: "pem"}
	new := &Plan{
		Resolvers:   []string{"192.0.2.53:53"},
		Credentials: []Credential{{Name: "k", Kind: "header", Header: "authorization", Prefix: "Bearer ", Secret: "env://K"}, {Name: "new", Kind: "bearer", Secret: "env://O"}},
		Agents: []Agent{a, {Name: "c", Rules: []Rule{
			{ID: "c/d", Host: "d.test", Port: 8443, Methods: []string{"GET"}, Paths: []string{"/a", "/b"}},
			{
				ID: "c/e", Host: "e.test", Port: 443, Methods: []string{"GET", "HEAD"}, Paths: []string{AnyPath}, Expires: "2027-01-01T00:00:00Z", Gateway: 8080, OwnCredentials: true,
				Query: []Condition{{Name: "q", Value: "1"}, {Name: "r", Present: true}}, Headers: []Condition{{Name: "h", Present: true}}, Limits: &Limits{Body: 7}, Reason: "because",
			},
			{ID: "c/no", Deny: true, Host: "d.test", Port: 8443, Methods: []string{"GET"}, Paths: []string{"/a"}},
		}}},
	}
	require.Empty(t, cmp.Diff([]Change{
		{"~", "a", "a/api", "a may use any method at https://api.test/v1/messages (at 192.0.2.1:443 with authority f0aeace9), was POST https://api.test/v1/messages", RiskHigh, "new: to write (every method) at /v1/messages; credential m is sent with more requests; api.test is at another place"},
		{"+", "c", "c/e", `c may GET,HEAD https://e.test/** (with ?q=1, with ?r, with header h, until 2027-01-01T00:00:00Z, gateway http://localhost:8080, its own credentials pass, limits {"body":7}, reason "because")`, RiskHigh, "e.test is a new host; the agent's own credentials pass"},
		{"~", "", "", "resolvers: 192.0.2.53:53, was the machine's", RiskMedium, "others say where allowed names are"},
		{"~", "", "", `credential k (header authorization = "Bearer " + env://K), was k (header x-api-key = env://K)`, RiskMedium, "something else is sent, wherever it is used"},
		{"~", "a", "", "a asks its rules in another order: a/write, a/read, a/api", RiskMedium, "of the rules that match, the first says which credential is sent"},
		{"+", "c", "c/d", "c may GET https://d.test:8443/a, /b", RiskMedium, "d.test is a new host"},
		{"+", "", "", "credential new (bearer authorization = env://O)", RiskLow, "see the rules that use it"},
		{"-", "", "", "credential old (bearer authorization = env://O)", RiskLow, "less access"},
		{"-", "a", "a/late", "a may GET https://h.test/v1/x", RiskLow, "less access"},
		{"-", "a", "a/other", "a may use any method at https://h.test:8443/**", RiskLow, "less access"},
		{"-", "b", "", "agent b", RiskLow, "less access"},
		{"-", "b", "b/h", "b may use any method at https://b.test/**", RiskLow, "less access"},
		{"+", "c", "", "agent c", RiskLow, "see its rules"},
		{"-", "c", "c/no", "c may never GET https://d.test:8443/a", RiskLow, "less access"},
	}, Diff(old, new)))
}

// TestDecideConditions: rules that deny, wildcards, modes, conditions, leases.
func TestDecideConditions(t *testing.T) {
	t.Parallel()
	any, all := []string{AnyMethod}, []string{AnyPath}
	p := &Plan{Agents: []Agent{{Name: "a", Rules: []Rule{
		{ID: "a/wild", Host: "*.w.test", Port: 443, Methods: any, Paths: all},
		{ID: "a/exact", Host: "x.w.test", Port: 443, Methods: []string{"POST"}, Paths: []string{"/x"}, Credential: "k"},
		{ID: "a/no-admin", Deny: true, Host: "*.w.test", Port: 443, Methods: any, Paths: []string{"/admin/**"}},
		{ID: "a/no-host", Deny: true, Host: "evil.w.test", Port: 443, Methods: any, Paths: all},
		{
			ID: "a/git", Host: "git.test", Port: 443, Methods: []string{"GET"}, Paths: []string{"/r/info/refs"},
			Query: []Condition{{Name: "service", Value: "git-upload-pack"}}, Headers: []Condition{{Name: "git-protocol", Present: true}},
		},
		{ID: "a/tunnel", Host: "*.t.test", Port: 443, Mode: ModeTunnel},
		{ID: "a/seen", Host: "seen.t.test", Port: 443, Methods: any, Paths: all},
		{ID: "a/no-tunnel", Deny: true, Host: "no.t.test", Port: 443, Methods: any, Paths: all},
		{ID: "a/gate", Host: "g.test", Port: 443, Methods: any, Paths: all, Gateway: 8080},
		{ID: "a/no-gate", Deny: true, Host: "g.test", Port: 443, Methods: any, Paths: []string{"/secret"}},
		{ID: "a/no-below", Deny: true, Host: "*.test", Port: 443, Methods: any, Paths: []string{"/below"}},
		{ID: "a/no-elsewhere", Deny: true, Host: "*.test", Port: 8443, Methods: any, Paths: all},
		{ID: "a/lease", Host: "lease.test", Port: 443, Methods: any, Paths: all, Expires: "2026-11-23T10:00:00Z"},
		{ID: "a/broken-lease", Host: "broken.test", Port: 443, Methods: any, Paths: all, Expires: "tomorrow"},
	}}}}
	https := func(host, method, path string) Request {
		return Request{Agent: "a", Scheme: "https", Host: host, Port: 443, Method: method, Path: path}
	}
	git := https("git.test", "GET", "/r/info/refs")
	git.Query, git.Header = "service=git-upload-pack", map[string][]string{"git-protocol": {"version=2"}}
	with := func(r Request, change func(*Request)) Request { change(&r); return r }
	for _, c := range []struct {
		name   string
		r      Request
		reason Reason
		rule   string
	}{
		{"below a wildcard", https("b.a.w.test", "GET", "/"), ReasonAllowed, "a/wild"},
		{"the wildcard's own name", https("w.test", "GET", "/"), ReasonHost, "a/default"},
		{"below a wildcard, an empty name", https(".w.test", "GET", "/"), ReasonHost, "a/default"},
		{"wildcard and name: the first that matches", https("x.w.test", "POST", "/x"), ReasonAllowed, "a/wild"},
		{"deny beats allow", https("x.w.test", "POST", "/admin/x"), ReasonDenied, "a/no-admin"},
		{"a host that is denied", https("evil.w.test", "GET", "/"), ReasonDenied, "a/no-host"},
		{"nothing but a deny", https("no.t.test:", "GET", "/"), ReasonHost, "a/default"},
		{"conditions", git, ReasonAllowed, "a/git"},
		{"another value", with(git, func(r *Request) { r.Query = "service=git-receive-pack" }), ReasonCondition, "a/default"},
		{"a value twice", with(git, func(r *Request) { r.Query += "&service=git-receive-pack" }), ReasonAmbiguous, "a/default"},
		{"an encoded second value", with(git, func(r *Request) { r.Query += "&%73ervice=git-receive-pack" }), ReasonAmbiguous, "a/default"},
		{"an encoded value", with(git, func(r *Request) { r.Query = "x=1&service=git%2Dupload-pack" }), ReasonCondition, "a/default"},
		{"with another", with(git, func(r *Request) { r.Query = "x=1&service=git-upload-pack&y" }), ReasonAllowed, "a/git"},
		{"no value", with(git, func(r *Request) { r.Query = "" }), ReasonCondition, "a/default"},
		{"no header", with(git, func(r *Request) { r.Header = nil }), ReasonCondition, "a/default"},
		{"tunnel", https("a.t.test", "", ""), ReasonAllowed, "a/tunnel"},
		{"the nearest mode", https("seen.t.test", "GET", "/"), ReasonAllowed, "a/seen"},
		{"a denied tunnel", https("no.t.test", "", ""), ReasonDenied, "a/no-tunnel"},
		{"gateway", Request{Agent: "a", Scheme: "http", Host: "localhost", Port: 8080, Method: "GET", Path: "/"}, ReasonAllowed, "a/gate"},
		{"gateway, denied", Request{Agent: "a", Scheme: "http", Host: "localhost", Port: 8080, Method: "GET", Path: "/secret"}, ReasonDenied, "a/no-gate"},
		{"gateway, denied by a wildcard", Request{Agent: "a", Scheme: "http", Host: "127.0.0.1", Port: 8080, Method: "GET", Path: "/below"}, ReasonDenied, "a/no-below"},
		{"lease", https("lease.test", "GET", "/"), ReasonAllowed, "a/lease"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := p.Decide(c.r)
			require.Equal(t, c.reason, got.Reason)
			require.Equal(t, c.rule, got.Rule)
			require.Equal(t, c.reason == ReasonAllowed, got.Allow)
		})
	}
	// Who comes closest allows something: a rule that denies is nobody's way in.
	only := &Plan{Agents: []Agent{{Name: "a", Rules: []Rule{
		{ID: "a/no", Deny: true, Host: "h.test", Port: 443, Methods: []string{"DELETE"}, Paths: []string{"/v1"}},
		{ID: "a/yes", Host: "h.test", Port: 443, Methods: []string{"GET"}, Paths: []string{"/v1"}},
	}}}}
	for r, want := range map[[2]string]Reason{{"GET", "/v2"}: ReasonPath, {"POST", "/v1"}: ReasonMethod, {"DELETE", "/v2"}: ReasonMethod} {
		require.Equal(t, Decision{Rule: "a/default", Reason: want, Nearest: "a/yes"}, only.Decide(https("h.test", r[0], r[1])))
	}
	end := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	p.Agents[0].Rules = append(p.Agents[0].Rules, Rule{ID: "a/later", Host: "later.test", Port: 443, Methods: any, Paths: all, Expires: "2026-11-24T10:00:00Z"})
	require.Equal(t, end.AddDate(0, 0, 1), p.NextExpiry(end))
	p.Agents[0].Rules = slices.Insert(p.Agents[0].Rules, 0, Rule{ID: "a/latest", Host: "latest.test", Port: 443, Methods: any, Paths: all, Expires: "2026-11-25T10:00:00Z"})
	require.Equal(t, end, p.NextExpiry(end.Add(-time.Hour)))
	require.False(t, p.At(end.AddDate(0, 0, 1)).Decide(https("later.test", "GET", "/")).Allow)
	require.True(t, p.At(end.AddDate(0, 0, 1)).Decide(https("latest.test", "GET", "/")).Allow)
	p.Agents[0].Rules = slices.DeleteFunc(p.Agents[0].Rules, func(r Rule) bool { return strings.HasPrefix(r.ID, "a/late") })
	require.Equal(t, end, p.NextExpiry(end.Add(-time.Hour)))
	require.True(t, p.NextExpiry(end).IsZero())
	require.True(t, p.At(end.Add(-time.Second)).Decide(https("lease.test", "GET", "/")).Allow)
	require.False(t, p.At(end).Decide(https("lease.test", "GET", "/")).Allow)
	require.False(t, p.At(time.Time{}).Decide(https("broken.test", "GET", "/")).Allow)
}

// TestAnExactHostIsNearerThanAWildcard: also when its first label is as short
// as a star.
func TestAnExactHostIsNearerThanAWildcard(t *testing.T) {
	t.Parallel()
	a := Agent{Name: "a", Rules: []Rule{
		{ID: "a/wild", Host: "*.h.test", Port: 443, Mode: ModeTunnel, Methods: []string{AnyMethod}, Paths: []string{AnyPath}},
		{ID: "a/exact", Host: "x.h.test", Port: 443, Methods: []string{"GET"}, Paths: []string{"/a"}},
	}}
	require.Equal(t, ModeIntercept, ModeOf(a.Covering("x.h.test", 443)))
	require.Equal(t, ModeTunnel, ModeOf(a.Covering("y.h.test", 443)))
}

// TestDestinations are what Covering says of every host that is named.
func TestDestinations(t *testing.T) {
	t.Parallel()
	few := Agent{Name: "a", Rules: []Rule{
		{ID: "a/1", Host: "x.test", Port: 443, Deny: true}, {ID: "a/2", Host: "*.w.test", Port: 443}, {ID: "a/3", Host: "a.w.test", Port: 443, Deny: true}, {ID: "a/4", Host: "a.w.test", Port: 8443, Deny: true},
	}}
	var named []string
	for _, d := range few.Destinations() {
		named = append(named, d.Host)
		require.Equal(t, uint16(443), d.Port)
	}
	require.Equal(t, []string{"*.w.test", "a.w.test"}, named, "of which something is allowed, or would be without a denial")
	rapid.Check(t, func(rt *rapid.T) {
		a := Agent{Name: "a"}
		for i := range rapid.IntRange(0, 40).Draw(rt, "rules") {
			a.Rules = append(a.Rules, Rule{
				ID:   "a/" + string(rune('0'+i)),
				Host: rapid.SampledFrom([]string{"*.x.test", "*.a.x.test", "a.x.test", "b.a.x.test", "y.test"}).Draw(rt, "host"),
				Port: rapid.SampledFrom([]uint16{443, 8443}).Draw(rt, "port"),
				Deny: rapid.Bool().Draw(rt, "deny"),
				Mode: rapid.SampledFrom([]string{ModeIntercept, ModeTunnel}).Draw(rt, "mode"),
			})
		}
		seen := map[string]bool{}
		for _, d := range a.Destinations() {
			seen[d.Host] = true
			require.Empty(t, cmp.Diff(a.Covering(d.Host, d.Port), d.Rules))
		}
		for _, r := range a.Rules {
			if !r.Deny {
				require.True(t, seen[r.Host], r.Host)
			}
		}
	})
}
