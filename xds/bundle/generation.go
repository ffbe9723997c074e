package bundle

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/postern/postern/plan"
)

// generations are those of p's agents, if the publication seq has p and follows
// before.
func generations(seq uint64, before *Bundle, p *plan.Plan) map[string]string {
	all := map[string]string{}
	for _, a := range p.Agents {
		gen := before.Generations[a.Name]
		if i := slices.IndexFunc(before.Plan.Agents, func(o plan.Agent) bool { return o.Name == a.Name }); i >= 0 && narrows(before.Plan.Agents[i], a) {
			gen = generation(seq, a.Name)
		}
		if gen != "" {
			all[a.Name] = gen
		}
	}
	return all
}

// narrows reports whether an agent loses anything from was to is. New rules that
// allow, in any place, rules that deny no more, and rules that allow more than
// before take nothing; everything else does.
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
		if at < len(was.Rules) && (r.Equal(&was.Rules[at]) || r.Widens(&was.Rules[at])) {
			next = at + 1
			continue
		}
		if had == nil {
			had = make(map[string]bool, len(was.Rules))
			for i := range was.Rules {
				had[was.Rules[i].ID] = true
			}
		}
		if r.Deny || had[r.ID] {
			return true
		}
	}
	return slices.ContainsFunc(was.Rules[next:], func(r plan.Rule) bool { return !r.Deny })
}

// generation is a name that no other publication gives the agent.
func generation(seq uint64, agent string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d/%s", seq, agent))
	return hex.EncodeToString(sum[:4])
}
