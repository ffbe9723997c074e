package workspace

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1" //nolint:gosec // git's
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// sh runs the script in the folder, with a git that has no settings of ours.
func sh(t *testing.T, dir, script string) (said string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-ec", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a",
		"GIT_AUTHOR_EMAIL=a@b.test", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b.test")
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func must(t *testing.T, dir, script string) string {
	t.Helper()
	out, err := sh(t, dir, script)
	require.NoError(t, err, "%s: %s", script, out)
	return out
}

// upstream is a script that makes a repository with a commit that a person trusts.
const upstream = `git init -qb main .; printf 'all:\n\techo honest\n' > Makefile; echo 1 > app.c; git add .
	git commit -qm upstream; git tag trusted`

// evil is what an agent puts in the place of the Makefile of a commit that a person trusts.
const evil = "all:\n\ttouch /tmp/evil\n"

// loose returns an object as git writes it.
func loose(kind, content string) string {
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	fmt.Fprintf(w, "%s %d\x00%s", kind, len(content), content)
	_ = w.Close() // in memory
	return b.String()
}

// forgedIndex returns the index of a pack with one object, with another name for that.
func forgedIndex(t *testing.T, index []byte, name string) string {
	t.Helper()
	forged := slices.Clone(index)
	id, err := hex.DecodeString(name)
	require.NoError(t, err)
	for first := range 256 {
		n := uint32(0)
		if first >= int(id[0]) {
			n = 1
		}
		binary.BigEndian.PutUint32(forged[8+4*first:], n)
	}
	copy(forged[8+4*256:], id)
	end := len(forged) - sha1.Size
	sum := sha1.Sum(forged[:end]) //nolint:gosec // git's
	copy(forged[end:], sum[:])
	return string(forged)
}

// forgeries are how an agent has other content under the blob's name.
var forgeries = map[string]func(t *testing.T, repository, blob string){
	"loose": func(t *testing.T, repository, blob string) {
		t.Helper()
		at := filepath.Join(repository, ".git/objects", blob[:2], blob[2:])
		require.NoError(t, os.Chmod(at, 0o600))
		write(t, at, loose("blob", evil))
	},
	"pack": func(t *testing.T, repository, blob string) {
		t.Helper()
		made := t.TempDir()
		write(t, filepath.Join(made, "f"), evil)
		pack := must(t, made, "git init -q .; git hash-object -w f | git pack-objects -q pack")
		index, err := os.ReadFile(filepath.Join(made, "pack-"+pack+".idx"))
		require.NoError(t, err)
		in := filepath.Join(repository, ".git/objects/pack/pack-"+pack)
		write(t, in+".pack", read(t, filepath.Join(made, "pack-"+pack+".pack")))
		write(t, in+".idx", forgedIndex(t, index, blob))
		require.NoError(t, os.Remove(filepath.Join(repository, ".git/objects", blob[:2], blob[2:])))
	},
}

// TestReviewOfForgedObjects: the lines that docs/workspace.md has for a review refuse content that
// an agent put under the name of a file that a person trusts. A plain clone does not, and the
// difference to the trusted commit does not have it.
func TestReviewOfForgedObjects(t *testing.T) {
	t.Parallel()
	_, section, ok := strings.Cut(read(t, "../../docs/workspace.md"), "\n## Review what an agent made\n\n")
	require.True(t, ok)
	section, _, _ = strings.Cut(section, "\n\n")
	var lines []string
	for line := range strings.Lines(section) {
		lines = append(lines, strings.TrimSpace(line))
	}
	require.Equal(t, []string{"git clone --no-local DIR review", "git fetch DIR"}, lines)
	for how, forge := range forgeries {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			must(t, dir, "mkdir up; cd up; "+upstream+"; cd ..; git clone -q --no-local up agent; "+
				"cd agent; mv .git/objects/pack/*.pack ../p; rm -f .git/objects/pack/*; git unpack-objects -q < ../p")
			agent := filepath.Join(dir, "agent")
			must(t, dir, "git clone -q --no-local agent honest && git -C honest fsck --strict")
			blob := must(t, agent, "git rev-parse HEAD:Makefile")
			forge(t, agent, blob)
			must(t, agent, "echo 2 > app.c; git commit -qm fix app.c")

			// So the attack works.
			must(t, dir, "git clone -q --no-hardlinks agent plain")
			require.Equal(t, evil, read(t, filepath.Join(dir, "plain/Makefile")))
			require.Equal(t, "app.c", must(t, dir, "cd plain; git diff --name-only trusted HEAD"))

			for _, line := range lines {
				line = strings.ReplaceAll(line, "DIR", "../agent")
				said, err := sh(t, dir, "mkdir reviews; cd reviews; git init -q; "+line)
				require.Error(t, err, line)
				require.Regexp(t, "(did not receive expected object|missing blob object) .?"+blob, said, line)
				require.NoError(t, os.RemoveAll(filepath.Join(dir, "reviews")))
			}
			// A repository that has the true object keeps it.
			must(t, dir, "cd up; git fetch -q ../agent; git checkout -q FETCH_HEAD; git fsck --strict")
			require.Equal(t, "all:\n\techo honest\n", read(t, filepath.Join(dir, "up/Makefile")))
		})
	}
}

// TestAdviceOfClones: nothing advises a clone that takes objects as they are.
func TestAdviceOfClones(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	for _, path := range append(files, "../../README.md", "../run/repository.go", "../run/home.go") {
		content := read(t, path)
		require.Empty(t, regexp.MustCompile("(`|\\(|    )git clone (--no-hardlinks|[~./]).*").FindString(content), path)
	}
}
