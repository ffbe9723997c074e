package plan

// Widens reports whether replacing was by r takes nothing from an agent. It does so if r allows
// everything that was allowed, in the same way and for as long, with limits that are not lower. In
// doubt it reports false.
func (r *Rule) Widens(was *Rule) bool {
	if r.Deny || was.Deny {
		said := *r
		said.Reason, said.Owner = was.Reason, was.Owner // they are for people
		return said.Equal(was)
	}
	return r.ID == was.ID && r.Host == was.Host && r.Port == was.Port && r.Mode == was.Mode &&
		r.Credential == was.Credential && r.OwnCredentials == was.OwnCredentials && r.Gateway == was.Gateway && same(r.Upstream, was.Upstream) &&
		r.includesAll(was) && r.Limits.noLower(was.Limits) &&
		(r.Expires == "" || was.Expires != "" && r.Expires >= was.Expires)
}

// noLower reports whether every use within the limits of was is also within the limits of l.
func (l *Limits) noLower(was *Limits) bool {
	if l == nil || was == nil {
		return l == nil
	}
	lower := func(now, old uint64) bool { return now > 0 && (old == 0 || now < old) }
	return !lower(uint64(l.Requests), uint64(was.Requests)) && (l.Requests == 0 || l.Per <= was.Per) &&
		!lower(uint64(l.Concurrent), uint64(was.Concurrent)) && !lower(l.Body, was.Body) && !lower(l.Upload, was.Upload) && !lower(l.Download, was.Download)
}
