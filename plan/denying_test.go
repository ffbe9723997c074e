package plan

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// denyPlan allows everything, but for what the rules of an agent "a" deny.
func denyPlan(rules ...Rule) *Plan {
	for i := range rules {
		r := &rules[i]
		r.Deny, r.Host, r.Port = true, "h.test", 443
		if r.ID == "" {
			r.ID = "a/no"
		}
		if r.Methods == nil {
			r.Methods = []string{AnyMethod}
		}
		if r.Paths == nil {
			r.Paths = []string{AnyPath}
		}
	}
	open := Rule{ID: "a/open", Host: "h.test", Port: 443, Methods: []string{AnyMethod}, Paths: []string{AnyPath}}
	return &Plan{Agents: []Agent{{Name: "a", Rules: append([]Rule{open}, rules...)}}}
}

func getOf(path string) Request {
	return Request{Agent: "a", Scheme: "https", Host: "h.test", Port: 443, Method: "GET", Path: path}
}

// TestDenyMatchesWhatServersDecode: a denial cannot be evaded by spelling the
// path in another way, and says by which rule.
func TestDenyMatchesWhatServersDecode(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern         string
		denied, allowed []string
	}{
		{"/admin/**", []string{
			"/admin", "/admin/", "/admin/x", "/admin/x/y/z", "/ADMIN/x", "/Admin", "/%61dmin/x", "//admin/x", "/./admin/x", "/x/../admin",
			"/admin/x;y", "/admin/;", "/admin;x/y", "/admin;/y", "/admin;x=y;z", "/;/admin/x", "/;x=y/admin", "/%3b/admin", "/admin%3bx/y", "/admin/a%2Fb",
			"/admin%2Fx", "/admin%2fx", "/%2fadmin/x", "/%2Fadmin", "/%5cadmin", "/admin%5Cx", `/admin\x`, "/.%2fadmin/x", "/;%2fadmin", "/;x%2fadmin%2fy",
			"/x/..%2fadmin/y", "/x%2f..%2fadmin", "/x/..%5cadmin", "/x/..;/admin", "/x/%2e%2e;/admin", "/x/..%3b/admin", "/x/%252e%252e/admin",
			"/%2561dmin/x", "/admin%252fx", "/admin%25252fx", "/admin%253bx", "/%41%44min", "/%2541dmin",
			"/admin%3fx", "/admin%23/x", "/admin%2500.png", "/admin%253F", "/admin%20/x", "/admin%09", "/admin./x", "/admin%a0", "/admin%0a/x", "/admin.%20;x/y",
			// These may lead anywhere.
			"/x/..%2f", "/x/.../y", "/%c0%afadmin", "/x/%c0%ae%c0%ae/y", "/x%e0%80%afy", "/x/%u002e%u002e/y", "/%", "/x/%2", "/%zz/x", "/100%/x",
		}, []string{
			"/", "//", "/x", "/x/admin", "/adminx", "/administrator/x", "/x%2Fadmin%2Fy", "/@scope%2Fname", "/api/v4/projects/group%2Fadmin/keys", "/x;y/admin", "/x;/y",
			"/caf%C3%A9", "/a%20b", "/a+b", "/100%25/x", "/x/a..b%2fc", "/x/..a", "/admin-x", "/admi", "/admin%2dx", "/.admin", "/x.%2fy", "/a%26b", "/x/..;y=z%2fadmin", // which is sent on as "/"
		}},
		{"/admin", []string{"/admin", "/admin/", "/Admin;x", "/admin%2f", "/admin/;x", "/admin/%2f", "/admin/.%2f", "/admin%3fx/y", "/admin/x%2f..%23y"}, []string{"/admin/x", "/admin%2fx", "/"}},
		{"/admin/", []string{"/admin", "/admin/", "/admin;/"}, []string{"/admin/x", "/"}},
		{"/", []string{"/", "//", "/;x", "/%2f", "/%20", "/x/..%2f"}, []string{"/x"}},
		{"/*", []string{"/x", "/x/", "/x;y", "/%20", "/x%2fy", "/@scope%2fname"}, []string{"/", "/x/y"}},
		{"/projects/*/keys/**", []string{
			"/projects/7/keys", "/projects/group%2Frepo/keys/1", "/projects/a;b/keys", "/Projects/7/KEYS/1", "/projects/7/keys;x/1", "/projects%2f7%2fkeys", "/projects/7/;/keys", "/projects/7%2f%2fkeys",
		}, []string{"/projects/7", "/projects/group%2Frepo/hooks", "/projects/7/8/keys", "/projects/keys", "/projects/keys/", "/projects//keys"}},
		{"/@a%2fb", []string{"/@a%2fb", "/@a%2Fb", "/@a/b", "/%40A%2Fb", "/@a%252fb"}, []string{"/@a", "/@a%2fc", "/@a-b"}},
		{"/a%20b+c%C3%A9/**", []string{"/a%20b+c%C3%A9", "/a+b%2bc%c3%a9/x", "/A%2520B+c%C3%A9"}, []string{"/a%20b%20c%C3%A9", "/ab+c%C3%A9"}},
		{"/**", []string{"/", "//", "/x%2fy", "/%"}, nil},
	} {
		p := denyPlan(Rule{Paths: []string{c.pattern}})
		for _, path := range c.denied {
			require.Equal(t, Decision{Rule: "a/no", Reason: ReasonDenied}, p.Decide(getOf(path)), "%s denies %s", c.pattern, path)
		}
		for _, path := range c.allowed {
			require.Equal(t, Decision{Allow: true, Rule: "a/open", Reason: ReasonAllowed}, p.Decide(getOf(path)), "%s does not deny %s", c.pattern, path)
		}
	}
}

