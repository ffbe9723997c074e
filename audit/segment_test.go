package audit

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

// logged is a log that a test writes to, reopened whenever it says so.
type logged struct {
	t   *testing.T
	dir string
	w   *Writer
	b   bounds
}

func newLogged(t *testing.T, b bounds) *logged {
	l := &logged{t: t, dir: t.TempDir(), b: b}
	l.start()
	t.Cleanup(func() {
		if l.w != nil {
			require.NoError(t, l.w.Close())
		}
	})
	return l
}

func (l *logged) start() {
	l.t.Helper()
	var err error
	l.w, err = newWriter(l.dir, "n1", l.b)
	require.NoError(l.t, err)
}

func (l *logged) stop() {
	l.t.Helper()
	require.NoError(l.t, l.w.Close())
	l.w = nil
}

func (l *logged) write(lines ...string) {
	l.t.Helper()
	require.NoError(l.t, l.w.Copy(strings.NewReader(strings.Join(lines, ""))))
}

// last is the path of the segment that is written to.
func (l *logged) last() string {
	l.t.Helper()
	all, err := segments(filepath.Join(l.dir, "n1"))
	require.NoError(l.t, err)
	require.NotEmpty(l.t, all)
	return all[len(all)-1].path
}

func (l *logged) files() int {
	l.t.Helper()
	all, err := segments(filepath.Join(l.dir, "n1"))
	require.NoError(l.t, err)
	return len(all)
}

func (l *logged) change(f func([]byte) []byte) {
	l.t.Helper()
	b, err := os.ReadFile(l.last())
	require.NoError(l.t, err)
	require.NoError(l.t, os.WriteFile(l.last(), f(b), 0o600))
}

// said is the verdict of each event, with what a gap or a change is about, in the order of the log.
func (l *logged) said() (all []string) {
	l.t.Helper()
	require.NoError(l.t, Each(l.t.Context(), l.dir, Filter{}, func(e Event) error {
		all = append(all, strings.TrimSpace(e.Verdict+" "+e.Kind+" "+e.Detail))
		return nil
	}))
	return all
}

const killedText = "gap  what wrote this log was killed: what happened in its last moments may be missing"

// TestDamage: whatever is in a log, the writer continues it and the reader reads the
// rest; both name the file and the line.
func TestDamage(t *testing.T) {
	t.Parallel()
	const name = "n1/00000000000000000001.jsonl"
	tail := func(s string) func([]byte) []byte {
		return func(b []byte) []byte { return append(b, s...) }
	}
	for _, c := range []struct {
		name   string
		damage func([]byte) []byte
		says   string
		// good is how many of the three events, and of those that were added, are read.
		good int
	}{
		{"a torn last line", tail(`{"time":"2026-11-`), ":4: this line is not an event and was skipped", 3},
		{"one bad byte", func(b []byte) []byte { b[bytes.IndexByte(b, '\n')+2] = 0xff; return b }, ":2: this line is not an event and was skipped", 2},
		{"a hole of NULs", tail(strings.Repeat("\x00", 1<<20)), ":4: this line is not an event and was skipped", 3},
		{"a hole of NULs, then an event", tail(strings.Repeat("\x00", 4096) + "\n" + `{"time":"2026-11-30T00:00:00Z","seq":4,"node":"n1","verdict":"deny"}` + "\n"), ":4: this line is not an event and was skipped", 4},
		{"a huge line", tail(strings.Repeat("x", 3<<20) + "\n"), ":4: this line is not an event and was skipped", 3},
		{"an endless line", tail(strings.Repeat("x", 3<<20)), ":4: this line is not an event and was skipped", 3},
		{"another program's lines", tail("one\ntwo\n{}\nnull\n[1]\n"), ":4: 5 lines from here to line 8 are not events and were skipped", 3},
		{"a number that cannot be", tail(`{"seq":18446744073709551615,"verdict":"deny"}` + "\n"), ":4: this line is not an event and was skipped", 3},
		{"nothing of it is left", func([]byte) []byte { return []byte("something else\n") }, ":1: this line is not an event and was skipped", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newLogged(t, standard)
			l.write(denied, denied, denied)
			l.stop()
			l.change(c.damage)
			damaged, err := os.ReadFile(l.last())
			require.NoError(t, err)
			gap := "gap  " + name + c.says
			for i := range 3 { // once more: what was declared is not declared again
				l.start()
				l.write(denied)
				l.stop()
				got := l.said()
				var denials, found, changed int
				for _, s := range got {
					switch s {
					case "deny":
						denials++
					case gap:
						found++
					case "gap  00000000000000000001.jsonl was changed, shortened or removed while nothing wrote this log":
						changed++
					default:
						require.Fail(t, "unexpected", "%s", s)
					}
				}
				require.Equal(t, c.good+i+1, denials, "%q", got)
				// One is the reader's, for the lines; the other was written.
				require.Equal(t, 2, found, "%q", got)
				require.Equal(t, 1, changed, "%q", got)
				require.Equal(t, 2, l.files())
				b, err := os.ReadFile(filepath.Join(l.dir, name))
				require.NoError(t, err)
				require.True(t, bytes.Equal(damaged, b), "what is damaged is not changed")
			}
			seqs := map[uint64]bool{}
			require.NoError(t, Each(t.Context(), l.dir, Filter{Denied: true}, func(e Event) error {
				require.False(t, seqs[e.Seq], "%d comes twice", e.Seq)
				seqs[e.Seq] = true
				return nil
			}))
		})
	}
}

