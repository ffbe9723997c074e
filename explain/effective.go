package explain

import (
	"fmt"
	"slices"
	"time"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks"
)

// EffectiveRule is one rule of an agent, with what people ask about it.
type EffectiveRule struct {
	plan.Rule
	// Source is the place of the rule.
	Source  string `json:"source"`
	Expired bool   `json:"expired,omitempty"`
	// Sends says how the credential is sent.
	Sends string `json:"sends,omitempty"`
}

// Effective returns every rule of the agent, in the order in which the rules are asked: rules that
// deny come first.
func Effective(stack *stacks.Stack, agent string, now time.Time) ([]EffectiveRule, error) {
	i := slices.IndexFunc(stack.Plan.Agents, func(a plan.Agent) bool { return a.Name == agent })
	if i < 0 {
		return nil, fmt.Errorf("%s: there is no agent %q", stack.Path, agent)
	}
	alive := map[string]bool{}
	for _, r := range stack.Plan.At(now).Agents[i].Rules {
		alive[r.ID] = true
	}
	out := []EffectiveRule{}
	for _, r := range stack.Plan.Agents[i].Rules {
		e := EffectiveRule{Rule: r, Source: stack.Source(r.ID), Expired: !alive[r.ID]}
		if r.Credential != "" {
			e.Sends = Sends(stack.Plan, r.Credential)
		}
		out = append(out, e)
	}
	slices.SortStableFunc(out, func(a, b EffectiveRule) int {
		switch {
		case a.Deny == b.Deny:
			return 0
		case a.Deny:
			return -1
		}
		return 1
	})
	return out, nil
}
