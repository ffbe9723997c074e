package target

import (
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
	"golang.org/x/text/unicode/norm"
)

func TestAmbiguous(t *testing.T) {
	t.Parallel()
	for _, path := range []string{
		"/%252e%252e", "/a%252f", "/%25u002f", "/%25U002f", "/%2525", "/%c0%af", "/%c0%ae%c0%ae", "/%e0%80%af", "/%f8%80%80%80%af", "/%fc%80%80%80%80%af", "/%e9", "/%80", "/%ed%a0%80",
		"/%ef%bc%8f", "/%ef%bc%8e", "/%ef%bc%bc", "/%e2%80%a4", "/%e2%88%95", "/%c2%a5", "/a%01", "/a%0a", "/a%1f", "/a%7f", "/%00", "/a%3f", "/a%23",
		"/...", "/a/.../b", "/..%20", "/.%20", "/%20", "/%20%20/x", "/..+", "/.+", "/..%e2%80%8b", "/%e2%80%8b", "/%c2%a0", "/.%c2%ad.", "/%ef%bb%bf", "/..::$DATA", "/::$DATA", "/:$x", "/.:a$b",
		"/(S(x))", "/(s(x))y", "/a/(F(x)A(y))/b", "/%28S%28x%29%29", "/(S%28x))",
	} {
		require.True(t, Ambiguous(path), path)
	}
	for _, path := range []string{
		"", "/", "//", "/a", "/a/b/", "/.a", "/..a", "/a..", "/a...", "/a.b", "/+", "/a+b/+/c", "/a%20b", "/a%20", "/caf%c3%a9", "/%e6%97%a5", "/%f0%9f%98%80", "/%e2%80%93", "/a%e2%80%8cb", "/100%25", "/%25x", "/%25",
		"/a:b", "/a::b", "/a::$DATA", "/:a", "/(a)", "/((x)", "/(", "/()", "/(S)", "/a(S(x))", "/@a%2fb", "/a%2f..%5c", "/a;b", "/%3b", "/~", "/!a", "/%zz", "/%",
	} {
		require.False(t, Ambiguous(path), path)
	}
}

func TestParameter(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"a": "a", "A": "a", "%41": "a", "%2541": "a", "%252541": "a", "+a": "a", "%20a+": "a", "%09a%0d": "a", "%0Ba": "a", "a[]": "a", "a[x]": "a", "[a]": "a", "]a": "a", "[[a": "a", "?a": "a", "a%00b": "a", "a%5b0": "a", "a._": "a",
		"a.b": "a_b", "a b": "a_b", "a+b": "a_b", "a-b": "a_b", "a%2Bb": "a+b", "": "", "%": "%", "%zz": "%zz", "x[a]": "x", "_a": "_a", "é": "é",
	} {
		require.Equal(t, want, Parameter(raw), raw)
	}
}

