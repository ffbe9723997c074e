package dataplane

import (
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

// TestLife: whatever a stack goes through, each agent has on each node what was published last, and
// a stopped agent has nothing. The model is a set of hosts for each agent.
func TestLife(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Log("seed: ", seed)
	dice := rand.New(rand.NewPCG(seed, 0))
	f := fleet.New(t, 2)
	hosts, agents, nodes := []string{"one.test", "two.test"}, []string{"a", "b", "c"}, []string{"n1", "n2"}
	up := f.NewUpstream(hosts...)
	var current *plan.Plan
	may, stopped := map[string][]string{}, map[string]bool{}
	publish := func() {
		current = &plan.Plan{Stack: "test"}
		clear(may)
		for _, agent := range agents {
			if dice.IntN(2) == 0 {
				continue
			}
			a := plan.Agent{Name: agent}
			for _, host := range hosts {
				if dice.IntN(2) == 0 {
					may[agent] = append(may[agent], host)
					a.Rules = append(a.Rules, fleet.Allow(agent, host, up))
				}
			}
			current.Agents = append(current.Agents, a)
		}
		t.Log("publish ", may)
		f.MustPublish(current)
	}
	stopOrNot := func() {
		if len(current.Agents) == 0 {
			return
		}
		agent := current.Agents[dice.IntN(len(current.Agents))].Name
		change := f.Operator().Kill
		if stopped[agent] {
			change = f.Operator().Unkill
		}
		_, err := change(t.Context(), bundle.Killed{Agents: []string{agent}})
		require.NoError(t, err)
		stopped[agent] = !stopped[agent]
		t.Log("stopped ", stopped)
	}
	// again waits until the nodes have connected after the given times.
	again := func(since map[string]time.Time) {
		for node, before := range since {
			require.Eventually(t, func() bool {
				n := f.Node(node)
				return n.Connected && n.Since.After(before)
			}, time.Minute, 10*time.Millisecond, node)
		}
	}
	publish()
	for range 60 {
		switch dice.IntN(8) {
		case 0:
			node := nodes[dice.IntN(len(nodes))]
			t.Log("kill Envoy of ", node)
			since := map[string]time.Time{node: f.Node(node).Since}
			require.NoError(t, syscall.Kill(f.EnvoyPID(node), syscall.SIGKILL))
			if dice.IntN(2) == 0 {
				publish() // while the node is away
			}
			again(since)
		case 1:
			t.Log("control plane starts again")
			f.StopControl()
			f.StartControl()
			again(map[string]time.Time{"n1": {}, "n2": {}})
		case 2, 3:
			stopOrNot()
		default:
			publish()
		}
		for _, agent := range agents {
			for _, host := range hosts {
				node, got := nodes[dice.IntN(len(nodes))], 0
				get := func() int { return f.Get(node, agent, "https://"+host+"/") }
				if !slices.Contains(may[agent], host) || stopped[agent] {
					require.Zero(t, get(), "%s to %s on %s", agent, host, node)
					continue
				}
				// An Envoy that was just started needs a moment.
				for begun := time.Now(); got != 200 && time.Since(begun) < time.Minute; got = get() {
				}
				require.Equal(t, 200, got, "%s to %s on %s", agent, host, node)
			}
		}
	}
}
