package vm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/sandbox/container"
	"github.com/postern/postern/sandbox/wire"
)

// TestTrial: KVM is used only if a machine says that it works and ends well, and what was found is
// kept.
func TestTrial(t *testing.T) {
	t.Parallel()
	for script, works := range map[string]bool{
		"echo '" + wire.Ready + "'":         true,
		"echo '" + wire.Ready + "'; exit 1": false,
		"echo panic":                        false,
		"exec false":                        false,
	} {
		dir := t.TempDir()
		o := &Options{QEMU: filepath.Join(dir, "qemu"), Initramfs: []byte("initramfs")}
		content := "#!/bin/sh\ntest $PWD = / || exit 1\n" +
			"cd " + dir + "; cat /proc/self/fd/3 >> read; echo \"$@\" > line\n" + script + "\n"
		require.NoError(t, os.WriteFile(o.QEMU, []byte(content), 0o755))
		for range 2 {
			require.Equal(t, works, o.worksKVM(t.Context(), filepath.Join(dir, "cache")), script)
		}
		read, err := os.ReadFile(filepath.Join(dir, "read"))
		require.NoError(t, err)
		require.Equal(t, "initramfs", string(read), "it was tried again")
		line, err := os.ReadFile(filepath.Join(dir, "line"))
		require.NoError(t, err)
		require.Contains(t, string(line), "-accel kvm -cpu host")
		require.Contains(t, string(line), wire.Trial)
		require.False(t, o.KVM)
	}
}

// TestFindKernel: the newest kernel that has all modules is used; if none has, the newest says what
// it lacks. No file counts that somebody besides root may write.
func TestFindKernel(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		return // the files must be root's
	}
	root := t.TempDir()
	folders, err := hostpath.In(root).Folders()
	require.NoError(t, err)
	boot, libraries, inside := filepath.Join(root, "boot"), filepath.Join(root, "lib"), filepath.Join(root, "inside")
	require.NoError(t, os.Mkdir(boot, 0o755))
	require.NoError(t, os.WriteFile(inside, nil, 0o755))
	find := func() (string, error) {
		o := new(Options)
		err := o.findKernel(folders, boot, libraries, inside)
		return filepath.Base(o.Kernel), err
	}
	add := func(version string, age time.Duration, mode os.FileMode, modules ...string) {
		kernel, made := filepath.Join(boot, "vmlinuz-"+version), time.Now().Add(-age*time.Hour)
		require.NoError(t, os.WriteFile(kernel, nil, 0o644))
		require.NoError(t, os.Chmod(kernel, mode))
		require.NoError(t, os.Chtimes(kernel, made, made))
		dir := filepath.Join(libraries, version)
		require.NoError(t, os.MkdirAll(dir, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "modules.dep"), nil, 0o644))
		built := []byte(strings.Join(modules, ".ko\n") + ".ko\n")
		require.NoError(t, os.WriteFile(filepath.Join(dir, "modules.builtin"), built, 0o644))
	}
	lacks := func(why string) {
		_, err := find()
		var unusable *container.UnusableError
		require.ErrorAs(t, err, &unusable)
		require.Contains(t, unusable.Why, why)
		require.Equal(t, installKernel, unusable.Remedy)
	}
	lacks("no kernel for a machine in " + boot)
	add("6.1.0-9-cloud", 2, 0o644, "virtio_pci", "virtio_console")
	lacks("vmlinuz-6.1.0-9-cloud: it has no module 9pnet_virtio")
	add("6.1.0-7", 4, 0o644)
	lacks("vmlinuz-6.1.0-9-cloud: it has no module 9pnet_virtio")
	add("6.1.0-8", 3, 0o644, modules...)
	add("6.1.0-10", 1, 0o666, modules...)
	kernel, err := find()
	require.NoError(t, err)
	require.Equal(t, "vmlinuz-6.1.0-8", kernel)
}