// TestFailedWriteIsNotKnown: an event that could not be written is written the next time.
func TestFailedWriteIsNotKnown(t *testing.T) {
	t.Parallel()
	l := newLogged(t, standard)
	file := l.w.file
	var err error
	l.w.file, err = os.Open(file.Name()) // a write fails
	require.NoError(t, err)
	require.Error(t, l.w.Record(Event{ID: "a", Kind: "published"}))
	require.NoError(t, l.w.file.Close())
	l.w.file = file
	for range 2 {
		require.NoError(t, l.w.Record(Event{ID: "a", Kind: "published"}))
	}
	b, err := os.ReadFile(l.last())
	require.NoError(t, err)
	require.Equal(t, 1, bytes.Count(b, []byte(`"id":"a"`)))
}

// TestBadLine: what Envoy writes that cannot be read is a gap, whatever its size.
func TestBadLine(t *testing.T) {
	t.Parallel()
	l := newLogged(t, standard)
	long := `{"k":"request","path":"` + strings.Repeat("x", 2<<20) + `"}` + "\n"
	l.write(denied, "not json\n", denied, long, denied, "\x00\xff\n", `{"k":"request","k":`)
	const gap = "gap  a line of the access log could not be read"
	require.Equal(t, []string{"deny", gap, "deny", gap, "deny", gap}, l.said())
}

// TestKilled: a writer that was not closed declares that, and the numbering continues.
func TestKilled(t *testing.T) {
	t.Parallel()
	l := newLogged(t, standard)
	l.write(denied, denied)
	require.NoError(t, l.w.file.Close()) // and not the writer
	l.start()
	l.write(denied)
	require.Equal(t, []string{"deny", "deny", killedText, "deny"}, l.said())
	l.numbered(4)
}

// numbered holds the log to n events, numbered from 1.
func (l *logged) numbered(n uint64) {
	l.t.Helper()
	seq := uint64(0)
	require.NoError(l.t, Each(l.t.Context(), l.dir, Filter{}, func(e Event) error {
		seq++
		require.Equal(l.t, seq, e.Seq)
		return nil
	}))
	require.Equal(l.t, n, seq)
}

// TestSegments: a segment is closed by its size and by its age, and the numbering
// continues in the next.
func TestSegments(t *testing.T) {
	t.Parallel()
	small := bounds{segment: 2000, age: time.Hour, total: 1 << 30}
	l := newLogged(t, small)
	for range 100 {
		l.write(denied)
	}
	l.numbered(100)
	require.Greater(t, l.files(), 5)
	for _, s := range []int{0, 1} {
		all, err := segments(filepath.Join(l.dir, "n1"))
		require.NoError(t, err)
		info, err := os.Stat(all[s].path)
		require.NoError(t, err)
		require.Less(t, info.Size(), small.segment+1000)
	}
	before := l.files()
	l.stop()
	l.b.age = time.Nanosecond
	l.start()
	l.write(denied)
	require.Equal(t, before+1, l.files())
	l.numbered(101)
}

