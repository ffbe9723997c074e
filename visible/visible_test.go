package visible

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLinesAreKept: escapes that are there stay as they are, because what is quoted once is quoted.
func TestLinesAreKept(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"one\n\ttwo \\ `x` \"y\"":    "one\n\ttwo \\ `x` \"y\"",
		"a\x1b[2J\n\\x1b[2J":         "a\\x1b[2J\n\\x1b[2J",
		"\u009b\u202e\r\x00\xff\x7f": "\\u009b\\u202e\\r\\x00\\ufffd\\x7f",
	} {
		require.Equal(t, want, Lines(in))
	}
}

// TestErrorIsOne: no line of an error looks as if we had begun it.
func TestErrorIsOne(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	Error(&out, "postern:", errors.New("read a: bad\npostern: all is well\n  as it was\n\x1b[2J\n"))
	require.Equal(t, "postern: read a: bad\n  postern: all is well\n  as it was\n  \\x1b[2J\n", out.String())
}

func TestText(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`+ a may GET https://x.test/"q"\d`: `+ a may GET https://x.test/"q"\d`,
		"\x1b[2Jgone":                      `\x1b[2Jgone`,
		"abc\u202etest\u200b":              `abc\u202etest\u200b`,
		"a\nb\rc":                          `a\nb\rc`,
		"b\u00fccher \"x\"":                `b\u00fccher "x"`,
		"\xff":                             `\xff`,
	} {
		require.Equal(t, want, Text(in))
	}
}

// TestQuote: a path is one word on one line, and plain only if nothing in it can act.
func TestQuote(t *testing.T) {
	t.Parallel()
	for _, plain := range []string{"a", "z", "A", "Z", "0", "9", "._-+/@=,:%~#()[] x", "a b", ""} {
		require.Equal(t, plain, Quote(plain))
	}
	for path, want := range map[string]string{
		" a": `" a"`, "a ": `"a "`, "a`": "\"a`\"", "a{": `"a{"`, "$(id)": `"$(id)"`, "a\nb": `"a\nb"`, "ü": `"\u00fc"`,
		"\x1b[2J": `"\x1b[2J"`, "a\xff": `"a\xff"`, `a"b`: `"a\"b"`, "'": `"'"`, ";": `";"`, "*": `"*"`,
	} {
		require.Equal(t, want, Quote(path))
	}
}
