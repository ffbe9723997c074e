package mint

import (
	"slices"
	"strings"

	"github.com/postern/postern/plan"
)

// hosts are the names that there may be leaf certificates for.
type hosts struct {
	// exact are sets of names, one for each plan.
	exact []map[string]bool
	// suffixes are the wildcards' suffixes, with a leading dot.
	suffixes []string
	// agents are the agents whose wildcard each of suffixes is.
	agents []string
}

// hostsOf returns the names whose TLS the plan intercepts.
func hostsOf(p *plan.Plan) hosts {
	rules := 0
	for i := range p.Agents {
		rules += len(p.Agents[i].Rules)
	}
	exact := make(map[string]bool, rules)
	h := hosts{exact: []map[string]bool{exact}}
	for _, a := range p.Agents {
		for i := range a.Rules {
			switch r := &a.Rules[i]; {
			case r.Deny || r.Mode == plan.ModeTunnel:
			case strings.HasPrefix(r.Host, "*."):
				h.suffixes, h.agents = append(h.suffixes, r.Host[1:]), append(h.agents, a.Name)
			default:
				exact[r.Host] = true
			}
		}
	}
	return h
}

// allow reports whether there may be a certificate for name. Below a wildcard
// only canonical names count: the others are endless.
func (h hosts) allow(name string) bool {
	if h.listed(name) {
		return true
	}
	for _, s := range h.suffixes {
		if len(name) > len(s) && strings.HasSuffix(name, s) {
			canonical, err := plan.CanonicalHost(name)
			return err == nil && canonical == name
		}
	}
	return false
}

// names returns the hosts and, for each wildcard, the host above it.
func (h hosts) names() []string {
	var all []string
	for _, names := range h.exact {
		for name := range names {
			all = append(all, name)
		}
	}
	for _, s := range h.suffixes {
		all = append(all, s[1:])
	}
	return all
}

// listed reports whether the plan has the very name, not only a wildcard for it.
func (h hosts) listed(name string) bool {
	return slices.ContainsFunc(h.exact, func(names map[string]bool) bool { return names[name] })
}

// owners returns the agents that may make up the name, below a wildcard of theirs,
// sorted and joined by spaces.
func (h hosts) owners(name string) string {
	var agents []string
	for i, s := range h.suffixes {
		if len(name) > len(s) && strings.HasSuffix(name, s) {
			agents = append(agents, h.agents[i])
		}
	}
	slices.Sort(agents)
	return strings.Join(slices.Compact(agents), " ")
}

// or returns the names of both.
func (h hosts) or(o hosts) hosts {
	return hosts{
		exact: slices.Concat(h.exact, o.exact), suffixes: slices.Concat(h.suffixes, o.suffixes),
		agents: slices.Concat(h.agents, o.agents),
	}
}
