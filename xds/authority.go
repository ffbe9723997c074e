package xds

import (
	"context"
	"fmt"
	"time"
)

// keepAuthority makes the intermediates anew when they are due, until ctx is
// done. It is apart from everything else, and holds no lock meanwhile: a key in a
// cloud that does not answer keeps nobody from a kill.
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

// renewAuthority tries once. If the CA's key cannot be used, the intermediates
// that there are go on until they end; status tells.
func (c *Control) renewAuthority(now time.Time) {
	c.mu.Lock()
	hosts := c.leaves.Hosts()
	c.mu.Unlock()
	problem := ""
	if err := c.ca.renew(hosts, now); err != nil {
		problem = fmt.Sprintf("the agents' certificates cannot be renewed, and end at %s: %v", c.ca.until().UTC().Format(time.RFC3339), err)
		c.cfg.Log.Error("renew the intermediate authorities", "problem", problem)
	}
	c.mu.Lock()
	c.caProblem = problem
	c.mu.Unlock()
}
