package xds

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/bundle"
	"github.com/postern/postern/envoy"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/xds/api"
	"github.com/postern/postern/xds/cache"
	"github.com/postern/postern/xds/ledger"
	"github.com/postern/postern/xds/state"
)

// convergeTimeout bounds a roll-out: a node that has not acknowledged by then
// is not going to, and the version is taken back.
const convergeTimeout = 30 * time.Second

// rollBackTimeout bounds how long an answer waits for the roll-back.
const rollBackTimeout = 5 * time.Second

// Sync rolls out what the store holds: to one node first, then to all. See
// [api.Client.Sync].
func (c *Control) Sync(ctx context.Context) (*api.Converged, error) {
	c.lockFor(ctx)
	defer c.rollout.Unlock()
	b, err := c.store.Current(ctx)
	if err != nil {
		if !errors.Is(err, bundle.ErrNone) {
			c.meter.storeErrors.Inc()
		}
		return nil, err
	}
	return c.take(ctx, b)
}

// take rolls out b, which is the newest that we know. The caller holds rollout.
func (c *Control) take(ctx context.Context, b *bundle.Bundle) (*api.Converged, error) {
	start, now := time.Now(), c.leases.Now()
	ctx, span := c.cfg.Tracer.Start(ctx, "sync")
	defer span.End()
	before := c.bundle()
	was := before
	if before != nil && b.Seq < before.Seq {
		return nil, fmt.Errorf("the store shows publication %d as its newest, but %d was published already: it lost "+
			"something, or was put back to an older copy; nothing changes", b.Seq, before.Seq)
	}
	if before != nil && b.Seq == before.Seq && !bytes.Equal(b.Sealed(), before.Sealed()) {
		return nil, fmt.Errorf("the store holds a publication %d that is not the served one: somebody replaced it; "+
			"nothing changes", b.Seq)
	}
	version, err := b.Version()
	if err != nil {
		return nil, err
	}
	span.SetAttributes(attribute.String("postern.version", version), attribute.Int64("postern.seq", int64(b.Seq)))
	c.endLeases(before, c.liveVersion(), now)
	ctx, end := c.begin(ctx, b.Seq)
	defer end()
	ctx, cancel := context.WithTimeout(ctx, convergeTimeout)
	defer cancel()
	c.mu.Lock()
	c.wanted, c.rolling = version, start
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.rolling = time.Time{}
		c.mu.Unlock()
		select {
		case c.nudge <- struct{}{}:
		default:
		}
	}()
	c.ledger.Forgive(version)
	// First, and whatever becomes of the rest: what they refuse counts no more.
	if c.ledger.Adopt(b.Evicted, time.Now()) {
		if err := c.saveNodes(); err != nil {
			c.cfg.Log.Error("keep which nodes were removed", "error", err)
		}
	}
	if before != nil && !before.Killed.Includes(b.Killed) {
		if b.Killed.Includes(before.Killed) && version == c.liveVersion() &&
			maps.Equal(b.Generations, before.Generations) {
			return c.kill(ctx, before, b, version, start)
		}
		// Whatever becomes of the rest, and first.
		stopped := *before
		stopped.Killed = b.Killed.And(before.Killed)
		if err := c.serve(ctx, &stopped); err != nil {
			return nil, err
		}
		c.files.SaveKill(state.Kill, b.Sealed())
		before = &stopped
	}
	rolled := c.observe.rolling(ctx, start)
	var staged *atomicfile.Staged
	stage := make(chan error, 1)
	go func() { // while the nodes work
		var err error
		staged, err = c.files.Stage(state.Good, b.Sealed())
		stage <- err
	}()
	nodes, tried, err := c.roll(ctx, b, version, now)
	rolled()
	switch failed := <-stage; {
	case err == nil && failed == nil:
		// Before the version counts: the store takes back what is not said to be live.
		err = c.files.Commit(state.Good, staged)
	case failed == nil:
		err = errors.Join(err, staged.Discard())
	case err == nil:
		err = failed
	}
	result := resultOf(err)
	c.meter.published(result, time.Since(start))
	if err != nil {
		span.SetStatus(codes.Error, result)
		c.tell(Event{
			Kind: EventRefused, Time: time.Now().UTC(), Seq: b.Seq, Version: version, By: b.By, Detail: err.Error(),
		})
		if tried && before != nil {
			for _, name := range bundle.Losers(b.Plan, before.Plan) {
				c.tookBack[name] = fmt.Sprintf("-back-%d", b.Seq)
			}
		}
		if unbuilt := (*unbuiltError)(nil); errors.As(err, &unbuilt) {
			c.mu.Lock()
			c.wanted = c.version
			c.mu.Unlock()
		} else {
			c.rollBack(ctx, b.Seq, before)
		}
		refused := &api.Error{Message: err.Error() + "; the previous version stays live", Cause: err}
		if errors.As(err, &refused.Rejection) {
			r := refused.Rejection
			r.Rules, r.Agents = envoy.Blame(b.Plan, r.Message)
			c.mu.Lock()
			c.rejected = r
			c.mu.Unlock()
		}
		return nil, refused
	}
	c.ports.kill(b.Killed) // an agent that no longer is may have ports again
	c.mu.Lock()
	c.live, c.version, c.rejected, c.expiry = b, version, nil, b.Plan.NextExpiry(now)
	c.mu.Unlock()
	return c.done(was, b, version, nodes, start), nil
}

