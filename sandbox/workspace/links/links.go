// Package links keeps an agent from files outside of the folder that it writes. A file may have
// several names (hard links), and whoever may write it by one name writes it by all. A local
// `git clone` names the original's objects again, package managers the files of their store. So a
// folder gets files of its own before an agent may write there.
package links

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/advice"
)

// Copied says what was copied.
type Copied struct {
	// Files is the number of names that have a file of their own now.
	Files int
	// Bytes is the size of these files.
	Bytes int64
}

// Own gives the folder at the real path, in which an agent will write, a copy of each file that
// has a name elsewhere, too. What is alone reports true for, by its path in the folder, gets a copy
// even if all names are in the folder: a mount protects a name, not a file. A copy has the
// file's mode, owner, times and attributes, without setuid, setgid, sticky and capabilities. Each
// name becomes a file of its own, and holes may become bytes. The copies share blocks with the
// original where the file system can do that.
//
// progress is called about once a second while files are copied. Own copies nothing if there is not
// enough room. No link is followed, and no other file system is entered. An error that
// is a [*RefusedError] names what an agent could still write.
func Own(ctx context.Context, folder string, alone func(at string) bool, progress func(Copied)) (Copied, error) {
	root, err := openRoot(folder)
	if err != nil {
		return Copied{}, fmt.Errorf("look for files with names outside of %s: %w", folder, err)
	}
	defer root.Close()
	w := walk{folder: folder, ctx: ctx, alone: alone, names: map[file][]name{}}
	if err := w.below(root, "."); err != nil {
		return Copied{}, &RefusedError{Folder: folder, Err: err}
	}
	var shared []name
	for _, names := range w.names {
		everywhere := names[0].links > uint64(len(names))
		for _, n := range names {
			if everywhere || n.alone {
				shared = append(shared, n)
			}
		}
	}
	if len(shared) == 0 {
		return Copied{}, nil
	}
	if err := room(root, total(shared)); err != nil {
		return Copied{}, &RefusedError{Folder: folder, Err: err}
	}
	var done Copied
	said := time.Now()
	for _, n := range shared {
		if err := context.Cause(ctx); err != nil {
			return done, &RefusedError{Folder: folder, Err: err}
		}
		copied, err := copyName(ctx, root, n)
		if err != nil {
			return done, &RefusedError{Folder: folder, Err: fmt.Errorf("copy %q: %w", n.path, err)}
		}
		if copied {
			done.Files++
			done.Bytes += n.size
		}
		if time.Since(said) > time.Second {
			said = time.Now()
			progress(done)
		}
	}
	return done, nil
}

// RefusedError means that a file may still be one that is outside of the folder, too.
type RefusedError struct {
	Folder string
	Err    error
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("give %s files of its own, where other folders have the same ones (hard links, as a local "+
		"`git clone` makes them): %v", e.Folder, e.Err)
}

func (e *RefusedError) Unwrap() error { return e.Err }

// file says which file of the machine a file is. A file system may have a number twice: each
// subvolume of btrfs counts its own, and has a device number of its own, without a mount.
type file struct {
	device, inode uint64
}

// name is one of a file's names in the folder.
type name struct {
	path  string
	file  file
	links uint64
	size  int64
	alone bool
}

// mostNames bounds the names of files that have several, and mostBytes their paths. atOnce is how
// many names are read at once.
const (
	mostNames = 2_000_000
	mostBytes = 256 << 20
	atOnce    = 1000
)

// walk finds all files that have several names. It has count of these names, and their paths take
// bytes.
type walk struct {
	folder       string
	ctx          context.Context //nolint:containedctx // of one call
	alone        func(at string) bool
	names        map[file][]name
	count, bytes int
}

// below looks at everything in the open folder, which is at the path.
func (w *walk) below(dir *os.File, at string) error {
	for {
		names, err := dir.Readdirnames(atOnce)
		for _, in := range names {
			if err := w.one(dir, in, path.Join(at, in)); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list %q: %w", at, err)
		}
	}
}

// one looks at what is at the path, which the open folder has under the name in. A file that has
// several names is noted.
func (w *walk) one(dir *os.File, in, at string) error {
	if err := context.Cause(w.ctx); err != nil {
		return err
	}
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), in, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch kind := st.Mode & unix.S_IFMT; {
	case errors.Is(err, unix.ENOENT): // it was removed meanwhile
	case err != nil:
		return fmt.Errorf("look at %q: %w", at, err)
	case kind == unix.S_IFDIR:
		return w.enter(dir, in, at)
	case kind == unix.S_IFREG && st.Nlink > 1:
		w.count++
		if w.bytes += len(at); w.count > mostNames || w.bytes > mostBytes {
			return fmt.Errorf("there are too many files that have several names: more than %d, or %d MiB of paths",
				mostNames, mostBytes>>20)
		}
		is := file{st.Dev, st.Ino}
		w.names[is] = append(w.names[is], name{
			path: at, file: is, links: uint64(st.Nlink), size: st.Size, alone: w.alone(at),
		})
	}
	return nil
}

