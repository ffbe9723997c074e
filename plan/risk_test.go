package plan

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestRisk: what one agent gains, by what is done to its one rule or by another one.
func TestRisk(t *testing.T) {
	t.Parallel()
	base := func() Rule {
		return Rule{
			ID: "a/x", Host: "x.test", Port: 443, Methods: []string{"GET"}, Paths: []string{"/v1/**"}, Credential: "k",
			Limits: &Limits{Requests: 60, Per: 60, Body: 10}, Expires: "2027-01-01T00:00:00Z",
		}
	}
	another := func(change func(*Rule)) func(*Rule) []Rule {
		return func(r *Rule) []Rule {
			n := base()
			n.ID = "a/y"
			change(&n)
			return []Rule{*r, n}
		}
	}
	changed := func(change func(*Rule)) func(*Rule) []Rule {
		return func(r *Rule) []Rule { change(r); return []Rule{*r} }
	}
	deny := Rule{ID: "a/no", Deny: true, Host: "*.test", Port: 443, Methods: []string{"GET"}, Paths: []string{"/v1/admin/**"}}
	wild := Rule{ID: "a/wild", Host: "*.test", Port: 443, Mode: ModeTunnel, Methods: []string{AnyMethod}, Paths: []string{AnyPath}}
	foreign, remote := deny, deny
	foreign.Host, remote.Port = "x.other", 8443
	late, twin, endless, elsewhere := base(), base(), base(), wild
	endless.ID, endless.Expires = "a/e", ""
	late.ID, late.Credential, twin.ID = "a/z", "l", "a/z"
	elsewhere.ID, elsewhere.Port = "a/elsewhere", 8443
	// A wildcard of the same mode, behind or before the rule.
	star := func(change func(*Rule)) Rule {
		r := base()
		r.ID, r.Host, r.Expires = "a/star", "*.test", ""
		change(&r)
		return r
	}
	pinned := star(func(r *Rule) { r.Upstream = &Upstream{Address: "192.0.2.1:443"} })
	own := star(func(r *Rule) { r.Credential, r.OwnCredentials = "", true })
	loose := star(func(r *Rule) { r.Limits = nil })
	looser := star(func(r *Rule) { r.Limits = &Limits{Requests: 120, Per: 60, Body: 11, Concurrent: 1} })
	alike := star(func(*Rule) {})
	unlimited := star(func(r *Rule) { r.ID, r.Host, r.Limits = "a/y", "y.test", nil })
	for _, c := range []struct {
		name string
		// more are further rules that the old plan had.
		more   []Rule
		change func(*Rule) []Rule
		risk   Risk
		why    string
	}{
		{"wildcard", nil, another(func(r *Rule) { r.Host, r.Credential = "*.y.test", "" }), RiskHigh, "every name below y.test is new"},
		{"new host", nil, another(func(r *Rule) { r.Host, r.Credential = "y.test", "" }), RiskMedium, "y.test is a new host"},
		{"new host to write to", nil, another(func(r *Rule) { r.Host, r.Credential, r.Methods = "y.test", "", []string{"PUT"} }), RiskHigh, "y.test is a new host, to write to as well"},
		{"new host for WebSockets", nil, another(func(r *Rule) {
			r.Host, r.Credential, r.Headers = "y.test", "", []Condition{{Name: "upgrade", Value: "websocket"}}
		}), RiskHigh, "y.test is a new host, to write to as well"},
		{"WebSockets", nil, another(func(r *Rule) { r.Paths, r.Headers = []string{"/live"}, []Condition{{Name: "upgrade", Present: true}} }), RiskHigh, "new: to write (WebSockets) at /live; credential k is sent with more requests"},
		{"WebSockets where GET was allowed", nil, another(func(r *Rule) { r.Headers = []Condition{{Name: "upgrade", Present: true}} }), RiskLow, "nothing that was not allowed already"},
		{"new port", nil, another(func(r *Rule) { r.Port, r.Credential = 8443, "" }), RiskMedium, "x.test is a new host"},
		{"credential at a new host", nil, another(func(r *Rule) { r.Host = "y.test" }), RiskHigh, "y.test is a new host; credential k reaches y.test"},
		{"another credential", nil, changed(func(r *Rule) { r.Credential = "l" }), RiskHigh, "credential l reaches x.test"},
		{"own credentials", nil, changed(func(r *Rule) { r.Credential, r.OwnCredentials = "", true }), RiskHigh, "the agent's own credentials pass"},
		{"tunnel", nil, changed(func(r *Rule) {
			r.Mode, r.Credential, r.Limits, r.Methods, r.Paths = ModeTunnel, "", nil, []string{AnyMethod}, []string{AnyPath}
		}), RiskHigh, "a tunnel: nothing that passes is seen; no longer a limit on requests; no longer a limit on bodies"},
		{"method", nil, changed(func(r *Rule) { r.Methods = []string{"GET", "HEAD"} }), RiskHigh, "new: to HEAD at /v1/**; credential k is sent with more requests"},
		{"method that writes", nil, changed(func(r *Rule) { r.Methods = []string{"GET", "POST"} }), RiskHigh, "new: to write (POST) at /v1/**; credential k is sent with more requests"},
		{"any method", nil, changed(func(r *Rule) { r.Methods = []string{AnyMethod} }), RiskHigh, "new: to write (every method) at /v1/**; credential k is sent with more requests"},
		{"wider path", nil, changed(func(r *Rule) { r.Paths = []string{AnyPath} }), RiskHigh, "new: to GET at /**; credential k is sent with more requests"},
		{"more paths", nil, changed(func(r *Rule) { r.Methods, r.Paths = []string{"GET", "HEAD"}, []string{"/v1/**", "/v2", "/v3"} }), RiskHigh, "new: to GET, HEAD at /v2, /v3, /v1/**; credential k is sent with more requests"},
		{"narrower path", nil, changed(func(r *Rule) { r.Paths = []string{"/v1/*/x"} }), RiskLow, "nothing that was not allowed already"},
		{"the same by another name", nil, another(func(*Rule) {}), RiskLow, "nothing that was not allowed already"},
		{"condition gone", nil, another(func(r *Rule) { r.Paths = []string{"/v2"}; r.Query = []Condition{{Name: "a"}} }), RiskHigh, "new: to GET at /v2; credential k is sent with more requests"},
		{"condition more", nil, another(func(r *Rule) { r.Query = []Condition{{Name: "a"}} }), RiskLow, "nothing that was not allowed already"},
		{"longer", nil, changed(func(r *Rule) { r.Expires = "2028-01-01T00:00:00Z" }), RiskMedium, "it lasts longer, until 2028-01-01T00:00:00Z"},
		{"for ever", nil, changed(func(r *Rule) { r.Expires = "" }), RiskMedium, "it no longer expires"},
		{"as long as one of them", []Rule{endless, twin}, func(r *Rule) []Rule {
			n := endless
			n.ID = "a/y"
			return []Rule{*r, endless, twin, n}
		}, RiskLow, "nothing that was not allowed already"},
		{"shorter", nil, changed(func(r *Rule) { r.Expires = "2026-12-01T00:00:00Z" }), RiskLow, "nothing that was not allowed already"},
		{"higher limits", nil, changed(func(r *Rule) { r.Limits = &Limits{Requests: 2, Per: 1} }), RiskMedium, "a higher limit on requests; no longer a limit on bodies"},
		{"lower limits", nil, changed(func(r *Rule) { r.Limits = &Limits{Requests: 1, Per: 60, Body: 1} }), RiskLow, "nothing that was not allowed already"},
		{"elsewhere", nil, changed(func(r *Rule) { r.Upstream = &Upstream{Address: "192.0.2.1:443"} }), RiskHigh, "x.test is at another place"},
		{"words", nil, changed(func(r *Rule) { r.Reason = "because" }), RiskLow, "nothing that was not allowed already"},
		{"less", nil, func(*Rule) []Rule { return nil }, RiskLow, "less access"},
		{"denial gone", []Rule{deny}, func(r *Rule) []Rule { return []Rule{*r} }, RiskHigh, "a/x now allows what it denied"},
		{"denial narrower", []Rule{deny}, func(r *Rule) []Rule {
			d := deny
			d.Host = "x.test"
			d.Methods = []string{"POST"}
			return []Rule{*r, d}
		}, RiskHigh, "a/x now allows what it denied"},
		{"denial replaced by one that ends", []Rule{deny}, func(r *Rule) []Rule {
			d := deny
			d.ID, d.Expires = "a/not-yet", "2027-01-01T00:00:00Z"
			return []Rule{*r, d}
		}, RiskHigh, "a/x now allows what it denied"},
		{"denial replaced", []Rule{deny}, func(r *Rule) []Rule {
			d := deny
			d.ID = "a/never"
			return []Rule{*r, d}
		}, RiskLow, "less access"},
		{"denial wider", []Rule{deny}, func(r *Rule) []Rule {
			d := deny
			d.Methods = []string{AnyMethod}
			return []Rule{*r, d}
		}, RiskLow, "nothing that was not allowed already"},
		{"denial new", nil, func(r *Rule) []Rule { return []Rule{*r, deny} }, RiskLow, "less access"},
		{"what it decided, another decides with its credential", []Rule{late, elsewhere}, func(*Rule) []Rule { return []Rule{late, elsewhere} }, RiskMedium, "what it decided, a/z may now, with credential l"},
		{"the same, at a port that it leaves", []Rule{late}, func(r *Rule) []Rule { r.Port, r.Credential = 8443, ""; return []Rule{*r, late} }, RiskMedium, "x.test is a new host; what it decided, a/z may now, with credential l"},
		{"the same, for a part of what it decided", []Rule{late}, func(r *Rule) []Rule { r.Methods = []string{"HEAD"}; return []Rule{*r, late} }, RiskHigh, "new: to HEAD at /v1/**; credential k is sent with more requests; what it decided, a/z may now, with credential l"},
		{"what it decided, another decides with the same credential", []Rule{twin}, func(*Rule) []Rule { return []Rule{twin} }, RiskLow, "less access"},
		{"one that another came before", []Rule{late}, func(r *Rule) []Rule { return []Rule{*r} }, RiskLow, "less access"},
		{"words, with another behind it", []Rule{late}, func(r *Rule) []Rule { r.Owner = "me"; return []Rule{*r, late} }, RiskLow, "nothing that was not allowed already"},
		{"its credential with what another was asked for first", []Rule{late}, func(r *Rule) []Rule {
			n := late
			n.ID, n.Credential, n.Paths = "a/aa", "l", []string{"/v1/x"}
			return []Rule{n, *r, late}
		}, RiskHigh, "credential l is sent with more requests"},
		{"what was denied was not allowed", []Rule{deny}, func(r *Rule) []Rule {
			n := base()
			n.ID, n.Host, n.Paths, n.Credential = "a/y", "y.test", []string{"/v1/admin/**"}, ""
			return []Rule{*r, n, deny}
		}, RiskMedium, "y.test is a new host"},
		{"another value of a condition", nil, another(func(r *Rule) { r.Paths = []string{"/v2"}; r.Query = []Condition{{Name: "q", Value: "1"}} }), RiskHigh, "new: to GET at /v2; credential k is sent with more requests"},
		{"denial gone, of another host", []Rule{foreign}, func(r *Rule) []Rule { return []Rule{*r} }, RiskLow, "nothing that was not allowed already"},
		{"denial gone, of another port", []Rule{remote}, func(r *Rule) []Rule { return []Rule{*r} }, RiskLow, "nothing that was not allowed already"},
		{"denial gone, of a name below", []Rule{deny}, func(r *Rule) []Rule { n := wild; return []Rule{*r, n} }, RiskHigh, "a/x now allows what it denied"},
		{"denial replaced by one of less", []Rule{deny}, func(r *Rule) []Rule {
			d := deny
			d.ID, d.Paths = "a/other", []string{"/v1/admin/x"}
			return []Rule{*r, d}
		}, RiskHigh, "a/x now allows what it denied"},
		{"denial gone of what two allow", []Rule{deny}, func(r *Rule) []Rule { return []Rule{*r, late} }, RiskHigh, "a/x now allows what it denied"},
		{"a tunnel comes to light at the port that a rule leaves", []Rule{wild}, func(r *Rule) []Rule { r.Port = 8443; return []Rule{*r, wild} }, RiskHigh, "a tunnel: nothing that passes is seen, by a/wild; x.test is a new host; credential k reaches x.test; no longer a limit on requests; no longer a limit on bodies, by a/wild"},
		{"a tunnel comes to light", []Rule{wild}, func(*Rule) []Rule { return []Rule{wild} }, RiskHigh, "a tunnel: nothing that passes is seen, by a/wild; no longer a limit on requests; no longer a limit on bodies, by a/wild"},
		{"a wildcard decides, which leads elsewhere", []Rule{pinned}, func(*Rule) []Rule { return []Rule{pinned} }, RiskHigh, "x.test is at another place, by a/star"},
		{"a wildcard decides, which lets own credentials pass", []Rule{own}, func(*Rule) []Rule { return []Rule{own} }, RiskHigh, "the agent's own credentials pass, by a/star"},
		{"a wildcard decides, without limits", []Rule{loose}, func(*Rule) []Rule { return []Rule{loose} }, RiskMedium, "no longer a limit on requests; no longer a limit on bodies, by a/star"},
		{"a wildcard decides, with higher limits", []Rule{looser}, func(*Rule) []Rule { return []Rule{looser} }, RiskMedium, "a higher limit on requests; a higher limit on bodies, by a/star"},
		{"a wildcard decides, in the same way", []Rule{alike}, func(*Rule) []Rule { return []Rule{alike} }, RiskLow, "less access"},
		{"a wildcard decides a part", []Rule{own}, func(r *Rule) []Rule { r.Paths = []string{"/v1/a"}; return []Rule{*r, own} }, RiskHigh, "the agent's own credentials pass, by a/star"},
		{"a wildcard would decide, but for another rule", []Rule{twin, own}, func(*Rule) []Rule { return []Rule{twin, own} }, RiskLow, "less access"},
		{"a wildcard decides what nobody asks for", []Rule{own}, func(r *Rule) []Rule { r.Paths = []string{AnyPath}; return []Rule{*r, own} }, RiskHigh, "new: to GET at /**; credential k is sent with more requests"},
		{"a nearer rule, without the wildcard's limits", []Rule{alike}, func(r *Rule) []Rule {
			n := base()
			n.ID, n.Host, n.Limits = "a/y", "y.test", nil
			return []Rule{*r, n, alike}
		}, RiskMedium, "no longer a limit on bodies"},
		{"a nearer rule, where the wildcard decides", []Rule{alike}, func(r *Rule) []Rule {
			n := base()
			n.ID, n.Host, n.Upstream = "a/y", "y.test", pinned.Upstream
			return []Rule{*r, alike, n}
		}, RiskLow, "nothing that was not allowed already"},
		{"a wildcard before a nearer rule", []Rule{loose}, func(r *Rule) []Rule {
			n := loose
			n.ID = "a/first"
			return []Rule{n, *r, loose}
		}, RiskMedium, "no longer a limit on bodies"},
		{"a wildcard's credential before a nearer rule", []Rule{star(func(r *Rule) { r.Credential = "l" })}, func(r *Rule) []Rule {
			n := star(func(r *Rule) { r.ID, r.Credential = "a/first", "l" })
			return []Rule{n, *r, star(func(r *Rule) { r.Credential = "l" })}
		}, RiskHigh, "credential l is sent with more requests"},
		{"a tunnel elsewhere, and another rule in its place", []Rule{elsewhere}, func(r *Rule) []Rule {
			r.ID, r.Methods = "a/y", []string{"POST"}
			return []Rule{*r, elsewhere}
		}, RiskHigh, "new: to write (POST) at /v1/**; credential k is sent with more requests"},
		{"a wildcard's limit, also at a name of its own", []Rule{unlimited, alike}, func(r *Rule) []Rule {
			return []Rule{*r, unlimited, loose}
		}, RiskMedium, "no longer a limit on requests; no longer a limit on bodies; no longer a limit on requests at y.test"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			was, is := base(), base()
			old := &Plan{Agents: []Agent{{Name: "a", Rules: append([]Rule{was}, c.more...)}}}
			new := &Plan{Agents: []Agent{{Name: "a", Rules: c.change(&is)}}}
			changes := Diff(old, new)
			require.NotEmpty(t, changes)
			require.Equal(t, c.risk, changes[0].Risk, changes[0].Text)
			require.Equal(t, c.why, changes[0].Why)
		})
	}
}

