package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/audit"
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

// TestLeaseIsWhole: nobody sees a lease that is not whole yet, and a lease that is there stays the
// same file, because sandboxes have it mounted.
func TestLeaseIsWhole(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	require.NoError(t, err)
	defer unix.Close(watch)
	_, err = unix.InotifyAddWatch(watch, dir, unix.IN_CREATE|unix.IN_MODIFY|unix.IN_ATTRIB|unix.IN_MOVED_TO)
	require.NoError(t, err)
	log, err := audit.NewWriter(t.TempDir(), "n1")
	require.NoError(t, err)
	defer func() { require.NoError(t, log.Close()) }()
	first, err := newLease(dir, log)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Munmap(first.memory)) }()
	path := filepath.Join(dir, guard.LeasePath)
	made, err := os.Stat(path)
	require.NoError(t, err)
	require.EqualValues(t, guard.LeaseSize, made.Size())
	require.EqualValues(t, 0o640, made.Mode().Perm())

	events := make([]byte, 64<<10)
	n, err := unix.Read(watch, events)
	require.NoError(t, err)
	for at := 0; at < n; {
		e := (*unix.InotifyEvent)(unsafe.Pointer(&events[at]))
		name := strings.TrimRight(string(events[at+unix.SizeofInotifyEvent:at+unix.SizeofInotifyEvent+int(e.Len)]), "\x00")
		if name == guard.LeasePath {
			require.EqualValues(t, unix.IN_MOVED_TO, e.Mask, "it was seen before it was whole")
		}
		at += unix.SizeofInotifyEvent + int(e.Len)
	}
	second, err := newLease(dir, log)
	require.NoError(t, err)
	require.NoError(t, unix.Munmap(second.memory))
	again, err := os.Stat(path)
	require.NoError(t, err)
	require.True(t, os.SameFile(made, again))
}
