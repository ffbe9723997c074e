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
	many := func(n int) string { return "exec:///h?arg=1" + strings.Repeat("&arg=1", n-1) }
	got, err := ParseReference(many(32))
	require.NoError(t, err)
	require.Len(t, got.Args, 32)
	web, user := "secret is not a URL with a host and a path, and without a user", "secret has a query parameter that its source does not have"
	interval, digest, region := "secret is not asked for at an interval between a second and a day", "secret names no SHA-256 of its helper", "secret names no AWS region"
	variable, file, program, vault := "secret does not name an environment variable", "secret does not name an absolute file", "secret does not name an absolute program", "secret does not name a secret of Vault"
	for in, want := range map[string]string{
		"": "secret is not a reference", "x": "secret is not a reference", "env://" + strings.Repeat("N", 3000): "secret is not a reference", "env://N\n": "secret is not a reference", "env://N\x7f": "secret is not a reference",
		"ENV://NAME": "secret is not at a known kind of place", "ftp://h.test/p": "secret is not at a known kind of place",
		"env://": variable, "env://1N": variable, "env://N-M": variable, "env://%zz": variable, "env://N?": "secret has a query that is not valid", "https://h.test/p?a;b": "secret has a query that is not valid",
		"env://N#": "secret selects no valid field", "env://N#.a": "secret selects no valid field", "env://N#a..b": "secret selects no valid field", "env://N#%zz": "secret selects no valid field",
		"file://relative": file, "file:///a/../b": file, "file:///": file, "file:///a%00b": file, "file:///a%7f": file, "exec://h": program, "exec:///": program,
		"http://h.test/p": "secret would be readable on the way", "http://127.0.0.1.h.test/p": "secret would be readable on the way", "http://localhost.h.test/p": "secret would be readable on the way",
		"https://h.test": web, "https://h.test/": web, "https:///p": web, "https://u@h.test/p": web, "https://h.test:x/p": web, "https://h.test/p?a=b": user, "file:///a?every=5m": user, "env://N?every=5m": user, "env://N?region=eu-west-1": user,
		"vault://kv": vault, "vault://kv//x": vault, "vault://../x/y": vault, "vault://kv/../x": vault, "vault://kv/x?arg=1": user,
		"exec:///h?sha256=": digest, "exec:///h?sha256=0A": digest, "file:///h?sha256=" + strings.Repeat("0a", 32): user, "exec:///h?sha256=" + strings.Repeat("0a", 32) + "&sha256=" + strings.Repeat("0a", 32): digest,
		"exec:///h?arg=%0a": "secret has more than 32 arguments, or a control character in one", many(33): "secret has more than 32 arguments, or a control character in one",
		"exec:///h?every=25h": interval, "exec:///h?every=24h1s": interval, "exec:///h?every=999ms": interval, "exec:///h?every=x": interval, "exec:///h?every=5": interval, "exec:///h?every=1s&every=2s": interval, "exec:///h?every=-1h": interval,
		"awssecretsmanager://n": region, "awssecretsmanager://n?region=eu-west-1&region=eu-west-2": region, "awsparamstore://n?region=europe": region, "awsparamstore://n": region,
		"awssecretsmanager://arn:aws:secretsmanager:eu-west-1:1:secret:x?region=eu-west-1": "secret does not name a secret of AWS Secrets Manager", "awsparamstore://a//b?region=eu-west-1": "secret does not name a parameter of AWS Systems Manager",
		"gcpsecretmanager://projects/my-project/secrets/s/versions/1": "secret does not name a secret of GCP Secret Manager", "gcpsecretmanager://projects/my-project/secrets/s?region=eu-west-1": user,
	} {
		r, err := ParseReference(in)
		var wrong *ReferenceError
		require.ErrorAs(t, err, &wrong, in)
		require.Equal(t, want, wrong.Text, in)
		require.NotEmpty(t, wrong.Hint)
		require.Equal(t, Reference{}, r)
	}
	for _, in := range []string{"http://localhost/p", "http://127.0.0.1:8200/p", "http://127.9.9.9/p", "http://[::1]/p", "exec:///h?every=24h", "exec:///h?every=1s", "gcpsecretmanager://projects/my-project/secrets/s", "awssecretsmanager://n?region=us-gov-west-1"} {
		_, err := ParseReference(in)
		require.NoError(t, err, in)
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
