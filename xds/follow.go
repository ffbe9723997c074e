package xds

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/xds/api"
)

const (
	// glance is the interval at which a store that is otherwise read less often is asked only for
	// the next publication. A kill must end access within a second, and listing a bucket costs a
	// dozen times as much as asking for one object.
	glance = 250 * time.Millisecond
	// arrival is the time for which the mark of a new publication is looked for.
	arrival = 3 * time.Second
	// slow is the time after which a store that does not answer is reported as a problem.
	slow = 3 * time.Second
	// unfinished is the time after which a publication that is not proven counts as abandoned by
	// its publisher.
	unfinished = 90 * time.Second
	// A publication that did not converge is tried again after firstRetry, then
	// after twice that, up to lastRetry: a refusal seldom goes away by itself.
	firstRetry, lastRetry = 5 * time.Second, 5 * time.Minute
)

// follower is what a control plane knows about its store. Only follow uses it; Status also reads
// asked, problem and reports, under Control.mu.
type follower struct {
	// asked is the time at which the look in progress began, or zero.
	asked time.Time
	// problem says why the newest publication in the store is not served.
	problem string
	// reports are the replicas', by the tags in have.
	reports map[string]api.Replica
	have    map[string]string
	// reported is our own report, as it was written last.
	reported api.Replica
	// tag identifies the newest object at the last look. seen is the time since which it has been
	// the newest.
	tag  string
	seen time.Time
	// last is the newest number at the last look. arriving is set while its mark may come any
	// moment.
	last     uint64
	arriving bool
	// checked is the tag of the object that was read. newest or broken is the result.
	checked string
	newest  *bundle.Bundle
	broken  error
	// failed and failedHash are the number and hash of the publication that did not converge. It is
	// tried again at retry, after wait. If a number was withdrawn and taken again, the new
	// publication does not wait: it may be a kill.
	failed     uint64
	failedHash string
	retry      time.Time
	wait       time.Duration
}

// follow looks into the store until ctx is done. It takes what is proven, or what this replica is
// to try, and reports in status what is wrong with the rest.
func (c *Control) follow(ctx context.Context) {
	tick, peek := time.NewTicker(c.store.Interval()), time.NewTicker(glance)
	defer tick.Stop()
	defer peek.Stop()
	for {
		now := time.Now()
		c.mu.Lock()
		c.follower.asked = now
		c.mu.Unlock()
		problem := c.look(ctx, now)
		c.mu.Lock()
		said := c.follower.problem
		c.follower.asked, c.follower.problem = time.Time{}, problem
		c.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return
		case problem == said:
		case problem == "":
			c.cfg.Log.Info("what is published is served again")
		default:
			c.cfg.Log.Error("what is published is not served", "problem", problem)
		}
		if c.cfg.Replica != "" {
			c.report(ctx, time.Now())
		}
		for due := false; !due; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				due = true
			case <-c.nudge:
				due = true
			case <-peek.C:
				due = c.store.Interval() > glance && (c.follower.arriving || c.store.Has(ctx, c.follower.last+1))
			}
		}
	}
}

