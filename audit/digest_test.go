package audit

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// line is a line of the access log: an allowed request of an agent.
func line(agent, method, path string, sent int) string {
	return fmt.Sprintf(`{"agent":%q,"authority":"api.test","connect":"api.test:443","details":"via_upstream",`+
		`"flags":"-","k":"request","method":%q,"ms":1,"path":%q,"route":"allowed api.test:443  %s/api","rx":%d,`+
		`"sni":"api.test","status":200,"t":"1795416854.918","tries":1,"tx":100}`+"\n", agent, method, path, agent, sent)
}

// size is how many bytes the log has.
func (l *logged) size() (total int64) {
	l.t.Helper()
	all, err := segments(filepath.Join(l.dir, "n1"))
	require.NoError(l.t, err)
	for _, s := range all {
		info, err := os.Stat(s.path)
		require.NoError(l.t, err)
		total += info.Size()
	}
	return total
}

// events are those that are read, each as "agent verdict method path", by how often.
func (l *logged) events() (all map[string]int, decisions map[string]uint64, removed []Event) {
	l.t.Helper()
	all, decisions = map[string]int{}, map[string]uint64{}
	last := uint64(0)
	require.NoError(l.t, Each(l.t.Context(), l.dir, Filter{}, func(e Event) error {
		require.Greater(l.t, e.Seq, last, "in the order of the log")
		last = e.Seq
		if e.Kind == eventsRemoved {
			removed = append(removed, e)
			return nil
		}
		all[strings.Join([]string{e.Agent, e.Verdict, e.Method, e.Path}, " ")]++
		decisions[e.Agent] += max(1, e.Count)
		return nil
	}))
	return all, decisions, removed
}

// TestNoisePushesNothingOut: an agent that makes thousands of allowed requests removes neither
// what others did nor what it did itself before, was denied and has uploaded; and the log
// says how many there were.
func TestNoisePushesNothingOut(t *testing.T) {
	t.Parallel()
	l := newLogged(t, bounds{segment: 32 << 10, age: time.Hour, total: 512 << 10, digest: 2 << 10})
	// An ordinary day, of two agents that work.
	for i := range 400 {
		l.write(line("a", "GET", fmt.Sprintf("/day/%d", i), 0), line("b", "GET", fmt.Sprintf("/day/%d", i), 0))
	}
	days, err := segments(filepath.Join(l.dir, "n1"))
	require.NoError(t, err)
	require.Greater(t, len(days), 4)
	for i, s := range days {
		at := time.Now().Add(time.Duration(i-len(days)) * time.Hour)
		require.NoError(t, os.Chtimes(s.path, at, at))
	}
	ordinary := uint64(400)
	// Then what is to be hidden, amid noise, while b still works.
	const rounds, each = 30, 500
	noise := func(round int) string {
		var all strings.Builder
		for i := range each {
			all.WriteString(line("a", "GET", fmt.Sprintf("/noise/%d/%d", round, i), 0))
		}
		return all.String()
	}
	l.write(noise(0))
	l.write(line("a", "POST", "/stolen", 1<<20), denied)
	for round := range rounds {
		l.write(noise(round+1), line("b", "GET", fmt.Sprintf("/work/%d", round), 0))
	}
	l.stop()

	require.LessOrEqual(t, l.size(), l.b.total+l.b.segment)
	all, decisions, removed := l.events()
	for i := range ordinary {
		require.Equal(t, 1, all[fmt.Sprintf("b allow GET /day/%d", i)])
		require.Equal(t, 1, all[fmt.Sprintf("a allow GET /day/%d", i)], "what it did before")
	}
	for round := range rounds {
		require.Equal(t, 1, all[fmt.Sprintf("b allow GET /work/%d", round)])
	}
	require.Equal(t, 1, all["a allow POST /stolen"])
	require.Equal(t, 1, all["a deny CONNECT "])
	require.Equal(t, map[string]uint64{"a": ordinary + (rounds+1)*each + 2, "b": ordinary + rounds}, decisions,
		"all are counted")
	require.NotEmpty(t, removed)
	counted := uint64(0)
	for _, e := range removed {
		require.Regexp(t, `^from \d+ on, of a, which filled the log: `, e.Detail)
		counted += e.Count
	}
	require.Greater(t, counted, uint64(rounds*each/2))

	// A log with digests is continued, and holds what an agent makes distinct on purpose.
	l.start()
	for round := range 10 {
		var b strings.Builder
		for i := range each {
			b.WriteString(line("a", "POST", fmt.Sprintf("/distinct/%d/%d", round, i), 1))
		}
		l.write(b.String())
	}
	l.stop()
	require.LessOrEqual(t, l.size(), l.b.total+l.b.segment)
	after, more, _ := l.events()
	require.Equal(t, decisions["a"]+10*each, more["a"])
	require.Equal(t, 1, after["a allow POST /stolen"])
	require.Equal(t, 1, after["b allow GET /day/0"])
	l.start()
}

