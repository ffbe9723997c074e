package lease

import (
	"sync"
	"time"
)

// clock is the time by which leases end. It is the wall clock's, but it never runs slower than time
// itself: setting the wall clock back does not make a lease longer. Setting it forward ends leases
// early, and [Leases.Valid] keeps ended leases from coming back. It is safe for concurrent use.
type clock struct {
	wall func() time.Time
	// steady is the time for which the process has run, by a clock that nobody sets.
	steady func() time.Duration

	mu sync.Mutex
	// anchor is the latest time that was known to be right when steady was at.
	anchor time.Time
	at     time.Duration
}

// newClock returns a clock that is not before seen: what a control plane that
// was here earlier has lived through.
func newClock(wall func() time.Time, steady func() time.Duration, seen time.Time) *clock {
	c := &clock{wall: wall, steady: steady, anchor: wall().Round(0), at: steady()}
	if seen.After(c.anchor) {
		c.anchor = seen
	}
	return c
}

// now is the wall's time, or the time that must have come since the clock was
// made, whichever is later.
func (c *clock) now() time.Time {
	if lived := c.lived(); lived.After(c.wall()) {
		return lived
	}
	return c.wall().Round(0)
}

// lived is the time that must have come, whatever the wall clock was set to meanwhile.
func (c *clock) lived() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.anchor.Add(c.steady() - c.at)
}

// behind is the time by which the wall clock was set back.
func (c *clock) behind() time.Duration { return max(0, c.lived().Sub(c.wall())) }
