package bubblewrap

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestNoTwoSandboxesAreOneUser: not even of processes whose numbers meet, as two of one process do.
func TestNoTwoSandboxesAreOneUser(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		return // an ordinary user's agent is that user
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	users := map[int]*User{}
	for range 40 {
		wg.Go(func() {
			u, err := NewUser()
			mu.Lock()
			defer mu.Unlock()
			if err != nil || users[u.UID] != nil {
				t.Errorf("%+v %v", u, err)
				return
			}
			users[u.UID] = u
		})
	}
	wg.Wait()
	require.Len(t, users, 40)
	for _, u := range users {
		require.Equal(t, u.UID, u.GID)
		u.Release()
	}
}

// TestUserOfAKilledProcess is nobody else's while a process of the sandbox is left. Not parallel: a
// child that another test has forked holds the lock, too, until the child is a program of its own.
func TestUserOfAKilledProcess(t *testing.T) {
	if os.Getuid() != 0 {
		return // only root starts processes of other users
	}
	dir, u := t.TempDir(), &User{UID: firstAgentID + agentIDs + os.Getpid()}
	require.NoError(t, u.take(dir))
	require.ErrorIs(t, (&User{UID: u.UID}).take(dir), unix.EWOULDBLOCK)
	u.claim.Close() // as when the process is killed
	left := exec.CommandContext(t.Context(), "sleep", "60")
	left.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(u.UID), Gid: 65534}}
	require.NoError(t, left.Start())
	require.ErrorIs(t, (&User{UID: u.UID}).take(dir), unix.EWOULDBLOCK)
	require.NoError(t, left.Process.Kill())
	require.Error(t, left.Wait())
	next := &User{UID: u.UID}
	require.NoError(t, next.take(dir))
	next.Release()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)
}

// TestFolderOfClaims: a folder that somebody else may write is no place to claim anything.
func TestFolderOfClaims(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, ownFolder(filepath.Join(dir, "new")))
	require.NoError(t, ownFolder(filepath.Join(dir, "new")))
	require.NoError(t, os.Symlink("new", filepath.Join(dir, "link")))
	require.ErrorContains(t, ownFolder(filepath.Join(dir, "link")), "is not a folder of this user alone")
	require.NoError(t, os.Chmod(filepath.Join(dir, "new"), 0o770))
	require.ErrorContains(t, ownFolder(filepath.Join(dir, "new")), "is not a folder of this user alone")
}