// TestTotal: the log of a node is bounded, and says what it has removed.
func TestTotal(t *testing.T) {
	t.Parallel()
	l := newLogged(t, bounds{segment: 2000, age: time.Hour, total: 20000})
	for range 1000 { // of no agent, so that nothing of it is counted
		require.NoError(t, l.w.Gap("x"))
	}
	all, err := segments(filepath.Join(l.dir, "n1"))
	require.NoError(t, err)
	total := int64(0)
	for _, s := range all {
		info, err := os.Stat(s.path)
		require.NoError(t, err)
		total += info.Size()
	}
	require.LessOrEqual(t, total, int64(20000+1000))
	require.Greater(t, total, int64(10000))
	// Without holes from the oldest that is there, and the last removal names the one before.
	var seqs []uint64
	removed := ""
	require.NoError(t, Each(t.Context(), l.dir, Filter{}, func(e Event) error {
		seqs = append(seqs, e.Seq)
		if e.Kind == "events-removed" {
			removed = e.Detail
		}
		return nil
	}))
	for i, s := range seqs {
		require.Equal(t, seqs[0]+uint64(i), s)
	}
	require.Greater(t, seqs[0], uint64(700))
	require.Contains(t, removed, fmt.Sprintf(" to %d, the oldest", seqs[0]-1))
}

// TestRotatedByHand: whatever somebody does to the files, no event is written where
// nobody looks for it, and the log says that something was done.
func TestRotatedByHand(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		do   func(path string) error
		// left is how many of the two events before are still read.
		left int
		says string
	}{
		{"moved", func(p string) error { return os.Rename(p, p+".1") }, 0, "00000000000000000001.jsonl was moved or removed: its events are where it is now"},
		{"removed", os.Remove, 0, "00000000000000000001.jsonl was moved or removed: its events are where it is now"},
		{"replaced", func(p string) error {
			b, _ := os.ReadFile(p)
			_ = os.Remove(p)
			return os.WriteFile(p, b, 0o600)
		}, 2, "00000000000000000001.jsonl was moved or removed: its events are where it is now"},
		{"cut", func(p string) error { return os.Truncate(p, 0) }, 0, "00000000000000000001.jsonl was shortened: events that were in it are missing"},
		{"folder removed", func(p string) error { return os.RemoveAll(filepath.Dir(p)) }, 0, "00000000000000000001.jsonl was moved or removed: its events are where it is now"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newLogged(t, standard)
			l.write(denied, denied)
			require.NoError(t, c.do(l.last()))
			l.write(denied, denied)
			want := []string{"gap  " + c.says, "deny", "deny"}
			for range c.left {
				want = append([]string{"deny"}, want...)
			}
			require.Equal(t, want, l.said())
			b, err := os.ReadFile(l.last())
			require.NoError(t, err)
			require.NotContains(t, string(b), "\x00")
			l.stop()
			l.start()
			l.write(denied)
			require.Equal(t, append(want, "deny"), l.said())
		})
	}
}

// TestSince: segments that were closed before the time that is asked for are not opened.
func TestSince(t *testing.T) {
	t.Parallel()
	l := newLogged(t, bounds{segment: 2000, age: time.Hour, total: 1 << 30})
	for range 50 {
		l.write(denied)
	}
	all, err := segments(filepath.Join(l.dir, "n1"))
	require.NoError(t, err)
	at := time.UnixMilli(1795416854918).UTC()
	old := at.Add(-time.Hour)
	for _, s := range all[:len(all)-1] {
		require.NoError(t, os.Chtimes(s.path, old, old))
		require.NoError(t, os.Chmod(s.path, 0)) // and, for a test that is not root, cannot be
	}
	n := 0
	count := func(Event) error { n++; return nil }
	require.NoError(t, Each(t.Context(), l.dir, Filter{Since: at}, count))
	info, err := os.ReadFile(l.last())
	require.NoError(t, err)
	require.Equal(t, bytes.Count(info, []byte("\n")), n)
}

