// Package golden runs tests whose cases are archives: the files that go in, and the files that
// have to come out. `go test -update` writes what comes out into the archives.
package golden

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"
)

// Update says that tests write what comes out instead of comparing it: `go test -update`.
var Update = flag.Bool("update", false, "rewrite the expectations in testdata, and the generated references in docs")

// File is a file of an archive.
type File = txtar.File

// Case is an archive.
type Case struct {
	Name string
	// Comment is what the archive says before its first file.
	Comment string
	// Dir has the files that go in. In what comes out, it is written $DIR.
	Dir  string
	path string
	in   *txtar.Archive
	want *txtar.Archive
}

// Open reads the archive of that path. Files that begin with one for which in reports false have
// to come out.
func Open(t *testing.T, path string, in func(name string) bool) *Case {
	t.Helper()
	archive, err := txtar.ParseFile(path)
	require.NoError(t, err)
	c := &Case{
		Name: strings.TrimSuffix(filepath.Base(path), ".txtar"), Comment: string(archive.Comment), Dir: t.TempDir(),
		path: path, in: &txtar.Archive{Comment: archive.Comment}, want: archive,
	}
	for _, f := range archive.Files {
		if !in(f.Name) {
			continue
		}
		c.in.Files = append(c.in.Files, f)
		path := filepath.Join(c.Dir, f.Name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, f.Data, 0o600))
	}
	return c
}

// Has checks that exactly these files come out, in this order.
func (c *Case) Has(t *testing.T, out ...File) {
	t.Helper()
	got := &txtar.Archive{Comment: c.in.Comment, Files: c.in.Files[:len(c.in.Files):len(c.in.Files)]}
	for _, f := range out {
		f.Data = []byte(strings.ReplaceAll(string(f.Data), c.Dir, "$DIR"))
		got.Files = append(got.Files, f)
	}
	if *Update {
		require.NoError(t, os.WriteFile(c.path, txtar.Format(got), 0o600))
		return
	}
	if diff := cmp.Diff(string(txtar.Format(c.want)), string(txtar.Format(got))); diff != "" {
		t.Errorf("go test -update, then look at the difference (-want +got):\n%s", diff)
	}
}

// Each runs outcome on every archive of the folder, in parallel. The files that come out have
// the names in out.
func Each(t *testing.T, dir string, out []string, outcome func(t *testing.T, c *Case) map[string]string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, path := range paths {
		name, ok := strings.CutSuffix(filepath.Base(path), ".txtar")
		if !ok {
			t.Errorf("%s is no case: remove it", path)
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			is := map[string]bool{}
			for _, name := range out {
				is[name] = true
			}
			c := Open(t, path, func(name string) bool { return !is[name] })
			got := outcome(t, c)
			var files []File
			for _, name := range out {
				if text, ok := got[name]; ok {
					files = append(files, File{Name: name, Data: []byte(text)})
				}
			}
			require.Len(t, got, len(files), "only what is named can come out")
			c.Has(t, files...)
		})
	}
}

// Seeds returns the files of that name from all archives that match a pattern: what a fuzz test
// starts with.
func Seeds(t testing.TB, name string, patterns ...string) [][]byte {
	t.Helper()
	var out [][]byte
	for _, pattern := range patterns {
		paths, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.NotEmpty(t, paths, pattern)
		for _, path := range paths {
			archive, err := txtar.ParseFile(path)
			require.NoError(t, err)
			for _, f := range archive.Files {
				if f.Name == name {
					out = append(out, f.Data)
				}
			}
		}
	}
	return out
}
