package attack

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks"
)

// names is section A: the same name read in two ways.
var names = []Case{
	{ID: "A1", What: "NUL in the host", Ways: []Way{Socket, Balancer}, Run: func(s *seat) {
		for _, authority := range []string{s.host(evil) + "\x00." + s.host(api) + ":443", s.host(api) + "\x00." + s.host(evil) + ":443"} {
			a := s.raw(request("CONNECT", authority, authority))
			require.Equal(s, 400, a.Status, "%s", a)
			s.deny(plan.ReasonMalformed)
			a = s.raw(request("GET", "http://"+authority+"/", authority))
			require.Equal(s, 400, a.Status, "%s", a)
			s.deny(plan.ReasonMalformed)
		}
	}},
	{ID: "A1", What: "NUL in the server name", Ways: []Way{Socket, Captured}, Run: func(s *seat) {
		for _, sni := range []string{s.host(evil) + "\x00." + s.host(api), s.host(api) + "\x00.evil.test"} {
			_, err := s.handshake(s.tunnel(s.host(api)), sni)
			require.Error(s, err)
			if s.way == Captured {
				s.deny(plan.ReasonHost) // the capture sees no name in it, and asks for the address
			} else {
				s.deny(plan.ReasonTLS)
			}
		}
	}},
	{ID: "A2", What: "trailing dots", Ways: []Way{Socket}, Run: func(s *seat) {
		for _, host := range []string{s.host(evil) + ".", s.host(evil) + "..", s.host(api) + "..", "." + s.host(api), s.host(api) + ".\t"} {
			_, a := s.connect(host + ":443")
			require.True(s, a.refused(), "%q: %s", host, a)
			s.denyAs(a, plan.ReasonHost)
		}
	}},
	{ID: "A2", What: "one trailing dot means what it means in DNS", Ways: []Way{Explicit}, Run: func(s *seat) {
		c, a := s.connect(s.host(api) + ".:443")
		d := s.plan.Decide(plan.Request{Agent: s.name, Scheme: "https", Host: s.host(api) + ".", Port: 443, Method: "GET", Path: "/v1/x"})
		require.Equal(s, d.Allow, a.Status == 200, "Envoy answers %s, plan.Decide says %+v", a, d)
		if a.Status != 200 {
			s.deny(d.Reason)
			return
		}
		t, err := s.handshake(c, s.host(api))
		require.NoError(s, err)
		require.Equal(s, 200, exchange(t, "GET", request("GET", "/v1/x", s.host(api)+".")).Status)
		s.allow("api")
	}},
	{ID: "A3", What: "letter case", Ways: []Way{Explicit, Captured}, Run: func(s *seat) {
		if s.way == Explicit {
			_, a := s.connect(strings.ToUpper(s.host(evil)) + ":443")
			require.Equal(s, 403, a.Status)
			s.deny(plan.ReasonHost)
			c, a := s.connect(strings.ToUpper(s.host(api)) + ":443")
			require.Equal(s, 200, a.Status)
			t, err := s.handshake(c, s.host(api))
			require.NoError(s, err)
			a = exchange(t, "GET", request("GET", "/v1/x", strings.ToUpper(s.host(api))))
			require.Equal(s, 200, a.Status, "%s", a)
			s.allow("api")
			require.Equal(s, s.host(api), s.arrivals()[0].Host, "the upstream gets the policy's spelling")
			return
		}
		for _, host := range []string{strings.ToUpper(s.host(evil)), "Evil." + s.name + ".tEST"} {
			_, err := s.handshake(s.tunnel(host), host)
			require.ErrorContains(s, err, "access denied")
			s.deny(plan.ReasonHost)
		}
	}},
	{ID: "A4", What: "brackets", Ways: []Way{Socket}, Run: func(s *seat) {
		for _, host := range []string{"[" + s.host(evil) + "]", "[[" + s.host(evil) + "]]", "[" + s.host(api) + "]", "[[" + s.host(api) + "]]", "[" + s.host(api), s.host(api) + "]"} {
			_, a := s.connect(host + ":443")
			require.True(s, a.refused(), "%q: %s", host, a)
			s.denyAs(a, plan.ReasonHost)
		}
	}},
	{ID: "A5", What: "confusion of prefix, suffix and user", Ways: []Way{Socket, Balancer}, Run: func(s *seat) {
		for _, host := range confusing(s) {
			_, a := s.connect(host + ":443")
			require.True(s, a.refused(), "%q: %s", host, a)
			s.denyAs(a, plan.ReasonHost)
		}
	}},
	{ID: "A5", What: "confusing server names", Ways: []Way{Captured}, Run: func(s *seat) {
		for _, host := range confusing(s) {
			_, err := s.handshake(s.tunnel(host), host)
			require.Error(s, err, "%q", host)
			s.deny(plan.ReasonHost)
		}
	}},
	{ID: "A5", What: "confusing hosts at the gateway", Ways: []Way{Gateway}, Run: func(s *seat) {
		for _, host := range []string{
			"localhost:8080.evil.test", "evil.test:8080", "localhost:8080@evil.test", "evil.test@localhost:8080", "localhost", "localhost:80800", "localhost:08080", "localhost.:8080",
			"127.1:8080", "0x7f.1:8080", "2130706433:8080", "[::1]:8080", "[::ffff:127.0.0.1]:8080", "0.0.0.0:8080", "localhost.localdomain:8080", s.host(api) + ":8080",
		} {
			a := s.raw(request("GET", "/v1/x", host))
			require.Equal(s, 403, a.Status, "%q: %s", host, a)
			s.deny(plan.ReasonScheme)
		}
	}},
	{ID: "A6", What: "Unicode: dots, widths, zero width, punycode", Ways: []Way{Socket}, Run: func(s *seat) {
		for _, host := range unicode(s) {
			_, a := s.connect(host + ":443")
			require.True(s, a.refused(), "%q: %s", host, a)
			s.denyAs(a, plan.ReasonHost)
		}
	}},
	{ID: "A6", What: "Unicode in the server name", Ways: []Way{Socket, Captured}, Run: func(s *seat) {
		for _, host := range unicode(s) {
			_, err := s.handshake(s.tunnel(s.host(api)), host)
			require.Error(s, err, "%q", host)
			if s.way == Captured {
				s.deny(plan.ReasonHost)
			} else {
				s.deny(plan.ReasonName)
			}
		}
	}},
	{ID: "A7", What: "ports and escapes in the authority", Ways: []Way{Socket, Balancer}, Run: func(s *seat) {
		h := s.host(api)
		for _, authority := range []string{
			h, h + ":", h + ":0", h + ":80", h + ":65979", h + ":4294967739", h + ":443,80", h + ":443:443", h + ":+443", h + ":0443", h + ":0x1bb", h + ":443/", h + ":-443", h + ":443#",
			"%61pi." + s.name + ".test:443", s.host("api%2e") + ":443", h + "%3a443", h + "%00:443", "http://" + h + ":443", "//" + h + ":443", h + ":443?x", ":443", "*:443", "*", "/",
		} {
			_, a := s.connect(authority)
			require.True(s, a.refused(), "%q: %s", authority, a)
			s.denyAs(a, plan.ReasonHost)
		}
	}},
	{ID: "A8", What: "wildcards that say too much are refused when loaded", Ways: []Way{Operator}, Run: func(s *seat) {
		for _, host := range []string{"*", "*.", "*.*", "*.com", "*.co.uk", "a.*.test", "*a.test", "a*.test", "**.a.test", "*.*.test", "*.amazonaws.com", "*.github.io", "[*.a.test]"} {
			_, err := load(s, "{host: \""+host+"\"}", "[d]")
			s.wrong(err, "host %q", host)
		}
	}},
	{ID: "A8", What: "a wildcard is not its apex, and is of one policy", Ways: []Way{Explicit}, Rules: func(s string) []plan.Rule {
		return []plan.Rule{{ID: s + "/wild", Host: "*.wild." + s + ".test", Port: 443, Methods: []string{"GET"}, Paths: []string{"/v1/**"}}}
	}, Run: func(s *seat) {
		for _, host := range []string{s.host("wild."), s.host("."), s.host("xwild."), "wild." + s.name + ".test.evil.test", s.host("*.wild.x"), s.host("a.wild") + "x"} {
			_, a := s.connect(host + ":443")
			require.True(s, a.refused(), "%q: %s", host, a)
			s.denyAs(a, plan.ReasonHost)
		}
		for _, host := range []string{s.host("a.wild."), s.host("b.a.wild.")} {
			a := s.askHost(host, "GET", "/v1/x")
			require.Equal(s, 200, a.Status, "%q: %s", host, a)
			s.allow("wild")
			a = s.askHost(host, "GET", "/v2")
			require.Equal(s, 403, a.Status)
			s.deny(plan.ReasonPath)
		}
		_, err := s.handshake(s.tunnel(s.host("a.wild.")), s.host("b.wild."))
		require.Error(s, err, "a tunnel to one name of the wildcard, TLS to another")
		s.deny(plan.ReasonName)
		a := exchange(s.secure(s.host("a.wild.")), "GET", request("GET", "/v1/x", s.host("b.wild.")))
		require.Equal(s, 403, a.Status)
		s.deny(plan.ReasonName)
	}},
	{ID: "A9", What: "a stack file that smuggles configuration", Ways: []Way{Operator}, Run: func(s *seat) {
		for _, destination := range []string{
			`{host: "a.test\nb.test"}`, `{host: "a.test b.test"}`, `{host: "a.test;b.test"}`, `{host: "a.test\"b"}`, `{host: "a.test'"}`, `{host: "a.test\0"}`, `{host: "a.test%"}`, `{host: "%REQ(x)%.test"}`,
			`{host: "a.test/x"}`, `{host: "u@a.test"}`, `{host: "a.test:443"}`, `{host: "a.test", port: 70000}`, `{host: "a.test", port: -1}`,
			`{host: a.test, paths: ["/v1 /x"]}`, `{host: a.test, paths: ["/v1\r\nX: y"]}`, `{host: a.test, paths: ["/v1/(a|b)*"]}`, `{host: a.test, paths: ["/v1/../x"]}`,
			`{host: a.test, methods: ["GET|POST"]}`, `{host: a.test, methods: ["G ET"]}`, `{host: a.test, methods: ["GET\n"]}`, `{host: a.test, methods: ["CONNECT"]}`,
			`{host: a.test, upstream: {address: "unix:/x\0y"}}`, `{host: a.test, allow_everything: true}`,
		} {
			_, err := load(s, destination, "[d]")
			s.wrong(err, "destination %s", destination)
		}
		for _, allow := range []string{`[d, "*"]`, `["d\nx"]`, `[e]`, `"*"`, `true`, `[{d: all}]`} {
			_, err := load(s, "{host: a.test}", allow)
			s.wrong(err, "allow %s", allow)
		}
		for _, header := range []string{"x y", "x:y", `x\r\ny`, "host", "content-length", "transfer-encoding", ":authority", "x-postern-scope", "%REQ(x)%"} {
			_, err := stacksLoad(s, "version: 1\ntarget: local\ncredentials:\n  k: {kind: header, header: \""+header+"\", secret: \"env://K\"}\ndestinations:\n  d: {host: a.test, credential: k}\nagents:\n  a: {allow: [d]}\n")
			s.wrong(err, "header %q", header)
		}
		for _, agent := range []string{"a/b", "..", "a b", `"a\nb"`, "A", `"%REQ(x)%"`, `""`} {
			_, err := stacksLoad(s, "version: 1\ntarget: local\ndestinations:\n  d: {host: a.test}\nagents:\n  "+agent+": {allow: [d]}\n")
			s.wrong(err, "agent %s", agent)
		}
	}},
	{ID: "A10", What: "an empty list allows nothing", Ways: []Way{Explicit, Gateway, Captured}, Rules: func(string) []plan.Rule { return []plan.Rule{} }, Run: func(s *seat) {
		if s.way == Gateway {
			require.Equal(s, 403, s.ask("GET", "/v1/x").Status)
			s.deny(plan.ReasonScheme)
			return
		}
		if s.way == Captured {
			_, err := s.handshake(s.tunnel(s.host(api)), s.host(api))
			require.ErrorContains(s, err, "access denied")
		} else {
			_, a := s.connect(s.host(api) + ":443")
			require.Equal(s, 403, a.Status)
		}
		s.deny(plan.ReasonHost)
	}},
	{ID: "A10", What: "rules without methods or paths allow nothing", Ways: []Way{Explicit}, Rules: func(s string) []plan.Rule {
		return []plan.Rule{{ID: s + "/none", Host: api + s + ".test", Port: 443, Methods: []string{"GET"}}}
	}, Run: func(s *seat) {
		require.Equal(s, 403, s.ask("GET", "/").Status)
		s.deny(plan.ReasonPath)
	}},
	{ID: "A11", What: "a malformed update changes nothing", Ways: []Way{Explicit}, Run: func(s *seat) {
		s.works()
		for _, bad := range []*plan.Plan{
			{Stack: "test", Agents: []plan.Agent{{Name: s.name, Rules: []plan.Rule{{ID: "x", Host: "x.test", Port: 443, Methods: []string{"GET"}, Paths: []string{"/"}, Credential: "nobody"}}}}},
			{Stack: "test", Agents: []plan.Agent{{Name: s.name, Rules: []plan.Rule{{ID: "x", Host: "x.test", Port: 443, Upstream: &plan.Upstream{Address: "nowhere"}}}}}},
		} {
			bad.Resolvers = s.plan.Resolvers
			_, err := s.fleet.Publish(bad)
			require.ErrorContains(s, err, "build the Envoy resources")
		}
		// The newest publication is one that was torn.
		path := filepath.Join(s.fleet.Home.Root, "bundle", "9999999999999999.json")
		for _, torn := range []string{"", "{", "null\n{}", `{"seq":1,"plan":{"agents":[{"na`, "[]"} {
			require.NoError(s, os.WriteFile(path, []byte(torn), 0o600))
			ctx, cancel := timeout()
			_, err := s.fleet.API.Sync(ctx)
			cancel()
			require.Error(s, err, "a publication of %q", torn)
		}
		require.NoError(s, os.Remove(path))
		s.works()
		_, a := s.connect(s.host(evil) + ":443")
		require.Equal(s, 403, a.Status)
		s.deny(plan.ReasonHost)
	}},
	{ID: "A11", What: "without a control plane the last policy holds", Ways: []Way{Operator}, Run: func(s *seat) {
		// Its own fleet: the others must not lose theirs.
		f := s.spare()
		up := f.NewUpstream("api.test")
		f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{
			{ID: "a/api", Host: "api.test", Port: 443, Methods: []string{"GET"}, Paths: []string{"/v1/**"}, Upstream: up.Pin()},
		}}}})
		require.Equal(s, 200, f.Get("n1", "a", "https://api.test/v1/x"))
		f.StopControl()
		require.Equal(s, 200, f.Get("n1", "a", "https://api.test/v1/x"))
		require.Equal(s, 403, f.Get("n1", "a", "https://api.test/v2"))
		require.Zero(s, f.Get("n1", "a", "https://evil.test/"))
		require.Len(s, up.Seen(), 2)
		// And a node that never heard of a policy serves nobody.
		require.Eventually(s, func() bool {
			events, err := audit.Read(f.Home.AuditDir(), audit.Filter{})
			return err == nil && len(events) == 4
		}, time.Minute, 10*time.Millisecond)
	}},
}

