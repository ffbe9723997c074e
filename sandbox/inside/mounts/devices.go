package mounts

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// devices are the only places in a container at which devices can be opened: the engine has made
// what is there. Some engines mount each device.
var devices = []string{
	"/dev", "/dev/pts", "/dev/full", "/dev/null", "/dev/ptmx", "/dev/random", "/dev/tty", "/dev/urandom", "/dev/zero",
}

// NoDevices keeps this mount namespace from opening devices that are in a container's image or in a
// mount of the host's. The engine itself lets a container open some devices of this machine, e.g.
// the console, wherever they are.
func NoDevices() error {
	set := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &set); err != nil {
		return fmt.Errorf("keep devices of the image and of the working directory closed: %w: mount_setattr needs "+
			"Linux 5.12, and in an engine libseccomp 2.5.2", err)
	}
	for i, path := range devices {
		again := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_NODEV}
		err := unix.MountSetattr(unix.AT_FDCWD, path, 0, &again)
		// Where each device is not a mount, the path's file is in the mount of the folder.
		if err != nil && (i == 0 || !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT)) {
			return fmt.Errorf("open the engine's devices in %s: %w", path, err)
		}
	}
	return nil
}
