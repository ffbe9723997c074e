package atomicfile

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestWrite(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		// before prepares the folder.
		before func(t *testing.T, dir string)
		perm   os.FileMode
	}{
		{"a new file", func(*testing.T, string) {}, 0o600},
		{"a file that others may read becomes ours alone", func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "state"), []byte("old, and longer than the new"), 0o644))
		}, 0o600},
		{"a file for everybody, whatever the umask is", func(*testing.T, string) {}, 0o666},
		{"a link is replaced and not followed", func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "other"), []byte("untouched"), 0o600))
			require.NoError(t, os.Symlink("other", filepath.Join(dir, "state")))
		}, 0o600},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			c.before(t, dir)
			path := filepath.Join(dir, "state")
			require.NoError(t, Write(path, []byte("new"), c.perm))
			info, err := os.Lstat(path)
			require.NoError(t, err)
			require.Equal(t, c.perm, info.Mode(), "a regular file with exactly these permissions")
			got, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, "new", string(got))
			if other, err := os.ReadFile(filepath.Join(dir, "other")); err == nil {
				require.Equal(t, "untouched", string(other))
			}
			clean(t, dir)
		})
	}
}

// TestNothingChangesWithoutSpace fills a file system to the last byte: the old
// content stays, and no half of the new one is left next to the file.
func TestNothingChangesWithoutSpace(t *testing.T) {
	t.Parallel()
	const inside = "POSTERN_TEST_SMALL_DISK"
	if os.Getenv(inside) == "" {
		// Mounting needs namespaces of its own, also for an ordinary user.
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.SysProcAttr = &unix.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return
	}
	dir := t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })
	path := filepath.Join(dir, "state")
	require.NoError(t, Write(path, []byte("old"), 0o600))

	err := Write(path, make([]byte, 128<<10), 0o600)
	require.ErrorIs(t, err, unix.ENOSPC)
	require.ErrorContains(t, err, path)
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "old", string(got))
	clean(t, dir)
}

func TestStagedContentIsNotSeenBeforeCommit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	require.NoError(t, Write(path, []byte("old"), 0o600))

	s, err := Stage(path, []byte("dropped"), 0o600)
	require.NoError(t, err)
	require.NoError(t, s.Discard())
	clean(t, dir)

	s, err = Stage(path, []byte("new"), 0o600)
	require.NoError(t, err)
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "old", string(got))
	require.NoError(t, s.Commit())
	require.NoError(t, s.Discard(), "nothing is left to discard")
	got, err = os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "new", string(got))
	clean(t, dir)
}

// clean requires that no temporary file is in the folder.
func clean(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		require.False(t, strings.HasPrefix(e.Name(), "."), "left behind: %s", e.Name())
	}
}

// TestCreateHasOneWinner: a file that exists is not replaced, whoever made it when.
func TestCreateHasOneWinner(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	results := make(chan error)
	for i := range 8 {
		go func() { results <- Create(path, []byte{byte(i)}, 0o600) }()
	}
	won := 0
	for range 8 {
		if err := <-results; err == nil {
			won++
		} else {
			require.ErrorIs(t, err, os.ErrExist)
			require.ErrorContains(t, err, path)
		}
	}
	require.Equal(t, 1, won)
	clean(t, dir)
}
