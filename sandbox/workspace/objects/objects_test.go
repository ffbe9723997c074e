package objects

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1" //nolint:gosec // git's names
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOf(t *testing.T) {
	t.Parallel()
	hex38, hex62, hex64 := strings.Repeat("a", 38), strings.Repeat("b", 62), strings.Repeat("c", 64)
	for at, want := range map[string]File{
		".git/objects/ab/" + hex38:               {Loose, ".git", "ab" + hex38},
		".GIT/Objects/AB/" + hex62:               {Loose, ".GIT", "ab" + hex62},
		"x/y.git/objects/00/" + hex38:            {Loose, "x/y.git", "00" + hex38},
		"objects/00/" + hex38:                    {Loose, ".", "00" + hex38},
		".git/modules/a/b/objects/00/" + hex38:   {Loose, ".git/modules/a/b", "00" + hex38},
		".git/objects/pack/pack-1.pack":          {Pack, ".git", ""},
		".git/objects/pack/any.idx":              {Index, ".git", ""},
		".git/objects/pack/pack-1.rev":           {Derived, ".git", ""},
		".git/objects/pack/pack-1.bitmap":        {Derived, ".git", ""},
		".git/objects/pack/pack-1.mtimes":        {Derived, ".git", ""},
		".git/objects/pack/pack-1.keep":          {Derived, ".git", ""},
		".git/objects/pack/pack-1.promisor":      {Derived, ".git", ""},
		".git/objects/pack/multi-pack-index":     {Derived, ".git", ""},
		".git/objects/pack/multi-pack-index.d/x": {Derived, ".git", ""},
		".git/objects/info/commit-graph":         {Derived, ".git", ""},
		".git/objects/info/commit-graphs/x":      {Derived, ".git", ""},
		".git/objects/loose-object-idx":          {Derived, ".git", ""},
		".git/objects/info/alternates":           {Alternates, ".git", ""},
		".git/commondir":                         {Alternates, ".git", ""},
		"sub/.git/commondir":                     {Alternates, "sub/.git", ""},
		".git/worktrees/w/commondir":             {Common, ".git/worktrees/w", ""},
		".git/objects/info/http-alternates":      {Alternates, ".git", ""},
		".git/objects":                           {Folder, ".git", ""},
		".git/objects/ab":                        {Folder, ".git", ""},
		".git/objects/pack":                      {Folder, ".git", ""},
		".git/objects/info":                      {Folder, ".git", ""},
		".git/lfs/objects/ab/cd/" + hex64:        {Large, ".git/lfs", hex64},
	} {
		require.Equal(t, want, Of(at), at)
	}
	for _, at := range []string{
		".git/refs/heads/objects/x", ".git/refs/heads/objects/pack/x", "objects.go", "src/objects/list.go",
		"src/objects/ab/file.go", "objects/pack/model.png", ".git/objects/info/packs", ".git/objects/pack/tmp_pack_x",
		".git/objects/ab/tmp_obj_x", ".git/objects/ab/" + hex38 + "/x", ".git/modules/objects/config",
	} {
		require.Equal(t, File{}, Of(at), at)
	}
}

