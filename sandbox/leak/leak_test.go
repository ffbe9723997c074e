package leak

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestFind has credentials of several kinds, each as files have them, and what looks like one. They
// random is a credential of no known form.
const random = "q7Xw2LkP9sTfBz4Nn8RvJ3mYc6HdG5aUe1Wo"

// are put together here so that nobody takes this file for one that has credentials.
func TestFind(t *testing.T) {
	t.Parallel()
	key := "-----BEGIN EC PRIVATE KEY" + "-----\n" + strings.Repeat("MHcCAQEEIOx7\n", 8) +
		"-----END EC PRIVATE KEY-----\n"
	for text, kind := range map[string]string{
		"token: gh" + "p_" + random:                           "github-pat",
		"machine x password=gl" + "pat-" + random[:20] + "\n": "gitlab-pat",
		"AWS_ACCESS_KEY_ID=AK" + "IAQ3EGSYX5RJ7MNKTW\nx":      "aws-access-token",
		"AK" + "IAIOSFODNN7EXAMPLE":                           "", // of the documentation
		"key = \"sk_li" + "ve_" + random[:24] + "\"":          "stripe-access-token",
		"const k = `" + key + "`":                             "private-key",
		"-----BEGIN CERTIFICATE-----\n" + random:              "",
		"-----BEGIN PRIVATE KEY" + "-----":                    "", // a word about keys
		"gh" + "p_" + strings.Repeat("a", 36):                 "", // a placeholder
		"sk_li" + "ve_" + random[:6]:                          "",
		"password = " + random:                                "", // has no form
		"":                                                    "",
		"h":                                                   "",
		"xoxb-":                                               "",
		"https://hooks.slack.com/ser" + "vices/" + random + random[:8]:                   "slack-webhook-url",
		strings.Repeat("gh"+"p_"+strings.Repeat("b", 36)+" ", 50) + "gh" + "p_" + random: "github-pat",
	} {
		require.Equal(t, kind, Find([]byte(text)), "%q", text)
	}
}

// TestInGit: git's settings have credentials without a form of their own.
func TestInGit(t *testing.T) {
	t.Parallel()
	for text, kind := range map[string]string{
		"[http \"https://x.test/\"]\n\textraheader = AUTHORIZATION: basic eDp5\n": "git-extraheader",
		"[http] extraHeader=X-A: b\n":                                "git-extraheader",
		"\turl = https://user:pass@x.test/r\n":                       "url-password",
		"\turl = https://:pass@x.test/r\n":                           "url-password",
		"\turl = https://" + random + "@x.test/r\n":                  "url-token",
		"\turl = https://gh" + "p_" + random + ":x@x.test":           "github-pat",
		"\turl = https://user@x.test/r\n":                            "",
		"\turl = ssh://git@x.test:22/r\n\turl = git@x.test:r\n":      "",
		"\turl = https://x.test:8443/a@b\n[http]\n\textraheader =\n": "",
		"# extraheader = x\n":                                        "",
		"gh" + "p_" + random:                                         "github-pat",
	} {
		require.Equal(t, kind, InGit([]byte(text)), "%q", text)
	}
}

// TestRules: each rule compiles and can be found by its keywords.
func TestRules(t *testing.T) {
	t.Parallel()
	r := load()
	require.Greater(t, len(r.Rules), 100)
	for i, one := range r.Rules {
		compile([]string{one.Regex})
		compile(one.Allowed)
		require.NotEmpty(t, one.Keywords, one.ID)
		for _, k := range one.Keywords {
			require.Equal(t, strings.ToLower(k), k)
			require.True(t, r.candidates([]byte("x" + strings.ToUpper(k)))[i], k)
		}
	}
}

// BenchmarkFind searches source code that has no credential.
func BenchmarkFind(b *testing.B) {
	text := []byte(strings.Repeat("func (r *rules) find(text []byte) []bool { return api.get(task_id) } // sk\n", 1000))
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if Find(text) != "" {
			b.Fatal("found something")
		}
	}
}
