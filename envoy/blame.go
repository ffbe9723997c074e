package envoy

import (
	"slices"
	"strings"

	"github.com/postern/postern/plan"
)

// Blame returns the IDs of the rules of p that Envoy's message is about: those whose cluster, scope
// or internal listener the message names. Agents share scopes, so one name may stand for rules of
// several agents. If the message names no such resource, but one that a whole agent has, Blame
// returns the agent's name instead. Use the result only to help people: it may be empty or too
// long.
func Blame(p *plan.Plan, message string) (rules, agents []string) {
	b := &builder{plan: p, credentials: map[string]plan.Credential{}}
	for _, c := range p.Credentials {
		b.credentials[c.Name] = c
	}
	for _, a := range p.Agents {
		for _, dest := range a.Destinations() {
			d := destination{dest}
			whole := names(message, l7Scope(d), connectScope(d.authority()), tunnelName(a.Name, d))
			for _, r := range d.Rules {
				if whole || !r.Deny && names(message, b.upstreamCluster(r)) {
					rules = append(rules, r.ID)
				}
			}
		}
		if names(message, "agent/"+a.Name, restScope(a.Name), wildScope(a.Name), kindIntercept+"/"+a.Name, kindWildcard+"/"+a.Name) || strings.Contains(message, dynamicName(a.Name)) {
			agents = append(agents, a.Name)
		}
	}
	if len(rules) > 0 {
		return slices.Compact(slices.Sorted(slices.Values(rules))), nil
	}
	return nil, agents
}

// names reports whether the message contains one of the names, and not only as a part of a longer
// name. It ignores names of dynamic clusters, which all destinations of an agent share.
func names(message string, of ...string) bool {
	for _, name := range of {
		if strings.HasPrefix(name, clusterDynamic+"/") {
			continue
		}
		for rest := message; ; {
			_, after, ok := strings.Cut(rest, name)
			if !ok {
				break
			}
			if after == "" || strings.IndexByte("abcdefghijklmnopqrstuvwxyz0123456789-_./", after[0]) < 0 {
				return true
			}
			rest = after
		}
	}
	return false
}
