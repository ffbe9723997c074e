package plan

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern/postern/target"
)

// At returns a copy of the plan without the rules that have expired at t. A rule whose end cannot
// be parsed has expired.
func (p *Plan) At(t time.Time) *Plan {
	return p.Without(func(r *Rule) bool {
		if r.Expires == "" {
			return false
		}
		end, err := time.Parse(time.RFC3339, r.Expires)
		return err != nil || !t.Before(end)
	})
}

// Without returns a copy of p without the rules for which gone reports true. The copy shares the
// other rules with p: afterwards neither may be changed.
func (p *Plan) Without(gone func(*Rule) bool) *Plan {
	q := *p
	q.Agents = slices.Clone(p.Agents)
	for i := range q.Agents {
		a := &q.Agents[i]
		// Usually no rule is gone, and copying would cost much: a plan is mostly rules.
		first := 0
		for first < len(a.Rules) && !gone(&a.Rules[first]) {
			first++
		}
		if first == len(a.Rules) {
			continue
		}
		kept := slices.Clone(a.Rules[:first])
		for j := first + 1; j < len(a.Rules); j++ {
			if !gone(&a.Rules[j]) {
				kept = append(kept, a.Rules[j])
			}
		}
		a.Rules = kept
	}
	return &q
}

// NextExpiry returns the time after t at which the next rule expires, or the zero time.
func (p *Plan) NextExpiry(t time.Time) time.Time {
	var next time.Time
	for i := range p.Agents {
		for j := range p.Agents[i].Rules {
			r := &p.Agents[i].Rules[j]
			if r.Expires == "" {
				continue
			}
			end, err := time.Parse(time.RFC3339, r.Expires)
			if err == nil && end.After(t) && (next.IsZero() || end.Before(next)) {
				next = end
			}
		}
	}
	return next
}

// Decide returns the verdict on one request: it defines the meaning of the plan. Whatever the plan
// does not explicitly allow is denied. Expired rules count: see [Plan.At].
//
// Over https:
//  1. The rules that name the host and port, and the wildcards above the host, cover the request.
//     If none of them allows anything, the host is not allowed.
//  2. The names of the connection (CONNECT, SNI, Host) must agree.
//  3. In a tunnel, the rest of the request is invisible. If a rule denies every request, it
//     decides. Otherwise the first rule that allows decides.
//  4. In other modes, a matching rule that denies decides. If there is none, the first matching
//     rule that allows decides. A rule that denies matches whatever some server could read as
//     what the rule names. A rule that allows matches only what every server reads so. If
//     only some servers read the request as the first allowing rule does, it is ambiguous and denied.
//
// Over plain http only a gateway can be reached. The rules behind the gateway decide as in 4.
func (p *Plan) Decide(r Request) Decision {
	i := slices.IndexFunc(p.Agents, func(a Agent) bool { return a.Name == r.Agent })
	if i < 0 {
		return Decision{Reason: ReasonAgent}
	}
	agent := &p.Agents[i]
	deny := Decision{Rule: DefaultRule(agent.Name)}
	switch r.Scheme {
	case "https":
		// Not canonicalised: with a trailing dot or in another script it is another name.
		host := lowerASCII(r.Host)
		rules := agent.Covering(host, r.Port)
		if !slices.ContainsFunc(rules, func(r Rule) bool { return !r.Deny }) {
			deny.Reason, deny.Nearest = ReasonHost, agent.nearest(host, r.Port)
			return deny
		}
		if !sameName(r, host) {
			deny.Reason, deny.Nearest = ReasonName, agent.nearest(host, r.Port)
			return deny
		}
		if ModeOf(rules) == ModeTunnel {
			rule := TunnelRules(rules)[0] // so one of them allows
			if rule.Deny {
				return Decision{Rule: rule.ID, Reason: ReasonDenied}
			}
			return Decision{Allow: true, Rule: rule.ID, Reason: ReasonAllowed}
		}
		return decide(rules, r, deny)
	case "http":
		host := lowerASCII(r.Host)
		if r.Port != 0 && (host == "localhost" || host == "127.0.0.1") {
			if rules := agent.Behind(r.Port); len(rules) > 0 {
				return decide(rules, r, deny)
			}
		}
	}
	deny.Reason, deny.Nearest = ReasonScheme, agent.nearest(lowerASCII(r.Host), r.Port)
	return deny
}

