package xds

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postern/postern/plan"
)

// TestSummaryCounts: it counts what is different, rule by rule.
func TestSummaryCounts(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		draw := func(name string) *plan.Plan {
			p := &plan.Plan{}
			for _, agent := range rapid.SampledFrom([][]string{nil, {"a"}, {"b"}, {"a", "b"}}).Draw(rt, name) {
				a := plan.Agent{Name: agent}
				for i := range 6 {
					if port := rapid.SampledFrom([]uint16{0, 443, 443, 8443}).Draw(rt, "port"); port != 0 {
						a.Rules = append(a.Rules, plan.Rule{ID: fmt.Sprintf("%s/%d", agent, i), Port: port})
					}
				}
				if rapid.Bool().Draw(rt, "turned") {
					slices.Reverse(a.Rules)
				}
				p.Agents = append(p.Agents, a)
			}
			return p
		}
		was, is := draw("was"), draw("is")
		byID := func(p *plan.Plan) map[string]plan.Rule {
			all := map[string]plan.Rule{}
			for _, a := range p.Agents {
				for _, r := range a.Rules {
					all[r.ID] = r
				}
			}
			return all
		}
		var want tally
		old, now := byID(was), byID(is)
		for id, r := range now {
			o, ok := old[id]
			want.add(ok, ok && o.Equal(&r))
			delete(old, id)
		}
		want.removed = len(old)
		require.Equal(rt, "rules: "+want.String()+"; credentials: "+tally{}.String(), summary(was, is))
	})
}
