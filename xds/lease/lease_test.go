package lease

import (
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/xds/state"
)

// TestEndedStaysEnded: a lease ends once, and does not begin again: neither when the clock is set
// back, nor after a restart, nor when what is remembered of time is damaged.
func TestEndedStaysEnded(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	files := state.In(t.TempDir(), log)
	start := time.Now().Truncate(time.Second)
	wall := start
	load := func() *Leases {
		t.Helper()
		l, err := Load(files, func() time.Time { return wall }, log)
		require.NoError(t, err)
		return l
	}
	p := &plan.Plan{Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{
		{ID: "a/stays"},
		{ID: "a/ends", Expires: start.Add(time.Hour).UTC().Format(time.RFC3339)},
		{ID: "a/never", Expires: start.Add(-time.Hour).UTC().Format(time.RFC3339)},
	}}}}
	rules := func(l *Leases) int { return len(l.Valid(p, l.Now()).Agents[0].Rules) }

	l := load()
	require.Equal(t, 2, rules(l))
	require.Empty(t, l.End(p, start, l.Now()), "a rule that had ended before it was published was no lease")
	wall = start.Add(2 * time.Hour)
	ended := l.End(p, start, l.Now())
	require.Len(t, ended, 1)
	require.Equal(t, "a/ends", ended[0].Rule.ID)
	require.Equal(t, "lease-ended/a/ends/"+ended[0].Rule.Expires, ended[0].ID)
	require.Empty(t, l.End(p, start, l.Now()))
	l.Save(p)

	wall = start
	require.Equal(t, 1, rules(l))
	require.Equal(t, 1, rules(load()), "after a restart")

	// Damaged: the time is at least that of the newest state file.
	require.NoError(t, os.WriteFile(files.Path(state.Leases), []byte("{"), 0o600))
	require.NoError(t, os.Chtimes(files.Path(state.Leases), time.Time{}, start.Add(2*time.Hour)))
	require.Equal(t, 1, rules(load()))
}

// TestSetBackIsToldOnce: and again when the clock was right meanwhile.
func TestSetBackIsToldOnce(t *testing.T) {
	t.Parallel()
	wall := time.Now()
	l, err := Load(state.In(t.TempDir(), slog.New(slog.DiscardHandler)), func() time.Time { return wall },
		slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	for range 2 {
		require.Zero(t, l.SetBack())
		wall = wall.Add(-time.Minute)
		require.InDelta(t, time.Minute, l.SetBack(), float64(5*time.Second))
		require.Zero(t, l.SetBack())
		wall = wall.Add(time.Minute)
	}
}
