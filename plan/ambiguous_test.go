package plan

import (
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postern/postern/target"
)

// TestAllowMatchesOnlyWhatAllRead: a rule that allows takes nothing that some server
// reads as something else (red team W14), and says why.
func TestAllowMatchesOnlyWhatAllRead(t *testing.T) {
	t.Parallel()
	rule := func(paths []string, query ...Condition) *Plan {
		return &Plan{Agents: []Agent{{Name: "a", Rules: []Rule{{ID: "a/r", Host: "h.test", Port: 443, Methods: []string{"GET"}, Paths: paths, Query: query}}}}}
	}
	format := rule([]string{AnyPath}, Condition{Name: "format", Value: "json"})
	for _, query := range []string{
		"format=json&format=xml", "format=xml&format=json", "format=json&;format=xml", "format=xml;&format=json", "format=json&format[]=xml", "format=json&[format]=xml",
		"format=json&+format=xml", "format=json&format+=xml", "format=json&Format=xml", "format=json&format%00=xml", "format=json&for%256dat=xml", "format=json&f%6frmat=xml",
		"format=json&format.=xml", "format=json&%5Bformat=xml", "format=json&format%5B0%5D=xml", "format=json&format", "format=json&x;format", "_method=DELETE&format=json",
	} {
		req := getOf("/x")
		req.Query = query
		require.Equal(t, Decision{Rule: "a/default", Reason: ReasonAmbiguous, Nearest: "a/r"}, format.Decide(req), query)
	}
	for _, query := range []string{"format=json;format=xml", ";format=json", "format[]=json", "+format=json", "Format=json", "format%00=json", "for%256dat=json", "f%6frmat=json", "format=js%6fn", "format=json+", "format=JSON"} {
		req := getOf("/x")
		req.Query = query
		require.Equal(t, ReasonCondition, format.Decide(req).Reason, query)
	}
	for _, query := range []string{"format=json", "a=1&format=json&b=%26format%3Dxml", "informat=xml&format=json", "format=json&formats=1&x[format]=1"} {
		req := getOf("/x")
		req.Query = query
		require.Equal(t, Decision{Allow: true, Rule: "a/r", Reason: ReasonAllowed}, format.Decide(req), query)
	}
	for _, c := range []struct {
		pattern            string
		ambiguous, allowed []string
	}{
		{
			"/v1/**",
			[]string{
				"/v1/%252e%252e/x", "/v1/..%252f", "/v1/%c0%ae%c0%ae/x", "/v1/%c0%af", "/v1/%f8%80%80%80%af", "/v1/..%ef%bc%8f", "/v1/%ef%bc%8e%ef%bc%8e/x", "/v1/%e2%80%a5/x",
				"/v1/..%e2%80%8b/x", "/v1/%0d%0a", "/v1/%1f", "/v1/%7f", "/v1/...", "/v1/..%20/x", "/v1/..+/x", "/v1/%20/x", "/v1/.%c2%a0./x", "/v1/..%3a%3a$INDEX_ALLOCATION/x",
				"/v1/::$DATA", "/v1/(S(x))/y", "/v1/(s(x))internal", "/v1/%28S%28x%29%29", "/v1/x%3f", "/v1/x%23", "/v1/%2525", "/v1/%25u002e", "/v1/%e9", "/v1/%e2%84%80",
			},
			[]string{
				"/v1/", "/v1/a/b", "/v1/a.b", "/v1/.well-known", "/v1/a..b", "/v1/..a", "/v1/caf%C3%A9", "/v1/%E6%97%A5%E6%9C%AC", "/v1/a%20b", "/v1/a+b", "/v1/+/x", "/v1/x@y:z~1",
				"/v1/models/x:generateContent", "/v1/Products(1)", "/v1/Items('a%20b')/$value", "/v1/(a)", "/v1/!cloud.google.com", "/v1/100%25", "/v1/a,b", "/v1/%F0%9F%98%80",
				"/v1/%E2%80%93", "/v1/a=b&c", "/v1/%40scope",
			},
		},
		{"/acme/*/info/refs", []string{"/acme/..%252f/info/refs", "/acme/%2e%2e%20/info/refs", "/acme/x%3f/info/refs"}, []string{"/acme/app.git/info/refs"}},
		{"/*", []string{"/%252e", "/...", "/(S(x))"}, []string{"/x"}},
		{"/@scope%2fname", nil, []string{"/@scope%2fname"}},
		{AnyPath, nil, []string{"/%252e%252e/x", "/%c0%ae", "/..%ef%bc%8f", "/@scope%2fname"}},
	} {
		p := rule([]string{c.pattern})
		for _, path := range c.ambiguous {
			require.Equal(t, Decision{Rule: "a/default", Reason: ReasonAmbiguous, Nearest: "a/r"}, p.Decide(getOf(path)), "%s and %s", c.pattern, path)
		}
		for _, path := range c.allowed {
			require.Equal(t, Decision{Allow: true, Rule: "a/r", Reason: ReasonAllowed}, p.Decide(getOf(path)), "%s and %s", c.pattern, path)
		}
	}
	// Who has to find the parameter may not be sent so many that it stops reading.
	req := getOf("/x")
	for range 100 {
		req.Query += "a&"
	}
	req.Query += "format=json"
	require.Equal(t, ReasonAmbiguous, format.Decide(req).Reason)
}

