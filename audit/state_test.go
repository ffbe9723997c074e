package audit

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

// TestOver: one event for each request that is over.
func TestOver(t *testing.T) {
	t.Parallel()
	for state, want := range map[string]bool{"": true, "opened": false, "open": false, "ended": true, "lost": true} {
		require.Equal(t, want, (&Event{State: state}).Over(), state)
	}
}

// TestUnrecorded: what was refused because it could not be recorded is a denial, with how
// many requests it stands for; and what may be missing is no decision.
func TestUnrecorded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w, err := NewWriter(dir, "n1")
	require.NoError(t, err)
	before := time.Now().UTC().Add(-time.Second)
	require.NoError(t, w.Unrecorded(7, "the disk is full"))
	require.NoError(t, w.Gap("Envoy died"))
	require.NoError(t, w.Close())
	events, err := Read(dir, Filter{})
	require.NoError(t, err)
	require.Len(t, events, 2)
	for i := range events {
		require.True(t, events[i].Time.After(before))
		events[i].Time = time.Time{}
	}
	require.Equal(t, []Event{
		{Seq: 1, Node: "n1", Verdict: Deny, Reason: plan.ReasonUnrecorded, Count: 7, Detail: "the disk is full"},
		{Seq: 2, Node: "n1", Verdict: Gap, Detail: "Envoy died"},
	}, events)
}