// packed returns what git has in the file of an object.
func packed(t *testing.T, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	_, err := io.WriteString(w, text)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

func name(text string) string {
	sum := sha1.Sum([]byte(text)) //nolint:gosec // git's names
	return hex.EncodeToString(sum[:])
}

// TestCheckGit: what git writes is as its name says, of each kind, small and large, and by both
// hashes.
func TestCheckGit(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"sha1", "sha256"} {
		dir := t.TempDir()
		cmd := exec.CommandContext(t.Context(), "sh", "-ec", `git init -q --object-format=`+format+`
			touch empty; echo x > small; head -c 3000000 /dev/urandom > large; git add .
			git commit -qm x; git tag -am x v1`)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a",
			"GIT_AUTHOR_EMAIL=a@b.test", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b.test")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		files, err := filepath.Glob(filepath.Join(dir, ".git/objects/??/*"))
		require.NoError(t, err)
		require.Len(t, files, 6)
		for _, at := range files {
			content, err := os.ReadFile(at)
			require.NoError(t, err)
			is := Of(at)
			require.Equal(t, Loose, is.Kind, at)
			_, err = Check(bytes.NewReader(content), is.Name, 4<<20)
			require.NoError(t, err, at)
			_, err = Check(bytes.NewReader(content), strings.Repeat("0", len(is.Name)), 4<<20)
			require.ErrorIs(t, err, ErrForged, at)
		}
	}
}

func TestCheckForged(t *testing.T) {
	t.Parallel()
	const text = "blob 3\x00abc"
	good := packed(t, text)
	_, err := Check(bytes.NewReader(good), name(text), 3)
	require.NoError(t, err)
	for what, c := range map[string]struct {
		text string
		file []byte
	}{
		"another content": {text: text, file: packed(t, "blob 3\x00abd")},
		"nothing":         {text: text},
		"no zlib":         {text: text, file: []byte(text)},
		"cut off":         {text: text, file: good[:len(good)-5]},
		"no checksum":     {text: text, file: good[:len(good)-1]},
		"more behind":     {text: text, file: append(bytes.Clone(good), 0)},
		"two streams":     {text: text + text, file: append(bytes.Clone(good), good...)},
		"too short":       {text: "blob 4\x00abc"},
		"too long":        {text: "blob 2\x00abc"},
		"no size":         {text: "blob \x00abc"},
		"another number":  {text: "blob 03\x00abc"},
		"a negative size": {text: "blob -1\x00"},
		"another kind":    {text: "bolb 3\x00abc"},
		"no start":        {text: strings.Repeat("x", 100)},
		"a long start":    {text: "blob " + strings.Repeat("0", 40) + "3\x00abc"},
	} {
		if c.file == nil && what != "nothing" {
			c.file = packed(t, c.text)
		}
		_, err := Check(bytes.NewReader(c.file), name(c.text), 100)
		require.ErrorIs(t, err, ErrForged, what)
	}
}

// endless is a stream of zeros.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestCheckBomb: neither an object that says that it is large, nor one that is larger than it says,
// is unpacked further than the limit, and none is kept.
//
//nolint:paralleltest // it measures memory
func TestCheckBomb(t *testing.T) {
	bomb := func(size int64) io.Reader {
		r, w := io.Pipe()
		t.Cleanup(func() { _ = r.Close() })
		go func() {
			z := zlib.NewWriter(w)
			_, err := fmt.Fprintf(z, "blob %d\x00", size)
			if err == nil {
				_, err = io.Copy(z, endless{})
			}
			_ = w.CloseWithError(err)
		}()
		return r
	}
	const limit = 64 << 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	read, err := Check(bomb(limit), strings.Repeat("0", 40), limit)
	runtime.ReadMemStats(&after)
	require.ErrorIs(t, err, ErrForged)
	require.LessOrEqual(t, read, int64(limit+maxHeader))
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(16<<20))
	read, err = Check(bomb(limit+1), strings.Repeat("0", 40), limit)
	require.ErrorIs(t, err, ErrLarge)
	require.Zero(t, read)
}

func TestCheckLarge(t *testing.T) {
	t.Parallel()
	sum := sha256.Sum256([]byte("abc"))
	name := hex.EncodeToString(sum[:])
	read, err := CheckLarge(strings.NewReader("abc"), name, 3)
	require.NoError(t, err)
	require.EqualValues(t, 3, read)
	_, err = CheckLarge(strings.NewReader("abd"), name, 3)
	require.ErrorIs(t, err, ErrForged)
	_, err = CheckLarge(strings.NewReader("abc"), name, 2)
	require.ErrorIs(t, err, ErrLarge)
	_, err = CheckLarge(endless{}, name, 1<<20)
	require.ErrorIs(t, err, ErrLarge)
}