// nearest returns the ID of the rule that comes closest to allowing something at the host and port:
// the first that covers the host, or else has the most labels of it, and better at this port. It
// returns "" if no rule is close.
func (a *Agent) nearest(host string, port uint16) string {
	best, id := 3, "" // that a top-level domain and a port are the same says nothing
	for i := range a.Rules {
		r := &a.Rules[i]
		if r.Deny {
			continue
		}
		near := 2 * commonLabels(r.Host, host)
		if r.Covers(host) {
			near = 2 * maxHost
		}
		if r.Port == port {
			near++
		}
		if near > best {
			best, id = near, r.ID
		}
	}
	return id
}

// commonLabels returns the number of labels that the names have in common at their ends.
func commonLabels(a, b string) int {
	n := 0
	for x, y := strings.Split(a, "."), strings.Split(b, "."); n < min(len(x), len(y)) && x[len(x)-1-n] == y[len(y)-1-n]; {
		n++
	}
	return n
}

// Covers reports whether the rule's host is the given host, or a wildcard above it. The given host
// may be a wildcard itself.
func (r *Rule) Covers(host string) bool {
	if suffix, ok := strings.CutPrefix(r.Host, "*"); ok {
		return len(host) > len(suffix) && strings.HasSuffix(host, suffix)
	}
	return r.Host == host
}

// Covering returns the agent's rules for a host (or wildcard) and port: first the rules that deny,
// then the others, each in their order. It leaves out rules that allow in another mode than the
// nearest rule's.
func (a *Agent) Covering(host string, port uint16) []Rule {
	var rules []Rule
	for i := range a.Rules {
		if r := &a.Rules[i]; r.Port == port && (r.Host == host || r.Covers(host)) {
			rules = append(rules, *r)
		}
	}
	return arrange(rules)
}

// Destination is a host, or wildcard, and port that an agent's rules name, with
// the rules that cover it: see [Agent.Covering].
type Destination struct {
	Host  string
	Port  uint16
	Rules []Rule
}

// Destinations returns the agent's destinations that have at least one rule that allows, sorted. A
// host that only a rule that denies names is also a destination, if it is an exception to a
// wildcard. If wildcards are few, the time is proportional to the number of rules.
func (a *Agent) Destinations() []Destination {
	// sorted are indices of rules by host and port.
	sorted := make([]int, len(a.Rules))
	var wild []int
	for i := range a.Rules {
		sorted[i] = i
		if strings.HasPrefix(a.Rules[i].Host, "*") {
			wild = append(wild, i)
		}
	}
	place := func(i, j int) int {
		r, o := &a.Rules[i], &a.Rules[j]
		if c := strings.Compare(r.Host, o.Host); c != 0 {
			return c
		}
		return cmp.Compare(r.Port, o.Port)
	}
	slices.SortFunc(sorted, place)
	out := make([]Destination, 0, len(sorted))
	var covering []int
	for from, to := 0, 0; from < len(sorted); from = to {
		first := &a.Rules[sorted[from]]
		for to = from + 1; to < len(sorted) && place(sorted[from], sorted[to]) == 0; to++ {
		}
		covering = covering[:0]
		for _, w := range wild {
			if r := &a.Rules[w]; r.Port == first.Port && r.Host != first.Host && r.Covers(first.Host) {
				covering = append(covering, w)
			}
		}
		i := sorted[from]
		rules := a.Rules[i : i+1 : i+1]
		if to-from+len(covering) > 1 {
			indices := append(covering, sorted[from:to]...)
			slices.Sort(indices)
			rules = make([]Rule, len(indices))
			for n, i := range indices {
				rules[n] = a.Rules[i]
			}
			rules = arrange(rules)
		}
		if !rules[len(rules)-1].Deny {
			out = append(out, Destination{Host: first.Host, Port: first.Port, Rules: rules})
		}
	}
	return out
}

