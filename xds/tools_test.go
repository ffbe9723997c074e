package xds_test

import (
	"errors"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/plan/tool"
	"github.com/postern/postern/tests/fleet"
	"github.com/postern/postern/xds"
	"github.com/postern/postern/xds/api"
)

// TestCalled: a call of a tool begins only if the live plan has the tool as the caller knows it,
// the agent is not killed, and the event is written.
func TestCalled(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 0)
	j := newJournal()
	var full atomic.Bool
	restart(t, f, func(c *xds.Config) {
		c.Event = func(e xds.Event) error {
			if full.Load() && e.Kind == xds.EventToolCalled {
				return errors.New("the disk is full")
			}
			return j.take(e)
		}
	})
	ticket := tool.Tool{Name: "ticket", Command: []string{"/bin/ticket"}}
	call := func(agent, name string, has tool.Tool) error {
		return f.API.Called(t.Context(), api.Called{Agent: agent, Tool: name, Digest: has.Digest()})
	}
	require.ErrorContains(t, call("a", "ticket", ticket), "the agent is killed", "nothing is published yet")
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Tools: []tool.Tool{ticket}}, {Name: "b"}}})
	require.NoError(t, call("a", "ticket", ticket))
	e := j.of(t, xds.EventToolCalled, 1)[0]
	require.Equal(t, "a", e.Agent)
	require.Equal(t, "ticket", e.Detail)

	other := ticket
	other.Env = []string{"TOKEN"}
	require.ErrorContains(t, call("a", "ticket", other), "no more as the run began with it")
	require.ErrorContains(t, call("b", "ticket", ticket), "no more as the run began with it")
	require.ErrorContains(t, call("a", "other", ticket), "no more as the run began with it")
	require.ErrorContains(t, call("c", "ticket", ticket), "no more as the run began with it")
	full.Store(true)
	require.ErrorContains(t, call("a", "ticket", ticket), "the call cannot be recorded")
	full.Store(false)
	_, err := f.Operator().Kill(t.Context(), bundle.Killed{Agents: []string{"a"}})
	require.NoError(t, err)
	require.ErrorContains(t, call("a", "ticket", ticket), "the agent is killed")
	require.Len(t, j.of(t, xds.EventToolCalled, 1), 1)

	require.NoError(t, f.API.Called(t.Context(), api.Called{Agent: "a", Tool: "ticket", Ended: "status 0 after 1ms"}))
	require.Equal(t, "ticket: status 0 after 1ms", j.of(t, xds.EventToolEnded, 1)[0].Detail)
}