// look reads the store once, and takes what may be taken. It returns the problem.
func (c *Control) look(ctx context.Context, now time.Time) string {
	view, err := c.store.Look(ctx)
	if err != nil {
		if ctx.Err() == nil {
			c.meter.storeErrors.Inc()
		}
		return fmt.Sprintf("%v; %s", err, c.kept())
	}
	f := &c.follower
	f.last, f.arriving = view.Newest, false
	if c.cfg.Replica != "" {
		c.readReports(ctx, view)
	}
	live := c.bundle()
	serving := uint64(0)
	if live != nil {
		serving = live.Seq
	}
	if view.Newest < serving {
		return fmt.Sprintf("the store shows publication %d as its newest, but %d was published already: it lost "+
			"something, or was put back to an older copy; %s; publish again (`postern push`)",
			view.Newest, serving, c.kept())
	}
	if id, seq := c.ahead(view.Newest); id != "" {
		return fmt.Sprintf("the store shows publication %d as its newest, but control plane %s serves %d: it lost "+
			"something, or was put back to an older copy; %s; publish again (`postern push`)",
			view.Newest, id, seq, c.kept())
	}
	if view.Newest == 0 {
		return ""
	}
	if f.tag != view.Tag {
		f.tag, f.seen = view.Tag, now
		if view.Newest > serving && view.Proven < view.Newest && !view.Try {
			f.arriving = true
			return "" // somebody publishes right now; the next look will do
		}
	}
	f.arriving = view.Proven < view.Newest && now.Sub(f.seen) < arrival
	if f.checked != view.Tag {
		f.newest, f.broken = c.store.Get(ctx, view.Newest)
		f.checked = view.Tag
	}
	if f.broken != nil {
		f.checked = "" // a newly trusted key may change the result
		return fmt.Sprintf("%v; %s; remove that object, or publish again (`postern push`)", f.broken, c.kept())
	}
	if view.Newest == serving {
		if !bytes.Equal(f.newest.Sealed(), live.Sealed()) {
			return fmt.Sprintf("the store holds a publication %d that is not the served one: somebody replaced it; "+
				"%s; publish again (`postern push`)", serving, c.kept())
		}
		return ""
	}
	b, err := c.candidate(ctx, view, serving)
	if err != nil {
		return fmt.Sprintf("%v; %s", err, c.kept())
	}
	if b == nil {
		if now.Sub(f.seen) > unfinished {
			return fmt.Sprintf("publication %d of %s never converged anywhere, and was not taken back; %s; publish "+
				"again (`postern push`)", view.Newest, f.newest.By, c.kept())
		}
		return f.problem
	}
	if f.failed == b.Seq && now.Before(f.retry) && f.failedHash == b.Hash() {
		return f.problem
	}
	return c.adopt(ctx, b)
}

// candidate is the publication that a control plane may take without being told: the newest that is
// proven, or one that it is asked to try.
func (c *Control) candidate(ctx context.Context, view *bundle.View, serving uint64) (*bundle.Bundle, error) {
	newest := c.follower.newest
	if view.Try && c.cfg.Replica != "" && view.Proven < view.Newest {
		if who, err := c.store.Tries(ctx, newest); err != nil || who == c.cfg.Replica {
			return newest, err
		}
	}
	if view.Proven <= serving {
		return nil, nil
	}
	b := newest
	if view.Proven != view.Newest {
		var err error
		if b, err = c.store.Get(ctx, view.Proven); err != nil {
			return nil, err
		}
	}
	return b, c.store.Proven(ctx, b)
}

// adopt takes a publication that nobody has told us about.
func (c *Control) adopt(ctx context.Context, b *bundle.Bundle) string {
	c.lockFor(ctx)
	defer c.rollout.Unlock()
	if live := c.bundle(); live != nil && live.Seq >= b.Seq {
		return "" // we were told meanwhile
	}
	defer c.hurrying(ctx)()
	f := &c.follower
	_, err := c.take(ctx, b)
	if err == nil {
		c.cfg.Log.Info("took what the store holds", "seq", b.Seq, "by", b.By)
		f.failed, f.wait = 0, 0
		return ""
	}
	if stopped := (*interruptedError)(nil); errors.As(err, &stopped) {
		return fmt.Sprintf("publication %d: %v", b.Seq, err) // not a failure of the publication: it is tried again at once
	}
	if f.failed != b.Seq || f.failedHash != b.Hash() {
		f.wait = firstRetry
	} else {
		f.wait = min(2*f.wait, lastRetry)
	}
	f.failed, f.failedHash, f.retry = b.Seq, b.Hash(), time.Now().Add(f.wait)
	return fmt.Sprintf("publication %d: %v", b.Seq, err)
}

// kept says what is served instead.
func (c *Control) kept() string {
	if b := c.bundle(); b != nil {
		return fmt.Sprintf("publication %d stays live", b.Seq)
	}
	return "nothing is served; nodes keep what they have"
}

// problem says what is wrong at the moment, for people. The caller holds mu.
func (c *Control) problem(now time.Time) string {
	problems := []string{c.storeProblem(now), c.unkeptProblem(), c.damaged, c.caProblem}
	return strings.Join(slices.DeleteFunc(problems, func(p string) bool { return p == "" }), "; ")
}

// storeProblem says what is wrong with the store. The caller holds mu.
func (c *Control) storeProblem(now time.Time) string {
	if at := c.follower.asked; c.follower.problem == "" && !at.IsZero() && now.Sub(at) > slow {
		if !c.rolling.IsZero() {
			return ""
		}
		return fmt.Sprintf("the bundle store has not answered for %s", now.Sub(at).Round(time.Second))
	}
	return c.follower.problem
}
