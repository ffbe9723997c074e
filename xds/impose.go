package xds

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"syscall"
	"time"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/xds/api"
	"github.com/postern/postern/xds/bundle"
)

// lockEvery is the pace of asking for rollout, which nobody announces to be free.
const lockEvery = 5 * time.Millisecond

// Impose takes a publication that is proven, and was told to us by who made it: the
// store need not have it. See [api.Client.Impose].
func (c *Control) Impose(ctx context.Context, p api.Imposed) (*api.Converged, error) {
	b, err := c.store.VerifyProven(p.Publication, p.Mark)
	if err != nil {
		return nil, err
	}
	// What the nodes are given ends when the caller has gone, too: it is never taken back.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), api.ImposeTimeout)
	defer cancel()
	c.makeWay(b.Seq)
	if !c.lockWithin(ctx) {
		return nil, &api.Error{Message: "the control plane is busy with a roll-out that does not end: it takes the recorded publication afterwards"}
	}
	defer c.rollout.Unlock()
	defer c.owe(b, p.Mark)
	live := c.bundle()
	if live == nil || live.Seq < b.Seq {
		v, err := c.take(ctx, b)
		if v != nil {
			v.Unkept = c.unkeptNow()
		}
		return v, err
	}
	if live.Hash() != b.Hash() {
		return nil, &api.Error{Message: fmt.Sprintf("publication %d is live already, which is not based on this one: run the command again", live.Seq)}
	}
	// We have found it in the store meanwhile.
	v := c.reach(ctx, c.cache.Current(), time.Now())
	v.Seq, v.Unkept = live.Seq, c.unkeptNow()
	return v, nil
}

// makeWay stops the roll-out of an older publication: what is imposed does not wait.
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

// reach waits until every connected node has acknowledged version, or ctx is done,
// and says which have.
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

// unkept is what could not be written down, and is tried again.
type unkept struct {
	// files are the contents by path.
	files map[string][]byte
	// publication and mark are what the store lacks, or nil.
	publication *bundle.Bundle
	mark        []byte
	// problem is why, by what it is about.
	problem map[string]string
}

// save replaces a state file. What cannot be written is tried again every second:
// what is served does not depend on it, but a restart does.
func (c *Control) save(path string, content []byte) error {
	c.saving.Lock()
	defer c.saving.Unlock()
	return c.write(path, content)
}

// write is save for who holds saving.
func (c *Control) write(path string, content []byte) error {
	err := atomicfile.Write(path, content, 0o600)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.unkept.files[path], c.unkept.problem[path] = content, err.Error()
		return err
	}
	delete(c.unkept.files, path)
	delete(c.unkept.problem, path)
	return nil
}

// saveKill is save for a publication that stops somebody. If the disk is full, the
// reserve makes room for it.
func (c *Control) saveKill(path string, sealed []byte) {
	err := c.save(path, sealed)
	if (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)) && os.Remove(c.reserveFile()) == nil {
		err = c.save(path, sealed)
	}
	if err != nil {
		c.cfg.Log.Error("keep who is killed", "file", path, "error", err)
	}
}

// reserve keeps as much of the disk as a kill takes: twice what is live, since the
// old file and the new one are there at the same time, and some for what a kill adds.
func (c *Control) reserve() {
	live := c.bundle()
	if live == nil || c.unkeptNow() != "" {
		return // what waits for room comes first
	}
	size := int64(2*len(live.Sealed()) + 16<<10)
	if info, err := os.Stat(c.reserveFile()); err == nil && info.Size() >= size {
		return
	}
	f, err := os.OpenFile(c.reserveFile(), os.O_CREATE|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return // tried again every second
	}
	defer f.Close()
	// Not a file with holes, which keeps nothing.
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
		_ = os.Remove(c.reserveFile())
	}
}

// commit puts what was staged in the place of a state file, instead of what was owed.
func (c *Control) commit(path string, staged *atomicfile.Staged) error {
	c.saving.Lock()
	defer c.saving.Unlock()
	if err := staged.Commit(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.unkept.files, path)
	delete(c.unkept.problem, path)
	return nil
}

// storeKey is the store's key in unkept.problem.
const storeKey = "store"

// pay writes down what could not be written, and puts back what was lost, every
// second and when there is something new, until ctx is done. A disk that hangs holds
// up nothing else.
func (c *Control) pay(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-c.owed:
		}
		c.payFiles()
		c.payStore(ctx)
		c.reserve()
		_, err := os.Stat(c.nodesFile())
		if lost := errors.Is(err, fs.ErrNotExist) && len(c.ledger.Status()) > 0; lost || c.ledger.TakeUnsaved() {
			if err := c.saveNodes(); err != nil {
				c.cfg.Log.Error("keep which nodes there are", "error", err)
			}
		}
	}
}

func (c *Control) payFiles() {
	c.saving.Lock()
	defer c.saving.Unlock()
	c.mu.Lock()
	files := maps.Clone(c.unkept.files)
	c.mu.Unlock()
	for path, content := range files {
		if c.write(path, content) == nil {
			c.cfg.Log.Info("what could not be written is written", "file", path)
		}
	}
}

// owe makes sure that the store has a publication that we were told of.
func (c *Control) owe(b *bundle.Bundle, mark []byte) {
	c.mu.Lock()
	c.unkept.publication, c.unkept.mark = b, mark
	c.mu.Unlock()
	select {
	case c.owed <- struct{}{}:
	default:
	}
}

// payStore puts into the store what it lacks.
func (c *Control) payStore(ctx context.Context) {
	c.mu.Lock()
	b, mark := c.unkept.publication, c.unkept.mark
	c.mu.Unlock()
	if b == nil {
		return
	}
	err := c.store.Keep(ctx, b, mark)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil:
		c.unkept.problem[storeKey] = err.Error()
	case c.unkept.publication == b:
		c.unkept.publication, c.unkept.mark = nil, nil
		delete(c.unkept.problem, storeKey)
	}
}

// unkeptNow is what could not be written down, for people; "" if nothing.
func (c *Control) unkeptNow() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unkeptProblem()
}

// unkeptProblem is unkeptNow for who holds mu.
func (c *Control) unkeptProblem() string {
	for _, problem := range c.unkept.problem {
		return "the live publication could not be saved, so a restart would not know it: " + problem + "; it is tried again every second"
	}
	return ""
}
