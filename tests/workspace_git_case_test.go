package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// gitApplied: what an agent's git made is applied, packs too. Other content under the name of a
// file of the person's is not.
func (p *path) gitApplied(t *testing.T) {
	t.Helper()
	root := filepath.Join(p.dir, "gits")
	require.NoError(t, os.Mkdir(root, 0o755))
	sh := func(script string) string {
		cmd := exec.CommandContext(t.Context(), "sh", "-ec", script)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "HOME=/nonexistent", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b.test",
			"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b.test")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", script, out)
		return strings.TrimSpace(string(out))
	}
	sh("git init -qb main .; echo honest > tool; echo 1 > f; git add .; git commit -qm first; git tag trusted")
	apply := func(script string) result {
		t.Helper()
		const as = "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b.test " +
			"GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b.test; "
		p.ok(p.posternIn(root, "run", "--agent", "demo", "--overlay", "--", "sh", "-ec", as+script))
		id, _, ok := strings.Cut(p.ok(p.postern("workspace", "list")), " ")
		require.True(t, ok)
		r := p.postern("workspace", "apply", id)
		require.Contains(t, r.stderr, "not applied: .git/index: git takes its word for what is in the files: ")
		sh("git reset -q")
		if r.status == 4 {
			require.Contains(t, p.ok(p.postern("workspace", "diff", id)), "! not applied: ")
			p.ok(p.postern("workspace", "discard", id))
		}
		require.Empty(t, p.ok(p.postern("workspace", "list")))
		return r
	}
	for _, script := range []string{
		"echo 2 > f; git commit -qam second",
		"echo 3 > f; git commit -qam third; git -c pack.writeReverseIndex=false repack -adq",
	} {
		p.ok(apply(script)) // an index is never applied
	}
	require.Empty(t, sh("git status --porcelain; git fsck --strict"))
	require.Equal(t, "third second first", sh("git log --format=%s | paste -sd' '"))

	forged := apply(`name=$(git rev-parse HEAD:tool); f=.git/objects/$(echo $name | sed 's|^..|&/|')
		echo evil > e; evil=$(git hash-object -w e); rm e
		cp --remove-destination .git/objects/$(echo $evil | sed 's|^..|&/|') $f
		echo 4 > f; git commit -qam fourth`)
	require.Equal(t, 4, forged.status, forged.stderr)
	require.Contains(t, forged.stderr, ": git never changes an object, and yours of this name has other ")
	sh("git checkout -q trusted; git checkout -q main; rm tool; git checkout -q -- tool")
	require.Empty(t, sh("git fsck --no-dangling"))
	require.Equal(t, "honest", sh("cat tool"))
}
