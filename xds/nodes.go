package xds

import (
	"errors"
	"sort"
	"time"

	"github.com/postern/postern/svid"
	"github.com/postern/postern/xds/state"
)

// AddNode accepts the node from now on, also after a restart.
func (c *Control) AddNode(id string) error {
	c.rollout.Lock()
	defer c.rollout.Unlock()
	if b := c.bundle(); b != nil && c.cfg.Prepare != nil {
		if err := c.cfg.Prepare(id, b.Plan); err != nil {
			return err
		}
	}
	c.ledger.Allow(id)
	return c.saveNodes()
}

// RemoveNode refuses the node from now on, whatever its certificate. The other replicas learn it
// from this one's report to the store.
func (c *Control) RemoveNode(id string) error {
	c.rollout.Lock()
	defer c.rollout.Unlock()
	c.ledger.Remove(id)
	return c.saveNodes()
}

func (c *Control) saveNodes() error {
	ids := []string{}
	for _, n := range c.ledger.Status() {
		if !n.Joined {
			ids = append(ids, n.ID)
		}
	}
	sort.Strings(ids)
	if err := c.files.SaveJSON(state.Nodes, ids); err != nil {
		return err
	}
	return c.files.SaveJSON(state.Removed, c.ledger.Removals(time.Now()))
}

// Removed reports whether the node was removed, and may have no certificate.
func (c *Control) Removed(node string) bool { return c.ledger.Removed(node) }

// readNodes reads the list of nodes, and of removed nodes. A lost list of nodes does no harm: a
// node that runs here is recognised when it asks. The store lists the evicted nodes, and the other
// control planes report the removed ones.
func (c *Control) readNodes() error {
	var nodes []string
	if _, err := c.files.Read(state.Nodes, &nodes); err != nil && !errors.Is(err, state.ErrDamaged) {
		return err
	}
	for _, id := range nodes {
		if svid.IsNode(id) {
			c.ledger.Allow(id)
		}
	}
	removed := map[string]time.Time{}
	_, err := c.files.Read(state.Removed, &removed)
	if errors.Is(err, state.ErrDamaged) && c.cfg.Fleet != nil {
		c.damaged = "the list of removed nodes was damaged: a node that was removed in the last days, and not by " +
			"`postern evict`, may be back; " +
			"evict such a node again: `postern evict NODE`"
	}
	if err != nil && !errors.Is(err, state.ErrDamaged) {
		return err
	}
	c.ledger.Restore(removed)
	return nil
}

// vouch reports whether the node runs on this machine. If so, it prepares what the node needs here.
func (c *Control) vouch(node string) bool {
	if c.cfg.Local == nil || !c.cfg.Local(node) {
		return false
	}
	if b := c.bundle(); b != nil && c.cfg.Prepare != nil {
		if err := c.cfg.Prepare(node, b.Plan); err != nil {
			c.cfg.Log.Error("prepare a node", "node", node, "error", err)
			return false
		}
	}
	return true
}
