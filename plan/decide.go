package plan

import (
	"slices"
	"strconv"
)

// Decide is the meaning of the plan: the verdict on one request. What it does
// not explicitly allow it denies.
//
// Over https, the names of the destination must agree before any rule is
// asked; then the agent's first rule for that host and port of which both the
// methods and the paths match decides. Over plain http only a gateway is
// reachable, and the rules behind that gateway decide in the same way.
func (p *Plan) Decide(r Request) Decision {
	i := slices.IndexFunc(p.Agents, func(a Agent) bool { return a.Name == r.Agent })
	if i < 0 {
		return Decision{Reason: ReasonAgent}
	}
	agent := &p.Agents[i]
	deny := Decision{Rule: DefaultRule(agent.Name)}

	var rules []*Rule
	switch r.Scheme {
	case "https":
		host, err := CanonicalHost(r.Host)
		if err == nil {
			rules = agent.rules(func(rule *Rule) bool { return rule.Host == host && rule.Port == r.Port })
		}
		if len(rules) == 0 {
			deny.Reason = ReasonHost
			return deny
		}
		if !sameName(r, host) {
			deny.Reason = ReasonName
			return deny
		}
	case "http":
		if host := lowerASCII(r.Host); r.Port != 0 && (host == "localhost" || host == "127.0.0.1") {
			rules = agent.rules(func(rule *Rule) bool { return rule.Gateway == r.Port })
		}
	}
	if len(rules) == 0 {
		deny.Reason = ReasonScheme
		return deny
	}
	return decide(rules, r, deny)
}

// decide asks rules of one destination, of which there is at least one.
func decide(rules []*Rule, r Request, deny Decision) Decision {
	path, err := NormalizePath(r.Path)
	if err != nil {
		deny.Reason = ReasonMalformed
		return deny
	}
	deny.Reason, deny.Nearest = ReasonPath, rules[0].ID
	for _, rule := range rules {
		if !rule.matchesPath(path) {
			continue
		}
		if rule.matchesMethod(r.Method) {
			return Decision{Allow: true, Rule: rule.ID, Reason: ReasonAllowed, Credential: rule.Credential}
		}
		if deny.Reason != ReasonMethod {
			deny.Reason, deny.Nearest = ReasonMethod, rule.ID
		}
	}
	return deny
}

// sameName reports whether the names inside the connection are the host it was
// opened to. Only the port that https implies may be left out.
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

func (a *Agent) rules(keep func(*Rule) bool) []*Rule {
	var rules []*Rule
	for i := range a.Rules {
		if keep(&a.Rules[i]) {
			rules = append(rules, &a.Rules[i])
		}
	}
	return rules
}

func (r *Rule) matchesMethod(method string) bool {
	switch method {
	case "", "CONNECT", "TRACE", "TRACK":
		return false
	}
	return slices.Contains(r.Methods, method) || slices.Equal(r.Methods, []string{AnyMethod})
}

func (r *Rule) matchesPath(path string) bool {
	return slices.ContainsFunc(r.Paths, func(pattern string) bool {
		p, err := ParsePath(pattern)
		return err == nil && p.Match(path)
	})
}
