package places

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestInEach: what settings name by a relative path is found, whatever setting it is.
func TestInEach(t *testing.T) {
	t.Parallel()
	files := map[string]string{
		"/h/.gitconfig": "[user]\n\tname = J. Doe\n[include]\n\tpath = more\n[core]\n\thooksPath = hooks\n" +
			"\tpager = ops/pager -R | less\n\teditor = vim\n\tfsmonitor = \"./fsm\"\n\texcludesFile = no/ignore\n" +
			"[alias]\n\tst = status -sb\n\tx = ops/alias\n\ty = !python3 tool.py\n\tz = !sh tool\n" +
			"\tco = checkout main\n" +
			"[credential] helper = ops/helper\n[remote \"o\"]\n\tpush = no/refs\n",
		"/h/more":               "[filter \"q\"]\n\tclean = ./bin/clean %f\n",
		"/h/.config/git/config": "[diff \"z\"]\n\ttextconv = bin/text\n[sequence]\n\teditor = ../out\n",
		"/h/.ssh/config":        "Host deploy.test\n\tProxyCommand ops/proxy %h\n",
		"/h/.npmrc":             "script-shell=bin/shell\nregistry=https://r.test/x\n",
		"/h/.vimrc":             "no/vim\n",
	}
	environ := map[string]string{
		"EDITOR": "./edit -w", "GIT_CONFIG_KEY_0": "gpg.program", "GIT_CONFIG_VALUE_0": "bin/gpg", "BASH_ENV": "env.sh",
		"GIT_CONFIG_PARAMETERS": "'core.hookspath'='c/hooks'", "PYTHONPATH": "src", "PAGER": "less",
	}
	var programs, folders, words []string
	for _, n := range InEach("/h", environ, func(path string) ([]byte, error) {
		if text, ok := files[path]; ok {
			return []byte(text), nil
		}
		return nil, fs.ErrNotExist
	}) {
		switch {
		case n.Folder:
			folders = append(folders, n.Path)
		case n.Word:
			words = append(words, n.Path)
		default:
			programs = append(programs, n.Path)
		}
	}
	require.ElementsMatch(t, []string{"hooks", "env.sh", "c/hooks"}, folders)
	require.ElementsMatch(t, []string{"tool", "tool.py"}, words)
	for _, at := range []string{
		"../out",
		"ops/pager", "fsm", "ops/alias", "git-ops/alias", "ops/helper", "git-credential-ops/helper", "bin/clean",
		"bin/text", "ops/proxy", "bin/shell", "edit", "bin/gpg", "c/hooks",
	} {
		require.Contains(t, programs, at)
	}
	for _, n := range append(programs, words...) {
		require.NotRegexp(t, `^no/|^src$|^(vim|less|main|status)$`, n)
	}
}

// TestInEachOfCommands: what a command line runs is found, though a shell first goes elsewhere or
// puts the path together, and so is what git reads in each folder because of a variable.
func TestInEachOfCommands(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"cd tools && ./s": "tools/s", "env -C tools ./s": "tools/s", "$PWD/tools/s": "tools/s",
		"${PWD}/tools/s": "tools/s", "!$(git rev-parse --show-toplevel)/tools/s": "tools/s",
		"!`git rev-parse --show-toplevel`/tools/s": "tools/s", `my\\ dir/s`: "my dir/s",
		"-c core.hooksPath=tools checkout": "tools", "PATH=tools:$PATH s": "tools", "tools/s*": "tools",
		"cd a && cd b && sh c.sh": "a/b/c.sh", "!'my dir/s'": "my dir/s", `"!\"my dir/s\" -x"`: "my dir/s",
	} {
		files := map[string]string{"/h/.gitconfig": "[alias]\n\tx = " + value + "\n"}
		var all []string
		for _, n := range InEach("/h", nil, func(path string) ([]byte, error) { return []byte(files[path]), nil }) {
			all = append(all, n.Path)
		}
		require.Contains(t, all, want, value)
	}
	for _, value := range []string{"!rm -f ./*.orig", "!ls *", "!ls ../*"} {
		for _, n := range InEach("/h", nil, func(path string) ([]byte, error) {
			return []byte(map[string]string{"/h/.gitconfig": "[alias]\n\tx = " + value + "\n"}[path]), nil
		}) {
			require.False(t, n.Folder, value)
		}
	}
	files := map[string]string{"/h/.gitconfig": "[remote \"o\"]\n\tuploadpack = ops/up\n\turl = no/repository\n"}
	all := InEach("/h", map[string]string{"XDG_CONFIG_HOME": "cfg"}, func(path string) ([]byte, error) {
		return []byte(files[path]), nil
	})
	var found []string
	for _, n := range all {
		found = append(found, fmt.Sprint(n.Path, " ", n.Folder))
	}
	require.Equal(t, []string{"cfg true", "ops/up false"}, slices.Compact(found))
}

