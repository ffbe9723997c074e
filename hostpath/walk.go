package hostpath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// identity tells a file from all others, whatever its path is. A time of birth outlives both the
// numbers of devices, which change with a restart, and of inodes, which are used again.
type identity struct {
	device, inode uint64
	born          int64 // in nanoseconds; 0 if the file system knows no time of birth
}

func (a identity) same(b identity) bool {
	if a.inode != b.inode {
		return false
	}
	if a.born != 0 && b.born != 0 {
		return a.born == b.born
	}
	return a.device == b.device
}

// file is one step of a walk.
type file struct {
	identity
	path     string // real
	fd       int    // O_PATH
	mount    uint64
	mode     uint32
	uid, gid uint32
	links    uint32 // how many names it has
}

func (f *file) is(kind uint32) bool { return f.mode&unix.S_IFMT == kind }

// look returns what the descriptor refers to.
func look(fd int, path string) (file, error) {
	var st unix.Statx_t
	const want = unix.STATX_BASIC_STATS | unix.STATX_MNT_ID
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, want|unix.STATX_BTIME, &st); err != nil {
		return file{}, err
	}
	if st.Mask&want != want {
		return file{}, errors.New("this kernel does not say which mount a file is in; Linux 5.8 or newer is needed")
	}
	f := file{
		identity: identity{device: unix.Mkdev(st.Dev_major, st.Dev_minor), inode: st.Ino},
		path:     path, fd: fd, mount: st.Mnt_id, mode: uint32(st.Mode), uid: st.Uid, gid: st.Gid, links: st.Nlink,
	}
	if st.Mask&unix.STATX_BTIME != 0 {
		f.born = st.Btime.Sec*1e9 + int64(st.Btime.Nsec)
	}
	return f, nil
}

// maxLinks is the number of symbolic links through which a path may lead, as for the kernel.
const maxLinks = 40

// walk follows a path as the kernel does, one name at a time, and holds each folder open meanwhile:
// the next step starts at the folder that was inspected.
type walk struct {
	// at are the folders from the root to here and, at the end, the file.
	at []file
	// see, if set, is called with each folder that a name is looked up in, each symbolic link, and
	// the file at the end. The walk ends with its error.
	see func(*file) error
}

func (w *walk) last() *file { return &w.at[len(w.at)-1] }

func (w *walk) close() {
	for _, f := range w.at {
		unix.Close(f.fd)
	}
	w.at = nil
}

func (w *walk) saw(f *file) error {
	if w.see == nil {
		return nil
	}
	return w.see(f)
}

// to goes to the absolute path. If something is not there the error is fs.ErrNotExist, and the walk
// is at the last folder that is.
func (w *walk) to(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%s is not an absolute path", path)
	}
	if err := w.root(); err != nil {
		return err
	}
	rest := strings.Split(path, "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		if name == "" || name == "." {
			continue
		}
		if name == ".." {
			if len(w.at) > 1 {
				unix.Close(w.last().fd)
				w.at = w.at[:len(w.at)-1]
			}
			continue
		}
		dir := w.last()
		next, err := dir.child(name)
		if err != nil {
			return &os.PathError{Op: "look at", Path: filepath.Join(dir.path, name), Err: err}
		}
		if err := w.saw(&next); err != nil {
			unix.Close(next.fd)
			return err
		}
		if !next.is(unix.S_IFLNK) {
			w.at = append(w.at, next)
			continue
		}
		target, err := next.target()
		unix.Close(next.fd)
		if err != nil {
			return err
		}
		if links++; links > maxLinks {
			return &os.PathError{Op: "look at", Path: path, Err: unix.ELOOP}
		}
		rest = append(strings.Split(target, "/"), rest...)
		if filepath.IsAbs(target) {
			if err := w.root(); err != nil {
				return err
			}
		}
	}
	return nil
}

// root goes to the root.
func (w *walk) root() error {
	w.close()
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/", Err: err}
	}
	f, err := look(fd, "/")
	if err != nil {
		unix.Close(fd)
		return &os.PathError{Op: "look at", Path: "/", Err: err}
	}
	w.at = []file{f}
	return w.saw(&f)
}

// child returns the file of that name in the folder f, without following it.
func (f *file) child(name string) (file, error) {
	const flags = unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
	// A folder is asked for first: that mounts what is mounted on demand.
	fd, err := unix.Openat(f.fd, name, flags|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		fd, err = unix.Openat(f.fd, name, flags, 0)
	}
	if err != nil {
		return file{}, err
	}
	next, err := look(fd, filepath.Join(f.path, name))
	if err != nil {
		unix.Close(fd)
		return file{}, err
	}
	return next, nil
}

// target returns where a symbolic link points. A link of /proc leads elsewhere for each process.
func (f *file) target() (string, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(f.fd, &fs); err != nil {
		return "", &os.PathError{Op: "look at", Path: f.path, Err: err}
	}
	if fs.Type == unix.PROC_SUPER_MAGIC {
		return "", fmt.Errorf("%s leads elsewhere for each process that asks: name the file itself", f.path)
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(f.fd, "", buf)
	if err != nil {
		return "", &os.PathError{Op: "read link", Path: f.path, Err: err}
	}
	if n == 0 || n == len(buf) {
		return "", &os.PathError{Op: "read link", Path: f.path, Err: unix.ENAMETOOLONG}
	}
	return string(buf[:n]), nil
}
