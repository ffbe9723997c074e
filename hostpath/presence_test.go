package hostpath

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestUseOfTwoLists: what protects a folder stays until the last command there ends, also if
// another stack's list has that one.
func TestUseOfTwoLists(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	theirs := In(w.path("state2"))
	for _, first := range []Registry{w.registry, theirs} {
		second := In(w.path("state"))
		if first == second {
			second = theirs
		}
		doneFirst, err := first.Use(w.path("work"), "a")
		require.NoError(t, err)
		doneSecond, err := second.Use(w.path("work"), "b")
		require.NoError(t, err)
		var ended []string
		doneFirst(func() { ended = append(ended, "first") })
		require.Empty(t, ended, "another command works there")
		for _, r := range []Registry{first, second} {
			require.NoError(t, r.Unused(w.path("work"), func() { ended = append(ended, "unused") }))
		}
		doneSecond(func() { ended = append(ended, "second") })
		require.NoError(t, first.Unused(w.path("work"), func() { ended = append(ended, "unused") }))
		require.Equal(t, []string{"second", "unused"}, ended)
	}
	// Whoever takes the name for ever keeps nobody out, and what stays is removed by the next one.
	f, err := identify(w.path("work"))
	require.NoError(t, err)
	taken := take(presence(f))
	require.NotNil(t, taken)
	done, err := w.registry.Use(w.path("work"), "a")
	require.NoError(t, err)
	done(func() { require.Fail(t, "another one may enter meanwhile") })
	require.NoError(t, taken.Close())
}
