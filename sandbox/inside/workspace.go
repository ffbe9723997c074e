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

// arrange keeps mounts that the host makes from now on from the sandbox, checks that the working
// directory is the one that the host has checked, and mounts what bubblewrap cannot. Then it gives up
// the capabilities for that.
func arrange(setup *wire.Setup) error {
	if setup.Arranged {
		return nil
	}
	if os.Args[0] == nested { // the container engine has mounted everything
		if !setup.Foreign {
			if err := mounts.NoDevices(); err != nil {
				return err
			}
		}
		return mountWork(setup)
	}
	// bwrap leaves the mounts as slaves of the host's: a file system that is mounted below the
	// working directory meanwhile would be here too, writable, and with devices.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep the host's mounts out of the sandbox: %w", err)
	}
	if setup.Dir != "" {
		if err := mountWork(setup); err != nil {
			return err
		}
	}
	return keepCapabilities(setupCapabilities)
}

// mountWork checks the working directory, and mounts what is over it and in it.
func mountWork(setup *wire.Setup) error {
	engine := os.Args[0] == nested
	switch {
	case setup.Foreign:
		return nil // the host starts none in a folder that another agent may replace
	case setup.NoExec && engine:
		return nil
	case setup.NoExec:
		return forbidExecution(string(setup.Dir))
	case setup.Overlay && engine:
		return nil // it has numbers of its own
	}
	// The mounts were made by their paths, and an agent that works above may have put another folder
	// there.
	places := append(setup.Git, wire.Folder{
		Path: setup.Dir, Device: setup.Device, Inode: setup.Inode, Protected: setup.Protected,
	})
	for _, p := range places {
		var st unix.Stat_t
		if err := unix.Lstat(string(p.Path), &st); err != nil || st.Dev != p.Device || st.Ino != p.Inode {
			return fmt.Errorf("check working directory: %s is no longer the folder that was checked: run this again", p.Path)
		}
	}
	if err := mounts.Check(setup, engine); err != nil || engine {
		return err
	}
	for _, p := range places {
		if err := mounts.Protect(string(p.Path), p.Protected); err != nil {
			return err
		}
	}
	if setup.Overlay {
		return overlay(string(setup.Dir), setup.ReadOnly)
	}
	return nil
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
