package decoders

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postern/postern/plan"
)

var all = slices.Concat(Asked, Documented, []Decoder{Go})

func agent(rules ...plan.Rule) *plan.Plan {
	for i := range rules {
		rules[i].ID, rules[i].Host, rules[i].Port = fmt.Sprintf("a/r%d", i), "h.test", 443
		if rules[i].Methods == nil {
			rules[i].Methods = []string{plan.AnyMethod}
		}
		if rules[i].Paths == nil {
			rules[i].Paths = []string{plan.AnyPath}
		}
	}
	return &plan.Plan{Agents: []plan.Agent{{Name: "a", Rules: rules}}}
}

func ask(p *plan.Plan, path, query string) plan.Decision {
	return p.Decide(plan.Request{Agent: "a", Scheme: "https", Host: "h.test", Port: 443, Method: "GET", Path: path, Query: query})
}

// reads reports whether a path, as a server has decoded it, is what the pattern means.
func reads(pattern, path string) bool {
	want, got := strings.Split(pattern, "/")[1:], strings.Split(path, "/")[1:]
	for i, w := range want {
		switch {
		case w == "**":
			return i <= len(got) && !slices.Contains(got[i:], "..") // the rest
		case i >= len(got):
			return false
		case w == "*":
			if got[i] == "" || got[i] == "." || got[i] == ".." {
				return false
			}
		case !strings.EqualFold(w, got[i]):
			return false
		}
	}
	return len(want) == len(got)
}