// confusing are authorities that hold the allowed name, and are not it.
func confusing(s *seat) []string {
	h, e := s.host(api), s.host(evil)
	return []string{
		h + "." + e, "x" + h, h + "x", h + "@" + e, e + "@" + h, "a:b@" + h, h + ":443@" + e, h + "%2e" + e, h + "#" + e, h + "?" + e, h + "/" + e, h + `\` + e, e + "," + h,
		h + ";" + e, h + " " + e, h + "\t" + e, h + "&" + e, "*." + s.name + ".test", s.name + ".test", "api", "-" + h, h + "\v",
	}
}

// unicode are spellings that some software turns into the allowed name.
func unicode(s *seat) []string {
	tail := s.name + ".test"
	return []string{
		"api\u3002" + tail, "api\uff0e" + tail, "api\uff61" + tail, "\uff41pi." + tail, "a\u200bpi." + tail, "\u0430pi." + tail, "api." + s.name + ".te\u017ft", "ap\u0131." + tail, "AP\u0130." + tail,
		"xn--pi-7ka." + tail, "xn--api-." + tail, "api." + s.name + ".\u24e3est", "\ufeffapi." + tail, "api\u00ad." + tail,
	}
}

// wrong reports that something was not refused, and continues.
func (s *seat) wrong(err error, format string, args ...any) {
	if err == nil {
		s.Errorf("not refused: "+format, args...)
	}
}

// load loads a stack file with one destination d and one agent.
func load(s *seat, destination, allow string) (*stacks.Stack, error) {
	return stacksLoad(s, "version: 1\ntarget: local\ndestinations:\n  d: "+destination+"\nagents:\n  a: {allow: "+allow+"}\n")
}

func stacksLoad(s *seat, text string) (*stacks.Stack, error) {
	s.Helper()
	path := filepath.Join(s.homes, s.name+".yaml")
	require.NoError(s, os.WriteFile(path, []byte(text), 0o600))
	return stacks.Load(path)
}
