package lease

import (
	"sync"
	"time"
)

// clock is the time by which leases end: the wall clock's time, but never slower than time itself.
// So setting the wall clock back does not make a lease longer. Setting it forward ends leases
// early, and [Leases.Valid] keeps ended leases from coming back. A clock is safe for concurrent
// use.
type clock struct {
	wall func() time.Time
	// steady is the time for which the process has run, by a clock that cannot be set.
	steady func() time.Duration

	mu sync.Mutex
	// anchor is the latest time that was known to be right, when steady had the value at.
	anchor time.Time
	at     time.Duration
}

// newClock returns a clock that never shows a time before seen, which an earlier control plane here
// has reached.
func newClock(wall func() time.Time, steady func() time.Duration, seen time.Time) *clock {
	c := &clock{wall: wall, steady: steady, anchor: wall().Round(0), at: steady()}
	if seen.After(c.anchor) {
		c.anchor = seen
	}
	return c
}

// now returns the wall clock's time or, if that is earlier, the time that must have been reached
// since the clock was made.
func (c *clock) now() time.Time {
	if lived := c.lived(); lived.After(c.wall()) {
		return lived
	}
	return c.wall().Round(0)
}

// lived returns the time that must have been reached, however the wall clock was set.
func (c *clock) lived() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.anchor.Add(c.steady() - c.at)
}

// behind returns the time by which the wall clock was set back.
func (c *clock) behind() time.Duration { return max(0, c.lived().Sub(c.wall())) }
