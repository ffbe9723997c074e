package bundle

import (
	"context"
	"maps"
	"time"
)

// evictedFor is for how long an eviction is kept: longer than any certificate of
// a node is valid (svid.Lifetime).
const evictedFor = 72 * time.Hour

// Evict has every control plane refuse the nodes, which are part of the stack by
// their certificates, from now on. Like [Operator.Kill] it is based on what is
// live, and never taken back. What secrets they have they keep.
func (o *Operator) Evict(ctx context.Context, nodes []string) (*Outcome, error) {
	return o.impose(ctx, func(before *Bundle) (*Bundle, error) {
		now := time.Now().UTC()
		next := *before
		next.Evicted = maps.Clone(before.Evicted)
		if next.Evicted == nil {
			next.Evicted = map[string]time.Time{}
		}
		maps.DeleteFunc(next.Evicted, func(_ string, at time.Time) bool { return now.Sub(at) > evictedFor })
		for _, n := range nodes {
			next.Evicted[n] = now
		}
		return &next, nil
	})
}
