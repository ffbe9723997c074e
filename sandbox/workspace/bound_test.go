package workspace

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/tests/nobody"
)

// TestDiskIsKeptFree: a command ends before a disk has no room for bytes, or for files.
func TestDiskIsKeptFree(t *testing.T) {
	t.Parallel()
	b := bound{folder: t.TempDir()}
	ended, end := context.WithCancel(t.Context())
	end()
	for name, c := range map[string]struct {
		floor room
		full  bool
	}{
		"room for both": {b.floor(), false},
		"no bytes":      {room{bytes: math.MaxUint64}, true},
		"no files":      {room{files: math.MaxUint64}, true},
	} {
		var said error
		b.keepFree(ended, c.floor, func(err error) { said = err })
		require.Equal(t, c.full, said != nil, name)
	}
	require.NotZero(t, b.floor().bytes)
}

// TestBoundSays: each folder that an agent fills has a bound, and the message says what to do.
func TestBoundSays(t *testing.T) {
	t.Parallel()
	l := newLayered(t, nil)
	l.Size = 1
	write(t, filepath.Join(l.layer, "x"), "x")
	folders := map[string]interface {
		Bound(ctx context.Context, stop func(error))
	}{
		"the workspace's layer is larger than its 1 bytes: set a larger size in the stack file (workspace: " +
			"{mode: overlay, size: ...})": l.Run,
	}
	for volume, says := range map[string]string{
		"": "the agent's home is larger than its 1 bytes: clear it with `postern home clear demo`, or set a larger " +
			"size in the stack file (home: {persist: true, size: ...})",
		"out": "the agent's volume is larger than its 1 bytes: clear it with `postern workspace volume clear demo " +
			"out`, or set a larger size in the stack file (workspace: {mode: volume, size: ...})",
	} {
		k, err := Keep(filepath.Join(real(t), "kept"), "demo", volume, 1)
		require.NoError(t, err)
		defer k.Close()
		write(t, filepath.Join(k.Files(), "x"), "x")
		folders[says] = k
	}
	for says, f := range folders {
		stopped := make(chan error, 1)
		go f.Bound(t.Context(), func(err error) { stopped <- err })
		require.EqualError(t, <-stopped, says)
	}
}

// TestMeasure: what a folder takes is at least what is in it, and what cannot be measured is told
// of, wherever it is.
func TestMeasure(t *testing.T) {
	t.Parallel()
	dir := real(t)
	used, whole, err := measureFolder(dir, false)
	require.NoError(t, err)
	require.True(t, whole)
	require.Zero(t, used)
	write(t, filepath.Join(dir, "a/b/empty"), "")
	require.NoError(t, os.Symlink("/", filepath.Join(dir, "link")))
	least := uint64(4 << 10)
	used, whole, err = measureFolder(dir, false)
	require.NoError(t, err)
	require.True(t, whole)
	require.GreaterOrEqual(t, used, least, "two folders, a file and a link")
	require.Less(t, used, uint64(1<<20), "no link is followed")
	write(t, filepath.Join(dir, "a/b/large"), strings.Repeat("x", 1<<20))
	more, _, err := measureFolder(dir, false)
	require.NoError(t, err)
	require.GreaterOrEqual(t, more, uint64(1<<20))

	nest(t, dir, deepest-1)
	_, whole, err = measureFolder(dir, false)
	require.NoError(t, err)
	require.True(t, whole)
	for i := range 20 {
		require.NoError(t, os.Mkdir(filepath.Join(dir, strconv.Itoa(i)), 0o700))
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, strings.Repeat("d/", deepest-1), "d"), 0o700))
	_, whole, err = measureFolder(dir, false)
	require.ErrorIs(t, err, ErrTooDeep)
	require.False(t, whole)
}

// TestMeasuredAnyway: what a run has hidden in a folder without rights counts for the next.
func TestMeasuredAnyway(t *testing.T) {
	t.Parallel()
	dir := real(t)
	write(t, filepath.Join(dir, "a/b/large"), strings.Repeat("x", 1<<20))
	require.NoError(t, os.Chmod(filepath.Join(dir, "a/b"), 0))
	require.NoError(t, os.Chmod(filepath.Join(dir, "a"), 0o300))
	nobody.Do(t, dir, func() {
		used, whole, err := measureFolder(dir, false)
		require.NoError(t, err)
		require.False(t, whole)
		require.Less(t, used, uint64(1<<20))
		var said error
		bound{folder: dir, size: 1 << 19, what: "agent's volume"}.watch(t.Context(), func(err error) { said = err })
		require.ErrorContains(t, said, "the agent's volume is larger than its 524288 bytes")
	})
}
