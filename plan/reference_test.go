package plan

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseReference(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]Reference{
		"env://NAME":        {Source: SourceEnv, Name: "NAME"},
		"file:///a%20b#x.y": {Source: SourceFile, Name: "/a b", Field: []string{"x", "y"}},
		"awsparamstore://n?region=us-gov-west-1&every=1m": {Source: SourceAWSParamStore, Name: "n", Region: "us-gov-west-1", Every: time.Minute},
		"https://h.test:8443/p?every=1s":                  {Source: SourceHTTPS, Name: "https://h.test:8443/p", Every: time.Second},
		"http://[::1]:1/p":                                {Source: SourceHTTPS, Name: "http://[::1]:1/p"},
		"exec:///h?arg=b&arg=a%26c":                       {Source: SourceExec, Name: "/h", Args: []string{"b", "a&c"}},
		"exec:///h?sha256=" + strings.Repeat("0a", 32):    {Source: SourceExec, Name: "/h", Digest: strings.Repeat("0a", 32)},
		"vault://kv/a/b":                                  {Source: SourceVault, Name: "kv/a/b"},
	} {
		got, err := ParseReference(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got, in)
	}
	for _, in := range []string{
		"", "x", "env://", "ENV://NAME", "env://N?", "env://N#", "file://relative", "file:///a/../b", "file:///", "file:///a%00b", "http://h.test/p",
		"http://127.0.0.1.h.test/p", "https://h.test", "https:///p", "https://u@h.test/p", "https://h.test/p?a=b", "vault://kv", "vault://kv//x", "vault://../x/y",
		"exec:///h?sha256=", "exec:///h?sha256=0A", "file:///h?sha256=" + strings.Repeat("0a", 32),
		"exec://h", "exec:///h?arg=%0a", "exec:///h?every=25h", "exec:///h?every=1s&every=2s", "awssecretsmanager://n", "awssecretsmanager://n?region=eu-west-1&region=eu-west-2",
		"awssecretsmanager://arn:aws:secretsmanager:eu-west-1:1:secret:x?region=eu-west-1", "gcpsecretmanager://projects/my-project/secrets/s/versions/1",
		"env://" + strings.Repeat("N", 3000),
	} {
		_, err := ParseReference(in)
		var wrong *ReferenceError
		require.ErrorAs(t, err, &wrong, in)
		require.NotEmpty(t, wrong.Hint)
	}
}

// FuzzParseReference: whatever was written there, no message repeats it, and what
// is read is what its source can have.
func FuzzParseReference(f *testing.F) {
	for _, in := range []string{"env://N#a.b", "exec:///h?arg=x&every=5m", "http://127.0.0.1/p", "awssecretsmanager://n?region=eu-west-1"} {
		f.Add(in)
	}
	f.Fuzz(func(t *testing.T, in string) {
		r, err := ParseReference(in + "canary")
		if err != nil {
			require.NotContains(t, err.Error(), "canary")
			require.Equal(t, Reference{}, r)
			return
		}
		require.True(t, r.Every == 0 || r.Every >= minEvery && r.Every <= maxEvery)
		require.NotEmpty(t, r.Name)
		require.NotContains(t, r.Name, "\x00")
		if r.Source == SourceFile || r.Source == SourceExec {
			require.True(t, absolute(r.Name))
		}
	})
}
