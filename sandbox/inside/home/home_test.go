package home

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/sandbox/wire"
)

// TestFurnish: a file is written once, and nothing is followed out of the home: all of it may be an
// earlier agent's.
func TestFurnish(t *testing.T) {
	t.Parallel()
	home, outside := t.TempDir(), t.TempDir()
	setup := func(path, content string) error {
		return Furnish(home, []wire.File{{Path: wire.Bytes(path), Content: wire.Bytes(content)}})
	}
	require.NoError(t, Furnish("", nil), "who gets no files needs no home")
	require.NoError(t, setup(".tool/deep/config", "ours"))
	require.NoError(t, setup(".tool/deep/config", "other"))
	got, err := os.ReadFile(filepath.Join(home, ".tool", "deep", "config"))
	require.NoError(t, err)
	require.Equal(t, "ours", string(got))

	require.NoError(t, os.Symlink(outside, filepath.Join(home, ".out")))
	require.ErrorContains(t, setup(".out/config", "ours"), "write ~/.out/config: ")
	require.NoError(t, os.Symlink(filepath.Join(outside, "file"), filepath.Join(home, ".file")))
	require.NoError(t, setup(".file", "ours"), "a link is the agent's own")
	require.NoError(t, os.WriteFile(filepath.Join(home, ".plain"), nil, 0o600))
	require.ErrorContains(t, setup(".plain/config", "ours"), "--no-preset starts it without")
	require.Error(t, setup("../config", "ours"))
	left, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Empty(t, left)
}
