package audit

import (
	"strings"
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
// many requests it stands for; and what may be missing is not a decision.
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

// TestParseTime: what makes no sense is not a time.
func TestParseTime(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Time{
		"0": time.UnixMilli(0).UTC(), "1.234": time.UnixMilli(1234).UTC(), "1795416854.918": time.UnixMilli(1795416854918).UTC(), "32503679999.999": time.UnixMilli(32503679999999).UTC(),
		"": {}, "x": {}, "-1": {}, "32503680000": {}, "NaN": {}, "Inf": {}, "1e300": {}, "1,5": {},
	} {
		require.Equal(t, want, parseTime(text), "%q", text)
	}
}

// TestClip: what an agent can make an event hold is bounded, and has no query.
func TestClip(t *testing.T) {
	t.Parallel()
	require.Equal(t, strings.Repeat("x", 1024), clip(strings.Repeat("x", 1024)))
	require.Equal(t, strings.Repeat("x", 1024)+"...", clip(strings.Repeat("x", 1025)))
	require.Equal(t, "/a", path("/a?key=1?b"))
	for authority, want := range map[string][2]string{"": {"", ""}, "a.test": {"a.test:443", "a.test:80"}, "a.test:8443": {"a.test:8443", "a.test:8443"}, "[::1]": {"[::1]", "[::1]"}} {
		require.Equal(t, want, [2]string{withPort(authority, true), withPort(authority, false)}, authority)
	}
	for hostPort, want := range map[string]string{"a.test:443": "a.test", "a.test": "a.test", "[::1]:443": "::1", "": ""} {
		require.Equal(t, want, hostOf(hostPort), hostPort)
	}
}

// TestUnknownLines: a line of a kind that nobody knows, or that is none, is an error.
func TestUnknownLines(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{`{"k":"other"}`: `unknown kind "other"`, `{}`: `unknown kind ""`, `{"k":1}`: "decode access log line", `x`: "decode access log line", ``: "decode access log line"} {
		e, err := decode([]byte(line))
		require.ErrorContains(t, err, want, line)
		require.Nil(t, e)
	}
}