// TestDenyWithoutAPatternThatCanBeRead: it denies, rather than nothing.
func TestDenyWithoutAPatternThatCanBeRead(t *testing.T) {
	t.Parallel()
	require.Equal(t, ReasonDenied, denyPlan(Rule{Paths: []string{"/a*"}}).Decide(getOf("/b")).Reason)
}

// TestDenyMethods: in every case in which some server takes a method.
func TestDenyMethods(t *testing.T) {
	t.Parallel()
	p := denyPlan(Rule{Methods: []string{"DELETE", "PATCH"}})
	for method, want := range map[string]Reason{"DELETE": ReasonDenied, "delete": ReasonDenied, "Patch": ReasonDenied, "GET": ReasonAllowed, "DELETEX": ReasonAllowed, "TRACE": ReasonMethod} {
		r := getOf("/")
		r.Method = method
		require.Equal(t, want, p.Decide(r).Reason, method)
	}
}

// TestDenyConditions: parameters and headers, as any server may find them.
func TestDenyConditions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		condition       Condition
		denied, allowed []string
	}{
		{Condition{Name: "q", Value: "a b"}, []string{
			"q=a b", "q=a+b", "q=a%20b", "q=a%2520b", "x=1&q=a+b", "x=1;q=a+b", "q=a+b;x=1", "q=a+b&q=c", "q=c&q=a+b", "%71=a+b", "Q=A+B", "q[]=a+b", "q[0]=a+b", "q%5b%5d=a+b", "q%5Bx%5D[y]=a+b",
			"+q=a+b", "%20q=a+b", "q%20=a+b", "q.=a+b", "q%00x=a+b", "q=+a+b+", "q=a+b%0a", "q=a+b%00c", "&&q=a+b&", "x?q=1&q=a+b", "x=\xff&q=a+b&y=\xff",
		}, []string{"", "q", "q=", "q=a", "q=ab", "qq=a+b", "xq=a+b", "q=a+bc", "x=q=a+b", "q=a%26b", "x[q]=a+b", "q=a++b"}},
		{Condition{Name: "q", Present: true}, []string{"q", "q=", "q=x", "x&q", "x;q;y", "q[]", "q[a]=1", "%51", "q=\xff"}, []string{"", "x", "x=q", "qx", "xq=1", "x[q]=1"}},
		{Condition{Name: "q"}, []string{"q", "q=", "q[]", "q=+", "x;q;y"}, []string{"", "x", "q=1"}},
		{Condition{Name: "a_b", Value: "1;2"}, []string{"a_b=1;2", "a.b=1%3B2", "a+b=1;2", "a[b=1;2", "a%20b=1;2", "A%5FB=1;2"}, []string{"a_b=1", "a_b=2", "ab=1;2", "a-b=1;2"}},
		{Condition{Name: "x.y", Value: "*"}, []string{"x.y=*", "x%2ey=%2a"}, []string{"xzy=*", "x.y=z"}},
	} {
		p := denyPlan(Rule{Query: []Condition{c.condition}})
		for want, queries := range map[Reason][]string{ReasonDenied: c.denied, ReasonAllowed: c.allowed} {
			for _, query := range queries {
				r := getOf("/")
				r.Query = query
				require.Equal(t, want, p.Decide(r).Reason, "%v and %q", c.condition, query)
			}
		}
	}
	for _, c := range []struct {
		condition       Condition
		denied, allowed [][]string
	}{
		{Condition{Name: "x-mode", Value: "bad"}, [][]string{
			{"bad"}, {"Bad"}, {"good", "bad"}, {"bad", "good"}, {"good,bad"}, {"good, bad"}, {"bad, good"}, {"bad;q=1"}, {`"bad"`}, {" bad "}, {"\tbad"}, {"\xff, bad,\xff"}, {"\xff", "bad"},
		}, [][]string{nil, {""}, {"good"}, {"badly"}, {"not-bad"}}},
		{Condition{Name: "x-mode", Present: true}, [][]string{{""}, {"x"}, {"\xff"}, {"a", "b"}}, [][]string{nil}},
	} {
		p := denyPlan(Rule{Headers: []Condition{c.condition}})
		for want, headers := range map[Reason][][]string{ReasonDenied: c.denied, ReasonAllowed: c.allowed} {
			for _, values := range headers {
				r := getOf("/")
				r.Header = map[string][]string{"x-mode": values}
				require.Equal(t, want, p.Decide(r).Reason, "%v and %q", c.condition, values)
			}
		}
	}
}

