package stacks

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLookalike: a host that people would take for another one is warned of.
func TestLookalike(t *testing.T) {
	t.Parallel()
	for written, want := range map[string]string{
		"api.example.com":        "",
		"bücher.example.com":     "",
		"例え.example.com":         "",
		"почта.example.com":      "",
		"раура1.example.com":     "host xn--1-7sba6dbr.example.com is \"раура1.example.com\", which looks like paypa1.example.com but is another host",
		"gіthub.com":             "looks like github.com but is another host",
		"*.аррӏе.com":            "looks like apple.com but is another host",
		"xn--80ak6aa92e.com":     "looks like apple.com but is another host",
		"bücherж.example.com":    "with letters of several scripts in one label: Latin and Cyrillic",
		"ραypal.example.com":     "looks like paypal.example.com but is another host",
		"日本ラボlabo.example.com":   "",
		"xn--zzzzzz-.com":        "",
		"xn--a.example.com":      "",
		"münchen.bücher.example": "",
	} {
		host, err := canonicalHost(written)
		if err != nil {
			continue // it does not load
		}
		got := Lookalike(host)
		if want == "" {
			require.Empty(t, got, written)
		} else {
			require.Contains(t, got, want, written)
		}
	}
}

// TestWarnsOnce: loading warns of a host once, where it is declared, however many agents may reach
// it.
func TestWarnsOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "local.yaml")
	write(t, path, `version: 1
target: local
credentials:
  keys: {kind: aws-sigv4, service: kms, region: eu-west-1, secret: "env://KEYS"}
destinations:
  plain: {host: github.com}
  fake: {host: gіthub.com}
  kms: {host: kms.eu-west-2.amazonaws.com, methods: [POST], paths: [/], credential: keys}
agents:
  one: {allow: [plain, fake, kms]}
  two: {allow: [fake, kms]}
`)
	stack, err := Load(path)
	require.NoError(t, err)
	require.Len(t, stack.Warnings, 2)
	require.EqualError(t, stack.Warnings[0], path+":7:3: host xn--gthub-n2e.com is \"gіthub.com\", which looks like "+
		"github.com but is another host; remove it, unless it is the host that you mean")
	require.ErrorContains(t, stack.Warnings[1], path+":8:3: rule one/kms refuses every client of this API")
}
