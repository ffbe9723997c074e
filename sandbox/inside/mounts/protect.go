// Package mounts looks at what is mounted in the working directory, and mounts what protects files
// in it.
package mounts

import (
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/wire"
)

// Protect makes the paths in the folder read-only. Each folder on the way becomes a mount too: the
// kernel lets nobody rename or remove a mount of this sandbox. No link is followed: an agent that
// works above may have put one there since the host has looked.
func Protect(dir string, paths []wire.Bytes) error {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("protect files of %s: %w", dir, err)
	}
	defer unix.Close(root)
	mounted := map[string]bool{}
	for _, path := range wire.Strings(paths) {
		for i, c := range path {
			if way := path[:i]; c == '/' && !mounted[way] {
				mounted[way] = true
				if err := mountItself(root, way, false); err != nil {
					return err
				}
			}
		}
		if err := mountItself(root, path, true); err != nil {
			return err
		}
	}
	return nil
}

// mountItself mounts the file or folder at the path in root where it is.
func mountItself(root int, path string, readOnly bool) error {
	fail := func(err error) error {
		return fmt.Errorf("protect %s from the agent: %w: if it is no longer the file that was checked, run this again",
			path, err)
	}
	if !filepath.IsLocal(path) || strings.Contains(path, "//") {
		return fail(unix.EINVAL)
	}
	const below = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS
	place, err := unix.Openat2(root, path,
		&unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: below})
	if err != nil {
		return fail(err)
	}
	defer unix.Close(place)
	var st unix.Stat_t
	if err := unix.Fstat(place, &st); err != nil {
		return fail(err)
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFDIR && kind != unix.S_IFREG {
		return fail(unix.ELOOP) // the link itself could be opened
	}
	const clone = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_RECURSIVE | unix.AT_EMPTY_PATH
	mount, err := unix.OpenTree(place, "", clone)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(mount)
	if readOnly {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
			return fail(err)
		}
	}
	err = unix.MoveMount(mount, "", place, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err != nil {
		return fail(err)
	}
	return nil
}
