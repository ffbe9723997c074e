package engine

import (
	"encoding/json"

	"github.com/postern/postern/plan"
)

// rulesChanged describes the differences between two plans in their canonical form, the riskiest
// first: what each agent may do more, less or otherwise.
func rulesChanged(before, after any) []string {
	old, ok1 := decodePlan(before)
	now, ok2 := decodePlan(after)
	if !ok1 || !ok2 {
		return nil
	}
	var out []string
	for _, c := range plan.Diff(old, now) {
		out = append(out, c.Line())
	}
	return out
}

func decodePlan(encoded any) (*plan.Plan, bool) {
	s, ok := encoded.(string)
	p := &plan.Plan{}
	return p, ok && json.Unmarshal([]byte(s), p) == nil
}
