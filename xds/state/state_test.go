package state

import (
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func folder(t *testing.T) *Folder {
	t.Helper()
	return In(t.TempDir(), slog.New(slog.NewTextHandler(t.Output(), nil)))
}

// TestDamaged: a file that is damaged is kept for people, and is not read twice.
func TestDamaged(t *testing.T) {
	t.Parallel()
	f := folder(t)
	var nodes []string
	there, err := f.Read(Nodes, &nodes)
	require.NoError(t, err)
	require.False(t, there)
	require.NoError(t, f.SaveJSON(Nodes, []string{"n1"}))
	there, err = f.Read(Nodes, &nodes)
	require.NoError(t, err)
	require.True(t, there)
	require.Equal(t, []string{"n1"}, nodes)

	require.NoError(t, os.WriteFile(f.Path(Nodes), []byte(`["n1`), 0o600))
	_, err = f.Read(Nodes, &nodes)
	require.ErrorIs(t, err, ErrDamaged)
	content, err := os.ReadFile(f.Path(Nodes) + ".damaged")
	require.NoError(t, err)
	require.Equal(t, `["n1`, string(content))
	there, err = f.Read(Nodes, &nodes)
	require.NoError(t, err)
	require.False(t, there)

	// Nobody waits for the writer of a pipe.
	require.NoError(t, unix.Mkfifo(f.Path(Nodes), 0o600))
	_, err = f.Read(Nodes, &nodes)
	require.ErrorIs(t, err, ErrDamaged)
	require.NoFileExists(t, f.Path(Nodes))
}

// TestRetry: a file that cannot be written is a problem until it is written.
func TestRetry(t *testing.T) {
	t.Parallel()
	f := folder(t)
	require.NoError(t, os.Mkdir(f.Path(Good), 0o700)) // in the file's place
	require.Error(t, f.Save(Good, []byte("one")))
	require.NotEmpty(t, f.Problem())
	f.Retry()
	require.NotEmpty(t, f.Problem())
	require.NoError(t, os.Remove(f.Path(Good)))
	f.Retry()
	require.Empty(t, f.Problem())
	content, err := os.ReadFile(f.Path(Good))
	require.NoError(t, err)
	require.Equal(t, "one", string(content))

	// What is committed is newer than what could not be written.
	require.NoError(t, os.Remove(f.Path(Good)))
	require.NoError(t, os.Mkdir(f.Path(Good), 0o700))
	require.Error(t, f.Save(Good, []byte("two")))
	require.NoError(t, os.Remove(f.Path(Good)))
	staged, err := f.Stage(Good, []byte("three"))
	require.NoError(t, err)
	require.NoError(t, f.Commit(Good, staged))
	f.Retry()
	require.Empty(t, f.Problem())
	content, err = os.ReadFile(f.Path(Good))
	require.NoError(t, err)
	require.Equal(t, "three", string(content))
}

// TestReserve: the disk has room for a kill, in a file without holes.
func TestReserve(t *testing.T) {
	t.Parallel()
	f := folder(t)
	f.Reserve(100 << 10)
	info, err := os.Stat(f.Path(reserve))
	require.NoError(t, err)
	require.Equal(t, int64(216<<10), info.Size())
	f.Reserve(1)
	again, err := os.Stat(f.Path(reserve))
	require.NoError(t, err)
	require.Equal(t, info.Size(), again.Size(), "it does not shrink")
}

// TestLastWritten: the newest of the files counts, and only they.
func TestLastWritten(t *testing.T) {
	t.Parallel()
	f := folder(t)
	require.Zero(t, f.LastWritten())
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i, name := range []string{Leases, Good, Nodes, Removed} {
		require.NoError(t, f.Save(name, nil))
		require.NoError(t, os.Chtimes(f.Path(name), time.Time{}, at.Add(time.Duration(i)*time.Hour)))
		require.Equal(t, at.Add(time.Duration(i)*time.Hour), f.LastWritten().UTC(), name)
	}
	require.NoError(t, os.WriteFile(f.Path("other"), nil, 0o600))
	require.Equal(t, at.Add(3*time.Hour), f.LastWritten().UTC())
}
