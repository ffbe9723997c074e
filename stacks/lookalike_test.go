package stacks

import (
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