// readings are what servers can make of a path: every step that some server
// takes, in every order and any number of times.
func readings(path string) []string {
	segments := func(path string, f func(string) string) string {
		all := strings.Split(path, "/")
		for i := range all {
			all[i] = f(all[i])
		}
		return strings.Join(all, "/")
	}
	steps := []func(string) string{
		func(p string) string { // percent-decoding, that of IIS too
			var b strings.Builder
			for i := 0; i < len(p); i++ {
				if n, err := strconv.ParseUint(p[min(i+1, len(p)):min(i+3, len(p))], 16, 8); p[i] == '%' && err == nil && i+2 < len(p) {
					b.WriteByte(byte(n))
					i += 2
				} else if n, err := strconv.ParseUint(p[min(i+2, len(p)):min(i+6, len(p))], 16, 16); strings.HasPrefix(p[i:], "%u") && err == nil {
					b.WriteRune(rune(n))
					i += 5
				} else {
					b.WriteByte(p[i])
				}
			}
			return b.String()
		},
		func(p string) string { return strings.NewReplacer("\xc0\xaf", "/", "\xc0\xae", ".").Replace(p) },
		func(p string) string { return strings.ReplaceAll(p, "+", " ") },
		func(p string) string {
			if i := strings.IndexAny(p, "?#\x00"); i >= 0 {
				return p[:i]
			}
			return p
		},
		func(p string) string { return strings.ReplaceAll(p, `\`, "/") },
		func(p string) string {
			return segments(p, func(s string) string { s, _, _ = strings.Cut(s, ";"); return s })
		},
		func(p string) string {
			return segments(p, func(s string) string {
				for len(s) > 1 && strings.IndexByte(". \t\n\xa0", s[len(s)-1]) >= 0 && s != ".." {
					s = s[:len(s)-1]
				}
				return s
			})
		},
		func(p string) string { return strings.ReplaceAll(p, "//", "/") },
		func(p string) string {
			var out []string
			for _, s := range strings.Split(p, "/")[1:] {
				switch {
				case s == "..":
					out = out[:max(0, len(out)-1)]
				case s != ".":
					out = append(out, s)
				}
			}
			return "/" + strings.Join(out, "/")
		},
		strings.ToLower,
	}
	all := []string{path}
	for i := 0; i < len(all) && len(all) < 2000; i++ {
		for _, step := range steps {
			if p := step(all[i]); strings.HasPrefix(p, "/") && !slices.Contains(all, p) {
				all = append(all, p)
			}
		}
	}
	return all
}

// TestNothingBelowADenialReachesTheUpstream: with a rule that denies /p/**,
// nothing that some server reads as at or below /p is allowed.
func TestNothingBelowADenialReachesTheUpstream(t *testing.T) {
	t.Parallel()
	pieces := []string{
		"/", "/", "/", "p", "P", "%70", "%50", "%2570", "x", "y", "..", ".", "%2e", "%252e", "%2e%2e", ";", ";x", "%3b", "%253b", "%2f", "%2F", "%252F", "%5c", `\`, "%20", "%09", "%a0", "+", "%", "%2", "%u002f",
		"%c0%af", "%c0%ae", "%3f", "%3F", "%2523", "%2500",
	}
	below, allowed := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		pattern := rapid.SampledFrom([]string{"/p/**", "/p/x/**", "/x%20p/**", "/x%2fp/**"}).Draw(rt, "pattern")
		path := "/" + strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 9).Draw(rt, "path"), "")
		if rapid.Bool().Draw(rt, "close") {
			name := strings.TrimSuffix(pattern, "/**")
			// Junk before and after each segment.
			junk := func() string {
				return strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 2).Draw(rt, "junk"), "")
			}
			path = junk()
			for _, s := range strings.Split(name, "/")[1:] {
				path += rapid.SampledFrom([]string{"/", "/", "%2f", "%5C", "//", "/;/", "/./", "/x/../", "/x/..%2f", "%252f"}).Draw(rt, "slash") + s + junk()
			}
			path = "/" + strings.TrimPrefix(path, "/")
		}
		normal, err := NormalizePath(path)
		if err != nil {
			return
		}
		at := strings.ReplaceAll(strings.NewReplacer("%20", " ", "%2f", "/").Replace(pattern), "/**", "")
		read := slices.IndexFunc(readings(normal), func(p string) bool { return p == at || strings.HasPrefix(p, at+"/") })
		d := denyPlan(Rule{Paths: []string{pattern}}).Decide(getOf(path))
		if d.Allow {
			allowed++
		}
		if read >= 0 {
			below++
			require.Equal(rt, Decision{Rule: "a/no", Reason: ReasonDenied}, d, "%s is read as %s", normal, readings(normal)[read])
		}
	})
	require.NotZero(t, below)
	require.NotZero(t, allowed)
}

// TestWithinHoldsForDenials: [within] also says that what one pattern denies
// another does.
func TestWithinHoldsForDenials(t *testing.T) {
	t.Parallel()
	patterns := []string{"/", "/*", "/**", "/a", "/a/", "/a/*", "/a/**", "/*/b", "/*/**", "/a/b", "/@a%2fb", "/a/*/b", "/a/*/**"}
	rapid.Check(t, func(rt *rapid.T) {
		narrow, wide := rapid.SampledFrom(patterns).Draw(rt, "narrow"), rapid.SampledFrom(patterns).Draw(rt, "wide")
		path := genPath(rt, "path")
		if n, err := NormalizePath(path); err == nil && within(narrow, wide) && denied(DeniedPath(narrow), n) {
			require.True(rt, denied(DeniedPath(wide), n), "%s in %s: %s", narrow, wide, n)
		}
		// What a rule would match if it allowed, it denies.
		if p, err := ParsePath(narrow); err == nil && p.Match(path) {
			require.True(rt, denied(DeniedPath(narrow), path), "%s: %s", narrow, path)
		}
	})
}