// TestFollowSegments: who follows a log sees each event once, over segments that begin
// and that are removed.
func TestFollowSegments(t *testing.T) {
	t.Parallel()
	l := newLogged(t, bounds{segment: 1000, age: time.Hour, total: 1 << 30})
	next := uint64(1)
	go func() {
		for range 200 {
			if l.w.Copy(strings.NewReader(denied)) != nil {
				return
			}
		}
	}()
	enough := fmt.Errorf("enough")
	require.ErrorIs(t, Follow(t.Context(), l.dir, Filter{}, func(e Event) error {
		require.Equal(t, next, e.Seq)
		if next++; next > 200 {
			return enough
		}
		return nil
	}), enough)
}

func line1(kind string, ms int, bytes int) string {
	return fmt.Sprintf(`{"k":"tunnel","t":"1795416854.918001","conn":7,"type":%q,"agent":"a","connect":"db.test:443","rule":"a/db","tries":1,"rx":%d,"tx":5,"ms":%d}`+"\n", kind, bytes, ms)
}

// TestStreams: what lasts has events of one ID for its beginning and its end, and what does
// not last is one event.
func TestStreams(t *testing.T) {
	t.Parallel()
	states := func(l *logged) (all []string) {
		require.NoError(t, Each(t.Context(), l.dir, Filter{}, func(e Event) error {
			if e.Stream != "" {
				require.Equal(t, "1795416854.918001-7", e.Stream)
			}
			require.Equal(t, plan.ReasonAllowed, e.Reason)
			all = append(all, fmt.Sprintf("%s %d %s", e.State, e.Sent, e.Time.Format("05.000")))
			return nil
		}))
		return all
	}
	begin := func() *logged { return newLogged(t, bounds{segment: 2000, age: time.Hour, total: 1 << 30}) }

	l := begin()
	l.write(line1("TcpConnectionEnd", 900, 3))
	require.Equal(t, []string{" 3 14.918"}, states(l), "a short one")

	l = begin()
	l.write(line1("TcpPeriodic", 1000, 1), line1("TcpPeriodic", 2000, 2), line1("TcpPeriodic", 3000, 2), line1("TcpConnectionEnd", 4000, 3))
	require.Equal(t, []string{"opened 1 14.918", "ended 3 18.918"}, states(l), "a long one")

	l = begin()
	l.write(line1("TcpPeriodic", 1000, 1), line1("TcpPeriodic", 2000, 2))
	require.NoError(t, l.w.Lost())
	require.NoError(t, l.w.Lost())
	got := states(l)
	require.Len(t, got, 2, "Envoy died: once")
	require.Contains(t, got[1], "lost 2 ")

	// The supervisor is killed, long after the stream was opened.
	l = begin()
	l.write(line1("TcpPeriodic", 1000, 1))
	for l.files() < 4 {
		l.write(strings.Replace(allowed, `"a"`, `"b"`, 1))
	}
	require.NoError(t, l.w.file.Close())
	l.start()
	var told []string
	require.NoError(t, Each(t.Context(), l.dir, Filter{Agent: "a", Host: "db.test"}, func(e Event) error {
		told = append(told, e.State)
		return nil
	}))
	require.Equal(t, []string{Opened, StillOpen, StillOpen, StillOpen, Lost}, told)
}

// BenchmarkStart times a node's start after two million events. BenchmarkRead times the
// queries of operators.
func BenchmarkStart(b *testing.B) {
	dir := million(b)
	for b.Loop() {
		w, err := NewWriter(dir, "n1")
		require.NoError(b, err)
		require.NoError(b, w.Close())
	}
}

func BenchmarkRead(b *testing.B) {
	dir := million(b)
	for name, f := range map[string]Filter{
		"all": {}, "denied": {Denied: true}, "agent": {Agent: "nobody"}, "since": {Since: time.Now().Add(-time.Second), Agent: "a", Denied: true},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				require.NoError(b, Each(b.Context(), dir, f, func(Event) error { return nil }))
			}
		})
	}
}

// million writes a log of two million events.
func million(b *testing.B) string {
	b.Helper()
	dir := b.TempDir()
	w, err := NewWriter(dir, "n1")
	require.NoError(b, err)
	lines := bytes.Repeat([]byte(strings.Repeat(allowed, 9)+denied), 1000)
	for range 200 {
		require.NoError(b, w.Copy(bytes.NewReader(lines)))
	}
	require.NoError(b, w.Close())
	return dir
}
