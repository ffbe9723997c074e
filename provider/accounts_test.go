package provider

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAdopt: root gives away what is root's in the folder, and nothing that a user
// of the folder has put in its way.
func TestAdopt(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	const uid = 65534
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	owner := func(path string) int {
		info, err := os.Lstat(path)
		require.NoError(t, err)
		return int(info.Sys().(*syscall.Stat_t).Uid)
	}
	victim := filepath.Join(t.TempDir(), "victim")
	require.NoError(t, os.WriteFile(victim, nil, 0o600))
	require.NoError(t, os.MkdirAll(at("given/deep"), 0o700))
	require.NoError(t, os.WriteFile(at("given/deep/file"), nil, 0o600))
	require.NoError(t, os.Symlink(filepath.Dir(victim), at("given/link")))
	require.NoError(t, os.Mkdir(at("given/theirs"), 0o700))
	require.NoError(t, os.Symlink(victim, at("given/theirs/link")))
	require.NoError(t, os.WriteFile(at("given/theirs/root"), nil, 0o600))
	require.NoError(t, os.Chown(at("given/theirs"), uid, uid))
	require.NoError(t, os.WriteFile(at("twice"), nil, 0o600))
	require.NoError(t, os.Link(at("twice"), at("given/twice")))

	require.NoError(t, giveTree(at("given"), uid, uid))
	require.NoError(t, giveTree(at("gone"), uid, uid), "a user who removes files does not stop up")
	for name, want := range map[string]int{
		"given": uid, "given/deep": uid, "given/deep/file": uid, "given/link": uid, // the link itself
		"given/theirs/root": 0, // whoever owns the folder may have brought it there
		"given/twice":       0,
	} {
		require.Equal(t, want, owner(at(name)), name)
	}
	require.Zero(t, owner(victim))
	require.Zero(t, owner(filepath.Dir(victim)))
}
