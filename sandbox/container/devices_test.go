package container

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/tests/nobody"
)

// TestFolderThatNobodyMayLookInto: what is not looked at is refused, with what to do.
func TestFolderThatNobodyMayLookInto(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	closed := filepath.Join(dir, "a\x1bb")
	require.NoError(t, os.Mkdir(closed, 0o700))
	var err error
	nobody.Do(t, dir, func() {
		if err = os.Chmod(closed, 0); err == nil {
			err = checkFolder(t.Context(), dir, time.Now().Add(time.Minute))
		}
	})
	require.NoError(t, os.Chmod(closed, 0o700))
	require.ErrorContains(t, err, `a\x1bb", and gVisor would open a device there: `+
		"make it yours (chown), remove it, or use the runtime container")
}

// TestFirstDevice: a device is found by any of its names, unless the container's /dev hides all.
func TestFirstDevice(t *testing.T) {
	t.Parallel()
	device := func(kind byte, name string, major, minor int64) *tar.Header {
		return &tar.Header{Typeflag: kind, Name: name, Devmajor: major, Devminor: minor}
	}
	link := func(name, to string) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}
	}
	for name, c := range map[string]struct {
		has  []*tar.Header
		want string
	}{
		"harmless":         {[]*tar.Header{device(tar.TypeChar, "jail/dev/null", 1, 3)}, ""},
		"memory":           {[]*tar.Header{device(tar.TypeChar, "a/mem", 1, 1)}, "/a/mem 1:1"},
		"a disk":           {[]*tar.Header{device(tar.TypeBlock, "./a/null", 1, 3)}, "/a/null 1:3"},
		"hidden":           {[]*tar.Header{device(tar.TypeChar, "dev/console", 5, 1)}, ""},
		"no longer hidden": {[]*tar.Header{device(tar.TypeChar, "dev/../x", 5, 1)}, "/x 5:1"},
		"a name in dev":    {[]*tar.Header{device(tar.TypeChar, "dev/x", 5, 1), link("dev/y", "dev/x")}, ""},
		"a name elsewhere": {[]*tar.Header{device(tar.TypeChar, "dev/x", 5, 1), link("y", "dev/x")}, "/y 5:1"},
		"a name of a name": {
			[]*tar.Header{device(tar.TypeChar, "dev/x", 5, 1), link("dev/y", "./dev/x"), link("z", "/dev/y")}, "/z 5:1",
		},
		"a name of a file":  {[]*tar.Header{device(tar.TypeReg, "dev/x", 5, 1), link("y", "dev/x")}, ""},
		"in place of a dev": {[]*tar.Header{device(tar.TypeChar, "dev", 5, 1)}, "/dev 5:1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			archive := new(bytes.Buffer)
			w := tar.NewWriter(archive)
			for _, h := range c.has {
				require.NoError(t, w.WriteHeader(h))
			}
			require.NoError(t, w.Close())
			cut := archive.Bytes()[:100]
			_, _, err := firstDevice(bytes.NewReader(cut))
			require.Error(t, err, "an archive that ends early says nothing")
			at, number, err := firstDevice(archive)
			require.NoError(t, err)
			if c.want == "" {
				require.Empty(t, at)
				return
			}
			require.Equal(t, c.want, at+" "+number)
		})
	}
}
