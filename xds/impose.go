package xds

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/xds/api"
	"github.com/postern/postern/xds/state"
)

// lockEvery is the interval at which rollout is tried, because nothing tells when it is free.
const lockEvery = 5 * time.Millisecond

// Impose takes a proven publication that its publisher has sent directly. The store need not have
// it. See [api.Client.Impose].
func (c *Control) Impose(ctx context.Context, p api.Imposed) (*api.Converged, error) {
	b, err := c.store.VerifyProven(p.Publication, p.Mark)
	if err != nil {
		return nil, err
	}
	// The nodes get the publication even if the caller has gone, because it is never taken back.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), api.ImposeTimeout)
	defer cancel()
	c.makeWay(b.Seq)
	if !c.lockWithin(ctx) {
		return nil, &api.Error{Message: "the control plane is busy with a roll-out that does not end: it takes the " +
			"recorded publication afterwards"}
	}
	defer c.rollout.Unlock()
	defer c.owe(b, p.Mark)
	live := c.bundle()
	if live == nil || live.Seq < b.Seq {
		v, err := c.take(ctx, b)
		if v != nil {
			v.Unkept = c.unkept()
		}
		return v, err
	}
	if live.Hash() != b.Hash() {
		return nil, &api.Error{Message: fmt.Sprintf("publication %d is already live, and is not based on this one: "+
			"run the command again", live.Seq)}
	}
	// We have found it in the store meanwhile.
	v := c.reach(ctx, c.cache.Current(), time.Now())
	v.Seq, v.Unkept = live.Seq, c.unkept()
	return v, nil
}

// makeWay stops the roll-out of an older publication, because an imposed one does not wait.
func (c *Control) makeWay(seq uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.urgent = max(c.urgent, seq)
	if c.underWay.stop != nil && c.underWay.seq < seq {
		c.underWay.stop(supersededBy(seq))
	}
}

// lockWithin takes rollout, and reports false if it cannot until ctx is done.
func (c *Control) lockWithin(ctx context.Context) bool {
	tick := time.NewTicker(lockEvery)
	defer tick.Stop()
	for !c.rollout.TryLock() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// reach waits until every connected node has acknowledged version, or ctx is done, and returns the
// nodes that have.
func (c *Control) reach(ctx context.Context, version string, start time.Time) *api.Converged {
	v := &api.Converged{Version: version}
	if err := c.cache.Converge(ctx, version, nil); err != nil {
		v.Late = err.Error() + "; it stays, and the others have it"
	}
	for _, id := range c.ledger.Connected() {
		if c.cache.Converged(id) {
			v.Confirmed = append(v.Confirmed, id)
		}
	}
	v.Nodes, v.Missing = len(v.Confirmed), c.ledger.Missing()
	v.Millis = float64(time.Since(start).Microseconds()) / 1000
	return v
}

// owed is a publication, with its mark, that the store lacks, or nil. why is the reason.
type owed struct {
	publication *bundle.Bundle
	mark        []byte
	problem     string
}

// pay saves what could not be saved, and puts back what was lost, every second and when there is
// something new, until ctx is done. A disk that hangs delays nothing else.
func (c *Control) pay(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-c.owes:
		}
		c.files.Retry()
		c.payStore(ctx)
		if b := c.bundle(); b != nil && c.unkept() == "" { // what waits for room on the disk comes first
			c.files.Reserve(len(b.Sealed()))
		}
		if lost := c.files.Lost(state.Nodes) && len(c.ledger.Status()) > 0; lost || c.ledger.TakeUnsaved() {
			if err := c.saveNodes(); err != nil {
				c.cfg.Log.Error("keep which nodes there are", "error", err)
			}
		}
	}
}

// owe makes sure that the store has a publication that we were told of.
func (c *Control) owe(b *bundle.Bundle, mark []byte) {
	c.mu.Lock()
	c.owed.publication, c.owed.mark = b, mark
	c.mu.Unlock()
	select {
	case c.owes <- struct{}{}:
	default:
	}
}

// payStore puts into the store what the store lacks.
func (c *Control) payStore(ctx context.Context) {
	c.mu.Lock()
	b, mark := c.owed.publication, c.owed.mark
	c.mu.Unlock()
	if b == nil {
		return
	}
	err := c.store.Keep(ctx, b, mark)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil:
		c.owed.problem = err.Error()
	case c.owed.publication == b:
		c.owed = owed{}
	}
}

// unkept says, for people, what could not be saved, or returns "".
func (c *Control) unkept() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unkeptProblem()
}

// unkeptProblem is unkeptNow for a caller that holds mu.
func (c *Control) unkeptProblem() string {
	problem := cmp.Or(c.files.Problem(), c.owed.problem)
	if problem == "" {
		return ""
	}
	return "the live publication could not be saved, so a restart would not know it: " + problem +
		"; it is tried again every second"
}
