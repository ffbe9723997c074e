package view

import (
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestHasPassword: what is shown of /etc has no address with a password.
func TestHasPassword(t *testing.T) {
	t.Parallel()
	slow := regexp.MustCompile(`(?s)^.*://[^/\s]*@.*$`)
	for text, want := range map[string]bool{
		"": false, "deb https://u:p@host.test/x": true, "a://b/@ c://d@e": true, "http://a b@c": false, "://@": true,
		"https://host.test/u@v": false, "x@y://z": false, "a://\nb@c": false, "a://b://c@d": true, "a:///u@v d://@": true,
	} {
		require.Equal(t, want, hasPassword(text), text)
		require.Equal(t, slow.MatchString(text), hasPassword(text), text)
	}
}