// kill serves b, by which nothing changes but that more agents are stopped, to
// every node at once, and never takes it back: neither a node that is late nor a
// disk that is full ends it.
func (c *Control) kill(ctx context.Context, before, b *bundle.Bundle, version string,
	start time.Time,
) (*api.Converged, error) {
	if err := c.serve(ctx, b); err != nil {
		return nil, err
	}
	c.files.SaveKill(state.Good, b.Sealed())
	v := c.reach(ctx, version, start)
	v.Seq = b.Seq
	result := resultConverged
	if v.Late != "" {
		result = resultTimeout
	}
	c.meter.publish.WithLabelValues(result).Observe(time.Since(start).Seconds())
	c.ledger.Notify()
	c.tellPublished(before, b, version)
	return v, nil
}

func (c *Control) done(before, b *bundle.Bundle, version string, nodes int, start time.Time) *api.Converged {
	took := time.Since(start)
	c.ledger.Notify()
	c.tellPublished(before, b, version)
	c.cfg.Log.Info("converged", "version", version, "nodes", nodes, "millis", took.Milliseconds())
	return &api.Converged{
		Seq: b.Seq, Version: version, Nodes: nodes, Millis: float64(took.Microseconds()) / 1000,
		Missing: c.ledger.Missing(), Confirmed: c.ledger.Connected(),
	}
}

// roll publishes b to the first node and, when that node has acknowledged all of it, to the others.
// Each step has two parts: first everything new or changed together with what will be removed, then
// the removal. So no node ever refers to something that it does not have. roll returns the number
// of nodes that acknowledged, and whether any node was sent something.
func (c *Control) roll(ctx context.Context, b *bundle.Bundle, version string,
	now time.Time,
) (nodes int, tried bool, err error) {
	valid, tables, err := c.tables(ctx, b, now)
	if err != nil {
		return 0, false, err
	}
	var sick map[string]bool
	if live := c.bundle(); live != nil {
		sick = c.sick(ctx, c.leases.Valid(live.Plan, now))
	}
	steps := []map[string]*cache.Table{tables}
	if both := c.cache.Union(tables); both != nil {
		steps = []map[string]*cache.Table{both, tables}
	}
	if nodes := c.ledger.Connected(); len(nodes) > 1 {
		for _, t := range steps {
			c.cache.PublishTo(nodes[0], version, t)
			if err := c.cache.Converge(ctx, version, nodes[:1]); err != nil {
				return 0, true, fmt.Errorf("canary %s: %w", nodes[0], err)
			}
		}
		if err := c.probe(ctx, nodes[:1], valid, sick); err != nil {
			return 0, true, fmt.Errorf("canary: %w", err)
		}
	}
	for _, t := range steps {
		c.cache.Publish(version, t)
		if err := c.cache.Converge(ctx, version, nil); err != nil {
			return 0, true, err
		}
	}
	all := c.ledger.Connected()
	if err := c.probe(ctx, all, valid, sick); err != nil {
		return 0, true, err
	}
	c.mint.Only(valid)
	return len(all), true, nil
}

// resultOf is the metric's word for how a roll-out ended.
func resultOf(err error) string {
	var sick *unhealthyError
	var rejected *api.Rejection
	switch {
	case err == nil:
		return resultConverged
	case errors.As(err, &rejected):
		return resultRejected
	case errors.As(err, &sick):
		return resultUnhealthy
	case errors.Is(err, context.DeadlineExceeded):
		return resultTimeout
	default:
		return resultFailed
	}
}

// rollBack serves before again instead of publication seq, and gives the nodes a moment to take it,
// unless the roll-out was interrupted. The agents of tookBack lose the connections that they have
// opened meanwhile.
func (c *Control) rollBack(ctx context.Context, seq uint64, before *bundle.Bundle) {
	why := interrupted(ctx)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollBackTimeout)
	defer cancel()
	err := c.serve(ctx, before)
	if err == nil && why == nil {
		waiting, end := c.begin(ctx, seq)
		defer end()
		err = c.cache.Converge(waiting, c.cache.Current(), nil)
	}
	if err != nil {
		c.cfg.Log.Error("roll back", "error", err)
	}
}

