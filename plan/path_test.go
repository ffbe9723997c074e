package plan

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestPathMatch(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern string
		yes, no []string
	}{
		{"/", []string{"/"}, []string{"//", "/a", ""}},
		{"/**", []string{"/", "//", "/a", "/a/b%2fc", "/a%5c..%00", "/@scope%2fname", "/..;/x"}, []string{"", "a"}},
		{"/v1", []string{"/v1"}, []string{"/v1/", "/V1", "/v1x", "/v1/a", "/"}},
		{"/v1/", []string{"/v1/"}, []string{"/v1", "/v1/a"}},
		{"/v1/**", []string{"/v1/", "/v1/a", "/v1/a/b", "/v1/a/", "/v1/%20"}, []string{"/v1", "/v1x", "/v2/", "/v1/a%2fb", "/v1/a%2Fb", "/v1/%5C", "/v1/%5c..", "/v1/a/%00", "/v1/..;/x", "/v1/a%3bx", "/v1/%", "/v1/%2", "/v1/%zz", "/v1/%g0", "/v1/%0g", "/v1/a%"}},
		{"/*", []string{"/a", "/a.b", "/*", "/%41", "/..."}, []string{"/", "/a/", "/a/b", "//", "/a%2fb", "/a;b"}},
		{"/users/*/name", []string{"/users/7/name"}, []string{"/users//name", "/users/7/8/name", "/users/7%2f8/name", "/users/name", "/users/7/names"}},
		{"/@a%2fb", []string{"/@a%2fb"}, []string{"/@a%2Fb", "/@a/b"}},
		{"/a.b+(c)$", []string{"/a.b+(c)$"}, []string{"/axb+(c)$", "/a.bb(c)"}},
		{"/*/**", []string{"/a/", "/a/b"}, []string{"/a", "//", "/"}},
	} {
		p, err := ParsePath(c.pattern)
		require.NoError(t, err, c.pattern)
		re := regexp.MustCompile("^(?:" + PathRegex(c.pattern) + ")$")
		for _, s := range c.yes {
			require.True(t, p.Match(s), "%s matches %s", c.pattern, s)
			require.True(t, re.MatchString(s), "the expression for %s matches %s", c.pattern, s)
		}
		for _, s := range c.no {
			require.False(t, p.Match(s), "%s does not match %s", c.pattern, s)
			require.False(t, re.MatchString(s), "the expression for %s does not match %s", c.pattern, s)
		}
	}
}

// TestPatternsRefused: what the grammar does not have is refused, and what to write instead
// is said.
func TestPatternsRefused(t *testing.T) {
	t.Parallel()
	differently := "has an escape that upstreams read differently (%5C, %25 before another, %3F, %23, dots around %2F, bytes that are not UTF-8); write the path without it, or \"/**\" for every path"
	for pattern, want := range map[string]string{
		"":        `path is empty; write "/" for the root, or "/**" for every path`,
		"v1":      `path "v1" does not begin with a slash; write "/v1"`,
		"/a?b":    `has a query; write only the part before the ?, queries are not matched`,
		"/a#b":    `has a fragment; write only the part before the #, clients never send fragments`,
		"/a;b":    `has a path parameter; write the path without the ; and what follows it`,
		`/a\b`:    `has a backslash; write a slash`,
		"/a b":    "cannot be sent by a client: the path has a space or a control character; write the path as it is in a URL",
		"/a/../b": `is not in normal form and would never match; write "/b"`,
		"/%41":    `is not in normal form and would never match; write "/A"`,
		"/a//b":   `is not in normal form and would never match; write "/a/b"`,
		"//":      `path "//" has an empty segment; write "/"`,
		"/a%5cb":  differently,
		"/%252e":  differently,
		"/a%3fb":  differently,
		"/a%23":   differently,
		"/..%2fx": differently,
		"/%ff":    differently,
		"/a%3bb":  differently,
		"/**/x":   "has ** before its end; write * for one segment, and ** only as the last one",
		"/a*":     "has a * that is only part of a segment; write the segment out, or * alone for the whole segment",
		"/**x":    "has a * that is only part of a segment",
	} {
		p, err := ParsePath(pattern)
		require.ErrorContains(t, err, want, pattern)
		require.Equal(t, Path{}, p)
	}
}

func TestZeroPathMatchesNothing(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "/", "//", "/a"} {
		require.False(t, Path{}.Match(s))
	}
}

func TestRegexOfABadPatternMatchesNothing(t *testing.T) {
	t.Parallel()
	for _, pattern := range []string{"", "v1", "/a*", "/a/../b", "/**/x"} {
		re := regexp.MustCompile("^(?:" + PathRegex(pattern) + ")$")
		for _, s := range []string{"", "/", "/a", "/a*", pattern} {
			require.False(t, re.MatchString(s))
		}
	}
}

// pathPieces are what is interesting in paths and patterns.
var pathPieces = []string{"/", "/", "a", "b", "v1", "*", "**", ".", "..", "%2f", "%2F", "%5c", "%00", "%41", "%20", "%3b", "%3B", "%", "%2", "%zz", ";", "+", "(", "$", "[", "~", "%25", "-"}

func genPath(t *rapid.T, label string) string {
	return "/" + strings.Join(rapid.SliceOfN(rapid.SampledFrom(pathPieces), 0, 8).Draw(t, label), "")
}

func TestMatcherAndRegexAgree(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		pattern := genPath(t, "pattern")
		path := genPath(t, "path")
		if rapid.Bool().Draw(t, "related") {
			path = pattern
		}
		if rapid.Bool().Draw(t, "starred") {
			segments := strings.Split(path, "/")
			i := rapid.IntRange(1, len(segments)-1).Draw(t, "segment")
			segments[i] = rapid.SampledFrom([]string{"*", "**"}).Draw(t, "star")
			pattern = strings.Join(segments, "/")
		}
		p, err := ParsePath(pattern)
		re := regexp.MustCompile("^(?:" + PathRegex(pattern) + ")$")
		if n, nerr := NormalizePath(path); nerr == nil && rapid.Bool().Draw(t, "normal") {
			path = n
		}
		require.Equal(t, re.MatchString(path), p.Match(path), "pattern %q path %q", pattern, path)
		if err != nil {
			require.False(t, p.Match(path))
		}
	})
}

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"/**", "/v1/**", "/*", "/a/*/b", "/@a%2fb", "", "/a;b", "/a//b"} {
		f.Add(s, "/v1/a")
	}
	for _, s := range pathSeeds(f) {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, pattern, path string) {
		p, err := ParsePath(pattern)
		re, reErr := regexp.Compile("^(?:" + PathRegex(pattern) + ")$")
		require.NoError(t, reErr)
		n, nErr := NormalizePath(path)
		if nErr != nil {
			return
		}
		require.Equal(t, re.MatchString(n), p.Match(n), "pattern %q path %q", pattern, n)
		if err != nil {
			require.False(t, p.Match(n))
			return
		}
		if !strings.Contains(pattern, "*") {
			require.True(t, p.Match(pattern), "a literal pattern matches itself")
		}
	})
}
