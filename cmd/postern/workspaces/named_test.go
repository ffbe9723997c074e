package workspaces

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestNamedByAPerson: what a person's own settings of git name by a relative path, and an agent
// changes, is named: real git runs it.
func TestNamedByAPerson(t *testing.T) {
	t.Parallel()
	const in = "POSTERN_TEST_NAMED"
	files := []string{"dev/hooks/post-checkout", "ops/fsm", "git-ops/alias", "tool.sh", "sub/dev/hooks/post-checkout"}
	if dir := os.Getenv(in); dir != "" {
		before, after := SayTools(os.Stdout, filepath.Join(dir, "notes"), filepath.Join(dir, "work"))
		require.NoError(t, before())
		for _, at := range files {
			at = filepath.Join(dir, "work", at)
			require.NoError(t, os.MkdirAll(filepath.Dir(at), 0o700))
			program := "#!/bin/sh\necho $0 >> " + dir + "/ran\n"
			require.NoError(t, os.WriteFile(at, []byte(program), 0o700))
		}
		after()
		return
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	environ := append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME=", "GIT_CONFIG_NOSYSTEM=1", in+"="+dir)
	require.NoError(t, os.WriteFile(filepath.Join(dir, ".gitconfig"), []byte("[core]\n\thooksPath = dev/hooks\n"+
		"\tfsmonitor = ops/fsm\n[alias]\n\tx = ops/alias\n\ty = !sh tool.sh\n"), 0o600))
	git := func(at string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", at}, args...)...)
		cmd.Env = environ
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%v: %s", args, out)
	}
	work := filepath.Join(dir, "work")
	git(dir, "init", "-q", "work")
	git(dir, "init", "-q", "work/sub")
	self, err := os.Executable()
	require.NoError(t, err)
	run := exec.CommandContext(t.Context(), self, "-test.run=^TestNamedByAPerson$")
	run.Env = environ
	var out bytes.Buffer
	run.Stdout, run.Stderr = &out, &out
	require.NoError(t, run.Run(), out.String())
	for _, at := range files {
		require.Contains(t, out.String(), at)
	}
	require.Contains(t, out.String(), "(somebody's own settings have a program of theirs run it")

	for _, at := range []string{work, filepath.Join(work, "sub")} {
		git(at, "-c", "user.name=a", "-c", "user.email=a@a.test", "commit", "-q", "--allow-empty", "-m", "x")
		git(at, "checkout", "-qb", "y")
	}
	git(work, "status")
	git(work, "x")
	git(work, "y")
	ran, err := os.ReadFile(filepath.Join(dir, "ran"))
	require.NoError(t, err)
	for _, at := range files[:4] {
		require.Contains(t, string(ran), at, "git runs it")
	}
}
