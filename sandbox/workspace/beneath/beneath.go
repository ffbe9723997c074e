// Package beneath looks up names in folders that an agent may have written. It opens each name from
// a folder that is open, follows no symbolic link, and never leaves the folder or its file system.
package beneath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/visible"
)

// MaxPath is the longest path that can be named.
const MaxPath = unix.PathMax - 1

// below are the rules by which the kernel looks up a path in a tree.
const below = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// Open opens what is at the path below dir.
func Open(dir *os.File, at string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Openat2(int(dir.Fd()), at,
			&unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW), Resolve: below})
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR): // something was renamed meanwhile
		case err != nil:
			return nil, &fs.PathError{Op: "open", Path: visible.Quote(at), Err: err}
		default:
			return os.NewFile(uintptr(fd), at), nil
		}
	}
}

// Entry is what a folder has under a name.
type Entry struct {
	Kind    uint32 // S_IFMT
	Mode    uint32 // permissions, with setuid, setgid and sticky
	Size    int64
	Links   uint64
	Device  uint64
	Inode   uint64
	Changed int64 // ctime, in nanoseconds
	UID     uint32
	GID     uint32
}

// Is reports whether the entry, which may be nil, is of the kind.
func (e *Entry) Is(kind uint32) bool { return e != nil && e.Kind == kind }

// IsWhiteout reports whether the layer says that there is nothing.
func (e *Entry) IsWhiteout() bool { return e.Is(unix.S_IFCHR) && e.Device == 0 }

// Look returns what dir has under the name, or nil.
func Look(dir *os.File, name string) (*Entry, error) {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "look at", Path: visible.Quote(name), Err: err}
	}
	return entryOf(&st), nil
}

func entryOf(st *unix.Stat_t) *Entry {
	return &Entry{
		Kind: st.Mode & unix.S_IFMT, Mode: st.Mode &^ unix.S_IFMT, Size: st.Size, Links: uint64(st.Nlink),
		Device: st.Rdev,
		Inode:  st.Ino, Changed: st.Ctim.Nano(), UID: st.Uid, GID: st.Gid,
	}
}

// ReadLink returns where the symbolic link in dir leads.
func ReadLink(dir *os.File, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir.Fd()), name, buf)
	if err != nil {
		return "", &fs.PathError{Op: "read link", Path: visible.Quote(name), Err: err}
	}
	return string(buf[:n]), nil
}

// OpenRegular opens the regular file in dir for reading. It waits for nothing.
func OpenRegular(dir *os.File, name string) (*os.File, *Entry, error) {
	f, err := Open(dir, name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		f.Close()
		return nil, nil, fmt.Errorf("read %s: %w", visible.Quote(name), errors.Join(err,
			errors.New("it is not a file any longer")))
	}
	return f, entryOf(&st), nil
}

// Folder opens the folder at the real path.
func Folder(path string) (*os.File, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Type returns the type of the entry.
func (e *Entry) Type() os.FileMode {
	switch e.Kind {
	case unix.S_IFREG:
		return 0
	case unix.S_IFDIR:
		return os.ModeDir
	case unix.S_IFLNK:
		return os.ModeSymlink
	case unix.S_IFIFO:
		return os.ModeNamedPipe
	case unix.S_IFSOCK:
		return os.ModeSocket
	case unix.S_IFCHR, unix.S_IFBLK:
		return os.ModeDevice
	}
	return os.ModeIrregular
}
