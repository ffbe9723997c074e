package plan

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// takeovers describes, for the rules that are added, removed or changed from was to is, the
// requests that were allowed and that another rule decides now: what is sent with them, where they
// go, and how many there may be. In doubt it describes something that cannot happen.
func takeovers(was, is *Agent) map[string]*assessment {
	before, after := byID(was), byID(is)
	differs := func(r Rule) bool {
		o, n := before[r.ID], after[r.ID]
		return o == nil || n == nil || !o.Equal(n)
	}
	out := map[string]*assessment{}
	on := func(id string) *assessment {
		if out[id] == nil {
			out[id] = &assessment{}
		}
		return out[id]
	}
	var changed []Rule
	for _, r := range slices.Concat(was.Rules, is.Rules) {
		if differs(r) {
			changed = append(changed, r)
		}
	}
	destinations(near(was, changed), near(is, changed), func(host string, old, now []Rule) {
		all := slices.Concat(now, old)
		first := slices.IndexFunc(all, differs)
		if first < 0 {
			return // their order differs, which is a change of its own
		}
		change := &all[first]
		at := ""
		if change.Host != host {
			at = " at " + host
		}
		on(change.ID).rate(RequestLimit(old), RequestLimit(now), at)
		for j := range now {
			n := &now[j]
			for i := range old {
				o := &old[i]
				if o.Deny || n.Deny || o.treats(n) || !o.overlaps(n) {
					continue
				}
				if first := slices.Concat(old[:i], now[:j]); o.hidden(first) || n.hidden(first) {
					continue
				}
				switch {
				case differs(*n):
					on(n.ID).takes(o, n, host, old, "")
				case differs(*o):
					on(o.ID).takes(o, n, host, old, ", by "+n.ID)
				default: // their mode counts since another rule came or went
					on(change.ID).takes(o, n, host, old, ", by "+n.ID)
				}
			}
		}
	})
	return out
}

// treats reports whether what r decides is treated as what o decides.
func (r *Rule) treats(o *Rule) bool {
	return r.Mode == o.Mode && r.Credential == o.Credential && r.OwnCredentials == o.OwnCredentials && same(r.Upstream, o.Upstream) && same(r.Limits, o.Limits)
}

// takes describes what changes for requests to a host which one of the rules old decided, and which
// n decides from now on.
func (a *assessment) takes(was, n *Rule, host string, old []Rule, by string) {
	switch {
	case n.Credential == "" || n.Credential == was.Credential:
	case by != "": // as that rule said before
		a.add(RiskMedium, "what it decided, %s may now, with credential %s", n.ID, n.Credential)
	case slices.ContainsFunc(old, func(r Rule) bool { return r.Credential == n.Credential }):
		a.add(RiskHigh, sentWithMore, n.Credential)
	default:
		a.add(RiskHigh, "credential %s reaches %s", n.Credential, host)
	}
	if n.Mode == ModeTunnel && was.Mode != ModeTunnel {
		a.add(RiskHigh, "%s%s", tunnelled, by)
	}
	if n.OwnCredentials && !was.OwnCredentials {
		a.add(RiskHigh, "%s%s", ownPass, by)
	}
	if !same(was.Upstream, n.Upstream) {
		a.add(RiskHigh, "%s is at another place%s", host, by)
	}
	var before, now Limits
	if was.Limits != nil {
		before = *was.Limits
	}
	if n.Limits != nil {
		now = *n.Limits
	}
	a.higher("concurrent requests", float64(before.Concurrent), float64(now.Concurrent), by)
	a.higher("bodies", float64(before.Body), float64(now.Body), by)
	a.higher("upload", float64(before.Upload), float64(now.Upload), by)
	a.higher("download", float64(before.Download), float64(now.Download), by)
}

// rate compares how many requests there may be; see [RequestLimit].
func (a *assessment) rate(old, now Limits, at string) {
	perSecond := func(l Limits) float64 { return float64(l.Requests) / float64(max(1, l.Per)) }
	a.higher("requests", perSecond(old), perSecond(now), at)
}

// higher reports a limit that is higher than before; 0 means no limit.
func (a *assessment) higher(what string, old, now float64, where string) {
	switch {
	case old > 0 && now == 0:
		a.add(RiskMedium, "no longer a limit on %s%s", what, where)
	case old > 0 && now > old:
		a.add(RiskMedium, "a higher limit on %s%s", what, where)
	}
}

