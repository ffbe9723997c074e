package advice

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// P39, and what a newcomer met: the advised program is started from any folder, on PATH or not.
func TestWord(t *testing.T) {
	root := t.TempDir()
	t.Setenv("HOME", root)
	place := func(path string) string {
		path = filepath.Join(root, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"), 0o700))
		return path
	}
	own := place("my tools/bin/postern")
	other := place("elsewhere/postern")
	bin, elsewhere := filepath.Dir(own), filepath.Dir(other)
	const path = "~/'my tools/bin/postern'"
	require.Equal(t, "postern", word(filepath.Join(root, "none"), ""), "nothing is next to this program")
	require.Equal(t, "postern", word(bin, bin))
	require.Equal(t, "postern", word(bin, "/none:"+bin+":"+elsewhere))
	require.Equal(t, path, word(bin, ""))
	require.Equal(t, path, word(bin, elsewhere+":"+bin), "a shell starts another one")
	require.Equal(t, path, word(bin, ".:"+bin), "in an agent's folder a shell starts another one")

	installed := place("local/libexec/postern/postern")
	link := filepath.Join(root, "local", "bin", "postern")
	require.NoError(t, os.Mkdir(filepath.Dir(link), 0o700))
	require.NoError(t, os.Symlink("../libexec/postern/postern", link))
	require.Equal(t, "~/local/bin/postern", word(filepath.Dir(installed), ""))
	require.Equal(t, "postern", word(filepath.Dir(installed), filepath.Dir(link)))
}

// A shell reads each line as what it is about, whatever the names are.
func TestLines(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	for path, want := range map[string]string{
		home + "/.config/postern/stacks/a.yaml": "~/.config/postern/stacks/a.yaml",
		home + "/a b/$(id)/it's.yaml":           `~/'a b/$(id)/it'\''s.yaml'`,
		"/srv/a b.yaml":                         "'/srv/a b.yaml'",
		home:                                    home,
		home + "2/x":                            home + "2/x",
		"/a/../b/./c":                           "/b/c",
	} {
		require.Equal(t, want, Path(path))
		out, err := exec.CommandContext(t.Context(), "sh", "-c", "printf %s "+Path(path)).Output()
		require.NoError(t, err)
		require.Equal(t, filepath.Clean(path), string(out))
	}
	require.Equal(t, "postern allow '*.x.test' --file ~/s.yaml", About(home+"/s.yaml", "allow", "*.x.test"))
}
