package lease

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestClockKnowsWhatWasSeen: it is never before what an earlier control plane saw.
func TestClockKnowsWhatWasSeen(t *testing.T) {
	t.Parallel()
	wall := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	seen := wall.Add(time.Hour)
	c := newClock(func() time.Time { return wall }, func() time.Duration { return 0 }, seen)
	require.Equal(t, seen, c.now())
}