// near is the agent with all rules for the destinations that some of the changed rules
// cover. Mostly these are few, and the rules are many.
func near(a *Agent, changed []Rule) *Agent {
	places, wild := map[place]bool{}, []Rule(nil)
	for _, r := range changed {
		places[place{r.Host, r.Port}] = true
		if strings.HasPrefix(r.Host, "*") {
			wild = append(wild, r)
		}
	}
	out := &Agent{Name: a.Name}
	for _, r := range a.Rules {
		if strings.HasPrefix(r.Host, "*") || places[place{r.Host, r.Port}] ||
			slices.ContainsFunc(wild, func(w Rule) bool { return w.Port == r.Port && w.Covers(r.Host) }) {
			out.Rules = append(out.Rules, r)
		}
	}
	return out
}

type place struct {
	host string
	port uint16
}

// destinations calls visit for each host and port that rules of either agent name, in an
// order, with the rules that cover it, if something is allowed there before and after, and
// the rules are not the same.
func destinations(was, is *Agent, visit func(host string, old, now []Rule)) {
	index := func(a *Agent) map[place][]Rule {
		all := map[place][]Rule{}
		for _, d := range a.Destinations() {
			all[place{d.Host, d.Port}] = d.Rules
		}
		return all
	}
	allows := func(rules []Rule) bool { return len(rules) > 0 && !rules[len(rules)-1].Deny }
	old, now := index(was), index(is)
	for p := range old {
		if now[p] == nil {
			now[p] = is.Covering(p.host, p.port)
		}
	}
	for _, p := range slices.SortedFunc(maps.Keys(now), func(a, b place) int {
		return cmp.Or(strings.Compare(a.host, b.host), cmp.Compare(a.port, b.port))
	}) {
		rules := old[p]
		if rules == nil {
			rules = was.Covering(p.host, p.port)
		}
		if allows(rules) && allows(now[p]) && !EqualRules(rules, now[p]) {
			visit(p.host, rules, now[p])
		}
	}
}

func byID(a *Agent) map[string]*Rule {
	all := make(map[string]*Rule, len(a.Rules))
	for i := range a.Rules {
		all[a.Rules[i].ID] = &a.Rules[i]
	}
	return all
}

// hidden reports whether one of the rules that are asked before r decides all that r is
// about, for as long as r lasts. It may say no where that is hard to see.
func (r *Rule) hidden(before []Rule) bool {
	return slices.ContainsFunc(before, func(b Rule) bool {
		return b.includesAll(r) && (b.Expires == "" || r.Expires != "" && r.Expires <= b.Expires)
	})
}

// overlaps reports whether there may be a request that both rules, which allow, match.
func (r *Rule) overlaps(o *Rule) bool {
	methods := slices.ContainsFunc(r.Methods, func(m string) bool { return o.has(m) })
	paths := slices.ContainsFunc(r.Paths, func(p string) bool {
		return slices.ContainsFunc(o.Paths, func(q string) bool { return meet(p, q) })
	})
	return methods && paths && !contradict(r.Query, o.Query) && !contradict(r.Headers, o.Headers)
}

// has reports whether the rule is about a method, or could be if it is any.
func (r *Rule) has(method string) bool {
	return method == AnyMethod || slices.Contains(r.Methods, method) || slices.Contains(r.Methods, AnyMethod)
}

// meet reports whether there may be a path that both patterns match.
func meet(pattern, other string) bool {
	p, err := ParsePath(pattern)
	q, err2 := ParsePath(other)
	if err != nil || err2 != nil {
		return false // they match nothing
	}
	if p.any || q.any {
		return true
	}
	for i := range min(len(p.segments), len(q.segments)) {
		if s, t := p.segments[i], q.segments[i]; s != t && s != "*" && t != "*" {
			return false
		}
	}
	return (p.rest || len(p.segments) >= len(q.segments)) && (q.rest || len(q.segments) >= len(p.segments))
}

// contradict reports whether no request can meet both conditions: one that allows wants
// a parameter, or header, to have one value.
func contradict(conditions, others []Condition) bool {
	return slices.ContainsFunc(conditions, func(c Condition) bool {
		return slices.ContainsFunc(others, func(o Condition) bool {
			return c.Name == o.Name && !c.Present && !o.Present && c.Value != o.Value
		})
	})
}
