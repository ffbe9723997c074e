package xds

// Renew is what the control plane does when leaf certificates are due.
func (c *Control) Renew() { c.refresh(true) }
