package aws

import (
	"slices"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/policies/reach"
)

// workload returns an interface of the kind that the plan says: see [graph.Roles]. Whatever runs is
// somebody's: what nothing is said of may be an agent that somebody has forgotten to name.
func (r *reader) workload(x *graph.Resource) *reach.Interface {
	switch x.Role {
	case "agents":
		name := x.URN
		if parent := r.g.ByURN(x.Parent); parent != nil && parent.Type == "postern:aws:AgentPool" {
			name = parent.Name
		}
		return &reach.Interface{Kind: reach.Agent, Agent: name}
	case "proxies":
		return &reach.Interface{Kind: reach.Proxy}
	case "control":
		return &reach.Interface{Kind: reach.ControlPlane}
	}
	switch said := graph.Tagged(x.Inputs); {
	case unlabelled(x.Inputs["tags"]):
		r.unknown(x, "its tags are not known: it may be an agent")
	case said == "":
		r.unknown(x, "nothing says whose it is: tag it with %s: agents, proxies, control or other", graph.TagRole)
	case said != "other":
		r.unknown(x, "nothing says whose it is: its tag %s is %q, not agents, proxies, control or other", graph.TagRole,
			said)
	}
	return &reach.Interface{Kind: reach.Stranger}
}

// unlabelled reports whether tags may have a role that is not known.
func unlabelled(tags any) bool {
	open := func(v any) bool { return v == graph.Unknown || graph.IsSecret(v) }
	if open(tags) {
		return true
	}
	if list, ok := tags.([]any); ok { // of an Auto Scaling group
		return slices.ContainsFunc(list, func(item any) bool {
			tag, ok := item.(map[string]any)
			return !ok || open(item) || open(tag["key"]) || tag["key"] == graph.TagRole && open(tag["value"])
		})
	}
	of, _ := tags.(map[string]any)
	return open(of[graph.TagRole])
}

// impostors reports what has a group of an agent, and is no agent: whoever asks for the group takes
// it for that agent.
func (r *reader) impostors() {
	of := map[*reach.Group]bool{}
	for _, i := range r.nodes {
		for _, g := range i.Groups {
			of[g] = of[g] || i.Kind == reach.Agent
		}
	}
	for j := range r.g.Resources {
		x := &r.g.Resources[j]
		i := r.nodes[x]
		if i == nil || i.Kind == reach.Agent {
			continue
		}
		for _, g := range i.Groups {
			if of[g] {
				r.unknown(x, "it is no agent's, and has %s, which is an agent's", g.Name)
			}
		}
	}
}
