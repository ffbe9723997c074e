package xds

// Renew is what the control plane does when leaf certificates are due.
func (c *Control) Renew() { c.refresh(true) }

// Kick is what happens when a secret has changed.
func (c *Control) Kick() { c.kick <- struct{}{} }
