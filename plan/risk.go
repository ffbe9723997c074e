package plan

import (
	"fmt"
	"slices"
	"strings"
)

// Risk says how much a change opens, for people who have little time.
type Risk string

// The risks, the worst first.
const (
	// RiskHigh: new places for data or secrets to go that are wide, uninspected or hard to take
	// back: wildcards, tunnels, credentials at new hosts or with new requests, the agent's own
	// credentials, denials that end, writing to a new place.
	RiskHigh Risk = "high"
	// RiskMedium: new hosts to read from, wider paths, longer times, higher limits.
	RiskMedium Risk = "medium"
	// RiskLow: less access, the same access under another name, descriptions.
	RiskLow Risk = "low"
)

var risks = []Risk{RiskHigh, RiskMedium, RiskLow}

// Line returns [Change.String], followed by the risk and its reason unless the risk is low.
func (c Change) Line() string {
	if c.Risk == RiskLow {
		return c.String()
	}
	return fmt.Sprintf("%s  [%s: %s]", c, c.Risk, c.Why)
}

// assessment collects why a change is risky.
type assessment struct {
	risk Risk
	why  []string
}

func (a *assessment) add(r Risk, format string, args ...any) {
	if a.risk == "" || slices.Index(risks, r) < slices.Index(risks, a.risk) {
		a.risk = r
	}
	if why := fmt.Sprintf(format, args...); !slices.Contains(a.why, why) {
		a.why = append(a.why, why)
	}
}

// on puts the assessment on a change. Without a reason the risk is low.
func (a assessment) on(c Change) Change {
	c.Risk, c.Why = a.risk, strings.Join(a.why, "; ")
	switch {
	case c.Risk != "":
	case c.Kind == "-":
		c.Risk, c.Why = RiskLow, "less access"
	default:
		c.Risk, c.Why = RiskLow, "nothing that was not allowed already"
	}
	return c
}

// IsWrite reports whether a method serves to change something.
func IsWrite(method string) bool {
	return !slices.Contains([]string{"GET", "HEAD", "OPTIONS", "PROPFIND", "REPORT", "SEARCH", "QUERY"}, method)
}

// writes reports whether requests of the rule with a method serve to change something. Requests for
// a WebSocket, which is two-way, always do.
func (r *Rule) writes(method string) bool { return IsWrite(method) || r.upgrades() }

// upgrades reports whether the rule asks for a WebSocket. That one that asks for
// nothing lets them open, too, is not said of each.
func (r *Rule) upgrades() bool {
	return slices.ContainsFunc(r.Headers, func(c Condition) bool { return c.Name == "upgrade" })
}

// Writes reports whether the rule lets an agent change something, or pass something unread.
func (r *Rule) Writes() bool { return r.Mode == ModeTunnel || slices.ContainsFunc(r.Methods, r.writes) }

// gains describes what a rule that allows lets an agent do that the agent could not do before.
func gains(r *Rule, was *Agent) assessment {
	var a assessment
	// As far as they counted: a wildcard's tunnel does not, where a nearer rule intercepts.
	there := slices.DeleteFunc(was.Covering(r.Host, r.Port), func(h Rule) bool { return h.Deny })
	known := func(is func(*Rule) bool) bool {
		return slices.ContainsFunc(there, func(h Rule) bool { return is(&h) })
	}
	wildcard := strings.HasPrefix(r.Host, "*.")
	writes := slices.ContainsFunc(r.Methods, r.writes)
	switch {
	case len(there) == 0 && wildcard:
		a.add(RiskHigh, "every name below %s is new", strings.TrimPrefix(r.Host, "*."))
	case len(there) == 0 && r.Mode != ModeTunnel && writes:
		a.add(RiskHigh, "%s is a new host, to write to as well", r.Host)
	case len(there) == 0:
		a.add(RiskMedium, "%s is a new host", r.Host)
	}
	if r.Mode == ModeTunnel {
		if !known(func(h *Rule) bool { return h.Mode == ModeTunnel }) {
			a.add(RiskHigh, "%s", tunnelled)
		}
	} else if len(there) > 0 {
		a.requests(r, there)
	}
	if r.Credential != "" {
		with := slices.DeleteFunc(slices.Clone(there), func(h Rule) bool { return h.Credential != r.Credential })
		switch {
		case len(with) == 0:
			a.add(RiskHigh, "credential %s reaches %s", r.Credential, r.Host)
		case r.Mode != ModeTunnel && !slices.ContainsFunc(with, func(h Rule) bool { return h.includesAll(r) }):
			a.add(RiskHigh, sentWithMore, r.Credential)
		}
	}
	if plain := func(h *Rule) bool { return h.Upstream != nil && h.Upstream.Plain }; plain(r) && !known(plain) {
		a.add(RiskHigh, "%s is reached over plain HTTP: nothing is encrypted, and nobody verifies who answers", r.Host)
	}
	if r.OwnCredentials && !known(func(h *Rule) bool { return h.OwnCredentials }) {
		a.add(RiskHigh, "%s", ownPass)
	}
	return a
}