// serve publishes b, or nothing if it is nil, to every node at once, and does
// not wait for acknowledgement. It takes seconds at most, and ctx does not end it.
func (c *Control) serve(ctx context.Context, b *bundle.Bundle) error {
	ctx = context.WithoutCancel(ctx)
	version := ""
	served := &bundle.Bundle{Plan: &plan.Plan{}}
	if b != nil {
		var err error
		if version, err = b.Version(); err != nil {
			return err
		}
		served = b
	}
	c.ports.kill(served.Killed) // they need no node
	now := c.leases.Now()
	valid, tables, err := c.tables(ctx, served, now)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.live, c.version, c.wanted = b, version, version
	c.expiry = served.Plan.NextExpiry(now)
	c.mu.Unlock()
	c.mint.Only(valid)
	c.cache.Publish(version, tables)
	return nil
}

// unbuiltError is why no resources could be made of a plan. Nothing has changed for it.
type unbuiltError struct{ error }

func (e *unbuiltError) Unwrap() error { return e.error }

// tables builds and packs the resources of b as they are valid at a moment, with the secrets to
// which they refer. The returned plan is the valid part of b's plan.
func (c *Control) tables(ctx context.Context, b *bundle.Bundle,
	now time.Time,
) (*plan.Plan, map[string]*cache.Table, error) {
	_, span := c.cfg.Tracer.Start(ctx, "build")
	defer span.End()
	began := time.Now()
	defer func() { c.meter.build.Observe(time.Since(began).Seconds()) }()
	valid := c.leases.Valid(b.Plan, now)
	tables := map[string]*cache.Table{}
	for _, k := range ledger.Kinds {
		tables[k.URL] = cache.NewTable()
	}
	// Before anything changes: neither a secret nor a node is touched for a plan that cannot be built.
	var packed envoy.Packed
	if valid.Stack != "" {
		var err error
		if packed, err = c.memo.Build(valid, c.options(b, valid)); err != nil {
			return nil, nil, &unbuiltError{err}
		}
	}
	if err := c.secrets.Watch(ctx, needed(valid, b.Killed)); err != nil {
		return nil, nil, err
	}
	if valid.Stack == "" {
		return valid, tables, nil
	}
	if c.cfg.Prepare != nil {
		for _, n := range c.ledger.Status() {
			if n.Joined { // its folders are on its own machine
				continue
			}
			if err := c.cfg.Prepare(n.ID, valid); err != nil {
				return nil, nil, err
			}
		}
	}
	if err := c.mint.Also(valid, time.Now()); err != nil { // until one of both plans is live
		return nil, nil, err
	}
	for url, rs := range packed {
		tables[url] = cache.TableOf(rs, c.cache.Table(url))
	}
	errs := []error{c.sign(tables[resource.ClusterType])}
	errs = append(errs, c.addSecrets(tables[resource.SecretType], valid))
	return valid, tables, errors.Join(errs...)
}

// options returns the inputs of the resources besides the plan. An agent whose leases have ended
// has another generation than before.
func (c *Control) options(b *bundle.Bundle, valid *plan.Plan) envoy.Options {
	o := c.cfg.Envoy
	o.Generations = maps.Clone(b.Generations)
	if o.Generations == nil {
		o.Generations = map[string]string{}
	}
	for i, a := range b.Plan.Agents {
		if ended := endedOf(a, valid.Agents[i]); ended != "" {
			o.Generations[a.Name] += "-" + ended
		}
		o.Generations[a.Name] += c.tookBack[a.Name]
		if b.Killed.Agent(a.Name) {
			o.Killed = append(o.Killed, a.Name)
		}
	}
	return o
}

// endedOf names the set of ended leases that gave an agent something, or returns "" if there is
// none. An agent loses nothing when a denial ends.
func endedOf(a, valid plan.Agent) string {
	if len(a.Rules) == len(valid.Rules) {
		return ""
	}
	left := map[string]bool{}
	for i := range valid.Rules {
		left[valid.Rules[i].ID] = true
	}
	ended, any := sha256.New(), false
	for i := range a.Rules {
		if r := &a.Rules[i]; !r.Deny && !left[r.ID] {
			fmt.Fprintf(ended, "%s %s\n", r.ID, r.Expires)
			any = true
		}
	}
	if !any {
		return ""
	}
	return hex.EncodeToString(ended.Sum(nil)[:4])
}

// expire serves the live plan again if one of its rules has ended.
func (c *Control) expire(ctx context.Context) {
	now := c.leases.Now()
	c.mu.Lock()
	due := !c.expiry.IsZero() && !now.Before(c.expiry)
	c.mu.Unlock()
	if !due {
		return
	}
	c.lockForLease()
	defer c.rollout.Unlock()
	if b := c.bundle(); b != nil {
		if err := c.serve(ctx, b); err != nil {
			c.cfg.Log.Error("end leases", "error", err)
			return
		}
		c.endLeases(b, c.cache.Current(), now)
	}
}