func TestOverrides(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url", "x-original-uri", "x-waws-unencoded-url", "x-override-url", "x-original-path", "x-host", "x-original-host", "x-http-host-override",
		"helicone-target-url", "helicone-openai-api-base", "x-portkey-custom-host", "x-amz-copy-source", "x-amz-rename-source", "x-ms-copy-source", "x-ms-rename-source", "x-goog-copy-source", "x-oss-copy-source", "x-cos-copy-source", "x-obs-copy-source",
		"destination", "x-amz-target",
		"impersonate-user", "impersonate-group", "impersonate-extra-scopes", "x-impersonate", "sudo", "x-sudo", "x-redmine-switch-user",
		"x-remote-user", "remote-user", "remote_user", "remote-groups", "x-remote-extra-x", "x-webauth-user", "x-auth-request-email",
		"x-authenticated-userid", "as-user", "x-act-as", "x-run-as", "es-security-runas-user", "dropbox-api-select-user",
		"dropbox-api-select-admin", "x-on-behalf-of", "x-ms-client-principal-name", "x-proxy-user",
	} {
		require.True(t, Overrides(name), name)
	}
	for _, name := range []string{"", "host", "x-amz-date", "x-amz-copy-source-if-match", "method", "x-method", "origin", "user-agent", "x-request-id", "x-request-name", "as", "x-user-id", "openai-organization", "x-pseudo", "on", "x-client-name", "group"} {
		require.False(t, Overrides(name), name)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	const many = 100
	for _, c := range []struct {
		what        string
		check       Check
		path, query string
		want        bool
	}{
		{"the zero value checks the path", Check{}, "/%252e", "", true},
		{"any path", Check{AnyPath: true}, "/%252e", "", false},
		{"any path, but a parameter", Check{AnyPath: true, Query: []string{"a"}}, "/x%3fa=1", "a=1", true},
		{"open", Check{Open: true}, "/%252e", "_method=PUT", false},
		{"a method", Check{AnyPath: true}, "/", "_method=PUT", true},
		{"a method, escaped twice", Check{AnyPath: true}, "/", "x&%255fMethod[]=PUT", true},
		{"a method, after a semicolon", Check{AnyPath: true}, "/", "x;_method=PUT", true},
		{"a method that the rule names", Check{Query: []string{"_method"}}, "/", "_method=PUT", false},
		{"and again", Check{Query: []string{"_method"}}, "/", "_method=PUT&_METHOD=GET", true},
		{"a source", Check{}, "/", "X-Amz-Copy-Source=/theirs/x", true},
		{"a route", Check{}, "/", "rest_route=/x", true},
		{"a parameter, as PHP calls one with an open bracket", Check{Query: []string{"a_b"}}, "/", "a_b=1&a[b=2", true},
		{"and a method", Check{}, "/", "[method=PUT", true},
		{"and a method, with a dot", Check{}, "/", ".method=PUT", true},
		{"other parameters", Check{}, "/", "a=1&a=2&method=x&x=_method", false},
		{"a parameter once", Check{Query: []string{"a-b"}}, "/", "a-b=1&ab=2", false},
		{"a parameter twice", Check{Query: []string{"a-b"}}, "/", "a-b=1&A.B=2", true},
		{"as many parameters as are read", Check{Query: []string{"a"}}, "/", strings.Repeat("b&", many-1) + "a=1", false},
		{"more", Check{Query: []string{"a"}}, "/", strings.Repeat("b&", many) + "a=1", true},
		{"more, and none is looked for", Check{}, "/", strings.Repeat("b&", many) + "a=1", false},
	} {
		require.Equal(t, c.want, c.check.Target(c.path, c.query), c.what)
	}
	require.True(t, (&Check{}).Header("x-amz-target"))
	require.False(t, (&Check{Headers: []string{"x-amz-target"}}).Header("x-amz-target"))
	require.True(t, (&Check{Headers: []string{"x-amz-target"}}).Header("x-original-url"))
	require.False(t, (&Check{Open: true}).Header("x-original-url"))
	require.False(t, (&Check{}).Header("accept"))
}

// TestLookalikes: every code point that compatibility normalisation makes structure of,
// is one; but for "1." and the like, of which no dot segment can be made.
func TestLookalikes(t *testing.T) {
	t.Parallel()
	found := 0
	for c := rune(0x80); c <= unicode.MaxRune; c++ {
		for _, form := range []norm.Form{norm.NFC, norm.NFKC, norm.NFKD} {
			s := form.String(string(c))
			if !strings.ContainsAny(s, `./\%;?#`) || strings.ContainsAny(s, "0123456789") || strings.ContainsFunc(s, unicode.IsLetter) && !strings.ContainsAny(s, `/\%;?#`) {
				continue
			}
			found++
			require.True(t, unicode.Is(Lookalikes, c), "%U is %q", c, s)
		}
	}
	require.Greater(t, found, 40)
	// Blanks are what Unicode says, and what is not seen.
	for c := rune(0x80); c <= unicode.MaxRune; c++ {
		if unicode.Is(unicode.Z, c) || unicode.Is(unicode.Cc, c) {
			require.True(t, unicode.Is(Ignored, c), "%U", c)
		}
	}
}