// enter looks at everything in a folder of the open one.
func (w *walk) enter(dir *os.File, in, at string) error {
	if len(at) >= unix.PathMax {
		return fmt.Errorf("the path of %q... is longer than the kernel takes: remove what has such a path with `%s`",
			at[:100], advice.Unnameable(w.folder, unix.PathMax-1))
	}
	below, leave, err := enter(dir, in)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return nil // it was removed or replaced meanwhile
	case errors.Is(err, unix.EXDEV): // another part of this folder, or the sandbox does not start
		return nil
	case errors.Is(err, fs.ErrPermission) && !isOwn(dir, in) && !may(dir, in, unix.X_OK):
		return nil // the agent is this user
	case err != nil:
		return fmt.Errorf("look into %q: %w", at, err)
	}
	defer leave()
	return w.below(below, at)
}

// below are the rules by which the kernel looks up a path in the folder.
const below = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

func open(dir *os.File, at string, flags uint64, mode uint64) (*os.File, error) {
	for {
		fd, err := unix.Openat2(int(dir.Fd()), at, &unix.OpenHow{
			Flags: flags | unix.O_CLOEXEC | unix.O_NOFOLLOW, Mode: mode, Resolve: below,
		})
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR): // something was renamed meanwhile
		case err != nil:
			return nil, err
		default:
			return os.NewFile(uintptr(fd), at), nil
		}
	}
}

// openRoot opens the folder at the real path.
func openRoot(folder string) (*os.File, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, folder, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), folder), nil
}

// enter opens a folder, until leave is called. An owner who may not look into it, who
// is the agent, too, takes that right for as long.
func enter(dir *os.File, at string) (f *os.File, leave func(), err error) {
	const rights = 0o500
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), at, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, nil, err
	}
	if me := os.Geteuid(); me == 0 || me != int(st.Uid) || st.Mode&rights == rights {
		f, err := open(dir, at, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		return f, func() { f.Close() }, err
	}
	place, err := open(dir, at, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, nil, err
	}
	self := fmt.Sprintf("/proc/self/fd/%d", place.Fd())
	restore := func() {
		_ = unix.Chmod(self, st.Mode&0o7777) // the agent may have removed it
		place.Close()
	}
	err = unix.Chmod(self, st.Mode&0o7777|rights)
	if err == nil {
		f, err = os.Open(self)
	}
	if err != nil {
		restore()
		return nil, nil, err
	}
	return f, func() { f.Close(); restore() }, nil
}

// may reports whether this user may do that with what belongs to somebody else.
func may(dir *os.File, at string, what uint32) bool {
	return unix.Faccessat(int(dir.Fd()), at, what, unix.AT_EACCESS|unix.AT_SYMLINK_NOFOLLOW) == nil
}

// isOwn reports whether the thing in dir belongs to this user, or this is root.
func isOwn(dir *os.File, at string) bool {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), at, &st, unix.AT_SYMLINK_NOFOLLOW)
	return os.Geteuid() == 0 || err != nil || int(st.Uid) == os.Geteuid()
}

// total is the size of all the files, or the greatest number if that is less: an agent's file may
// have a hole of any size.
func total(names []name) (size int64) {
	for _, n := range names {
		size += min(n.size, math.MaxInt64-size)
	}
	return size
}

// room returns an error if less than a twentieth of the disk would be free after the copies.
func room(root *os.File, size int64) error {
	var disk unix.Statfs_t
	if err := unix.Fstatfs(int(root.Fd()), &disk); err != nil {
		return err
	}
	free := int64(disk.Bavail) * disk.Bsize
	if floor := int64(disk.Blocks) / 20 * disk.Bsize; size > free-floor {
		return fmt.Errorf("these take %d MiB, and %d MiB of the disk are free", size>>20, free>>20)
	}
	return nil
}

// parent returns the folder of a path, and the name there.
func parent(at string) (dir, in string) {
	dir, in = path.Split(at)
	return path.Clean("./" + strings.TrimSuffix(dir, "/")), in
}