const (
	tunnelled = "a tunnel: nothing that passes is seen"
	ownPass   = "the agent's own credentials pass"
	// sentWithMore names a credential. Whoever holds it may do more than whoever holds none.
	sentWithMore = "credential %s is sent with more requests"
)

// requests describes which requests to a known host are new.
func (a *assessment) requests(r *Rule, there []Rule) {
	var methods, paths []string
	longer, writes := false, false
	for _, m := range r.Methods {
		for _, p := range r.Paths {
			any, lasting := false, false
			for i := range there {
				h := &there[i]
				if h.includes(m, p, r) {
					any = true
					lasting = lasting || h.Expires == "" || r.Expires != "" && r.Expires <= h.Expires
				}
			}
			switch {
			case !any:
				if !slices.Contains(methods, m) {
					methods = append(methods, m)
				}
				if !slices.Contains(paths, p) {
					paths = append(paths, p)
				}
				writes = writes || r.writes(m)
			case !lasting:
				longer = true
			}
		}
	}
	switch {
	case writes && r.upgrades():
		a.add(RiskHigh, "new: to write (WebSockets) at %s", strings.Join(paths, ", "))
	case writes:
		a.add(RiskHigh, "new: to write (%s) at %s", words(methods), strings.Join(paths, ", "))
	case len(methods) > 0:
		a.add(RiskMedium, "new: to %s at %s", words(methods), strings.Join(paths, ", "))
	case longer && r.Expires == "":
		a.add(RiskMedium, "it no longer expires")
	case longer:
		a.add(RiskMedium, "it lasts longer, until %s", r.Expires)
	}
}

func words(methods []string) string {
	if slices.Contains(methods, AnyMethod) {
		return "every method"
	}
	return strings.Join(methods, ", ")
}

// includes reports whether h matches every request with this method and path
// pattern that the conditions of r let through.
func (r *Rule) includes(method, pattern string, other *Rule) bool {
	if !slices.Contains(r.Methods, method) && !slices.Equal(r.Methods, []string{AnyMethod}) {
		return false
	}
	return slices.ContainsFunc(r.Paths, func(p string) bool { return within(pattern, p) }) &&
		implied(r.Query, other.Query) && implied(r.Headers, other.Headers)
}

// implied reports whether conditions follow from others.
func implied(conditions, others []Condition) bool {
	return !slices.ContainsFunc(conditions, func(c Condition) bool {
		return !slices.ContainsFunc(others, func(o Condition) bool { return o == c || c.Present && o.Name == c.Name })
	})
}

// within reports whether every path that the first pattern matches is matched
// by the second. It may say no where that is hard to see.
func within(pattern, wide string) bool {
	p, err := ParsePath(pattern)
	w, err2 := ParsePath(wide)
	switch {
	case err != nil || err2 != nil:
		return false
	case pattern == wide || w.any:
		return true
	case p.any || p.rest && !w.rest || len(p.segments) < len(w.segments) || !w.rest && len(p.segments) > len(w.segments):
		return false
	}
	for i, s := range p.segments {
		switch {
		case i >= len(w.segments):
			if s != "*" && !isPlain(s) {
				return false
			}
		case w.segments[i] == s:
		case w.segments[i] != "*" || s == "" || !isPlain(s):
			return false
		}
	}
	return p.rest || !w.rest || len(p.segments) > len(w.segments)
}

// loses describes what is allowed once an agent lacks a rule that denied.
func loses(deny *Rule, is *Agent) assessment {
	var a assessment
	for _, r := range is.Rules {
		switch {
		case r.Deny && r.Port == deny.Port && r.Covers(deny.Host) && r.Expires == "" && r.includesAll(deny):
			return assessment{} // another one does it
		case !r.Deny && r.Port == deny.Port && (r.Covers(deny.Host) || deny.Covers(r.Host)) && len(a.why) == 0:
			a.add(RiskHigh, "%s now allows what it denied", r.ID)
		}
	}
	return a
}

func (r *Rule) includesAll(other *Rule) bool {
	for _, m := range other.Methods {
		for _, p := range other.Paths {
			if !r.includes(m, p, other) {
				return false
			}
		}
	}
	return true
}

// uncovers describes what starts to count when an agent lacks a rule that allowed: wildcards that
// did not count because their mode was another. [takeovers] describes what else they decide now.
func uncovers(gone *Rule, was, is *Agent) assessment {
	var a assessment
	mode := ModeOf(was.Covering(gone.Host, gone.Port))
	if !slices.ContainsFunc(was.Rules, func(r Rule) bool {
		return !r.Deny && r.Port == gone.Port && r.Covers(gone.Host) && r.Mode != mode
	}) {
		return a
	}
	for _, r := range is.Covering(gone.Host, gone.Port) {
		if r.Deny {
			continue
		}
		here := r
		here.Host = gone.Host
		for _, why := range gains(&here, was).why {
			a.add(RiskHigh, "%s, by %s", why, r.ID)
		}
	}
	return a
}

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
