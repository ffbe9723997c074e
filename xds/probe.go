package xds

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/plan"
)

// unhealthyError is a node that has acknowledged everything and does not serve.
type unhealthyError struct {
	node string
	err  error
}

func (e *unhealthyError) Error() string {
	return fmt.Sprintf("node %s has acknowledged the version and does not serve: %v", e.node, e.err)
}

func (e *unhealthyError) Unwrap() error { return e.err }

// sick returns the connected nodes that do not serve what is live, before a roll-out. The roll-out
// did not break them, and they must not keep an operator from taking access away: they are logged
// and passed over.
func (c *Control) sick(ctx context.Context, live *plan.Plan) map[string]bool {
	out := map[string]bool{}
	if c.cfg.Probe == nil || live == nil {
		return out
	}
	for _, id := range c.ledger.Connected() {
		if err := c.cfg.Probe(ctx, id, live); err != nil {
			out[id] = true
			c.cfg.Log.Error("a node does not serve, and did not before this roll-out", "node", id, "error", err)
		}
	}
	return out
}

// probe asks the nodes that have acknowledged valid whether they serve it.
func (c *Control) probe(ctx context.Context, nodes []string, valid *plan.Plan, sick map[string]bool) error {
	if c.cfg.Probe == nil {
		return nil
	}
	for _, id := range nodes {
		if sick[id] || !c.ledger.Online(id) {
			continue
		}
		if err := c.cfg.Probe(ctx, id, valid); err != nil {
			return &unhealthyError{node: id, err: err}
		}
	}
	return nil
}

const (
	// probeEvery is the highest age of a probe's result that a status shows.
	probeEvery = time.Second
	// probeTimeout bounds one probe for a status.
	probeTimeout = time.Second
)

// probeResult is the result of a probe, and its time.
type probeResult struct {
	at      time.Time
	problem string
}

// probed says why a node that has acknowledged everything does not serve b. It returns "" if the
// node does.
func (c *Control) probed(node string, b *bundle.Bundle) string {
	if c.cfg.Probe == nil {
		return ""
	}
	c.mu.Lock()
	last := c.probes[node]
	c.mu.Unlock()
	if time.Since(last.at) < probeEvery {
		return last.problem
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	now := probeResult{at: time.Now()}
	// A killed agent need not be served.
	served := *c.leases.Valid(b.Plan, c.leases.Now())
	served.Agents = slices.DeleteFunc(slices.Clone(served.Agents),
		func(a plan.Agent) bool { return b.Killed.Agent(a.Name) })
	if err := c.cfg.Probe(ctx, node, &served); err != nil {
		now.problem = err.Error()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.probes[node] = now
	return now.problem
}
