package plan

import (
	"bufio"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestNormalizePathDoesWhatEnvoyDoes compares with what a real Envoy answered.
func TestNormalizePathDoesWhatEnvoyDoes(t *testing.T) {
	t.Parallel()
	f, err := os.Open("testdata/envoy_paths.txt")
	require.NoError(t, err)
	defer f.Close()
	cases := 0
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "# ") {
			continue
		}
		sent, want, ok := strings.Cut(lines.Text(), "\t")
		require.True(t, ok, lines.Text())
		got, err := NormalizePath(sent)
		if want == "400" {
			require.Error(t, err, "%q became %q, Envoy refuses it", sent, got)
		} else {
			require.NoError(t, err, "%q", sent)
			require.Equal(t, want, got, "%q", sent)
		}
		cases++
	}
	require.Greater(t, cases, 500)
}

func TestNormalizePathRefuses(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"": "does not begin with a slash", "a/b": "does not begin with a slash", "/a b": "a space or a control character", "/a\tb": "a space or a control character", "/\x00": "a space or a control character",
		"/\x7f": "a space or a control character", "/a?b": "has a # or ?", "/a#b": "has a # or ?", "/a%00": "an escaped NUL",
	} {
		got, err := NormalizePath(path)
		require.ErrorContains(t, err, want, "%q", path)
		require.Empty(t, got)
	}
}

func TestNormalizePathEscapesWhatOnlyHTTP2CanSend(t *testing.T) {
	t.Parallel()
	got, err := NormalizePath("/é\x80")
	require.NoError(t, err)
	require.Equal(t, "/%C3%A9%80", got)
}

func FuzzNormalizePath(f *testing.F) {
	for _, s := range []string{"/", "//", "/a/../b", "/%2e%2e;x/b", "/a/..;/b", `/a\..\b`, "/%41%2f%5C", "/v1/*", "/é"} {
		f.Add(s)
	}
	for _, s := range pathSeeds(f) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		n, err := NormalizePath(path)
		if err != nil {
			require.Empty(t, n)
			return
		}
		require.True(t, strings.HasPrefix(n, "/"))
		for _, bad := range []string{"/../", "/./", "\\", "?", "#", " "} {
			require.NotContains(t, n, bad)
		}
		require.True(t, n == "//" || !strings.Contains(n, "//"), n)
		require.False(t, strings.HasSuffix(n, "/..") || strings.HasSuffix(n, "/."), n)
		for _, c := range []byte(n) {
			require.True(t, c > ' ' && c < 0x7f)
		}
	})
}

func FuzzCanonicalHost(f *testing.F) {
	for _, s := range []string{"a.test", "A.TEST.", "127.0.0.1", "0x7f.1", "017700000001", "[::1]", "1.2.3.4.", "xn--bcher-kva.test", "a..b", "-a", "K.test", "e.0x"} {
		f.Add(s)
	}
	for _, s := range hostSeeds(f) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, host string) {
		h, err := CanonicalHost(host)
		if err != nil {
			require.Empty(t, h)
			return
		}
		again, err := CanonicalHost(h)
		require.NoError(t, err)
		require.Equal(t, h, again)
		require.LessOrEqual(t, len(h), 253)
		require.Equal(t, strings.ToLower(strings.TrimSuffix(host, ".")), h)
		require.NotRegexp(t, `(^|\.)([0-9]+|0x[0-9a-f]*)$`, h)
		require.Regexp(t, `^[a-z0-9-]+(\.[a-z0-9-]+)*$`, h)
	})
}

func TestCanonicalHost(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{
		"a.test": "a.test", "API.Example.Test.": "api.example.test", "localhost": "localhost", "r1---sn-x.test": "r1---sn-x.test",
		"xn--bcher-kva.test": "xn--bcher-kva.test", "1.a": "1.a", "0x7f.test": "0x7f.test",
	} {
		got, err := CanonicalHost(host)
		require.NoError(t, err, host)
		require.Equal(t, want, got)
	}
	for _, host := range []string{
		"", ".", "a..test", "a.test..", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "0x", "1.2.3.4.", "1.2.3.0x",
		"::1", "[::1]", "[::ffff:127.0.0.1]", "fe80::1%eth0", "a:443", "*.test", "a_b.test", "-a.test", "a-.test", "bücher.test", "\u212a.test",
		"１２７.0.0.1", "a b", "a/b", "a@b", "a%2eb", "a\x00b", strings.Repeat("a", 64) + ".test", strings.Repeat("a.", 127) + "aa",
	} {
		got, err := CanonicalHost(host)
		require.Error(t, err, "%q became %q", host, got)
		require.Empty(t, got)
	}
}

// TestCanonicalPattern: a wildcard is of names below a name that is not everybody's.
func TestCanonicalPattern(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{"A.test": "a.test", "*.A.test.": "*.a.test", "*.b.a.test": "*.b.a.test"} {
		got, err := CanonicalPattern(host)
		require.NoError(t, err, host)
		require.Equal(t, want, got)
	}
	for host, want := range map[string]string{
		"*.test": `host "*.test" is every name of a top-level domain`, "*.": "host is empty", "*": "is not a letter, digit or hyphen", "*.*.test": "is not a letter, digit or hyphen", "*a.test": "is not a letter, digit or hyphen",
		"*.127.0.0.1": "is an IP address, not a name", "*.-a.test": "begins or ends with a hyphen", "*.a-.test": "begins or ends with a hyphen", "*.a..test": "a label is empty",
		"*." + strings.Repeat("a", 64) + ".test": "a label has 64 characters, the most is 63", "*." + strings.Repeat("a.", 127) + "a.test": "a DNS name has at most 253",
	} {
		got, err := CanonicalPattern(host)
		require.ErrorContains(t, err, want, host)
		require.Empty(t, got)
	}
	longest := strings.Repeat("a", 63) + "." + strings.Repeat(strings.Repeat("b", 61)+".", 3) + "t"
	for host, ok := range map[string]bool{longest: true, longest + "tt": true, longest + "ttt": false} {
		_, err := CanonicalHost(host)
		require.Equal(t, ok, err == nil, "%d", len(host))
	}
}