// TestNoiseHidesNoFailure: whatever an agent does that succeeds, the path of what was allowed and
// failed stays, whether the upstream was not reached or refused it.
func TestNoiseHidesNoFailure(t *testing.T) {
	t.Parallel()
	l := newLogged(t, bounds{segment: 64 << 10, age: time.Hour, total: 1 << 20, digest: 4 << 10})
	unreached := strings.NewReplacer("via_upstream", "upstream_reset_before_response_started{connection_failure}",
		`"status":200`, `"status":503`).Replace(line("a", "GET", "/unreached", 0))
	missing := strings.Replace(line("a", "GET", "/missing", 0), `"status":200`, `"status":404`, 1)
	again := strings.NewReplacer("/unreached", "/unreached/2", "/missing", "/missing/2")
	n := 0
	for l.files() == 1 {
		for range 20 {
			n++
			l.write(line("a", "POST", fmt.Sprintf("/distinct/%d", n), 1))
		}
		if n == 100 {
			l.write(unreached, missing, again.Replace(unreached), again.Replace(missing))
		}
	}
	all, err := segments(filepath.Join(l.dir, "n1"))
	require.NoError(t, err)
	saved, err := l.w.digest(all[0])
	require.NoError(t, err)
	require.Positive(t, saved)
	events, _, _ := l.events()
	for _, path := range []string{"/unreached", "/unreached/2", "/missing", "/missing/2"} {
		require.Equal(t, 1, events["a allow GET "+path], path)
	}
}

// TestDigestIsShort: however an agent makes its requests distinct, a digest of a standard
// segment has little of them, all are counted, and the log is not held up by it for long.
func TestDigestIsShort(t *testing.T) {
	t.Parallel()
	l := newLogged(t, standard)
	hosts := 0
	written := 0
	for l.files() == 1 {
		var b strings.Builder
		for i := range 500 {
			hosts++
			method := []string{"GET", "POST", fmt.Sprint("M", hosts)}[i%3]
			one := line("a", method, fmt.Sprintf("/%d/%s", hosts, strings.Repeat("x", i)), i)
			b.WriteString(strings.ReplaceAll(one, "api.test", fmt.Sprintf("h%d.api.test", hosts)))
			written++
		}
		l.write(b.String())
	}
	all, err := segments(filepath.Join(l.dir, "n1"))
	require.NoError(t, err)
	start := time.Now()
	saved, err := l.w.digest(all[0])
	require.NoError(t, err)
	t.Logf("a digest took %s", time.Since(start).Round(time.Millisecond))
	require.Greater(t, saved, standard.segment-(65<<10))
	_, decisions, removed := l.events()
	require.EqualValues(t, written, decisions["a"])
	require.Len(t, removed, 1)
}

// TestNoDigestOfDamage: a segment that is damaged, or that agents share fairly, stays as it is
// until it is the oldest.
func TestNoDigestOfDamage(t *testing.T) {
	t.Parallel()
	l := newLogged(t, bounds{segment: 8 << 10, age: time.Hour, total: 64 << 10, digest: 1 << 10})
	for i := range 20 {
		l.write(line("a", "GET", fmt.Sprintf("/%d", i), 0))
	}
	l.stop()
	l.change(func(b []byte) []byte { b[10] = 0xff; return b })
	damaged, err := os.ReadFile(l.last())
	require.NoError(t, err)
	s := segment{path: l.last(), first: 1}
	l.start()
	greedy, _, err := s.greedy()
	require.NoError(t, err)
	require.Empty(t, greedy)
	saved, err := l.w.digest(s)
	require.NoError(t, err)
	require.Zero(t, saved)
	now, err := os.ReadFile(s.path)
	require.NoError(t, err)
	require.Equal(t, damaged, now)
}
