package vm

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/sandbox/view"
	"github.com/postern/postern/sandbox/wire"
)

// rendered is the machine of a view with one mount of each kind.
func rendered(t *testing.T, v *view.View) (*view.View, *wire.Machine) {
	t.Helper()
	o := &Options{QEMU: "/usr/bin/qemu", Kernel: "/boot/vmlinuz-1", Initramfs: []byte("initramfs")}
	around, m, err := Render(v, o)
	require.NoError(t, err)
	return around, m
}

func sample() *view.View {
	return &view.View{
		Hostname: "agent", Workdir: view.Workdir{Path: "/home/u/work"},
		Limits: view.Limits{Memory: 1 << 30, Scratch: 1 << 40, Processors: 1500},
		Mounts: []view.Mount{
			{Kind: view.Bind, Source: "/usr", Target: "/usr"},
			{Kind: view.Symlink, Source: "usr/bin", Target: "/bin"},
			{Kind: view.File, Target: "/etc/hosts", Content: []byte("hosts")},
			{Kind: view.Tmpfs, Target: "/home/u", Mode: 0o700, Size: 1 << 40},
			{Kind: view.Bind, Source: "/home/u/work", Target: "/home/u/work", Writable: true},
			{Kind: view.Bind, Source: "/state/home", Target: wire.Home, Writable: true},
			{Kind: view.Cover, Target: "/usr/lib/jvm/cacerts", Content: []byte("store")},
			{Kind: view.Bind, Source: "/state/agent", Target: wire.NodesDir + "/0"},
			{Kind: view.Bind, Source: "/bin/postern-sandbox", Target: wire.Inside},
		},
	}
}

// TestDevices: a machine has no network card, no disk, and no other device than those that are
// argued in the package's comment.
func TestDevices(t *testing.T) {
	t.Parallel()
	_, m := rendered(t, sample())
	line := wire.Strings(m.Argv)
	var devices []string
	for i, word := range line {
		if word == "-device" {
			kind, _, _ := strings.Cut(line[i+1], ",")
			devices = append(devices, kind)
		}
		require.NotContains(t, []string{"-netdev", "-nic", "-net", "-drive", "-usb", "-monitor", "-qmp", "-vnc"}, word)
	}
	require.Equal(t, []string{"virtio-serial-pci", "virtserialport", "virtio-9p-pci", "virtio-9p-pci"}, devices)
	require.Subset(t, line, []string{"-nodefaults", "-no-user-config", "-no-reboot", "-sandbox"})
	require.Contains(t, strings.Join(line, " "), "elevateprivileges=deny,spawn=deny")
	require.Equal(t, "1024M", line[slices.Index(line, "-m")+1])
}

// TestRender: the machine sees what the view shows, and only the agent's own folders can be
// written. The sandbox around it has that, the system's programs, and the way to the proxy, which
// the machine does not see.
func TestRender(t *testing.T) {
	t.Parallel()
	around, m := rendered(t, sample())
	require.Equal(t, []wire.Place{
		{Share: "/view/0", Target: "/usr"},
		{Link: "usr/bin", Target: "/bin"},
		{Share: "/view/2", Target: "/etc/hosts"},
		{Target: "/home/u", Mode: 0o700, Size: 512 << 20},
		{Share: "/work/4", Target: "/home/u/work", Writable: true},
		{Share: "/work/5", Target: wire.Home, Writable: true},
		{Share: "/view/6", Target: "/usr/lib/jvm/cacerts"},
		{Share: "/view/8", Target: wire.Inside},
	}, m.Guest.Places)
	targets := map[string]view.Mount{}
	for _, mount := range around.Mounts {
		require.False(t, mount.Writable && !strings.HasPrefix(mount.Target, wire.ShareWork+"/"), mount.Target)
		targets[mount.Target] = mount
	}
	require.EqualValues(t, "/work/4", m.Workdir)
	require.Equal(t, "/home/u/work", targets["/work/4"].Source)
	require.Equal(t, "/state/agent", targets[wire.NodesDir+"/0"].Source)
	require.Equal(t, view.File, targets["/view/6"].Kind)
	require.NotContains(t, targets, "/home/u")
	require.NotContains(t, targets, kvmDevice)

	unknown := sample()
	unknown.Mounts = append(unknown.Mounts, view.Mount{Kind: "new", Target: "/new"})
	_, _, err := Render(unknown, new(Options))
	require.ErrorContains(t, err, "cannot have a new at /new")
}

// TestModules: modules come after those that they need, once, and each file must be root's alone.
func TestModules(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		return // the files must be root's
	}
	root := t.TempDir()
	folders, err := hostpath.In(root).Folders()
	require.NoError(t, err)
	dir := filepath.Join(root, "modules")
	require.NoError(t, os.Mkdir(dir, 0o755))
	inside := filepath.Join(root, "postern-sandbox")
	require.NoError(t, os.WriteFile(inside, []byte("program"), 0o755))
	_, err = initramfs(folders, dir, inside)
	require.ErrorAs(t, err, new(*lacksError))

	write := func(name, content string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
	}
	write("modules.builtin", "kernel/virtio_pci.ko\n")
	const list = "9p.ko: 9pnet.ko netfs.ko\n9pnet_virtio.ko: virtio_ring.ko 9pnet.ko virtio.ko\nunix-diag.ko.xz:\n"
	write("modules.dep", list)
	_, err = initramfs(folders, dir, inside)
	require.ErrorContains(t, err, "no module virtio_console")

	write("modules.dep", list+"virtio_console.ko: virtio_ring.ko virtio.ko\n")
	order, err := needed(folders, dir)
	require.NoError(t, err)
	require.Equal(t, []string{
		"virtio.ko", "virtio_ring.ko", "virtio_console.ko", "9pnet.ko", "9pnet_virtio.ko", "netfs.ko", "9p.ko",
		"unix-diag.ko.xz",
	}, order)
	for _, name := range order {
		write(name, "module "+name)
	}
	archive, err := initramfs(folders, dir, inside)
	require.NoError(t, err)
	require.Zero(t, len(archive)%4)
	for _, part := range []string{
		"modules/03-9pnet.ko\x00", "module netfs.ko", "init\x00", "program", "TRAILER!!!\x00",
	} {
		require.Contains(t, string(archive), part)
	}

	require.NoError(t, os.Chmod(filepath.Join(dir, "netfs.ko"), 0o666))
	_, err = initramfs(folders, dir, inside)
	require.ErrorContains(t, err, "only root may write")
}
