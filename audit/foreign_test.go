package audit

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestAnothersEvents: a folder of the log is its writer's, who may have been taken over. No node speaks for another, or
// for the control plane, and nothing that is not a file is opened.
func TestAnothersEvents(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(folder string, lines string) {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, folder), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, folder, "00000000000000000001.jsonl"), []byte(lines), 0o600))
	}
	write("control", `{"time":"2026-11-30T00:00:01Z","seq":1,"node":"control/eu-1","verdict":"change","kind":"published"}`+"\n")
	write("n1", `{"time":"2026-11-30T00:00:02Z","seq":1,"node":"n1","verdict":"deny","agent":"a"}`+"\n"+
		`{"time":"2026-11-30T00:00:03Z","seq":2,"node":"n1","verdict":"change","kind":"events-removed"}`+"\n")
	write("n9", `{"time":"2026-11-30T00:00:04Z","seq":1,"node":"control","verdict":"change","kind":"killed"}`+"\n"+
		`{"time":"2026-11-30T00:00:05Z","seq":2,"node":"n1","verdict":"allow","agent":"b"}`+"\n"+
		`{"time":"2026-11-30T00:00:06Z","seq":3,"node":"n9","verdict":"change","kind":"published"}`+"\n"+
		`{"time":"2026-11-30T00:00:07Z","seq":4,"verdict":"allow","agent":"b"}`+"\n")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "n8"), 0o700))
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "n8", "00000000000000000001.jsonl"), 0o600))
	require.NoError(t, os.Symlink("../n1/00000000000000000001.jsonl", filepath.Join(dir, "n8", "00000000000000000002.jsonl")))

	events, err := Read(dir, Filter{})
	require.NoError(t, err)
	var got []string
	for _, e := range events {
		got = append(got, e.Node+" "+e.Verdict+" "+e.Kind+e.Detail)
	}
	require.ElementsMatch(t, []string{
		"control/eu-1 change published",
		"n1 deny ",
		"n1 change events-removed",
		"n8 gap n8/00000000000000000001.jsonl was not read: not a regular file; nor were 1 more",
		"n9 gap n9/00000000000000000001.jsonl:1: 4 lines from here to line 4 are not events and were skipped",
	}, got)
}

