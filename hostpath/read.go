package hostpath

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// UnfitError says why a path is not read: it is not a regular file, or it is too large. The message
// begins with the path. Large is true if the file is too large.
type UnfitError struct {
	Path, Text string
	Large      bool
}

func (e *UnfitError) Error() string { return e.Path + " " + e.Text }

// kinds are the kinds of files that are not regular files.
var kinds = map[uint32]string{
	unix.S_IFDIR: "a folder", unix.S_IFIFO: "a pipe", unix.S_IFSOCK: "a socket",
	unix.S_IFCHR: "a device", unix.S_IFBLK: "a device",
}

// ReadFile returns the content of a regular file of at most the given number of bytes. Use it for
// every file that somebody else named, such as a stack file. It does not wait for a pipe's writer,
// and does not open a device. The error is an [*UnfitError] or an [*fs.PathError].
func ReadFile(path string, most int) ([]byte, error) {
	return read(unix.AT_FDCWD, path, path, 0, most)
}

// ReadIn is [ReadFile] for a file in an open folder. It follows no link; then the error is ELOOP.
func ReadIn(folder *os.File, name string, most int) ([]byte, error) {
	return read(int(folder.Fd()), name, filepath.Join(folder.Name(), name), unix.O_NOFOLLOW, most)
}

// read reads the file at name in the folder dir. path is for messages.
func read(dir int, name, path string, flags, most int) ([]byte, error) {
	// O_PATH opens nothing, so it has no effect on what is there.
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	return readOpen(fd, path, most)
}

// readOpen reads the file that the O_PATH descriptor refers to. path is for messages.
func readOpen(fd int, path string, most int) ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	switch kind := st.Mode & unix.S_IFMT; kind {
	case unix.S_IFREG:
	case unix.S_IFLNK:
		return nil, &os.PathError{Op: "open", Path: path, Err: unix.ELOOP}
	default:
		return nil, &UnfitError{Path: path, Text: fmt.Sprintf("is %s, not a regular file", kinds[kind])}
	}
	// This opens the same file, whatever has the name by now.
	real, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(real), path)
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err != nil {
		return nil, err
	}
	if len(data) > most {
		return nil, &UnfitError{path, fmt.Sprintf("is larger than %d KiB", most>>10), true}
	}
	return data, nil
}

// FolderIn opens the folder at a path in an open one, on the same file system. No link is followed;
// then the error is ELOOP.
func FolderIn(dir *os.File, at string) (*os.File, error) {
	for {
		fd, err := unix.Openat2(int(dir.Fd()), at, &unix.OpenHow{
			Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
		})
		switch path := filepath.Join(dir.Name(), at); {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR): // something was renamed meanwhile
		case err != nil:
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		default:
			return os.NewFile(uintptr(fd), path), nil
		}
	}
}

// OpenBelow opens the folder dir, which is in the folder root. A link on the way from root is
// refused: where root brought a stack up, other users write in its state folder.
func OpenBelow(root, dir string) (*os.File, error) {
	top, err := os.Open(root)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	below, err := filepath.Rel(root, dir)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Openat2(int(top.Fd()), below, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return os.NewFile(uintptr(fd), dir), nil
}
