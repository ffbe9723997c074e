package workspace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestHomeIsOneAgents: several runs of an agent have its home, and nobody clears it meanwhile.
func TestHomeIsOneAgents(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "homes")
	none, err := KeptIn(dir)
	require.NoError(t, err)
	require.Empty(t, none)
	first, err := Keep(dir, "demo", "", 0)
	require.NoError(t, err)
	second, err := Keep(dir, "demo", "", 1<<20)
	require.NoError(t, err)
	other, err := Keep(dir, "other", "", 0)
	require.NoError(t, err)
	defer other.Close()
	require.Equal(t, uint64(DefaultSize), first.Size)
	require.Equal(t, first.Files(), second.Files())
	require.Equal(t, "demo", filepath.Base(filepath.Dir(first.Files())))
	require.NotEqual(t, first.Files(), other.Files())
	write(t, filepath.Join(first.Files(), "x"), "x")
	info, err := os.Stat(filepath.Dir(first.Files()))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())

	all, err := KeptIn(dir)
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.True(t, all[0].InUse())
	require.ErrorIs(t, all[0].Clear(t.Context()), ErrInUse)
	first.Close()
	require.ErrorIs(t, all[0].Clear(t.Context()), ErrInUse)
	second.Close()
	require.False(t, all[0].InUse())
	require.NoError(t, all[0].Clear(t.Context()))
	all, err = KeptIn(dir)
	require.NoError(t, err)
	require.Len(t, all, 1)
	volume, err := Keep(dir, "other", "out", 0)
	require.NoError(t, err)
	defer volume.Close()
	require.NotEqual(t, other.Files(), volume.Files())
	all, err = KeptIn(dir)
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, "the home of agent other, volume out of agent other", fmt.Sprint(all[0])+", "+fmt.Sprint(all[1]))
	again, err := Keep(dir, "demo", "", 0)
	require.NoError(t, err)
	defer again.Close()
	require.NoFileExists(t, filepath.Join(again.Files(), "x"))
}

// TestHomeIsCleared: links, pipes, folders without rights, and folders deeper than a process can
// open do not keep a home from being cleared, and nothing outside is touched.
func TestHomeIsCleared(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside")
	write(t, filepath.Join(outside, "kept"), "kept")
	require.NoError(t, os.Chmod(outside, 0o750))
	h, err := Keep(filepath.Join(dir, "homes"), "demo", "", 0)
	require.NoError(t, err)
	at := func(name string) string { return filepath.Join(h.Files(), name) }
	require.NoError(t, os.Symlink(outside, at("link")))
	require.NoError(t, unix.Mkfifo(at("pipe"), 0o600))
	write(t, at("locked/deep/file"), "x")
	require.NoError(t, os.Symlink(outside, at("locked/deep/link")))
	write(t, at("removed-1"), "a name that is taken")
	write(t, at("a\nb\xff"), "x")
	require.NoError(t, os.Chmod(at("locked/deep"), 0))
	require.NoError(t, os.Chmod(at("locked"), 0))
	nest(t, h.Files(), 5000)
	_, whole, err := h.Measure()
	require.ErrorIs(t, err, ErrTooDeep)
	require.False(t, whole)
	stopped := make(chan error, 1)
	go h.Bound(t.Context(), func(err error) { stopped <- err })
	require.ErrorIs(t, <-stopped, ErrTooDeep, "what cannot be measured is ended")
	// The agent takes the rights from the home itself.
	require.NoError(t, os.Chmod(h.Files(), 0))
	require.NoError(t, h.Link("x", "/home/me/x", "/home/me"))
	info, err := os.Stat(h.Files())
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	require.NoError(t, os.Chmod(h.Files(), 0))
	h.Close()
	require.NoError(t, h.Clear(t.Context()))
	require.NoDirExists(t, h.Files())
	require.FileExists(t, filepath.Join(outside, "kept"))
	info, err = os.Stat(outside)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o750), info.Mode().Perm())
}

// TestRemoveWhileMade: who makes folders as fast as they are removed keeps nobody waiting for ever,
// and no other error comes of it.
func TestRemoveWhileMade(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "files")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "x/y"), 0o700))
	ctx, end := context.WithCancelCause(t.Context())
	enough := errors.New("somebody has had enough")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for made := 0; ; made++ {
			if made == 10_000 {
				end(enough)
			}
			select {
			case <-stop:
				return
			default:
				_ = os.MkdirAll(filepath.Join(dir, fmt.Sprint("x", made%100), "y"), 0o700)
			}
		}
	}()
	var err error
	for err == nil || errors.Is(err, os.ErrNotExist) { // it was removed, for a moment
		err = RemoveAll(ctx, dir)
	}
	close(stop)
	<-stopped
	require.ErrorIs(t, err, enough)
	require.ErrorContains(t, err, "remove "+dir)
	require.NoError(t, RemoveAll(t.Context(), dir))
	require.NoDirExists(t, dir)
}

// nest makes folders in each other.
func nest(t *testing.T, dir string, depth int) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	require.NoError(t, err)
	for range depth {
		require.NoError(t, unix.Mkdirat(fd, "d", 0o700))
		next, err := unix.Openat(fd, "d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		require.NoError(t, err)
		require.NoError(t, unix.Close(fd))
		fd = next
	}
	require.NoError(t, unix.Close(fd))
}

// TestHomeLinks: a link that the agent has put on the way leads nowhere, and what it has in a place
// stays.
func TestHomeLinks(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	outside := filepath.Join(dir, "outside")
	require.NoError(t, os.Mkdir(outside, 0o700))
	h, err := Keep(filepath.Join(dir, "homes"), "demo", "", 0)
	require.NoError(t, err)
	defer h.Close()
	at := func(name string) string { return filepath.Join(h.Files(), name) }
	link := func(path, to string) string {
		require.NoError(t, h.Link(path, to, "/home/me"))
		got, err := os.Readlink(at(path))
		if err != nil {
			return fmt.Sprint(err != nil)
		}
		return got
	}
	require.Equal(t, "/home/me/.nvm/v20", link(".nvm/v20", "/home/me/.nvm/v20"))
	require.Equal(t, "/home/me/.nvm/v22", link(".nvm/v20", "/home/me/.nvm/v22"))
	require.NoError(t, os.Symlink(outside, at(".cargo")))
	require.Equal(t, "true", link(".cargo/bin", "/home/me/.cargo/bin"))
	write(t, at(".local"), "a file")
	require.Equal(t, "true", link(".local/bin", "/home/me/.local/bin"))
	require.NoError(t, os.Symlink("/mine", at("own")))
	require.Equal(t, "/mine", link("own", "/home/me/own"))
	left, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Empty(t, left)
	// The home itself is no link.
	require.NoError(t, os.RemoveAll(h.Files()))
	require.NoError(t, os.Symlink(outside, h.Files()))
	require.Error(t, h.Link("x", "/home/me/x", "/home/me"))
}
