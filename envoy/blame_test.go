package envoy

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

func TestBlame(t *testing.T) {
	t.Parallel()
	rule := func(id, host string) plan.Rule {
		return plan.Rule{ID: id, Host: host, Port: 443, Methods: []string{plan.AnyMethod}, Paths: []string{plan.AnyPath}}
	}
	pinned := rule("a/pinned", "pinned.test")
	pinned.Upstream = &plan.Upstream{Address: "unix:/x", CA: "none"}
	p := &plan.Plan{Stack: "test", Agents: []plan.Agent{
		{Name: "a", Rules: []plan.Rule{rule("a/one", "one.test"), pinned}},
		{Name: "ab", Rules: []plan.Rule{rule("ab/one", "one.test")}},
	}}
	cluster := (&builder{plan: p, credentials: map[string]plan.Credential{}}).upstreamCluster(pinned)
	for _, c := range []struct {
		message       string
		rules, agents []string
	}{
		{"Error adding/updating cluster(s) " + cluster + ": Failed to load trusted CA certificates from <inline>", []string{"a/pinned"}, nil},
		{"scope l7/one.test/one.test:443 is bad", []string{"a/one", "ab/one"}, nil},
		{"scope connect/pinned.test:443 is bad", []string{"a/pinned"}, nil},
		{"scope connect/* ab is bad", nil, []string{"ab"}},
		{"Error adding/updating listener(s) agent/ab: cannot bind 'agents/ab/proxy.sock': Address already in use", nil, []string{"ab"}},
		{"Error adding/updating listener(s) intercept: no", nil, nil},
		{"cluster dynamic is bad", nil, nil},
		{"", nil, nil},
	} {
		rules, agents := Blame(p, c.message)
		require.Equal(t, c.rules, rules, c.message)
		require.Equal(t, c.agents, agents, c.message)
	}
}
