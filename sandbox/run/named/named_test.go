package named

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/sandbox/workspace/protect"
)

// TestNamedIsProtected: what the caller's settings name by a relative path is protected where it
// is, in a part of a repository too, and where all of the folder is that, no agent works.
func TestNamedIsProtected(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	environ := append(os.Environ(), "GIT_CONFIG_COUNT=2",
		"GIT_CONFIG_KEY_0=core.hooksPath", "GIT_CONFIG_VALUE_0=dev/hooks",
		"GIT_CONFIG_KEY_1=core.pager", "GIT_CONFIG_VALUE_1=dev/pager | sh filter.sh")
	top, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	for _, folder := range []string{".git", "dev/hooks/deep", "part"} {
		require.NoError(t, os.MkdirAll(filepath.Join(top, folder), 0o700))
	}
	for _, file := range []string{"dev/pager", "filter.sh"} {
		require.NoError(t, os.WriteFile(filepath.Join(top, file), nil, 0o600))
	}
	for folder, want := range map[string][]string{
		".": {"dev/hooks", "dev/pager"}, "dev": {"hooks", "pager"}, "part": nil,
	} {
		folder = filepath.Join(top, folder)
		require.NoError(t, Refuse(folder, environ, Repository{}))
		paths := Protectable(folder, In(folder, environ, Repository{}))
		require.ElementsMatch(t, want, paths, folder)
		p, err := protect.Protect(folder, protect.Files{}.And(paths))
		require.NoError(t, err)
		require.ElementsMatch(t, want, p.Paths)
		p.Release()
	}
	for _, folder := range []string{"dev/hooks", "dev/hooks/deep"} {
		require.ErrorContains(t, Refuse(filepath.Join(top, folder), environ, Repository{}), "GIT_CONFIG_VALUE_0")
	}
}
