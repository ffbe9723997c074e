package bundle

import (
	"context"
	"maps"
	"time"
)

// evictedFor is the time for which an eviction is kept: longer than any certificate of a node is
// valid (svid.Lifetime).
const evictedFor = 72 * time.Hour

// Evict makes every control plane refuse the given nodes from now on, which are part of the stack
// by their certificates. Like [Operator.Kill], it is based on what is live and is never taken back.
// The nodes keep the secrets that they have.
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
