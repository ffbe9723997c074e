package workspace

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestOpaqueBelow: what was in a folder that the agent removed and made again is gone, at every
// depth.
func TestOpaqueBelow(t *testing.T) {
	t.Parallel()
	l := newLayered(t, map[string]string{"a/b/old": "1", "a/b/c/older": "1", "a/kept/x": "1"})
	write(t, filepath.Join(l.layer, "a/b/c/new"), "agent")
	l.set(t, "a", "opaque", "y")
	require.Empty(t, l.apply(t))
	for _, gone := range []string{"a/b/old", "a/b/c/older", "a/kept"} {
		require.NoFileExists(t, filepath.Join(l.host, gone))
	}
	require.Equal(t, "agent", read(t, filepath.Join(l.host, "a/b/c/new")))
}