// pieces are what paths are drawn from: what some server reads in a way of its own.
var pieces = []string{
	"/", "/", "/", "/", "v1", "x", "secret", "a.b", "A", "..", ".", "...", "%2e", "%2E%2e", "%252e", "%252e%252e", "%25", "%2525", "%2f", "%252f", "%5c", `\`, "%255c", ";", ";x", "%3b", "%3f", "%23", "%253f",
	"%00", "%01", "%09", "%0a", "%20", "+", "%7f", "%c0%ae", "%c0%af", "%c1%9c", "%e0%80%af", "%f0%80%80%ae", "%f8%80%80%80%af", "%fc%80%80%80%80%ae", "%e9", "%ff", "%80", "%c3%a9", "%e6%97%a5", "%f0%9f%98%80",
	"%ef%bc%8f", "%ef%bc%8e", "%ef%bc%bc", "%e2%80%a4", "%e2%80%a5", "%e2%88%95", "%e2%81%84", "%e2%80%8b", "%e2%80%8d", "%c2%a0", "%c2%ad", "%c2%85", "%ef%bb%bf", "(S(x))", "(a)", "%28s%28x%29%29", "::$DATA", ":$I30:$INDEX_ALLOCATION",
	":x", "@", "~1", "!", ",", "=", "&", "'", "*", "%", "%2", "%zz", "%u002e", "%26", "%40", "%7e",
}

func drawPath(rt *rapid.T, before string) string {
	return before + strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 7).Draw(rt, "path"), "")
}

// TestAllowedPathsAreReadAsMeant: what a pattern allows, every server reads as the
// pattern means it, or refuses.
func TestAllowedPathsAreReadAsMeant(t *testing.T) {
	t.Parallel()
	allowed := 0
	check := func(t require.TestingT, pattern, path string) {
		if !ask(agent(plan.Rule{Paths: []string{pattern}}), path, "").Allow {
			return
		}
		allowed++
		sent, err := plan.NormalizePath(path) // as Envoy forwards it
		require.NoError(t, err)
		for _, d := range all {
			if got, ok := d.Path(sent); ok {
				require.True(t, reads(pattern, got), "%s allows %q (sent as %q), which %s reads as %q", pattern, path, sent, d.Name, got)
			}
		}
	}
	patterns := []string{"/v1/**", "/v1/*", "/*", "/v1/*/x", "/v1/x/**", "/*/x"}
	for _, target := range corpus(t) {
		path, _, _ := strings.Cut(target, "?")
		for _, pattern := range patterns {
			check(t, pattern, path)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		check(rt, rapid.SampledFrom(patterns).Draw(rt, "pattern"), drawPath(rt, rapid.SampledFrom([]string{"/v1/", "/v1/", "/v1", "/"}).Draw(rt, "before")))
	})
	require.Greater(t, allowed, 50)
}

// TestAnswersToAllowedPaths is the same of what servers have answered, without a model
// in between.
func TestAnswersToAllowedPaths(t *testing.T) {
	t.Parallel()
	for _, d := range Asked {
		_, answers := kept(t, d.Name)
		allowed := 0
		for _, a := range answers {
			path, _, _ := strings.Cut(a.Target, "?")
			if sent, err := plan.NormalizePath(path); err != nil || sent != path || a.Status != 200 {
				continue // it is not what this server would be sent, or was refused
			}
			if ask(agent(plan.Rule{Paths: []string{"/v1/**"}}), path, "").Allow {
				allowed++
				require.True(t, reads("/v1/**", a.Path), "%s reads %s as %s", d.Name, a.Target, a.Path)
			}
		}
		require.Greater(t, allowed, 15, d.Name)
	}
}

// TestDeniedPathsAreRefused: what any server reads as what a rule denies is refused.
func TestDeniedPathsAreRefused(t *testing.T) {
	t.Parallel()
	denied := 0
	check := func(t require.TestingT, path string) {
		sent, err := plan.NormalizePath(path)
		if err != nil {
			return
		}
		d := ask(agent(plan.Rule{}, plan.Rule{Deny: true, Paths: []string{"/secret/**"}}), path, "")
		for _, server := range all {
			got, ok := server.Path(sent)
			if got = strings.ToLower(got); ok && (got == "/secret" || strings.HasPrefix(got, "/secret/")) {
				denied++
				require.Equal(t, plan.ReasonDenied, d.Reason, "%q (sent as %q) is read as %q by %s", path, sent, got, server.Name)
			}
		}
	}
	for _, target := range corpus(t) {
		path, _, _ := strings.Cut(target, "?")
		check(t, path)
	}
	// Characters that end too early, which some server drops.
	for _, path := range []string{"/secret%e9%80/", "/secret%f0%9f%98/x", "/secret%f0%9f", "/sec%25e9%2580ret/x"} {
		check(t, path)
	}
	rapid.Check(t, func(rt *rapid.T) {
		junk := func() string {
			return strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 2).Draw(rt, "junk"), "")
		}
		check(rt, "/"+junk()+rapid.SampledFrom([]string{"secret", "SECRET", "%73ecret", "%2573ecret", "sec" + junk() + "ret"}).Draw(rt, "name")+junk()+"/"+junk())
	})
	require.Greater(t, denied, 50)
}

// queryPieces are what queries are drawn from.
var queryPieces = []string{
	"format=json", "format=json", "format=xml", "format[]=xml", "[format]=xml", "format]=xml", "[format=xml", "+format=xml", "%20format=xml", "format+=xml", "Format=xml", "FORMAT=json", "format%00=xml", "format%00x=json", "for%256dat=xml",
	"f%6frmat=xml", "format.=xml", "?format=xml", "format%5b0%5d=xml", "%5Bformat%5D=xml", "format", "format=", "x;format=xml", ";format=xml", "format=json;x", "format=js%6fn", "format=+json", "format=json%20", "format=JSON",
	"x=1", "a", "", "x=%26format=xml", "x[format]=xml", "formats=xml", "format_=xml", "x=%zz", "x=%e9", "for.mat=xml", "format=j[]", "x=[", "format%0a=xml",
}

func drawQuery(rt *rapid.T) string {
	return strings.Join(rapid.SliceOfN(rapid.SampledFrom(queryPieces), 1, 4).Draw(rt, "query"), "&")
}

// TestAllowedQueriesAreReadAsMeant: a condition that holds, holds for every server: the
// parameter is there, with this value and no other.
func TestAllowedQueriesAreReadAsMeant(t *testing.T) {
	t.Parallel()
	allowed := 0
	check := func(t require.TestingT, query string) {
		if !ask(agent(plan.Rule{Query: []plan.Condition{{Name: "format", Value: "json"}}}), "/x", query).Allow {
			return
		}
		allowed++
		for _, d := range all {
			if got, ok := d.Query(query); ok {
				require.Equal(t, []string{"json"}, got["format"], "%q is allowed, which %s reads as %q", query, d.Name, got)
			}
		}
	}
	for _, target := range corpus(t) {
		_, query, _ := strings.Cut(target, "?")
		check(t, query)
	}
	for _, d := range Asked { // without a model
		_, answers := kept(t, d.Name)
		for _, a := range answers {
			_, query, _ := strings.Cut(a.Target, "?")
			if a.Status == 200 && ask(agent(plan.Rule{Query: []plan.Condition{{Name: "format", Value: "json"}}}), "/x", query).Allow {
				require.Equal(t, []string{"json"}, a.Query["format"], "%s: %s", d.Name, query)
			}
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		for range 10 { // few of them are allowed
			check(rt, drawQuery(rt))
		}
	})
	require.Greater(t, allowed, 10)
}

// TestDeniedQueriesAreRefused: a parameter that any server finds is one that a rule
// denies.
func TestDeniedQueriesAreRefused(t *testing.T) {
	t.Parallel()
	p := agent(plan.Rule{}, plan.Rule{Deny: true, Query: []plan.Condition{{Name: "format", Value: "xml"}}})
	denied := 0
	check := func(t require.TestingT, query string) {
		for _, d := range all {
			if got, ok := d.Query(query); ok && slices.Contains(got["format"], "xml") {
				denied++
				require.Equal(t, plan.ReasonDenied, ask(p, "/x", query).Reason, "%s finds the parameter in %q", d.Name, query)
			}
		}
	}
	for _, target := range corpus(t) {
		_, query, _ := strings.Cut(target, "?")
		check(t, query)
	}
	rapid.Check(t, func(rt *rapid.T) { check(rt, drawQuery(rt)) })
	require.Greater(t, denied, 50)
}

// TestOrdinaryPathsPass: what real APIs are asked for is not taken for an attack.
func TestOrdinaryPathsPass(t *testing.T) {
	t.Parallel()
	for _, path := range []string{
		"/repos/acme/app/compare/main...feature", "/repos/acme/app/contents/src/a%20b.go", "/repos/acme/app/contents/app/(group)/%5Bslug%5D/page.tsx", "/repos/acme/app/git/refs/heads/x@y", "/users/o'neil", "/search/~user",
		"/github.com/!azure/azure-sdk-for-go/@v/v1.0.0+incompatible.info", "/v1beta/models/gemini:generateContent", "/odata/Products(1)/Name", "/odata/Items(Key='a%20b',N=2)/$value", "/bucket/2026/11/30/log-00:00:00Z.gz", "/bucket/caf%C3%A9/%E6%97%A5%E6%9C%AC.txt",
		"/simple/zope.interface/", "/packages/a/b/six-1.0-py2.py3-none-any.whl", "/@scope/name/-/name-1.0.0.tgz", "/repo/+/refs/heads/main", "/wiki/C%2B%2B", "/wiki/Caf%C3%A9_%E2%80%93_x", "/wiki/100%25", "/.well-known/openid-configuration",
		"/a,b", "/x=y&z", "/%F0%9F%98%80", "/-/npm/v1/security/advisories/bulk", "/v2/acme/app/blobs/sha256:abc", "/a..b/..c/d..", "/fa/%D9%85%DB%8C%E2%80%8C%D8%B4%D9%88%D8%AF",
	} {
		d := ask(agent(plan.Rule{Paths: []string{"/*", "/*/**"}}), path, "")
		require.True(t, d.Allow, "%s: %s", path, d.Reason)
	}
}

// FuzzAllowed: whatever is sent, what is allowed is read as meant.
func FuzzAllowed(f *testing.F) {
	for _, target := range corpus(f) {
		if len(target) < 200 {
			path, query, _ := strings.Cut(target, "?")
			f.Add(path, query)
		}
	}
	f.Fuzz(func(t *testing.T, path, query string) {
		sent, err := plan.NormalizePath(path)
		if err != nil || strings.ContainsAny(query, "# ") {
			return
		}
		if ask(agent(plan.Rule{Paths: []string{"/v1/**"}}), path, "").Allow {
			for _, d := range all {
				if got, ok := d.Path(sent); ok {
					require.True(t, reads("/v1/**", got), "%q, sent as %q, is read as %q by %s", path, sent, got, d.Name)
				}
			}
		}
		if ask(agent(plan.Rule{Query: []plan.Condition{{Name: "format", Value: "json"}}}), "/x", query).Allow {
			for _, d := range all {
				if got, ok := d.Query(query); ok {
					require.Equal(t, []string{"json"}, got["format"], "%q is read by %s", query, d.Name)
				}
			}
		}
	})
}
