package xds

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// leasePatience bounds how long the end of a lease waits for a roll-out.
const leasePatience = time.Second

// underWay is the roll-out whose caller holds Control.rollout.
type underWay struct {
	seq  uint64
	stop context.CancelCauseFunc
}

// interruptedError is the reason why a roll-out was stopped: what cannot wait must not be delayed
// by a node that does not answer.
type interruptedError struct{ by string }

func (e *interruptedError) Error() string {
	return "it was stopped, for not every node had answered and " + e.by + " could not wait"
}

// interrupted returns why the roll-out of ctx was stopped, or nil.
func interrupted(ctx context.Context) error {
	var e *interruptedError
	if errors.As(context.Cause(ctx), &e) {
		return e
	}
	return nil
}

// begin lets hurry and expire stop the waiting of the publication's roll-out
// until end is called. The caller holds rollout.
func (c *Control) begin(ctx context.Context, seq uint64) (_ context.Context, end func()) {
	ctx, stop := context.WithCancelCause(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.underWay = underWay{seq: seq, stop: stop}
	if c.urgent > seq {
		stop(supersededBy(c.urgent))
	}
	c.urgent = 0
	return ctx, func() {
		c.mu.Lock()
		c.underWay = underWay{}
		c.mu.Unlock()
		stop(nil)
	}
}

func supersededBy(seq uint64) error {
	return &interruptedError{by: fmt.Sprintf("publication %d", seq)}
}

// lockFor takes rollout for the store's content. If that is proven, such as a kill, it does not
// wait for the roll-out of an earlier publication.
func (c *Control) lockFor(ctx context.Context) {
	if c.rollout.TryLock() {
		return
	}
	c.hurry(ctx)
	defer c.hurrying(ctx)() // also for what comes meanwhile
	c.rollout.Lock()
}

// hurry stops the roll-out in progress if the store holds a newer proven publication.
func (c *Control) hurry(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, slow)
	defer cancel()
	view, err := c.store.Look(ctx)
	if err != nil {
		return
	}
	c.mu.Lock()
	seq := c.underWay.seq
	c.mu.Unlock()
	b, err := c.store.NewestProven(ctx, view, seq)
	if err != nil {
		return // there is none, or none that an operator has signed
	}
	c.makeWay(b.Seq)
}

// hurrying calls hurry now and then until it is stopped. It serves a roll-out by the goroutine that
// otherwise looks into the store.
func (c *Control) hurrying(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(glance)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				c.hurry(ctx)
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// lockForLease takes rollout for a lease that has ended.
func (c *Control) lockForLease() {
	if c.rollout.TryLock() {
		return
	}
	locked := make(chan struct{})
	defer close(locked)
	go func() {
		late := time.NewTicker(leasePatience)
		defer late.Stop()
		for {
			select {
			case <-locked:
				return
			case <-late.C:
				c.mu.Lock()
				if c.underWay.stop != nil {
					c.underWay.stop(&interruptedError{by: "the end of a lease"})
				}
				c.mu.Unlock()
			}
		}
	}()
	c.rollout.Lock()
}