// TestOverridesAreRefused: what a rule has matched, no header or parameter says in
// another way (red team W18), but where a rule names it, or nothing is restricted.
func TestOverridesAreRefused(t *testing.T) {
	t.Parallel()
	any := []string{AnyMethod}
	p := func(rules ...Rule) *Plan {
		for i := range rules {
			rules[i].Host, rules[i].Port = "h.test", 443
			rules[i].ID = "a/" + string(rune('0'+i))
		}
		return &Plan{Agents: []Agent{{Name: "a", Rules: rules}}}
	}
	open, method := Rule{Methods: any, Paths: []string{AnyPath}}, Rule{Methods: []string{"GET"}, Paths: []string{AnyPath}}
	path := Rule{Methods: any, Paths: []string{"/v1/*"}}
	deny := Rule{Deny: true, Methods: []string{"DELETE"}, Paths: []string{AnyPath}}
	operation := Rule{Methods: []string{"GET"}, Paths: []string{"/v1/*"}, Headers: []Condition{{Name: "x-amz-target", Value: "DynamoDB_20120810.GetItem"}}}
	for _, c := range []struct {
		what   string
		plan   *Plan
		header string
		value  string
		want   Reason
	}{
		{"a method, where methods are restricted", p(method), "x-http-method-override", "DELETE", ReasonAmbiguous},
		{"a method, where paths are", p(path), "x-http-method", "DELETE", ReasonAmbiguous},
		{"a method, where one is denied", p(open, deny), "x-method-override", "DELETE", ReasonAmbiguous},
		{"a URL", p(path), "x-original-url", "/admin", ReasonAmbiguous},
		{"a URL, other name", p(path), "x-rewrite-url", "/admin", ReasonAmbiguous},
		{"a source", p(path), "x-amz-copy-source", "/other/key", ReasonAmbiguous},
		{"an operation", p(path), "x-amz-target", "DynamoDB_20120810.DeleteTable", ReasonAmbiguous},
		{"the operation that a rule names", p(operation), "x-amz-target", "DynamoDB_20120810.GetItem", ReasonAllowed},
		{"another than a rule names", p(operation), "x-amz-target", "DynamoDB_20120810.DeleteTable", ReasonCondition},
		{"where nothing is restricted", p(open), "x-http-method-override", "DELETE", ReasonAllowed},
		{"a header like any other", p(path), "x-amz-copies", "1", ReasonAllowed},
	} {
		req := getOf("/v1/x")
		req.Header = map[string][]string{c.header: {c.value}}
		require.Equal(t, c.want, c.plan.Decide(req).Reason, c.what)
	}
	for query, want := range map[string]Reason{
		"_method=DELETE": ReasonAmbiguous, "%5Fmethod=DELETE": ReasonAmbiguous, "X-HTTP-Method-Override=PUT": ReasonAmbiguous, "$httpMethod=PUT": ReasonAmbiguous, "rest_route=/x": ReasonAmbiguous, "method=x": ReasonAllowed,
	} {
		req := getOf("/v1/x")
		req.Query = query
		require.Equal(t, want, p(path).Decide(req).Reason, query)
		require.True(t, p(open).Decide(req).Allow, query)
	}
}

