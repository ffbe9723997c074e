package guard

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postern/postern/target"
)

// TestEcho: a secret is found in whatever way it is written.
func TestEcho(t *testing.T) {
	t.Parallel()
	std, basic := base64.StdEncoding, base64.StdEncoding.EncodeToString([]byte("user:pass-word-1"))
	for _, c := range []struct {
		name   string
		value  string
		prefix int
		header string
		want   bool
	}{
		{"itself", "sk-secret-1", 0, "sk-secret-1", true},
		{"in something", "sk-secret-1", 0, "/login?key=sk-secret-1&x", true},
		{"something else", "sk-secret-1", 0, "sk-secret-2", false},
		{"without what the policy puts before it", "Bearer sk-secret-1", 7, "x sk-secret-1", true},
		{"without what its source has before it", "Bearer sk-secret-1", 0, "sk-secret-1", true},
		{"with spaces around it", " sk-secret-1 ", 0, "sk-secret-1", true},
		{"with spaces behind what the policy puts before it", "Bearer  sk-secret-1 ", 7, "sk-secret-1", true},
		{"the same after a tab", "Bearer\tsk-secret-1", 0, "sk-secret-1", true},
		{"a password after spaces", "Basic  " + basic, 6, "pass-word-1", true},
		{"what the policy puts before it alone", "Bearer sk-secret-1", 7, "Bearer realm=x", false},
		{"percent-encoded", "a/b c+d=e&f", 0, "x=a%2Fb%20c%2Bd%3De%26f", true},
		{"percent-encoded in small letters", "a/b c+d=e&f", 0, "x=a%2fb%20c%2bd%3de%26f", true},
		// urllib.parse.quote, encodeURIComponent, URLEncoder: each leaves other bytes.
		{"as Python quotes", "a/b c+d=e&f", 0, "x=a/b%20c%2Bd%3De%26f", true},
		{"as JavaScript encodes", "p!q'(r)*s/t~", 0, "p!q'(r)*s%2Ft~", true},
		{"as Java encodes", "a b*c~d/efgh", 0, "a+b*c%7Ed%2Fefgh", true},
		{"as a form without escapes", "abcd efgh", 0, "abcd+efgh", true},
		{"as a form with a plus", "ab+c defgh", 0, "ab%2Bc+defgh", true},
		{"digits of both kinds", "ab+cd/efgh", 0, "ab%2bcd%2Fefgh", true},
		{"every byte escaped", "sk-secret-1", 0, "%73%6B%2d%73%65%63%72%65%74%2d%31", true},
		{"one byte escaped", "sk-secret-1", 0, "x sk-%73ecret-1", true},
		{"a short one, escaped", "a/c", 0, "a%2fc", true},
		{"escaped twice", "sk-secret-1", 0, "?u=%3Fk%3Dsk-%2573ecret-1", true},
		{"an escape that is cut off", "sk-secret-1", 0, "sk-secret-1%7", true},
		{"escapes of something else", "sk-secret-1", 0, "sk-%74ecret-1%", false},
		{"hex", "sk-secret-1", 0, hex.EncodeToString([]byte("sk-secret-1")), true},
		{"HEX", "sk-secret-1", 0, "x" + strings.ToUpper(hex.EncodeToString([]byte("sk-secret-1"))), true},
		{"base64", "sk-secret-1", 0, std.EncodeToString([]byte("sk-secret-1")), true},
		{"base64 after one byte", "sk-secret-1", 0, std.EncodeToString([]byte("{sk-secret-1}")), true},
		{"base64 after two bytes", "sk-secret-1", 0, std.EncodeToString([]byte("k:sk-secret-1,")), true},
		{"base64 for URLs", "\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8", 0, base64.URLEncoding.EncodeToString([]byte("\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8")), true},
		{"a password", "Basic " + basic, 6, "pass-word-1", true},
		{"a user's name", "Basic " + basic, 6, "user", false},
		{"user and password", "Basic " + basic, 6, "x" + basic, true},
		{"eight bytes in something", "abcdefgh", 0, "x=abcdefgh&", true},
		{"seven bytes in something", "abcdefg", 0, "x=abcdefg&", false},
		{"eight bytes in base64 in something", "abcdefgh", 0, std.EncodeToString([]byte("x=abcdefgh&")), true},
		{"what is not a scheme before it", "sk{1 secret-key", 0, "secret-key", false},
		{"a digit before it", "sk1 secret-key", 0, "secret-key", false},
		{"a short secret", "abc", 0, "abc", true},
		{"letters from a to z before it", "az sk-secret-1", 0, "sk-secret-1", true},
		{"a short secret with what its source has before it", "Bearer Bearer abc", 7, "Bearer abc", true},
		{"a short secret in base64 without padding", "ab", 0, "YWI", true},
		{"a long secret in hex", strings.Repeat("s", 8<<10), 0, "x" + strings.Repeat("73", 8<<10), true},
		{"a longer secret in hex", strings.Repeat("s", 8<<10+1), 0, "x" + strings.Repeat("73", 8<<10+1), false},
		{"a longer secret", strings.Repeat("s", 8<<10+1), 0, "x" + strings.Repeat("s", 8<<10+1), true},
		{"a short secret with what the policy puts before it", "Bearer abc", 7, "Bearer abc", true},
		{"a short secret in something", "abc", 0, "abcd", false},
		{"a short secret in base64", "abc", 0, "YWJj", true},
		{"a short secret in padded base64", "ab", 0, "YWI=", true},
		{"a bearer that could be basic", "Bearer " + basic, 7, "pass-word-1", false},
		{"no password", "Basic " + std.EncodeToString([]byte("user:")), 6, "", false},
		{"no secret", "Bearer ", 7, "Bearer ", false},
		{"less than the prefix", "x", 7, "x", false},
	} {
		f := echo{value: c.value, prefix: c.prefix}.forms()
		require.Equal(t, c.want, f.in(c.header), c.name)
	}
}

