package publish_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/home"
	"github.com/postern/postern/plan/cloud"
	"github.com/postern/postern/publish"
	"github.com/postern/postern/stacks"
)

// TestTrust: the operators of the stack file are trusted, and the operator here, who is listed once.
func TestTrust(t *testing.T) {
	t.Parallel()
	home := home.Folder{Root: filepath.Join(t.TempDir(), "local-1")}
	require.NoError(t, os.MkdirAll(filepath.Dir(home.Trusted()), 0o700))
	trusted := func(operators, ca string) string {
		stack := &stacks.Stack{AWS: &cloud.AWS{Operators: operators, CA: ca}}
		require.NoError(t, publish.Trust(home, stack, []byte("own\n")))
		written, err := os.ReadFile(home.Trusted())
		require.NoError(t, err)
		return string(written)
	}
	require.Equal(t, "other\nown\n", trusted("other\n", ""))
	require.NoFileExists(t, home.CACert())
	require.Equal(t, "own\nother\n", trusted("own\nother\n", "authority"))
	written, err := os.ReadFile(home.CACert())
	require.NoError(t, err)
	require.Equal(t, "authority", string(written))
}
