// Package root makes, in a virtual machine, the root of the file system that the command sees: what
// bubblewrap does elsewhere.
package root

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/wire"
)

// At is where the root is made, until [Enter] makes it the process's own.
const At = "/newroot"

// rootSize bounds the folders that are made on the way.
const rootSize = 64 << 20

// Make mounts what the command sees, which is the user, in a new root.
func Make(g *wire.Guest, uid, gid int) error {
	if err := unix.Sethostname([]byte(g.Hostname)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	// Nobody else changes the system's programs while the machine runs, so its kernel may keep what
	// it has read of them. The working directory is the host's too.
	for share, cache := range map[string]string{wire.ShareView: "loose", wire.ShareWork: "mmap"} {
		options := "trans=virtio,version=9p2000.L,access=any,msize=524288,cache=" + cache
		err := errors.Join(
			mkdir(share),
			unix.Mount(filepath.Base(share), share, "9p", unix.MS_NOSUID|unix.MS_NODEV, options))
		if err != nil {
			return fmt.Errorf("mount %s of the host: %w", share, err)
		}
	}
	if err := tmpfs(At, 0o755, rootSize, 0, 0, 0); err != nil {
		return err
	}
	for _, p := range g.Places {
		if err := makePlace(&p, At+string(p.Target), uid, gid); err != nil {
			return fmt.Errorf("show %s: %w", p.Target, err)
		}
	}
	node := At + wire.NodesDir + "/0"
	if err := mkdir(node); err != nil {
		return fmt.Errorf("make folder of the proxy: %w", err)
	}
	return devices(At+"/dev", g.Shared)
}

// readOnly has a mount take no writes, and nothing but plain files count in it.
const readOnly = unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV

// mkdir makes a folder, and those above it, of the machine's own file system: everybody may look.
func mkdir(path string) error { return os.MkdirAll(path, 0o755) } //nolint:gosec // see above

// makePlace makes one place at the target.
func makePlace(p *wire.Place, target string, uid, gid int) error {
	if err := mkdir(filepath.Dir(target)); err != nil {
		return err
	}
	switch {
	case p.Link != "":
		return os.Symlink(string(p.Link), target)
	case p.Share == "":
		flags := uintptr(0)
		if p.NoExec {
			flags = unix.MS_NOEXEC
		}
		return tmpfs(target, p.Mode, p.Size, flags, uid, gid)
	}
	info, err := os.Stat(string(p.Share))
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = mkdir(target)
	} else if _, lerr := os.Lstat(target); lerr != nil {
		err = os.WriteFile(target, nil, 0o444) //nolint:gosec // something is mounted over it
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(string(p.Share), target, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	flags := uintptr(readOnly)
	if p.Writable {
		flags &^= unix.MS_RDONLY
	}
	return unix.Mount("", target, "", flags, "")
}

// tmpfs mounts a folder in memory.
func tmpfs(target string, mode uint32, size uint64, flags uintptr, uid, gid int) error {
	if err := mkdir(target); err != nil {
		return err
	}
	options := fmt.Sprintf("mode=%o,size=%d,uid=%d,gid=%d", mode, size, uid, gid)
	return unix.Mount("tmpfs", target, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|flags, options)
}

// devices makes a minimal /dev.
func devices(dev string, shared uint64) error {
	err := mkdir(dev)
	if err == nil {
		err = unix.Mount("tmpfs", dev, "tmpfs", unix.MS_NOSUID, "mode=755,size=1m")
	}
	for name, minor := range map[string]uint32{"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9} {
		err = errors.Join(err, unix.Mknod(filepath.Join(dev, name), unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))))
	}
	err = errors.Join(err, unix.Mknod(filepath.Join(dev, "tty"), unix.S_IFCHR|0o666, int(unix.Mkdev(5, 0))))
	for i, name := range []string{"stdin", "stdout", "stderr"} {
		err = errors.Join(err, os.Symlink("/proc/self/fd/"+strconv.Itoa(i), filepath.Join(dev, name)))
	}
	pts := filepath.Join(dev, "pts")
	err = errors.Join(
		err, os.Symlink("/proc/self/fd", filepath.Join(dev, "fd")), os.Symlink("pts/ptmx", filepath.Join(dev, "ptmx")),
		mkdir(pts),
		unix.Mount("devpts", pts, "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=666,mode=620"),
		tmpfs(filepath.Join(dev, "shm"), 0o1777, shared, 0, 0, 0),
		unix.Mount("", dev, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID, ""),
	)
	if err != nil {
		return fmt.Errorf("make /dev: %w", err)
	}
	return nil
}

// Enter makes the new root this process's own.
func Enter(g *wire.Guest) error {
	proc := At + "/proc"
	err := mkdir(proc)
	if err == nil {
		err = unix.Mount("proc", proc, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	}
	for i, path := range slices.Concat(g.ReadOnly, g.Masked) {
		at := At + path
		if _, serr := os.Lstat(at); serr != nil {
			continue // the machine's kernel is not the host's
		}
		source := at
		if i >= len(g.ReadOnly) {
			source = os.DevNull
		}
		err = errors.Join(err, unix.Mount(source, at, "", unix.MS_BIND, ""), unix.Mount("", at, "", readOnly, ""))
	}
	err = errors.Join(
		err, unix.Mount("", At, "", readOnly, ""),
		os.Chdir(At), unix.Mount(".", "/", "", unix.MS_MOVE, ""), unix.Chroot("."), os.Chdir("/"))
	if err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	return nil
}