// TestEchoOfAnother: what was put before a secret is a part of it, or not, whichever was
// looked for first.
func TestEchoOfAnother(t *testing.T) {
	t.Parallel()
	for _, prefixes := range [][]int{{4, 0}, {0, 4}} {
		value := "key=of-" + strings.Repeat("x", prefixes[0]) + "-sk-secret-1"
		for _, prefix := range prefixes {
			f := echo{value: value, prefix: prefix}.forms()
			require.True(t, f.in(value))
			require.Equal(t, prefix == 4, f.in("x "+value[4:]), "%d", prefix)
		}
	}
}

// TestFormsAreForgotten: however many secrets there were, the last hundred are remembered at most.
func TestFormsAreForgotten(t *testing.T) {
	t.Parallel()
	for i := range 3 * mostFound {
		require.True(t, echo{value: fmt.Sprintf("sk-secret-%d", i)}.forms().in("sk-secret-"+strconv.Itoa(i)))
		found.RLock()
		n := len(found.forms)
		found.RUnlock()
		require.LessOrEqual(t, n, 100)
	}
}

// TestEchoAnywhere is the same for any secret in any surroundings.
func TestEchoAnywhere(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		secret := rapid.StringN(8, 60, 60).Draw(t, "secret")
		before := rapid.String().Draw(t, "before")
		after := rapid.String().Draw(t, "after")
		write := rapid.SampledFrom([]func(string) string{
			func(s string) string { return s },
			func(s string) string { return hex.EncodeToString([]byte(s)) },
			func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
			func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) },
			func(s string) string { return target.Escape(s) },
			url.PathEscape, url.QueryEscape,
			func(s string) string { return "%" + strings.ReplaceAll(fmt.Sprintf("% x", s), " ", "%") },
		}).Draw(t, "write")
		f := echo{value: "prefix " + secret, prefix: 7}.forms()
		require.True(t, f.in(write(before+secret+after)))
		require.False(t, f.in(f.cut(write(before+secret+after))))
	})
}

// FuzzCut: what is left has no secret, and it ends.
func FuzzCut(f *testing.F) {
	f.Add("sk-secret-1", 0, "https://x/?key=sk-secret-1")
	f.Add("Bearer aaaaaaaa", 7, "aaaaaaaaaaaaaaaaaaaa")
	f.Fuzz(func(t *testing.T, value string, prefix int, header string) {
		if prefix < 0 {
			return
		}
		forms := echo{value: value, prefix: prefix}.spell()
		require.False(t, forms.in(forms.cut(header)))
	})
}
