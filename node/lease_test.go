package node

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/guard"
)

// TestLeaseOfAnother: the control plane reads the lease of a node that may have been taken over. It does not wait for
// whoever might write to a pipe in its place.
func TestLeaseOfAnother(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, guard.LeasePath), 0o600))
	require.ErrorContains(t, checkLease(dir), "is a pipe, not a regular file")
}
