package named

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestOnPath: what an agent writes may run by its name only with a word about it.
func TestOnPath(t *testing.T) {
	t.Parallel()
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	work, bin := filepath.Join(root, "work"), filepath.Join(root, "bin")
	for _, dir := range []string{work + "/venv/bin", work + "-other", bin} {
		require.NoError(t, os.MkdirAll(dir, 0o700))
	}
	require.NoError(t, os.WriteFile(work+"/tool", nil, 0o700))
	for name, to := range map[string]string{
		"tool": "../work/tool", "again": "tool", "through": work + "/out", "deep": work + "/usr/bin/true",
		"nowhere": work + "/none", "other": work + "-other",
		"git": "/usr/bin/git",
	} {
		require.NoError(t, os.Symlink(to, filepath.Join(bin, name)))
	}
	require.NoError(t, os.Symlink(work, root+"/link"))
	require.NoError(t, os.Symlink("/usr/bin/true", work+"/out"))
	require.NoError(t, os.Symlink("/usr", work+"/usr"))
	require.NoError(t, os.Symlink("loop", bin+"/loop"))
	for _, c := range []struct {
		path string
		want []string
	}{
		{"/usr/bin:" + root + "/none:" + work + "-other", nil},
		{work, []string{work + " on PATH"}},
		{"/usr/bin:" + work + "/venv/bin", []string{work + "/venv/bin on PATH"}},
		{root + "/link:" + root + "/link", []string{root + "/link on PATH"}},
		{bin, []string{
			"the link " + bin + "/again on PATH", "the link " + bin + "/deep on PATH",
			"the link " + bin + "/nowhere on PATH",
			"the link " + bin + "/through on PATH", "the link " + bin + "/tool on PATH",
		}},
		{"node_modules/.bin", []string{"node_modules/.bin on PATH, which is another folder wherever you are"}},
		{":/usr/bin", []string{"'' on PATH, which is another folder wherever you are"}},
	} {
		require.Equal(t, c.want, OnPath([]string{"PATH=/x", "PATH=" + c.path}, work), c.path)
	}
	require.Equal(t, []string{
		"'' in LD_LIBRARY_PATH, which is another folder wherever you are",
		"lib in PYTHONPATH, which is another folder wherever you are",
	}, OnPath([]string{"PYTHONPATH=/usr/lib:lib", "LD_LIBRARY_PATH=/x:", "NODE_PATH="}, work))
}
