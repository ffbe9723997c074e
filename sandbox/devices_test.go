package sandbox

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// withDevices is the archive of the image "root" with character devices, and links (hard links).
func withDevices(t *testing.T, at map[string][2]int64, links map[string]string) io.Reader {
	t.Helper()
	content := new(bytes.Buffer)
	_, err := io.Copy(content, withLinks(t, false, nil))
	require.NoError(t, err)
	content.Truncate(content.Len() - 1024) // the end of an archive
	w := tar.NewWriter(content)
	for name, number := range at {
		require.NoError(t, w.WriteHeader(&tar.Header{
			Typeflag: tar.TypeChar, Name: name, Mode: 0o666, Devmajor: number[0], Devminor: number[1],
		}))
	}
	for name, target := range links {
		require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}))
	}
	require.NoError(t, w.Close())
	return content
}

const mayOpen = `for at in /x-* x-*; do
	[ ! -e $at ] || { (: < $at) 2>/dev/null && echo opened $at; }; done
for at in null zero full random urandom; do (: < /dev/$at) || echo cannot open $at; done
for at in null zero full; do (: > /dev/$at) || echo cannot write $at; done; true`

// TestDevices: an agent's container opens no device of this machine but harmless ones, whoever has
// put one into the image or the working directory.
func TestDevices(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, b *box) {
		d, err := engine()
		require.NoError(t, err)
		name := "devices-" + filepath.Base(t.Name())
		require.NoError(t, d.Import(t.Context(), name, withDevices(t,
			map[string][2]int64{"x-console": {5, 1}, "x-tun": {10, 200}}, nil)))
		b.use(t, name)
		out, status := b.run(t, "sh", "-c", mayOpen)
		if b.spec.Container.Foreign {
			require.Equal(t, 99, status, out)
			require.Regexp(t, "the image "+b.spec.Container.Image+" has the device (5:1 at /x-console|10:200 at "+
				"/x-tun), which gVisor would open", out)
		} else {
			require.Zero(t, status, out)
			require.Empty(t, out)
		}

		b.use(t, "root")
		device := filepath.Join(b.spec.Workdir, "x-tun")
		require.NoError(t, unix.Mknod(device, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))))
		require.NoError(t, os.Chmod(device, 0o666))
		out, status = b.run(t, "sh", "-c", mayOpen)
		if b.spec.Container.Foreign {
			require.Equal(t, 99, status, out)
			require.Contains(t, out, device+" is the device 10:200, which gVisor would open")
		} else {
			require.Zero(t, status, out)
			require.Empty(t, out)
		}
	})
}

// TestFirstStreams: the command opens none of the pipes by which the engine hears us.
func TestFirstStreams(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, b *box) {
		require.Empty(t, b.sh(t, `for fd in 0 1 2; do
			[ ! -p /proc/1/fd/$fd ] || { (: > /proc/1/fd/$fd) 2>/dev/null && echo opened $fd; }; done; true`))
	})
}
