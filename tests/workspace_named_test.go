package tests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestNamedInAnOverlay: what the repository's own settings, and the person's links, lead to is
// marked before it is applied, and named when it is.
func TestNamedInAnOverlay(t *testing.T) {
	t.Parallel()
	p := newPath(t)
	work := filepath.Join(p.dir, "work")
	for at, content := range map[string]string{
		".git/config": "[core]\nfsmonitor = ops/fsm\n", ".git/HEAD": "ref: refs/heads/main\n", "ops/fsm": "1\n",
		"scripts/co": "1\n", ".git/hooks/none": "",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(work, at)), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(work, at), []byte(content), 0o600))
	}
	require.NoError(t, os.Symlink("../../scripts/co", filepath.Join(work, ".git/hooks/post-checkout")))
	p.ok(p.posternIn(work, "run", "--agent", "demo", "--overlay", "--", "sh", "-c",
		"echo 2 > ops/fsm; echo 2 > scripts/co"))
	id, _, ok := strings.Cut(p.ok(p.postern("workspace", "list")), " ")
	require.True(t, ok)
	diff := p.ok(p.postern("workspace", "diff", id))
	for _, at := range []string{"ops/fsm", "scripts/co"} {
		require.Contains(t, diff, "diff --git a/"+at+" b/"+at+"\n! git may run commands from it\n")
	}
	applied := p.postern("workspace", "apply", id)
	require.Equal(t, 0, applied.status, applied.stderr)
	require.Contains(t, applied.stderr,
		"postern: look before you use it: ops/fsm, scripts/co (git may run commands from it)\n")
}
