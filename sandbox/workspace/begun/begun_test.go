package begun

import (
	"math"
	"os"
	"path/filepath"
	"testing"

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
		all, err := Unsaid(dir)
		require.NoError(t, err)
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
