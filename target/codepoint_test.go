package target

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCodePoints: what some server decodes in a query, and others do not, is not let through where anything depends on it.
func TestCodePoints(t *testing.T) {
	t.Parallel()
	for query, refused := range map[string]bool{
		"%u0064ebug=1": true, "mode=read&m%u006fde=write": true, "a=%U0041": true, "a=%25%u0041": true, "%%u0041": true,
		"a=%u": false, "a=%u00": false, "a=%u00g1": false, "a=%75": false, "u0064=1": false, "a=%u00é": false, "a=1": false, "%": false,
	} {
		require.Equal(t, refused, (&Check{}).Target("/", query), query)
		require.False(t, (&Check{Open: true}).Target("/", query), query)
	}
}