// TestAnotherPort: whoever connects to an agent's port is the agent, so another one is a change.
func TestAnotherPort(t *testing.T) {
	t.Parallel()
	at := func(port uint16) *Plan { return &Plan{Agents: []Agent{{Name: "a", Port: port}}} }
	require.Empty(t, Diff(at(1), at(1)))
	require.Equal(t, []Change{{
		Kind: "~", Agent: "a", Text: "a has port 2 of the nodes, was 1", Risk: RiskMedium, Why: "whoever can connect to it is the agent",
	}}, Diff(at(1), at(2)))
}

// TestMeet: which patterns may match the same path, in whatever order.
func TestMeet(t *testing.T) {
	t.Parallel()
	for pair, want := range map[[2]string]bool{
		{"/a", "/a"}: true, {"/a", "/b"}: false, {"/a", "/*"}: true, {"/*", "/*"}: true, {"/a/b", "/*/c"}: false,
		{"/a/*", "/*/c"}: true, {"/a", "/a/b"}: false, {"/a/**", "/a/b"}: true, {"/a/**", "/b/c"}: false,
		{"/a/**", "/*/b/**"}: true, {"/a/b/**", "/a"}: false, {"/a/b", "/**"}: true, {"x", "/**"}: false, {"x", "x"}: false,
	} {
		require.Equal(t, want, meet(pair[0], pair[1]), pair)
		require.Equal(t, want, meet(pair[1], pair[0]), pair)
	}
}