// TestBothDirections: what makes a path or a parameter ambiguous for a rule that allows,
// is denied by one that denies.
func TestBothDirections(t *testing.T) {
	t.Parallel()
	expression := regexp.MustCompile("^(?:" + DeniedPath("/secret") + ")$")
	for _, table := range []*unicode.RangeTable{target.Lookalikes, target.Ignored} {
		for c := rune(0x80); c < 0xe1000; c++ {
			if unicode.Is(table, c) {
				path := "/a" + target.Escape(string(c)) + "b"
				require.True(t, expression.MatchString(path), "%U", c)
				require.True(t, expression.MatchString(strings.ReplaceAll(path, "%", "%25")), "%U, escaped twice", c)
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		raw := strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "A", "%61", "%2541", "_", ".", "%5f", "+", "%20", "%09", "%00", "[", "]", "%5b", "?", "x"}), 1, 6).Draw(t, "name"), "")
		if target.Called(raw, func(name string) bool { return name == "a_a" }) {
			require.True(t, denied(DeniedQuery(Condition{Name: "a_a", Value: "1"}), "x=2&"+raw+"=1"), raw)
		}
	})
}

// TestDenyWhatFewServersDecode: long overlong forms, streams and short names of Windows,
// sessions of ASP.NET, blanks that are none of ASCII's, quoted pairs (red team W17).
func TestDenyWhatFewServersDecode(t *testing.T) {
	t.Parallel()
	p := denyPlan(Rule{Paths: []string{"/administration/**"}})
	for _, path := range []string{
		"/%f8%80%80%80%afadministration", "/%fc%80%80%80%80%afadministration", "/administration::$INDEX_ALLOCATION/x", "/administration::$DATA", "/administration:$I30:$INDEX_ALLOCATION/x", "/administration%3a%3a%24DATA",
		"/(S(x))/administration", "/admini/(S(x))stration", "/%28F%28x%29%29/administration", "/%2528A%2528x))/administration", "/administration%c2%a0/x", "/admin%e2%80%8bistration", "/administration%e3%80%80", "/admin%c2%adistration",
		"/admin%ffistration", "/admin%80istration", "/%ef%bd%81dministration", "/x/..%ef%bc%8fadministration", "/ADMINI~1/x", "/admini%7e1", "/admini~2.x", "/admin%01istration",
	} {
		require.Equal(t, ReasonDenied, p.Decide(getOf(path)).Reason, path)
	}
	for _, path := range []string{"/models/m:generate", "/caf%C3%A9", "/%E6%97%A5", "/x~1", "/admin~1", "/adminis~1", "/(a)/b", "/x:$y", "/administration:x", "/short~1"} {
		require.Equal(t, ReasonAllowed, p.Decide(getOf(path)).Reason, path)
	}
	quoted := denyPlan(Rule{Headers: []Condition{{Name: "x-mode", Value: "b-d"}}})
	for value, want := range map[string]Reason{`"b\-d"`: ReasonDenied, `"\b\-\d"`: ReasonDenied, `b-d`: ReasonDenied, `b\\-d`: ReasonAllowed, `bxd`: ReasonAllowed} {
		r := getOf("/")
		r.Header = map[string][]string{"x-mode": {value}}
		require.Equal(t, want, quoted.Decide(r).Reason, value)
	}
}
