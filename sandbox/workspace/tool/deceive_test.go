package tool

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // git's names
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDeceives: what real git hides from a review by its own settings is found, in each version of
// its index; what everybody does is not.
func TestDeceives(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"sha1", "sha256"} {
		for _, version := range []string{"2", "4"} {
			t.Run(format+version, func(t *testing.T) {
				t.Parallel()
				dir, size := t.TempDir(), map[string]int{"sha1": 20, "sha256": 32}[format]
				git := func(args ...string) string {
					t.Helper()
					cmd := exec.CommandContext(t.Context(), "git", args...)
					cmd.Dir = dir
					cmd.Env = append(os.Environ(), "HOME="+dir, "GIT_CONFIG_NOSYSTEM=1")
					for _, who := range []string{"AUTHOR", "COMMITTER"} {
						cmd.Env = append(cmd.Env, "GIT_"+who+"_NAME=a", "GIT_"+who+"_EMAIL=a@example.test")
					}
					out, err := cmd.CombinedOutput()
					require.NoError(t, err, "%v: %s", args, out)
					return strings.TrimSpace(string(out))
				}
				said := func() map[string]string {
					found := map[string]string{}
					require.NoError(t, filepath.WalkDir(dir, func(at string, d os.DirEntry, err error) error {
						if err != nil || d.IsDir() {
							return err
						}
						rel, err := filepath.Rel(dir, at)
						require.NoError(t, err)
						f, err := os.Open(at)
						require.NoError(t, err)
						defer f.Close()
						if who, _ := Deceives(rel, size, f); who != "" {
							require.True(t, MayDeceive(rel))
							found[rel] = who
						}
						return nil
					}))
					return found
				}
				git("init", "-q", "--object-format="+format)
				for _, name := range []string{"a", "ab", "abc/d", "abc/de", strings.Repeat("long/", 30) + "x"} {
					require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
					require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600))
				}
				git("add", ".")
				git("update-index", "--index-version", version)
				git("commit", "-qm", "one")
				git("commit", "-qm", "two", "--allow-empty")
				git("pack-refs", "--all")
				require.Empty(t, said())

				git("update-index", "--assume-unchanged", "abc/de")
				require.Equal(t, map[string]string{".git/index": otherFiles}, said())
				git("update-index", "--no-assume-unchanged", "abc/de")
				require.Empty(t, said())
				git("update-index", "--skip-worktree", "ab")
				require.Equal(t, map[string]string{".git/index": otherFiles}, said())
				git("update-index", "--no-skip-worktree", "ab")
				require.Empty(t, said())
				git("update-index", "--force-untracked-cache")
				require.Equal(t, map[string]string{".git/index": otherFiles}, said(), "a new file may be hidden by it")
				git("update-index", "--no-untracked-cache")
				require.Empty(t, said())
				git("update-index", "--skip-worktree", "ab")
				git("update-index", "--split-index")
				require.NotEmpty(t, said())
				git("update-index", "--no-split-index")
				git("update-index", "--no-skip-worktree", "ab")
				require.NoError(t, os.RemoveAll(filepath.Join(dir, ".git", "index")))
				git("reset", "-q")
				for _, shared := range glob(t, filepath.Join(dir, ".git", "sharedindex.*")) {
					require.NoError(t, os.Remove(shared))
				}
				require.Empty(t, said())

				head := git("rev-parse", "HEAD")
				git("replace", head, git("rev-parse", "HEAD~1"))
				require.Len(t, said(), 1)
				git("pack-refs", "--all")
				require.Equal(t, map[string]string{".git/packed-refs": otherHistory}, said())
				git("replace", "-d", head)
				require.Empty(t, said())

				for file, content := range map[string]string{"exclude": "# ok\n\nevil\n", "grafts": "x\n"} {
					require.NoError(t, os.WriteFile(filepath.Join(dir, ".git/info", file), []byte(content), 0o600))
				}
				require.Equal(t, map[string]string{
					".git/info/exclude": otherFiles, ".git/info/grafts": otherHistory,
				}, said())
			})
		}
	}
	for at, who := range map[string]string{
		"sub/.git/shallow": otherHistory, ".git/modules/a/b/shallow": otherHistory,
		".git/worktrees/w/info/exclude": otherFiles, ".GIT/info/Sparse-Checkout": otherFiles,
		".git/refs/replace/0123": otherHistory, ".git/modules/a/refs/replace/0": otherHistory,
		"shallow": "", "info/exclude": "", ".git/shallow/x": "", ".git/logs/refs/heads/x": "",
		".git/refs/heads/x": acted,
	} {
		got, _ := Deceives(at, 20, strings.NewReader("x\n"))
		require.Equal(t, who, got, at)
	}
}

// TestUnreadIndex: an index that git may read, and we cannot, is as one that deceives.
func TestUnreadIndex(t *testing.T) {
	t.Parallel()
	for _, index := range []string{
		"DIRC", "DIRC\x00\x00\x00\x05\x00\x00\x00\x01", "DIRC\x00\x00\x00\x02\x00\x00\x00\x01x",
	} {
		who, state := Deceives(".git/index", 20, strings.NewReader(index))
		require.Equal(t, otherFiles, who)
		_, other := Deceives(".git/index", 20, strings.NewReader(index+"y"))
		require.NotEqual(t, state, other)
	}
	who, _ := Deceives(".git/index", 20, strings.NewReader("x"))
	require.Empty(t, who)
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	require.NoError(t, err)
	return found
}

// FuzzIndex: whatever an agent makes of an index is read to its end.
func FuzzIndex(f *testing.F) {
	header := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32([]byte("DIRC"), 4), 1)
	f.Add(append(header, make([]byte, 80)...))
	f.Add([]byte("DIRC"))
	f.Fuzz(func(_ *testing.T, index []byte) {
		_, _ = Deceives(".git/index", 20, strings.NewReader(string(index)))
	})
}

// TestIndexOfManyParts: what an agent adds to an index costs no memory, and a part that git finds
// by its place is found as one.
func TestIndexOfManyParts(t *testing.T) {
	t.Parallel()
	head := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32([]byte(indexMagic), 2), 0)
	part := func(name string, content []byte) []byte {
		return append(binary.BigEndian.AppendUint32([]byte(name), uint32(len(content))), content...)
	}
	end := binary.BigEndian.AppendUint32(nil, uint32(len(head)))
	whole := func(parts ...[]byte) []byte {
		return append(slices.Concat(append([][]byte{head}, parts...)...), make([]byte, sha1.Size)...)
	}
	eoie := part("EOIE", append(end, make([]byte, sha1.Size)...))
	// A resolved conflict of three files has names of objects in which anything may be.
	hidden := append([]byte("a\x00100644\x00100644\x00100644\x00"), make([]byte, 3*sha1.Size-len(eoie))...)
	for _, c := range []struct {
		index []byte
		who   string
	}{
		{whole(), ""},
		{whole(eoie), ""},
		{whole(part("REUC", nil), eoie), ""},
		{whole(part("REUC", append(hidden, eoie...))), otherFiles},
		{whole(make([]byte, 8*maxParts)), otherFiles},
		{whole(make([]byte, 8*(maxParts+1))), otherFiles},
	} {
		who, _ := Deceives(".git/index", sha1.Size, bytes.NewReader(c.index))
		require.Equal(t, c.who, who, "%q", c.index)
	}
	_, err := readIndex(whole(make([]byte, 8*(maxParts+1))), sha1.Size)
	require.ErrorIs(t, err, errNoIndex)
}
