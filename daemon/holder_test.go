package daemon

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNested(t *testing.T) {
	t.Parallel()
	for status, want := range map[string]bool{
		"Name:\tposternd\nNSpid:\t4711\nUid:\t0\n": false, "Name:\tsh\nNSpid:\t4711\t3\n": true, "Name:\tsh\n": false,
	} {
		require.Equal(t, want, nested([]byte(status)), status)
	}
}

// TestHasOpen: whoever took a lock can hand it on and end. The number that the kernel names may then be another process's.
func TestHasOpen(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	require.False(t, hasOpen(os.Getpid(), folder))
	f, err := os.Open(folder)
	require.NoError(t, err)
	require.True(t, hasOpen(os.Getpid(), folder))
	require.NoError(t, f.Close())
	require.False(t, hasOpen(os.Getpid(), folder))
	require.False(t, hasOpen(os.Getpid(), filepath.Join(folder, "gone")))
}
