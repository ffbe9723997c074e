package exit

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestStatus(t *testing.T) {
	t.Parallel()
	base := errors.New("why")
	require.Equal(t, Done, Status(nil))
	require.Equal(t, Failed, Status(base))
	require.Equal(t, Usage, Status(fmt.Errorf("more: %w", BadUsage(base))))
	require.Equal(t, Partial, Status(errors.Join(base, With(Partial, base))))
	require.ErrorIs(t, With(Partial, base), base)
}

// TestTable: for each command, every status has one meaning.
func TestTable(t *testing.T) {
	t.Parallel()
	commands := map[string]bool{"status": true, "no command of its own": true}
	for _, m := range Table {
		require.NotEmpty(t, m.Means)
		for _, c := range m.Commands {
			commands[c] = true
		}
	}
	for c := range commands {
		seen := map[int]bool{}
		for _, m := range Of(c) {
			require.False(t, seen[m.Status], "%s: %d has two meanings", c, m.Status)
			seen[m.Status] = true
		}
		require.True(t, seen[Usage], c)
		require.Equal(t, c != "run", seen[Done], c)
	}
}