// TestWithin: which patterns are in which. Where it is hard to see the answer is no.
func TestWithin(t *testing.T) {
	t.Parallel()
	for pattern, c := range map[string]struct{ in, not []string }{
		"/":        {[]string{"/", AnyPath}, []string{"/*", "/a", "/a/**", "x"}},
		"/a":       {[]string{"/a", "/*", AnyPath}, []string{"/a/", "/a/**", "/a/*", "/b", "/*/**", "/"}},
		"/a/":      {[]string{"/a/", "/a/**", "/*/**", AnyPath}, []string{"/a", "/a/*", "/*"}},
		"/a/b":     {[]string{"/a/b", "/a/*", "/*/b", "/*/*", "/a/**", "/*/**", "/*/b", AnyPath}, []string{"/a", "/a/c", "/a/b/**", "/b/**", "/*"}},
		"/a/*":     {[]string{"/a/*", "/*/*", "/a/**", "/*/**", AnyPath}, []string{"/a/b", "/*/b", "/a"}},
		"/a/**":    {[]string{"/a/**", "/*/**", AnyPath}, []string{"/a/*", "/a/b/**", "/a", "/b/**"}},
		"/a/b/**":  {[]string{"/a/b/**", "/a/**", "/*/b/**", "/*/**", AnyPath}, []string{"/a/b", "/b/**", "/a/*/c/**"}},
		"/*":       {[]string{"/*", AnyPath}, []string{"/a", "/", "/*/**", "/*/*"}},
		"/a%2fb":   {[]string{"/a%2fb", AnyPath}, []string{"/*", "/a/**", "/a/b", "/a/*"}},
		"/x/a%2fb": {[]string{"/x/a%2fb", AnyPath}, []string{"/x/*", "/x/**", "/*/**"}},
		AnyPath:    {[]string{AnyPath}, []string{"/*", "/a/**", "/*/**", "/"}},
		"x":        {nil, []string{"x", AnyPath, "/"}},
	} {
		for _, wide := range c.in {
			require.True(t, within(pattern, wide), "%s is in %s", pattern, wide)
		}
		for _, wide := range c.not {
			require.False(t, within(pattern, wide), "%s is not in %s", pattern, wide)
		}
	}
}

