package hostpath_test

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/hostpath"
)

func TestReadFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, os.WriteFile(at("file"), make([]byte, 2048), 0o600))
	require.NoError(t, os.Symlink(at("file"), at("link")))
	require.NoError(t, unix.Mkfifo(at("pipe"), 0o600))
	require.NoError(t, os.Symlink("/dev/zero", at("zero")))
	l, err := net.Listen("unix", at("socket"))
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })

	for _, tc := range []struct {
		path string
		most int
		says string
	}{
		{at("file"), 2048, ""},
		{at("link"), 2048, ""},
		{at("file"), 2047, at("file") + " is larger than 1 KiB"},
		{at("pipe"), 2048, at("pipe") + " is a pipe, not a regular file"},
		{at("socket"), 2048, at("socket") + " is a socket, not a regular file"},
		{at("zero"), 2048, at("zero") + " is a device, not a regular file"},
		{dir, 2048, dir + " is a folder, not a regular file"},
		// Of a length that stat does not know.
		{"/proc/self/maps", 16, "/proc/self/maps is larger than 0 KiB"},
	} {
		data, err := hostpath.ReadFile(tc.path, tc.most)
		if tc.says == "" {
			require.NoError(t, err, tc.path)
			require.Len(t, data, 2048, tc.path)
			continue
		}
		require.EqualError(t, err, tc.says)
		require.Empty(t, data)
	}
	_, err = hostpath.ReadFile(at("none"), 10)
	require.ErrorIs(t, err, fs.ErrNotExist)

	folder, err := os.Open(dir)
	require.NoError(t, err)
	defer folder.Close()
	data, err := hostpath.ReadIn(folder, "file", 2048)
	require.NoError(t, err)
	require.Len(t, data, 2048)
	_, err = hostpath.ReadIn(folder, "link", 2048)
	require.ErrorIs(t, err, unix.ELOOP)
	_, err = hostpath.ReadIn(folder, "pipe", 2048)
	require.EqualError(t, err, at("pipe")+" is a pipe, not a regular file")
}
