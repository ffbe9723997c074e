package cache

import (
	"context"
	"fmt"

	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/postern/postern/xds/ledger"
)

// Converge waits until the given nodes, or all connected nodes if only is nil, have acknowledged
// all of version. The error is an *api.Rejection if a node refused it.
func (c *Cache) Converge(ctx context.Context, version string, only []string) error {
	var nodes []string
	// The nodes before next had acknowledged everything when they were looked at. Looking at a
	// thousand nodes after every change would take too long.
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
			// Each node has been found converged once. Now all are looked at together.
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

// behind returns the index of the first of nodes, beginning at from, that is connected and has not
// acknowledged everything; or the number of nodes.
func (c *Cache) behind(nodes []string, from int) int {
	for i, id := range nodes[from:] {
		if c.ledger.Online(id) && !c.Converged(id) {
			return from + i
		}
	}
	return len(nodes)
}

// Converged reports whether the node has acknowledged everything that is published. Types that the
// node need not ask for are excepted: secrets, and scopes as long as there is no listener.
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