// TestDescribe: a rule in the words of a change.
func TestDescribe(t *testing.T) {
	t.Parallel()
	for want, r := range map[string]*Rule{
		"GET https://x.test/a (credential k, at 192.0.2.1:443)": {Host: "x.test", Port: 443, Methods: []string{"GET"}, Paths: []string{"/a"}, Credential: "k", Upstream: &Upstream{Address: "192.0.2.1:443"}},
		"tunnel to https://x.test:8443/**":                      {Host: "x.test", Port: 8443, Mode: ModeTunnel, Methods: []string{AnyMethod}, Paths: []string{AnyPath}},
		"use any method at https://*.x.test/a, /b":              {Host: "*.x.test", Port: 443, Methods: []string{AnyMethod}, Paths: []string{"/a", "/b"}},
	} {
		require.Equal(t, want, r.describe())
	}
}

func TestLine(t *testing.T) {
	t.Parallel()
	c := Change{Kind: "+", Text: "a may GET https://x.test/", Risk: RiskLow, Why: "words"}
	require.Equal(t, "+ a may GET https://x.test/", c.Line())
	c.Risk = RiskMedium
	require.Equal(t, "+ a may GET https://x.test/  [medium: words]", c.Line())
	c.Risk = RiskHigh
	require.Equal(t, "+ a may GET https://x.test/  [high: words]", c.Line())
}

