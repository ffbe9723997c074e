package dataplane

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

// TestAgentsAgain: a stack whose last agent went serves agents that come again, whether its node
// was quick or late.
func TestAgentsAgain(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := f.NewUpstream("one.test")
	p, none := &plan.Plan{Stack: "test"}, &plan.Plan{Stack: "test"}
	for i := range 10 {
		name := fmt.Sprintf("a%d", i)
		p.Agents = append(p.Agents, plan.Agent{Name: name, Rules: []plan.Rule{fleet.Allow(name, "one.test", up)}})
	}
	serves := func() {
		t.Helper()
		f.MustPublish(p)
		require.Equal(t, 200, f.Get("n1", "a0", "https://one.test/"))
		require.Equal(t, 200, f.Get("n1", "a9", "https://one.test/"))
	}
	stop := func(s syscall.Signal) { require.NoError(t, syscall.Kill(f.EnvoyPID("n1"), s)) }
	stop(syscall.SIGSTOP)
	_, err := f.Publish(p)
	require.Error(t, err)
	require.Regexp(t, "did not acknowledge|has not answered", err.Error())
	stop(syscall.SIGCONT)
	serves()
	for range 5 {
		f.MustPublish(none)
		serves()
	}
}
