package stacks

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

// TestAllows: an edit finds a destination that allows exactly what it wants to allow, for at least
// as long.
func TestAllows(t *testing.T) {
	t.Parallel()
	const early, late = "2030-01-01T00:00:00Z", "2031-01-01T00:00:00Z"
	rule := func(how func(*plan.Rule)) plan.Rule {
		r := plan.Rule{Host: "x.test", Port: 443, Methods: []string{"GET"}, Paths: []string{"/v1/**"}}
		how(&r)
		return r
	}
	same := func(*plan.Rule) {}
	until := func(end string) func(*plan.Rule) { return func(r *plan.Rule) { r.Expires = end } }
	for name, c := range map[string]struct {
		has, wants func(*plan.Rule)
		want       bool
	}{
		"the same":          {same, same, true},
		"for longer":        {until(late), until(early), true},
		"for ever":          {same, until(early), true},
		"as long":           {until(late), until(late), true},
		"not as long":       {until(early), until(late), false},
		"not for ever":      {until(late), same, false},
		"denied":            {func(r *plan.Rule) { r.Deny = true }, same, false},
		"another host":      {func(r *plan.Rule) { r.Host = "y.test" }, same, false},
		"another port":      {func(r *plan.Rule) { r.Port = 8443 }, same, false},
		"another mode":      {func(r *plan.Rule) { r.Mode = plan.ModeTunnel }, same, false},
		"other methods":     {func(r *plan.Rule) { r.Methods = []string{"GET", "POST"} }, same, false},
		"other paths":       {func(r *plan.Rule) { r.Paths = []string{"/v2/**"} }, same, false},
		"only with a query": {func(r *plan.Rule) { r.Query = []plan.Condition{{Name: "q", Value: "1"}} }, same, false},
		"only with headers": {func(r *plan.Rule) { r.Headers = []plan.Condition{{Name: "h", Value: "1"}} }, same, false},
	} {
		has, wants := namedRule{Rule: rule(c.has)}, rule(c.wants)
		require.Equal(t, c.want, (&Destination{rules: []namedRule{has}}).Allows(&wants), name)
		require.False(t, (&Destination{rules: []namedRule{has, has}}).Allows(&wants), name)
	}
}
