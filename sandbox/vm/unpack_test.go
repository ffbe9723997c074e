package vm

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/hostpath"
)

// packedKernel is an image as Linux makes it, which has the program.
func packedKernel(t *testing.T, program []byte) []byte {
	t.Helper()
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, err := w.Write(program)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	image := make([]byte, 1024)
	copy(image[0x202:], "HdrS")
	image[0x1f1] = 1
	binary.LittleEndian.PutUint32(image[0x24c:], uint32(packed.Len()))
	return append(image, packed.Bytes()...)
}

// kernelProgram is a program of 64 bits with one note, which is of the kind.
func kernelProgram(kind byte) []byte {
	header := make([]byte, 120)
	copy(header, "\x7fELF\x02\x01\x01")
	number := binary.LittleEndian
	number.PutUint16(header[16:], 2)
	number.PutUint16(header[18:], 62)
	number.PutUint32(header[20:], 1)
	number.PutUint64(header[32:], 64)
	number.PutUint16(header[52:], 64)
	number.PutUint16(header[54:], 56)
	number.PutUint16(header[56:], 1)
	note := "\x04\x00\x00\x00\x04\x00\x00\x00" + string(kind) + "\x00\x00\x00Xen\x00\x00\x00\x00\x01"
	number.PutUint32(header[64:], 4)
	number.PutUint64(header[72:], 120)
	number.PutUint64(header[96:], uint64(len(note)))
	return append(header, note...)
}

// TestUnpackedKernel: without KVM the unpacked kernel is started, which is made once for each
// kernel. One that others can have written is made again. What cannot be unpacked, or not be
// started so, stays packed.
func TestUnpackedKernel(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		return // the files must be root's
	}
	root := t.TempDir()
	folders, err := hostpath.In(root).Folders()
	require.NoError(t, err)
	kernel, cache := filepath.Join(root, "vmlinuz-1"), filepath.Join(root, "state/vm")
	unpack := func(image []byte) string {
		t.Helper()
		require.NoError(t, os.WriteFile(kernel, image, 0o644))
		o := &Options{Kernel: kernel}
		o.unpackKernel(t.Context(), folders, cache)
		return o.Kernel
	}
	program := kernelProgram(18)
	good := packedKernel(t, program)
	wrong := bytes.Clone(good)
	wrong[len(wrong)-4]++ // its size
	other := bytes.Clone(good)
	copy(other[1024:], "none")
	for name, image := range map[string][]byte{
		"empty": nil, "a text": bytes.Repeat([]byte("a"), 5000), "cut off": good[:len(good)-1], "another size": wrong,
		"packed in another way": other, "no program": packedKernel(t, []byte("a text")),
		"no note": packedKernel(t, kernelProgram(17)),
	} {
		require.Equal(t, kernel, unpack(image), name)
		require.NoDirExists(t, cache, name)
	}

	at := unpack(good)
	require.Equal(t, cache, filepath.Dir(at))
	content := func() []byte {
		t.Helper()
		content, err := os.ReadFile(at)
		require.NoError(t, err)
		return content
	}
	require.Equal(t, program, content())
	made, err := os.Stat(at)
	require.NoError(t, err)
	require.Equal(t, at, unpack(good))
	again, err := os.Stat(at)
	require.NoError(t, err)
	require.True(t, os.SameFile(made, again), "it was made again")

	require.NoError(t, os.Chmod(at, 0o666))
	require.NoError(t, os.WriteFile(at, []byte("of somebody else"), 0o666))
	require.Equal(t, at, unpack(good))
	require.Equal(t, program, content())

	next := unpack(packedKernel(t, append(program, "of a new version"...)))
	require.FileExists(t, next)
	require.NotEqual(t, at, next)
	require.NoFileExists(t, at)

	require.NoError(t, os.RemoveAll(cache))
	require.NoError(t, os.WriteFile(cache, nil, 0o644))
	require.Equal(t, kernel, unpack(good), "nothing can be kept")
}

// TestUnpackedDistribution: the kernel of this machine's distribution can be unpacked.
func TestUnpackedDistribution(t *testing.T) {
	t.Parallel()
	folders, err := hostpath.In(t.TempDir()).Folders()
	require.NoError(t, err)
	o := new(Options)
	require.NoError(t, o.findKernel(folders, "/boot", "/lib/modules", "/bin/true"))
	o.unpackKernel(t.Context(), folders, filepath.Join(t.TempDir(), "vm"))
	kernel, err := os.ReadFile(o.Kernel)
	require.NoError(t, err)
	require.NoError(t, startable(kernel))
}