// TestHas: a rule of any method is about each.
func TestHas(t *testing.T) {
	t.Parallel()
	get, all := &Rule{Methods: []string{"GET"}}, &Rule{Methods: []string{AnyMethod}}
	for method, want := range map[string]bool{"GET": true, "POST": false, AnyMethod: true} {
		require.Equal(t, want, get.has(method), method)
		require.True(t, all.has(method), method)
	}
}

// TestIsWrite: what is not known to read writes.
func TestIsWrite(t *testing.T) {
	t.Parallel()
	for _, m := range []string{"GET", "HEAD", "OPTIONS", "PROPFIND", "REPORT", "SEARCH", "QUERY"} {
		require.False(t, IsWrite(m), m)
	}
	for _, m := range []string{"POST", "PUT", "PATCH", "DELETE", "COPY", "MOVE", "LOCK", "UNLOCK", "MKCOL", "PROPPATCH", AnyMethod, "get", ""} {
		require.True(t, IsWrite(m), m)
	}
}

// treatment is what happens to a request that is allowed, and who decides it.
type treatment struct {
	Decision
	own      bool
	upstream string
	// limits are those that count: the rate is the destination's.
	limits Limits
}

func (p *Plan) treatment(r Request) treatment {
	t := treatment{Decision: p.Decide(r)}
	if !t.Allow {
		return t
	}
	for i := range p.Agents[0].Rules {
		rule := &p.Agents[0].Rules[i]
		if rule.ID != t.Rule {
			continue
		}
		t.own = rule.OwnCredentials
		if rule.Upstream != nil {
			t.upstream = rule.Upstream.Address
		}
		if rule.Limits != nil {
			t.limits = *rule.Limits
		}
		rate := RequestLimit(p.Agents[0].Covering(r.Host, r.Port))
		t.limits.Requests, t.limits.Per = rate.Requests, rate.Per
	}
	return t
}