// TestTakenOverWriter: whoever has taken a node over owns its folder, and may do anything in it.
// A reader ends, with bounded memory, says what it did not read, and reads what others wrote.
func TestTakenOverWriter(t *testing.T) {
	t.Parallel()
	const line = `{"time":"2026-11-30T00:00:02Z","seq":1,"node":"n1","verdict":"deny","agent":"a"}` + "\n"
	name := func(i int) string { return fmt.Sprintf("%020d.jsonl", i) }
	for _, c := range []struct {
		attack string
		// made does what the attacker has done in the folder of n1, and during what he does while
		// somebody reads.
		made   func(t *testing.T, dir string)
		during func(t *testing.T, dir string, i int)
		// gap is a part of what is said, and events how many of n1 are read.
		gap    string
		events int
	}{
		{attack: "a pipe", made: func(t *testing.T, dir string) {
			require.NoError(t, unix.Mkfifo(filepath.Join(dir, name(2)), 0o600))
		}, gap: name(2) + " was not read: not a regular file", events: 1},
		{attack: "a device behind a link", made: func(t *testing.T, dir string) {
			require.NoError(t, os.Symlink("/dev/zero", filepath.Join(dir, name(2))))
		}, gap: name(2) + " was not read: not a regular file", events: 1},
		{attack: "a folder", made: func(t *testing.T, dir string) {
			require.NoError(t, os.Mkdir(filepath.Join(dir, name(2)), 0o700))
		}, gap: name(2) + " was not read: not a regular file", events: 1},
		{attack: "a socket", made: func(t *testing.T, dir string) {
			in, err := os.Open(dir)
			require.NoError(t, err)
			defer in.Close()
			l, err := net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/%s", in.Fd(), name(2)))
			require.NoError(t, err)
			t.Cleanup(func() { l.Close() })
		}, gap: name(2) + " was not read: not a regular file", events: 1},
		{attack: "a lease on a segment", made: func(t *testing.T, dir string) {
			f, err := os.OpenFile(filepath.Join(dir, name(2)), os.O_CREATE|os.O_RDWR, 0o600)
			require.NoError(t, err)
			t.Cleanup(func() { f.Close() })
			_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK)
			require.NoError(t, err)
		}, gap: name(2) + " was not read: another program", events: 1},
		{attack: "a sparse segment of 50 GiB", made: func(t *testing.T, dir string) {
			f, err := os.Create(filepath.Join(dir, name(2)))
			require.NoError(t, err)
			require.NoError(t, f.Truncate(50<<30))
			require.NoError(t, f.Close())
		}, gap: "bytes at its end were not read: no segment is so large", events: 1},
		{attack: "more than a log", made: func(t *testing.T, dir string) {
			for i := range 6 {
				require.NoError(t, os.WriteFile(filepath.Join(dir, name(i+2)), []byte(strings.Repeat("\n", 2*maxBad)), 0o600))
				require.NoError(t, os.Truncate(filepath.Join(dir, name(i+2)), 50<<30))
			}
		}, gap: name(2) + " was not read: this and everything older", events: 0},
		{attack: "ever so many segments", made: func(t *testing.T, dir string) {
			for i := range maxEntries + 10 {
				require.NoError(t, os.WriteFile(filepath.Join(dir, name(i+2)), nil, 0o600))
			}
		}, gap: "n1 was not read: it has more than 10000 files", events: -1},
		{attack: "ever so many lines", made: func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name(2)), []byte(strings.Repeat("\n", 5*maxBad)), 0o600))
		}, gap: "so many of its lines are not events", events: 1},
		{attack: "a line more for each that is read", during: func(t *testing.T, dir string, _ int) {
			f, err := os.OpenFile(filepath.Join(dir, name(1)), os.O_APPEND|os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = f.WriteString(line)
			require.NoError(t, errors.Join(err, f.Close()))
		}, events: 1},
		{attack: "a segment more for each that is read", during: func(t *testing.T, dir string, i int) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name(i+1)), []byte(line), 0o600))
		}, events: 1},
		{attack: "a segment that shrinks", made: func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name(2)), []byte(strings.Repeat(line, 2000)), 0o600))
		}, during: func(t *testing.T, dir string, _ int) {
			require.NoError(t, os.Truncate(filepath.Join(dir, name(2)), 0))
		}, events: -1},
		{attack: "the folder is a link", made: func(t *testing.T, dir string) {
			elsewhere := filepath.Join(t.TempDir(), "n1")
			require.NoError(t, os.Rename(dir, elsewhere))
			require.NoError(t, os.Symlink(elsewhere, dir))
		}, gap: "n1 was not read: "},
		{attack: "the folder is a pipe", made: func(t *testing.T, dir string) {
			require.NoError(t, os.RemoveAll(dir))
			require.NoError(t, unix.Mkfifo(dir, 0o600))
		}, gap: "n1 was not read: "},
		{attack: "ever so many folders", made: func(t *testing.T, dir string) {
			for i := range 2 * maxFolders {
				require.NoError(t, os.Mkdir(fmt.Sprintf("%s-%d", dir, i), 0o700))
			}
		}, gap: "has more than 500 folders", events: -1},
	} {
		t.Run(c.attack, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			n1 := filepath.Join(dir, "n1")
			w, err := NewWriter(dir, ControlPlane)
			require.NoError(t, err)
			require.NoError(t, w.Record(Event{Kind: "published"}))
			require.NoError(t, w.Close())
			require.NoError(t, os.Mkdir(n1, 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(n1, name(1)), []byte(line), 0o600))
			if c.made != nil {
				c.made(t, n1)
			}
			gaps, events, published := []string{}, 0, false
			require.NoError(t, Each(t.Context(), dir, Filter{}, func(e Event) error {
				switch {
				case e.Verdict == Gap:
					gaps = append(gaps, e.Detail)
				case e.Node == "n1":
					if events++; events > 3000 {
						return errors.New("this does not end")
					}
					if c.during != nil {
						c.during(t, n1, events)
					}
				default:
					published = true
				}
				return nil
			}))
			require.True(t, published, "another's events are read")
			require.Contains(t, strings.Join(gaps, "\n"), c.gap)
			require.LessOrEqual(t, len(gaps), 6)
			if c.events >= 0 {
				require.Equal(t, c.events, events)
			}
		})
	}
}
