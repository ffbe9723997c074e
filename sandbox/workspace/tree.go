package workspace

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/leak"
)

// tree is a folder in which names are looked up without following links or leaving its file system.
type tree struct{ root *os.File }

// below are the rules by which the kernel looks up a path in a tree.
const below = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// folder opens the folder at the path.
func (t tree) folder(at string) (*os.File, error) {
	return openBelow(t.root, at, unix.O_RDONLY|unix.O_DIRECTORY)
}

func openBelow(dir *os.File, at string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Openat2(int(dir.Fd()), at,
			&unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW), Resolve: below})
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR): // something was renamed meanwhile
		case err != nil:
			return nil, &fs.PathError{Op: "open", Path: Quote(at), Err: err}
		default:
			return os.NewFile(uintptr(fd), at), nil
		}
	}
}

// entry is what a folder has under a name.
type entry struct {
	kind    uint32 // S_IFMT
	mode    uint32 // permissions, with setuid, setgid and sticky
	size    int64
	links   uint64
	device  uint64
	inode   uint64
	changed int64 // ctime, in nanoseconds
	uid     uint32
	gid     uint32
}

func (e *entry) is(kind uint32) bool { return e != nil && e.kind == kind }

func (e *entry) file() leak.File { return leak.File{Inode: e.inode, Changed: e.changed} }

// isWhiteout reports whether the layer says that there is nothing.
func (e *entry) isWhiteout() bool { return e.is(unix.S_IFCHR) && e.device == 0 }

// look returns what dir has under the name, or nil.
func look(dir *os.File, name string) (*entry, error) {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "look at", Path: Quote(name), Err: err}
	}
	return entryOf(&st), nil
}

func entryOf(st *unix.Stat_t) *entry {
	return &entry{
		kind: st.Mode & unix.S_IFMT, mode: st.Mode &^ unix.S_IFMT, size: st.Size, links: uint64(st.Nlink),
		device: st.Rdev,
		inode:  st.Ino, changed: st.Ctim.Nano(), uid: st.Uid, gid: st.Gid,
	}
}

// readLink returns where the symbolic link in dir leads.
func readLink(dir *os.File, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir.Fd()), name, buf)
	if err != nil {
		return "", &fs.PathError{Op: "read link", Path: Quote(name), Err: err}
	}
	return string(buf[:n]), nil
}

// openRegular opens the regular file in dir for reading. It waits for nothing.
func openRegular(dir *os.File, name string) (*os.File, *entry, error) {
	f, err := openBelow(dir, name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		f.Close()
		return nil, nil, fmt.Errorf("read %s: %w", Quote(name), errors.Join(err,
			errors.New("it is not a file any longer")))
	}
	return f, entryOf(&st), nil
}

// hasOrigin reports whether the kernel copied the file or folder, which is in the folder dir of a
// layer, from the host's folder. An agent cannot set this.
func hasOrigin(dir *os.File, name string) bool {
	return attribute(dir, name, "user.overlay.origin") != ""
}

// isOpaque reports whether the folder in a layer hides the host's files of the same folder.
func isOpaque(dir *os.File, name string) bool {
	return attribute(dir, name, "user.overlay.opaque") == "y"
}

// attribute returns an extended attribute of a file or folder, or "".
func attribute(dir *os.File, name, key string) string {
	f, err := openBelow(dir, name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return ""
	}
	defer f.Close()
	buf := make([]byte, 256)
	n, err := unix.Fgetxattr(int(f.Fd()), key, buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

// parent returns the folder of a path, and the name there.
func parent(at string) (dir, name string) {
	dir, name = path.Split(at)
	if dir == "" {
		dir = "."
	}
	return path.Clean(dir), name
}
