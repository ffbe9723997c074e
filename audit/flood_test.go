package audit

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

// TestFlood: an agent that has a million requests refused takes a bounded part of the log,
// the log says how many there were, and what other agents do is all in it.
func TestFlood(t *testing.T) {
	t.Parallel()
	l := newLogged(t, standard)
	const rounds, each = 100, 1000
	malformed := `{"k":"request","t":"1795416854.918","agent":"a","status":400,"flags":"DPE","details":"http1.codec_error"}` + "\n"
	other := strings.ReplaceAll(denied, `"a`, `"b`)
	other = strings.Replace(other, "a/default", "b/default", 1)
	watched := uint64(0)
	l.w.Watch = func(e *Event) {
		if e.Agent == "a" {
			watched += max(1, e.Count)
		}
	}
	for range rounds {
		l.write(strings.Repeat(denied, each/2), strings.Repeat(malformed, each/2), other, strings.Replace(allowed, `"agent":"a"`, `"agent":"b"`, 1))
		require.NoError(t, l.w.Tell())
	}
	l.stop()
	reasons, lines, others := map[plan.Reason]uint64{}, 0, 0
	require.NoError(t, Each(t.Context(), l.dir, Filter{}, func(e Event) error {
		if e.Agent == "a" {
			lines++
			reasons[e.Reason] += max(1, e.Count)
		} else {
			others++
		}
		return nil
	}))
	require.Equal(t, map[plan.Reason]uint64{plan.ReasonHost: rounds * each / 2, plan.ReasonMalformed: rounds * each / 2}, reasons)
	require.EqualValues(t, rounds*each, watched)
	require.Less(t, lines, 2*denialsAtOnce)
	require.Equal(t, 2*rounds, others)
}

// TestFloodHidesNothingThatWasSent: whatever ended a request, if an upstream was tried for it, the
// request has an event of its own, however many denials the agent has caused before.
func TestFloodHidesNothingThatWasSent(t *testing.T) {
	t.Parallel()
	l := newLogged(t, standard)
	l.write(strings.Repeat(denied, denialsAtOnce+1000))
	l.w.denied["a"].at = time.Now().Add(time.Hour) // time gives nothing back, however slow this machine is
	line := func(details, tries string) string {
		return `{"k":"request","t":"1795416854.918","agent":"a","method":"POST","path":"/` + details + `","route":"allowed api.test:443 - api","flags":"-","details":"` + details + `","tries":` + tries + `}` + "\n"
	}
	l.write(line("too_many_premature_resets", "1"), line("request_payload_too_large", "1"), line("overload", "0"))
	l.stop()
	var paths []string
	require.NoError(t, Each(t.Context(), l.dir, Filter{}, func(e Event) error {
		if e.Method == "POST" {
			paths = append(paths, e.Verdict+" "+e.Path)
		}
		return nil
	}))
	require.Equal(t, []string{"error /too_many_premature_resets", "deny /request_payload_too_large"}, paths)
}

// TestHostileText: whatever an agent sends is one line that is read back as it was sent.
func TestHostileText(t *testing.T) {
	t.Parallel()
	l := newLogged(t, standard)
	texts := []string{
		"\n", "\r\n", "a\x00b", "\xff\xfe", "\x1b[2J\x1b]0;x\a", "\u2028\u2029", `","verdict":"allow","agent":"b`, `\`, `\u000a`, strings.Repeat("\x00", 5000),
		strings.Repeat("x", 5000), "\u202e", `{"time":"2026-11-30T00:00:00Z","seq":1,"verdict":"allow"}`, "%0a", "</script>",
	}
	for i, text := range texts {
		e := &Event{Time: time.Unix(int64(i), 0).UTC(), Agent: "a", Verdict: Deny, Reason: plan.ReasonHost, Host: clip(text), Method: clip(text), Path: clip(text)}
		require.NoError(t, l.w.append(e))
	}
	l.stop()
	b, err := os.ReadFile(segmentPath(filepath.Join(l.dir, "n1"), 1))
	require.NoError(t, err)
	require.Equal(t, len(texts), strings.Count(string(b), "\n"))
	for _, c := range b {
		require.True(t, c == '\n' || c >= ' ' && c != 0x7f, "%q", fmt.Sprint(c))
	}
	i := 0
	require.NoError(t, Each(t.Context(), l.dir, Filter{Denied: true, Agent: "a"}, func(e Event) error {
		require.Equal(t, string([]rune(clip(texts[i]))), e.Host)
		require.Equal(t, Deny, e.Verdict)
		i++
		return nil
	}))
	require.Equal(t, len(texts), i)
	require.NoError(t, Each(t.Context(), l.dir, Filter{Agent: "b"}, func(Event) error {
		return fmt.Errorf("nobody is b")
	}))
	l.start()
}
