package begun

import (
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestNotes: a note is there from Begin on, of the folder wherever it was moved, and it is nobody's
// as long as its command may go on.
func TestNotes(t *testing.T) {
	t.Parallel()
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	dir, folder, moved := filepath.Join(root, "new", "notes"), filepath.Join(root, "a\xff"), filepath.Join(root, "b")
	require.NoError(t, os.Mkdir(folder, 0o700))
	unsaid := func(want int) []*Note {
		t.Helper()
		var all []*Note
		require.NoError(t, Unsaid(dir, func(n *Note) { all = append(all, n) }))
		require.Len(t, all, want)
		return all
	}
	unsaid(0)
	n, err := Begin(dir, folder, []string{"were"})
	require.NoError(t, err)
	unsaid(0)
	n.Close() // as when the process ends
	require.NoError(t, os.Rename(folder, moved))
	require.NoError(t, os.Mkdir(folder, 0o700))
	all := unsaid(1)
	unsaid(0)
	require.True(t, all[0].Of(moved))
	require.False(t, all[0].Of(folder))
	require.False(t, all[0].Of(filepath.Join(root, "none")))
	require.Equal(t, folder, all[0].Folder)
	require.True(t, all[0].At.Equal(n.At))
	var were []string
	require.NoError(t, all[0].Were(&were))
	require.Equal(t, []string{"were"}, were)
	all[0].Close()
	require.NoError(t, unsaid(1)[0].Said())
	unsaid(0)

	// What was cut short before the command began is nothing.
	require.NoError(t, os.WriteFile(filepath.Join(dir, "torn"), []byte(`{"folder":"`), 0o600))
	unsaid(0)
	_, err = Begin(dir, folder, math.Inf(1)) // it has no JSON
	require.ErrorContains(t, err, "note what is in "+folder)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)

	// What was torn later says all that is there.
	n, err = Begin(dir, folder, []string{"were"})
	require.NoError(t, err)
	info, err := n.file.Stat()
	require.NoError(t, err)
	require.NoError(t, n.file.Truncate(info.Size()-3))
	n.Close()
	all = unsaid(1)
	require.Error(t, all[0].Were(&were))
	require.NoError(t, all[0].Said())
}

// TestNotesAreBounded: a machine on which many commands were killed, in folders that are gone,
// keeps the latest of their notes, and opens one at a time.
func TestNotesAreBounded(t *testing.T) {
	t.Parallel()
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	dir, folder, stays := filepath.Join(root, "notes"), filepath.Join(root, "folder"), filepath.Join(root, "stays")
	require.NoError(t, os.Mkdir(stays, 0o700))
	begin := func(folder string, before time.Duration) {
		n, err := Begin(dir, folder, nil)
		require.NoError(t, err)
		require.NoError(t, os.Chtimes(n.file.Name(), time.Time{}, time.Now().Add(-before)))
		n.Close()
	}
	begin(stays, time.Hour)
	for i := range 2 * mostGone {
		require.NoError(t, os.Mkdir(folder, 0o700))
		begin(folder, time.Duration(i)*time.Second)
		require.NoError(t, os.Remove(folder))
	}
	look := func() (all []string) {
		require.NoError(t, Unsaid(dir, func(n *Note) {
			fds, err := os.ReadDir("/proc/self/fd")
			require.NoError(t, err)
			open := 0
			for _, fd := range fds {
				if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && filepath.Dir(to) == dir {
					open++
				}
			}
			require.Equal(t, 1, open)
			all = append(all, n.Folder)
			n.Close()
		}))
		return all
	}
	look()
	all := look()
	require.Len(t, all, mostGone+1)
	require.Contains(t, all, stays)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range left {
		info, err := e.Info()
		require.NoError(t, err)
		if since := time.Since(info.ModTime()); since > (mostGone+60)*time.Second {
			require.Greater(t, since, time.Hour-time.Minute, "an older one of a folder that is gone")
		}
	}
}

// TestOneCannotBeRead: the others are told all the same.
func TestOneCannotBeRead(t *testing.T) {
	t.Parallel()
	dir, folder := t.TempDir(), t.TempDir()
	require.NoError(t, os.Symlink("elsewhere", filepath.Join(dir, "0")))
	n, err := Begin(dir, folder, "x")
	require.NoError(t, err)
	n.Close()
	told := 0
	require.Error(t, Unsaid(dir, func(n *Note) { told++; n.Close() }))
	require.Equal(t, 1, told)
}