// arrange puts the rules that deny first, and leaves out rules that allow in another mode than the
// nearest rule.
func arrange(rules []Rule) []Rule {
	nearest := -1
	for i, r := range rules {
		if !r.Deny && (nearest < 0 || len(suffix(r.Host)) > len(suffix(rules[nearest].Host))) {
			nearest = i
		}
	}
	if nearest >= 0 {
		mode := rules[nearest].Mode
		rules = slices.DeleteFunc(rules, func(r Rule) bool { return !r.Deny && r.Mode != mode })
	}
	slices.SortStableFunc(rules, func(a, b Rule) int { return rank(a) - rank(b) })
	return rules
}

// Behind returns the rules that decide on requests to a gateway's port: the rules that name the
// port, and the rules that deny and cover their hosts.
func (a *Agent) Behind(gateway uint16) []Rule {
	var rules []Rule
	for _, r := range a.Rules {
		if r.Gateway == gateway && !r.Deny {
			rules = append(rules, r)
		}
	}
	if len(rules) == 0 {
		return nil
	}
	for _, r := range a.Rules {
		if r.Deny && r.Port == rules[0].Port && r.Covers(rules[0].Host) {
			rules = append(rules, r)
		}
	}
	slices.SortStableFunc(rules, func(a, b Rule) int { return rank(a) - rank(b) })
	return rules
}

// suffix returns the end that all hosts below a wildcard share. With it, "x.example.test" is longer
// than "*.example.test".
func suffix(host string) string { return strings.TrimPrefix(host, "*") }

func rank(r Rule) int {
	if r.Deny {
		return 0
	}
	return 1
}

// ModeOf returns the mode of the destination from its rules, as [Agent.Covering] returns them.
func ModeOf(rules []Rule) string {
	for i := range rules {
		if !rules[i].Deny {
			return rules[i].Mode
		}
	}
	return ModeIntercept
}

// RequestLimit returns the limits whose Requests and Per count for a destination: those of its
// nearest rule that has any. rules are the destination's, as [Agent.Covering] returns them. All
// other limits are those of the rule that decides.
func RequestLimit(rules []Rule) Limits {
	var nearest *Rule
	for i := range rules {
		r := &rules[i]
		if r.Limits != nil && (nearest == nil || len(suffix(r.Host)) > len(suffix(nearest.Host))) {
			nearest = r
		}
	}
	if nearest == nil {
		return Limits{}
	}
	return *nearest.Limits
}

// TunnelRules returns the rules that can decide on a tunnel: those that deny every request, and
// those that allow.
func TunnelRules(rules []Rule) []Rule {
	return slices.DeleteFunc(slices.Clone(rules), func(r Rule) bool {
		return r.Deny && !r.unconditional()
	})
}

// decide asks the rules of one destination, of which at least one allows something.
func decide(rules []Rule, r Request, deny Decision) Decision {
	path, err := NormalizePath(r.Path)
	if err != nil {
		deny.Reason = ReasonMalformed
		return deny
	}
	best := 0
	for i := range rules {
		rule := &rules[i]
		if !rule.matchesPath(path) {
			if best < 1 && !rule.Deny {
				best, deny.Reason, deny.Nearest = 1, ReasonPath, rule.ID
			}
			continue
		}
		method, conditions := rule.matchesMethod(r.Method), rule.matchesConditions(r)
		switch {
		case method && conditions && rule.Deny:
			return Decision{Rule: rule.ID, Reason: ReasonDenied}
		case method && conditions && ambiguous(rule, rules, path, r):
			deny.Reason, deny.Nearest = ReasonAmbiguous, rule.ID
			return deny
		case method && conditions:
			return Decision{Allow: true, Rule: rule.ID, Reason: ReasonAllowed, Credential: rule.Credential}
		case rule.Deny:
		case method && best < 3:
			best, deny.Reason, deny.Nearest = 3, ReasonCondition, rule.ID
		case !method && best < 2:
			best, deny.Reason, deny.Nearest = 2, ReasonMethod, rule.ID
		}
	}
	if best == 1 && !slices.ContainsFunc(rules, func(rule Rule) bool { return !rule.Deny && rule.matchesMethod(r.Method) }) {
		deny.Reason = ReasonMethod // whatever the path
	}
	return deny
}