// wider reports whether a request that is treated as is was not, or less.
func (is treatment) wider(was treatment) bool {
	if !is.Allow || !was.Allow {
		return is.Allow
	}
	higher := func(was, is uint64) bool { return was > 0 && (is == 0 || is > was) }
	return is.Credential != "" && is.Credential != was.Credential || is.own && !was.own || is.upstream != was.upstream ||
		higher(uint64(was.limits.Requests), uint64(is.limits.Requests)) || higher(was.limits.Body, is.limits.Body)
}

// TestNoRiskIsMissed: whatever a plan newly allows, sends another credential with, leads
// elsewhere or limits less, some change says more than "low" of it. Nothing changes
// without a change that says so.
func TestNoRiskIsMissed(t *testing.T) {
	t.Parallel()
	hosts := []string{"x.test", "a.x.test", "*.x.test", "*.a.x.test"}
	paths := []string{AnyPath, "/", "/a", "/a/*", "/a/**", "/a/b", "/*/b", "/a%2fb"}
	rule := func(t *rapid.T, id, tunnel string, limits map[string]*Limits) Rule {
		r := Rule{
			ID: id, Host: rapid.SampledFrom(hosts).Draw(t, "host"), Port: 443, Paths: []string{rapid.SampledFrom(paths).Draw(t, "path")},
			Methods: []string{rapid.SampledFrom([]string{"GET", "POST", AnyMethod}).Draw(t, "method")}, Deny: rapid.IntRange(0, 3).Draw(t, "deny") == 0,
		}
		if r.Deny {
			return r
		}
		r.Limits = limits[r.Host]
		if rapid.IntRange(0, 3).Draw(t, "pinned") == 0 {
			r.Upstream = &Upstream{Address: "192.0.2.1:443"}
		}
		if r.Host == tunnel {
			r.Mode, r.Methods, r.Paths = ModeTunnel, []string{AnyMethod}, []string{AnyPath}
			return r
		}
		r.Credential = rapid.SampledFrom([]string{"", "k", "l"}).Draw(t, "credential")
		r.OwnCredentials = r.Credential == "" && rapid.Bool().Draw(t, "own")
		if rapid.Bool().Draw(t, "query") {
			r.Query = []Condition{{Name: "q", Value: rapid.SampledFrom([]string{"1", "2"}).Draw(t, "value")}}
		}
		return r
	}
	rapid.Check(t, func(t *rapid.T) {
		tunnel := rapid.SampledFrom([]string{"", "", "*.x.test", "*.a.x.test"}).Draw(t, "tunnel")
		limits := func() map[string]*Limits {
			all := map[string]*Limits{}
			for _, h := range hosts {
				all[h] = rapid.SampledFrom([]*Limits{nil, nil, {Requests: 1, Per: 1}, {Requests: 2, Per: 1, Body: 1}, {Body: 2}}).Draw(t, "limits")
			}
			return all
		}
		before := limits()
		after := before
		if rapid.IntRange(0, 3).Draw(t, "other limits") == 0 {
			after = limits()
		}
		var was, is Agent
		was.Name, is.Name = "a", "a"
		// Most rules stay: what is missed is missed where few change.
		for _, id := range []string{"a/1", "a/2", "a/3", "a/4"}[:rapid.IntRange(1, 4).Draw(t, "rules")] {
			r := rule(t, id, tunnel, before)
			n := r
			if !r.Deny {
				n.Limits = after[r.Host]
			}
			switch rapid.IntRange(0, 5).Draw(t, "change") {
			case 0:
				was.Rules = append(was.Rules, r)
			case 1:
				is.Rules = append(is.Rules, n)
			case 2:
				was.Rules, is.Rules = append(was.Rules, r), append(is.Rules, rule(t, id, tunnel, after))
			default:
				was.Rules, is.Rules = append(was.Rules, r), append(is.Rules, n)
			}
		}
		if rapid.IntRange(0, 5).Draw(t, "order") == 0 {
			is.Rules = rapid.Permutation(is.Rules).Draw(t, "rules in order")
		}
		old, new := &Plan{Agents: []Agent{was}}, &Plan{Agents: []Agent{is}}
		changes := Diff(old, new)
		for _, host := range []string{"x.test", "a.x.test", "b.x.test", "b.a.x.test"} {
			for range 8 {
				r := Request{
					Agent: "a", Scheme: "https", Host: host, Port: 443,
					Method: rapid.SampledFrom([]string{"GET", "POST", "PUT"}).Draw(t, "with"), Query: rapid.SampledFrom([]string{"", "q=1", "q=2"}).Draw(t, "asks"),
					Path: rapid.SampledFrom([]string{"/", "/a", "/a/", "/a/b", "/a/b/c", "/c/b", "/a%2fb", "/a/;x", "/a;x/b", "/A/b", "/x/..%2fa"}).Draw(t, "for"),
				}
				was, is := old.treatment(r), new.treatment(r)
				if was != is {
					require.NotEmpty(t, changes, "%+v: %+v, was %+v", r, is, was)
				}
				if is.wider(was) {
					require.NotEqual(t, RiskLow, changes[0].Risk, "%+v: %+v, was %+v: %v", r, is, was, changes)
				}
			}
		}
	})
}
