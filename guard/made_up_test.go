package guard

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMadeUp: an agent that has made up as many names as it may still has those, and takes nothing
// from another agent.
func TestMadeUp(t *testing.T) {
	t.Parallel()
	var n Names
	for i := range MaxMadeUp {
		require.True(t, n.Take(1, fmt.Sprintf("n%d.wild.test:443", i)))
		require.True(t, n.Take(1, fmt.Sprintf("N%d.WILD.test:443", i)), "the same name")
	}
	require.False(t, n.Take(1, "new.wild.test:443"))
	require.True(t, n.Take(1, "n0.wild.test:443"))
	require.True(t, n.Take(2, "new.wild.test:443"))
}
