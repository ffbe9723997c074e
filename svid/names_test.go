package svid

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestNames: one grammar for whoever names a node, and whoever is told of one.
func TestNames(t *testing.T) {
	t.Parallel()
	hash := strings.Repeat("a2", 8)
	for s, want := range map[string]struct{ name, node, joined bool }{
		"n1":                                 {true, true, false},
		strings.Repeat("n", 63):              {true, true, false},
		strings.Repeat("n", 64):              {},
		"control":                            {true, false, false},
		"control-" + hash:                    {true, true, true},
		"n-" + hash:                          {true, true, true},
		strings.Repeat("n", 46) + "-" + hash: {true, true, true},
		strings.Repeat("n", 47) + "-" + hash: {},
		"n-" + hash + "a":                    {true, true, false},
		"n-" + strings.Repeat("a1", 8):       {true, true, false},
		"-" + hash:                           {},
		"":                                   {},
		"-n":                                 {},
		"N1":                                 {},
		"a/b":                                {},
		"n1\n":                               {},
		"..":                                 {},
	} {
		require.Equal(t, want.name, IsName(s), "%q", s)
		require.Equal(t, want.node, IsNode(s), "%q", s)
		require.Equal(t, want.joined, IsJoined(s), "%q", s)
	}
}
