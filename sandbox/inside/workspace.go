package inside

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/inside/mounts"
	"github.com/postern/postern/sandbox/wire"
)

// arrange checks that the working directory is the one that the host has checked, and mounts what
// bubblewrap cannot. Then it gives up the capabilities for that.
func arrange(setup *wire.Setup) error {
	if setup.Arranged {
		return nil
	}
	if setup.Foreign {
		return nil // the host starts none in a folder that another agent may replace
	}
	if setup.NoExec && os.Args[0] == nested {
		return nil // the container engine has mounted it so
	}
	if setup.NoExec {
		if err := forbidExecution(string(setup.Dir)); err != nil {
			return err
		}
		return keepCapabilities(setupCapabilities)
	}
	if setup.Overlay && os.Args[0] == nested {
		return nil // the same: the engine has mounted it, and it has numbers of its own
	}
	// The mounts were made by their paths, and an agent that works above may have put another folder
	// there.
	places := append(setup.Git, wire.Folder{
		Path: setup.Dir, Device: setup.Device, Inode: setup.Inode, Protected: setup.Protected,
	})
	mounting := setup.Overlay
	for _, p := range places {
		var st unix.Stat_t
		if err := unix.Lstat(string(p.Path), &st); err != nil || st.Dev != p.Device || st.Ino != p.Inode {
			return fmt.Errorf("check working directory: %s is no longer the folder that was checked: run this again", p.Path)
		}
		mounting = mounting || len(p.Protected) > 0
	}
	made := os.Args[0] == nested // the container engine has mounted what is protected
	if err := mounts.Check(setup, made); err != nil || made || !mounting {
		return err
	}
	for _, p := range places {
		if err := mounts.Protect(string(p.Path), p.Protected); err != nil {
			return err
		}
	}
	if setup.Overlay {
		if err := overlay(string(setup.Dir), setup.ReadOnly); err != nil {
			return err
		}
	}
	return keepCapabilities(setupCapabilities)
}

// setupCapabilities are those that are still needed before the command starts.
const setupCapabilities = 1<<unix.CAP_SETFCAP | 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_BIND_SERVICE

// forbidExecution mounts the folder again, so that nothing in it can be executed.
func forbidExecution(dir string) error {
	const flags = unix.MS_REMOUNT | unix.MS_BIND | unix.MS_NOEXEC | unix.MS_NOSUID | unix.MS_NODEV
	if err := unix.Mount("", dir, "", flags, ""); err != nil {
		return fmt.Errorf("mount workspace: forbid execution in %s: %w", dir, err)
	}
	return nil
}

// overlay mounts the layers over the folder, and takes them away from where the command would see
// them.
func overlay(dir string, readOnly bool) error {
	// By where this process is: a path could have characters that mean something in the options.
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("mount workspace: %w", err)
	}
	layer := func(name string) string { return filepath.Join(wire.Layers, name) }
	// userxattr is what a user namespace may do. It also keeps the kernel from following the
	// redirects that a layer may have.
	options := "userxattr,lowerdir=" + layer(wire.Hidden) + ":."
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	if readOnly {
		flags |= unix.MS_RDONLY
	} else {
		options += ",upperdir=" + layer(wire.Upper) + ",workdir=" + layer(wire.Work)
	}
	err := unix.Mount("overlay", ".", "overlay", flags, options)
	switch {
	case errors.Is(err, unix.ENODEV):
		return errors.New("mount workspace: this kernel has no overlay file system: load the module overlay, or use another workspace mode")
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("mount workspace: an overlay over %s is not possible (%w): it needs Linux 5.11 (for root 5.19), and a state "+
			"folder on a disk with user attributes, such as ext4, xfs or btrfs: use another workspace mode", dir, err)
	case err != nil:
		return fmt.Errorf("mount workspace: put an overlay over %s: %w", dir, err)
	}
	if err := unix.Unmount(wire.Layers, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("mount workspace: take the layers away: %w", err)
	}
	return unix.Chdir("/")
}
