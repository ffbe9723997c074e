package xds

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postern/postern/bundle"
)

// keepAuthority replaces the intermediates when they are due, until ctx is done. It runs apart from
// everything else and holds no lock meanwhile: a key in a cloud that does not answer delays no
// kill.
func (c *Control) keepAuthority(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			c.renewAuthority(now)
		}
	}
}

// renewAuthority tries once. If the CA's key is unavailable, the existing intermediates stay in use
// until they end, and status reports this.
func (c *Control) renewAuthority(now time.Time) {
	err := c.mint.Renew(now)
	c.mu.Lock()
	reporter := c.reporter
	c.mu.Unlock()
	if reporter != nil && reporter.Due(now) {
		next, failed := bundle.NewReporter(c.cfg.Stack, c.root, c.key, now)
		if failed == nil {
			reporter = next
		} else {
			err = errors.Join(err, fmt.Errorf("the authority's key cannot be used: %w", failed))
		}
	}
	problem := ""
	if err != nil {
		problem = err.Error()
		c.cfg.Log.Error("renew the intermediate authorities", "problem", problem)
	}
	c.mu.Lock()
	c.caProblem, c.reporter = problem, reporter
	c.mu.Unlock()
}
