package places

import (
	"io/fs"
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
	require.ElementsMatch(t, []string{"hooks", "env.sh"}, folders)
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
