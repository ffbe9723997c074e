package bundle

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/postern/postern/plan"
)

// generations returns the generations of p's agents, if publication seq has p and follows before.
func generations(seq uint64, before *Bundle, p *plan.Plan) map[string]string {
	all := map[string]string{}
	for _, a := range p.Agents {
		if gen := before.Generations[a.Name]; gen != "" {
			all[a.Name] = gen
		}
	}
	for _, name := range Losers(before.Plan, p) {
		all[name] = generation(seq, name)
	}
	return all
}

// Losers are the agents of both plans that lose something from was to is.
func Losers(was, is *plan.Plan) []string {
	var names []string
	for _, a := range is.Agents {
		if i := slices.IndexFunc(was.Agents, func(o plan.Agent) bool { return o.Name == a.Name }); i >= 0 &&
			narrows(was.Agents[i], a) {
			names = append(names, a.Name)
		}
	}
	return names
}

// narrows reports whether an agent loses anything from was to is. New rules that
// allow, rules that deny no more, and rules that allow more than before take nothing,
// unless they decide otherwise what another rule decided; everything else does.
func narrows(was, is plan.Agent) bool {
	// had are the names that there were, once one is asked for.
	var had map[string]bool
	next := 0
	for i := range is.Rules {
		r := &is.Rules[i]
		at := next
		for at < len(was.Rules) && was.Rules[at].Deny && was.Rules[at].ID != r.ID {
			at++ // it may be gone
		}
		if at < len(was.Rules) && r.Equal(&was.Rules[at]) {
			next = at + 1
			continue
		}
		if at < len(was.Rules) && r.Widens(&was.Rules[at]) {
			if next = at + 1; takesFrom(r, was.Rules[next:]) || otherMode(r, was.Rules) {
				return true
			}
			continue
		}
		if had == nil {
			had = make(map[string]bool, len(was.Rules))
			for i := range was.Rules {
				had[was.Rules[i].ID] = true
			}
		}
		if r.Deny || had[r.ID] || takesFrom(r, was.Rules[next:]) || otherMode(r, was.Rules) {
			return true
		}
	}
	return slices.ContainsFunc(was.Rules[next:], func(r plan.Rule) bool { return !r.Deny })
}

// takesFrom reports whether r may decide, in another way, a request that one of the others decided
// until now. The others follow r.
func takesFrom(r *plan.Rule, others []plan.Rule) bool {
	return !r.Deny && slices.ContainsFunc(others, func(o plan.Rule) bool {
		return meet(r, &o) && (r.Credential != o.Credential || r.OwnCredentials != o.OwnCredentials)
	})
}

// otherMode reports whether a rule is for a host of the same name, for which the mode of the
// nearest rule counts.
func otherMode(r *plan.Rule, others []plan.Rule) bool {
	return !r.Deny && slices.ContainsFunc(others, func(o plan.Rule) bool { return meet(r, &o) && r.Mode != o.Mode })
}

// meet reports whether both allow something at the same host and port.
func meet(r, o *plan.Rule) bool {
	return !o.Deny && r.Port == o.Port && (r.Covers(o.Host) || o.Covers(r.Host))
}

// generation is a name that no other publication gives the agent.
func generation(seq uint64, agent string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d/%s", seq, agent))
	return hex.EncodeToString(sum[:4])
}
