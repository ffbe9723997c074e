package since

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/workspace/tool"
)

// TestWaits: a new FIFO is named, wherever it is: git opens a file .gitignore in any folder.
// One that was there is not, whoever used it, nor is a socket.
func TestWaits(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	for _, in := range []string{"sub", "node_modules/x"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, in), 0o700))
	}
	fifo := func(at string) { t.Helper(); require.NoError(t, unix.Mkfifo(filepath.Join(dir, at), 0o600)) }
	fifo("old")
	fifo("gone")
	before, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	used, err := os.OpenFile(filepath.Join(dir, "old"), os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = used.WriteString("x")
	require.NoError(t, err)
	require.NoError(t, used.Close())
	require.NoError(t, os.Remove(filepath.Join(dir, "gone")))
	for _, at := range []string{".gitignore", "sub/.gitignore", "node_modules/x/.mailmap"} {
		fifo(at)
	}
	require.NoError(t, unix.Mknod(filepath.Join(dir, "socket"), unix.S_IFSOCK|0o600, 0))
	after, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	require.Equal(t, []string{".gitignore, sub/.gitignore, node_modules/x/.mailmap (" + tool.Waits + ")"},
		after.Since(before))
}
