package audit

import (
	"os"
	"path/filepath"
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
		"n9 gap n9/00000000000000000001.jsonl:1: 4 lines from here to line 4 are not events and were skipped",
	}, got)
}
