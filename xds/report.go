package xds

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/xds/api"
)

// What one report has at most, so that it is small (bundle.Report).
const maxRemoved, maxFleet, maxCredentials, maxBlamed = 200, 50, 50, 20

// readReports reads the reports that have changed.
func (c *Control) readReports(ctx context.Context, view *bundle.View) {
	f := &c.follower
	for id, tag := range view.Reports {
		if f.have[id] == tag {
			continue
		}
		r, err := c.store.ReadReport(ctx, id)
		if err != nil || r == nil {
			continue // the next look reads it
		}
		c.mu.Lock()
		f.have[id] = tag
		if !r.Time.Before(f.reports[id].Time) { // an older one was put back there
			f.reports[id] = *r
		}
		c.mu.Unlock()
	}
	c.adoptRemovals(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(f.have, func(id, _ string) bool { _, there := view.Reports[id]; return !there })
	maps.DeleteFunc(f.reports, func(id string, _ api.Replica) bool { _, there := view.Reports[id]; return !there })
}

// ahead returns a replica that reports a publication above newest, or "". A
// control plane that has just started, with nothing of its own, is not served an
// older policy by whoever can delete objects.
func (c *Control) ahead(newest uint64) (id string, seq uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(c.follower.reports)) {
		if r := c.follower.reports[id]; r.Seq > newest {
			return id, r.Seq
		}
	}
	return "", 0
}

// adoptRemovals refuses the nodes, too, that were removed at another replica.
func (c *Control) adoptRemovals(ctx context.Context) {
	removed := map[string]time.Time{}
	c.mu.Lock()
	for _, r := range c.follower.reports {
		maps.Copy(removed, r.Removed)
	}
	c.mu.Unlock()
	if c.ledger.Adopt(removed, time.Now()) {
		c.lockFor(ctx)
		defer c.rollout.Unlock()
		if err := c.saveNodes(); err != nil {
			c.cfg.Log.Error("keep which nodes were removed", "error", err)
		}
	}
}

// report writes our own report if it contains news, or is due.
func (c *Control) report(ctx context.Context, now time.Time) {
	s := c.Status() //nolint:contextcheck // its probes are bounded by themselves
	r := api.Replica{ID: c.cfg.Replica, Seq: s.Seq, Version: s.Version, Nodes: len(s.Nodes), Problem: s.Problem}
	if b := c.bundle(); b != nil && b.Seq == s.Seq {
		r.Hash = b.Hash()
	}
	r.Removed = c.ledger.Removals(now)
	for id := range r.Removed {
		if len(r.Removed) > maxRemoved {
			delete(r.Removed, id)
		}
	}
	for _, n := range s.Nodes {
		if n.Connected {
			r.Connected++
		}
	}
	r.Fleet, r.Credentials = fleet(s), slices.Clone(s.Credentials[:min(len(s.Credentials), maxCredentials)])
	for i := range r.Credentials {
		r.Credentials[i].Problem = short(r.Credentials[i].Problem)
	}
	if s.Rejected != nil {
		refused := *s.Rejected
		refused.Message = short(refused.Message)
		refused.Rules, refused.Agents = refused.Rules[:min(len(refused.Rules),
			maxBlamed)], refused.Agents[:min(len(refused.Agents), maxBlamed)]
		r.Rejected = &refused
	}
	f := &c.follower
	if f.failed > s.Seq {
		r.Failed, r.FailedHash = f.failed, f.failedHash
	}
	last := f.reported
	due := now.Sub(last.Time) >= bundle.Heartbeat
	if last.Time = r.Time; reflect.DeepEqual(last, r) && !due {
		return
	}
	r.Time = now.UTC()
	c.mu.Lock()
	by := c.reporter
	c.mu.Unlock()
	if err := c.store.Report(ctx, &r, by); err != nil {
		if ctx.Err() == nil {
			c.cfg.Log.Warn("report to the bundle store", "error", err)
		}
		return
	}
	f.reported = r
}

// fleet returns what a report says about the nodes. It leaves out the times of their
// acknowledgements, because a report would otherwise be due after each.
func fleet(s *api.Status) []api.Node {
	nodes := slices.Clone(s.Nodes)
	slices.SortStableFunc(nodes, func(a, b api.Node) int {
		fine := func(n api.Node) int {
			if n.Connected && n.Version == s.Version && n.Nack == "" {
				return 1
			}
			return 0
		}
		return fine(a) - fine(b)
	})
	nodes = nodes[:min(len(nodes), maxFleet)]
	for i := range nodes {
		n := &nodes[i]
		n.LastAck, n.Nack = time.Time{}, short(n.Nack)
		n.Types = slices.Clone(n.Types)
		for j := range n.Types {
			n.Types[j].AckedAt, n.Types[j].Nack = time.Time{}, short(n.Types[j].Nack)
		}
	}
	return nodes
}

// short is the beginning of a message: node's are theirs to choose.
func short(message string) string {
	const most = 200
	if len(message) <= most {
		return message
	}
	return strings.ToValidUTF8(message[:most], "") + "..."
}

// replicas are the reports, sorted. The caller holds mu.
func (c *Control) replicas(now time.Time) []api.Replica {
	var all []api.Replica
	for _, id := range slices.Sorted(maps.Keys(c.follower.reports)) {
		r := c.follower.reports[id]
		r.Stale = now.Sub(r.Time) > bundle.Stale
		all = append(all, r)
	}
	return all
}
