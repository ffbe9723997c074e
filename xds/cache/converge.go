package cache

import (
	"context"
	"fmt"

	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/postern/postern/xds/ledger"
)

// Converge waits until the given nodes, or all that are connected, have
// acknowledged all of version.
func (c *Cache) Converge(ctx context.Context, version string, only []string) error {
	var nodes []string
	// Those before next were done when they were looked at: with every change all
	// of a thousand would be too much.
	next, refusals := 0, -1
	for {
		changed := c.ledger.Next()
		if n := c.ledger.Refusals(); n != refusals {
			refusals = n
			if r := c.ledger.Rejection(version); r != nil {
				return r
			}
		}
		if next = c.behind(nodes, next); next == len(nodes) {
			// All have been done, one after the other; now all at once.
			nodes = only
			if nodes == nil {
				nodes = c.ledger.Connected()
			}
			if next = c.behind(nodes, 0); next == len(nodes) {
				return nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("node %s did not acknowledge version %s: %w", nodes[next], version, context.Cause(ctx))
		}
	}
}

// behind is the index of the first of nodes, from one on, that is connected and
// has not acknowledged everything, or their number.
func (c *Cache) behind(nodes []string, from int) int {
	for i, id := range nodes[from:] {
		if c.ledger.Online(id) && !c.Converged(id) {
			return from + i
		}
	}
	return len(nodes)
}

// Converged reports whether the node has acknowledged everything that is
// published. A type that it never asked for counts only if nothing can refer
// to it: secrets.
func (c *Cache) Converged(node string) bool {
	for _, k := range ledger.Kinds {
		optional := k.URL == resource.SecretType || c.Len(resource.ListenerType) == 0 &&
			k.URL == resource.ScopedRouteType
		parked := c.parked(node, k.URL)
		if asking, ok := c.ledger.Settled(node, k.URL, optional); !ok || asking != parked {
			return false
		}
	}
	return true
}