// TestGitValue: git itself reads the same value.
func TestGitValue(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		" q/hooks # team":           "q/hooks",
		" q/hooks;team":             "q/hooks",
		"q/hooks\t ; c":             "q/hooks",
		` "q/hooks" # c`:            "q/hooks",
		`q/""hooks`:                 "q/hooks",
		`"q # no/ho"oks # c`:        "q # no/hooks",
		"q/\\\nhooks":               "q/hooks",
		"q  s/hooks  \r":            "q  s/hooks",
		`!sh -c \"ops/x\" \\ "a;b"`: `!sh -c "ops/x" \ a;b`,
		"q/hooks # c \\":            "q/hooks",
		"":                          "",
	} {
		file := filepath.Join(t.TempDir(), "config")
		require.NoError(t, os.WriteFile(file, []byte("[a]\n\tb ="+text+"\n\tc = next\n"), 0o600))
		git := func(name string) string {
			out, err := exec.CommandContext(t.Context(), "git", "config", "--file", file, name).Output()
			require.NoError(t, err, text)
			return strings.TrimSuffix(string(out), "\n")
		}
		value, rest := GitValue(text + "\n\tc = next\n")
		require.Equal(t, want, value, text)
		require.Equal(t, git("a.b"), value, text)
		require.Equal(t, "next", git("a.c"))
		require.Equal(t, "\tc = next\n", rest, text)
	}
}

// bom is a byte order mark, which some editors write before the first line.
const bom = "\xef\xbb\xbf"

// TestInEachAsGitReads: how somebody writes a setting hides nothing that git runs.
func TestInEachAsGitReads(t *testing.T) {
	t.Parallel()
	me, err := user.Current()
	require.NoError(t, err)
	for text, want := range map[string]string{
		"# c \\\n[core] hooksPath = q/hooks # team": "q/hooks",
		"[core]\nbare\n\thooksPath = q/ho\\\noks":   "q/hooks",
		"[core]\n\thooksPath = \"q\"/hooks ; c":     "q/hooks",
		"[include] path = ~" + me.Username + "/x":   "q/hooks",
		"[include]\n\tpath = more # c":              "q/hooks",
		bom + "[core]\n\thooksPath = q/hooks\n":     "q/hooks",
		bom + "[include] path = more":               "q/hooks",
	} {
		files := map[string]string{"/h/.gitconfig": text}
		for _, more := range []string{"/h/more", filepath.Join(me.HomeDir, "x")} {
			files[more] = bom + "[core]\n\thooksPath = q/hooks\n"
		}
		var all []string
		for _, n := range InEach("/h", nil, func(path string) ([]byte, error) {
			if text, ok := files[path]; ok {
				return []byte(text), nil
			}
			return nil, fs.ErrNotExist
		}) {
			all = append(all, n.Path)
		}
		require.Contains(t, all, want, text)
	}
	file := filepath.Join(t.TempDir(), "config")
	require.NoError(t, os.WriteFile(file, []byte(bom+"[core]\n\thooksPath = q/hooks\n"), 0o600))
	out, err := exec.CommandContext(t.Context(), "git", "config", "--file", file, "core.hooksPath").Output()
	require.NoError(t, err)
	require.Equal(t, "q/hooks\n", string(out))
	named := InRepository(file, "/h", os.ReadFile)
	require.NotEmpty(t, named)
	require.Equal(t, "q/hooks", named[0].Path)
}
