package document

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMatches(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"*", "iam:PassRole", true},
		{"iam:*", "iam:PassRole", true},
		{"IAM:pass*", "iam:PassRole", true},
		{"iam:Pass?ole", "iam:PassRole", true},
		{"iam:*Role", "iam:PassRole", true},
		{"*R*e", "iam:PassRole", true},
		{"iam:Pass", "iam:PassRole", false},
		{"iam:PassRole?", "iam:PassRole", false},
		{"s3:*", "iam:PassRole", false},
		{"", "iam:PassRole", false},
		{"iam:PassRole**", "iam:PassRole", true},
		{strings.Repeat("*a", 5000), strings.Repeat("a", 4999), false}, // in bounded time
	} {
		require.Equal(t, c.want, matches(c.pattern, c.text), c.pattern)
	}
}
