package envoy

import (
	"slices"
	"strings"

	"github.com/postern/postern/plan"
)

// Blame returns the IDs of the rules of p that Envoy's message is about, by the
// names of resources in it: of a destination's cluster, scope or internal
// listener. Agents share scopes, so that rules of several can be to blame for one. If there is none, but the name of something that a whole agent has,
// it returns that agent instead. Messages are for people, and so is this: it may find
// nothing, and more than one.
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

// names reports whether the message has one of the names, not as a part of a
// longer one. A name that all destinations share says nothing.
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