// Methods returns the methods that at least one of a destination's rules allows, sorted. If
// [AnyMethod] is one of them, it is the only one.
func Methods(rules []Rule) []string {
	var all []string
	for i := range rules {
		if !rules[i].Deny {
			all = append(all, rules[i].Methods...)
		}
	}
	if slices.Contains(all, AnyMethod) {
		return []string{AnyMethod}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// ambiguous reports whether some server reads a request otherwise than r, the first rule that
// allows it.
func ambiguous(r *Rule, rules []Rule, path string, req Request) bool {
	c := r.Check(Restricted(rules))
	if c.Target(path, req.Query) {
		return true
	}
	for name := range req.Header {
		if c.Header(name) {
			return true
		}
	}
	return false
}

// Check returns what the data plane must check in requests that the rule matches; see [Restricted].
func (r *Rule) Check(restricted bool) target.Check {
	names := func(cs []Condition) []string {
		var all []string
		for _, c := range cs {
			all = append(all, c.Name)
		}
		return all
	}
	return target.Check{AnyPath: slices.Contains(r.Paths, AnyPath), Open: !restricted, Query: names(r.Query), Headers: names(r.Headers)}
}

// Restricted reports whether at least one of a destination's rules restricts methods, paths or
// conditions.
func Restricted(rules []Rule) bool {
	return slices.ContainsFunc(rules, func(r Rule) bool { return !r.unconditional() })
}

// unconditional reports whether the rule is about every request to its host.
func (r *Rule) unconditional() bool {
	return slices.Equal(r.Methods, []string{AnyMethod}) && slices.Equal(r.Paths, []string{AnyPath}) && len(r.Query)+len(r.Headers) == 0
}

// Literally reports whether every server reads the request as what the rule that denies names, and
// not only some server.
func (r *Rule) Literally(req Request) bool {
	allows := *r
	allows.Deny = false
	path, err := NormalizePath(req.Path)
	return err == nil && allows.matchesPath(path) && allows.matchesMethod(req.Method) && allows.matchesConditions(req)
}

// sameName reports whether the names inside the connection are the host to which it was opened.
// Only the port that https implies may be left out.
func sameName(r Request, host string) bool {
	if r.SNI != "" && lowerASCII(r.SNI) != host {
		return false
	}
	if r.Authority == "" {
		return true
	}
	authority := lowerASCII(r.Authority)
	return authority == host+":"+strconv.Itoa(int(r.Port)) || r.Port == 443 && authority == host
}

func (r *Rule) matchesMethod(method string) bool {
	switch method {
	case "", "CONNECT", "TRACE", "TRACK":
		return false
	}
	if r.Deny { // some servers take a method in any case
		method = strings.ToUpper(method)
	}
	return slices.Contains(r.Methods, method) || slices.Equal(r.Methods, []string{AnyMethod})
}

func (r *Rule) matchesPath(path string) bool {
	return slices.ContainsFunc(r.Paths, func(pattern string) bool {
		if r.Deny {
			return denied(DeniedPath(pattern), path)
		}
		p, err := ParsePath(pattern)
		return err == nil && p.Match(path)
	})
}

// matchesConditions reports whether the conditions of the rule hold. A rule that denies is content
// with one occurrence of a parameter or header in which some server finds the value; a rule that
// allows wants a parameter as every server finds it, and no other value of a header. [target.Check]
// refuses the parameter if it comes again.
func (r *Rule) matchesConditions(req Request) bool {
	if r.Deny {
		return !slices.ContainsFunc(r.Query, func(c Condition) bool { return !denied(DeniedQuery(c), req.Query) }) &&
			!slices.ContainsFunc(r.Headers, func(c Condition) bool {
				return !slices.ContainsFunc(req.Header[c.Name], func(v string) bool { return denied(DeniedHeader(c), v) })
			})
	}
	for _, c := range r.Query {
		if found, err := matches(AllowedQuery(c), req.Query); err != nil || !found {
			return false
		}
	}
	for _, c := range r.Headers {
		values := req.Header[c.Name]
		other := func(v string) bool { return v != c.Value }
		if len(values) == 0 || !c.Present && slices.ContainsFunc(values, other) {
			return false
		}
	}
	return true
}
