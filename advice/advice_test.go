package advice

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

// TestUnnameable: the line removes what nobody can name, and nothing else.
func TestUnnameable(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a b")
	name := "\xff\n" + strings.Repeat("n", 248)
	shell := func(line string) {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), "sh", "-ec", line).CombinedOutput()
		require.NoError(t, err, string(out))
	}
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "keep", strings.Repeat("k", 90)), 0o700))
	for i, c := range []string{"a", "b"} { // 4095 bytes can be named, and no more
		shell("cd '" + dir + "'; n=$(printf %0254d 0 | tr 0 " + c + "); " +
			"for i in $(seq 16); do mkdir $n; cd -P $n; done; touch " + strings.Repeat(c, 15+i))
	}
	shell("cd '" + dir + "'; for i in $(seq 18); do mkdir '" + name + "'; cd -P '" + name + "'; done; touch x")
	shell(Unnameable(dir, 4095))
	var long, kept int
	shell("cd '" + dir + "'; find . -depth -print0 > ../found")
	found, err := os.ReadFile(filepath.Join(dir, "../found"))
	require.NoError(t, err)
	for at := range strings.SplitSeq(strings.TrimSuffix(string(found), "\x00"), "\x00") {
		if at = strings.TrimPrefix(at, "./"); len(at) > 4095 {
			long++
		}
		if len(at) == 4095 {
			kept++
		}
	}
	require.Zero(t, long)
	require.Equal(t, 1, kept)
	require.DirExists(t, filepath.Join(dir, "keep", strings.Repeat("k", 90)))
}
