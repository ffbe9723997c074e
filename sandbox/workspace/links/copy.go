package links

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// prefix begins the name of a copy that is not yet whole. If this process is killed, such a file
// stays.
const prefix = ".postern-copy-"

// tries is how often a file is copied that somebody writes meanwhile.
const tries = 3

// copyName replaces the name by a copy of its file. It leaves a name that is another file's by now,
// and a file that the agent cannot write.
func copyName(ctx context.Context, root *os.File, n name) (bool, error) {
	in, as := parent(n.path)
	dir, leave, err := walkTo(root, in)
	if err != nil {
		return false, err
	}
	defer leave()
	for range tries {
		var st unix.Stat_t
		err := unix.Fstatat(int(dir.Fd()), as, &st, unix.AT_SYMLINK_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) || err == nil && (file{st.Dev, st.Ino} != n.file || st.Nlink < 2) {
			return false, nil // another file, or one whose other names are gone
		}
		if err != nil {
			return false, err
		}
		if me := os.Geteuid(); me != 0 && int(st.Uid) != me && !may(dir, as, unix.W_OK) {
			return false, nil // the agent is this user
		}
		from, err := openToRead(dir, as, &st)
		if err != nil {
			return false, err
		}
		err = replace(ctx, dir, as, from, n.size)
		from.Close()
		if !errors.Is(err, errChanged) {
			return err == nil, err
		}
	}
	return false, fmt.Errorf("%w: end what writes it", errChanged)
}

var errChanged = errors.New("it changes while it is copied")

// walkTo opens the folder at the path in root, until leave is called.
func walkTo(root *os.File, at string) (dir *os.File, leave func(), err error) {
	var entered []func()
	leave = func() {
		for _, l := range slices.Backward(entered) {
			l()
		}
	}
	dir = root
	for step := range strings.SplitSeq(at, "/") {
		var out func()
		if dir, out, err = enter(dir, step); err != nil {
			leave()
			return nil, nil, err
		}
		entered = append(entered, out)
	}
	return dir, leave, nil
}

// openToRead opens the file. An owner who may not read it takes that right for a moment.
func openToRead(dir *os.File, at string, st *unix.Stat_t) (*os.File, error) {
	const flags = unix.O_RDONLY | unix.O_NONBLOCK
	f, err := open(dir, at, flags, 0)
	if !errors.Is(err, unix.EACCES) || int(st.Uid) != os.Geteuid() {
		return f, err
	}
	place, err := open(dir, at, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	defer place.Close()
	self := fmt.Sprintf("/proc/self/fd/%d", place.Fd())
	if err := unix.Chmod(self, st.Mode&0o7777|0o400); err != nil {
		return nil, err
	}
	f, err = os.Open(self)
	return f, errors.Join(err, unix.Chmod(self, st.Mode&0o7777))
}

// replace replaces the name in the folder by a copy of the file. It fails with errChanged if
// somebody writes the file meanwhile, or if the file has more than most bytes: there is room for so
// many.
func replace(ctx context.Context, dir *os.File, as string, from *os.File, most int64) (err error) {
	var st, after unix.Stat_t
	if err := unix.Fstat(int(from.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > most {
		return errChanged
	}
	temporary := prefix + rand.Text()
	to, restore, err := create(dir, temporary)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = unix.Unlinkat(int(dir.Fd()), temporary, 0)
		}
		err = errors.Join(err, to.Close(), restore())
	}()
	if unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) != nil {
		if _, err := io.Copy(to, io.LimitReader(reader{ctx, from}, most)); err != nil {
			return err
		}
	}
	if err := like(to, from, &st); err != nil {
		return err
	}
	if err := unix.Fstat(int(from.Fd()), &after); err != nil {
		return err
	}
	if after.Mtim != st.Mtim || after.Size != st.Size {
		return errChanged
	}
	return unix.Renameat(int(dir.Fd()), temporary, int(dir.Fd()), as)
}

// reader ends with ctx.
type reader struct {
	ctx  context.Context //nolint:containedctx // of one copy
	from *os.File
}

func (r reader) Read(p []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.from.Read(p)
}

// create makes a file in the folder. An owner who may not write the folder takes that right until
// restore is called.
func create(dir *os.File, as string) (f *os.File, restore func() error, err error) {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL
	restore = func() error { return nil }
	f, err = open(dir, as, flags, 0o600)
	var st unix.Stat_t
	if !errors.Is(err, unix.EACCES) || unix.Fstat(int(dir.Fd()), &st) != nil || int(st.Uid) != os.Geteuid() {
		return f, restore, err
	}
	if err := unix.Fchmod(int(dir.Fd()), st.Mode&0o7777|0o700); err != nil {
		return nil, restore, err
	}
	restore = func() error { return unix.Fchmod(int(dir.Fd()), st.Mode&0o7777) }
	if f, err = open(dir, as, flags, 0o600); err != nil {
		err = errors.Join(err, restore())
	}
	return f, restore, err
}

// like gives the copy the file's owner, attributes, mode and times.
func like(to, from *os.File, st *unix.Stat_t) error {
	fd := int(to.Fd())
	if os.Geteuid() == 0 {
		if err := unix.Fchown(fd, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	} else if err := unix.Fchown(fd, -1, int(st.Gid)); err != nil && !errors.Is(err, unix.EPERM) {
		return err
	}
	names := make([]byte, 64<<10) // the most that the kernel lists
	n, err := unix.Flistxattr(int(from.Fd()), names)
	if err != nil && !errors.Is(err, unix.ENOTSUP) {
		return err
	}
	for key := range strings.SplitSeq(string(names[:max(n, 0)]), "\x00") {
		if !strings.HasPrefix(key, "user.") && key != "system.posix_acl_access" {
			continue // the kernel's and other programs' are about the file that it was
		}
		value := make([]byte, 64<<10)
		n, err := unix.Fgetxattr(int(from.Fd()), key, value)
		if err == nil {
			err = unix.Fsetxattr(fd, key, value[:n], 0)
		}
		if err != nil && !errors.Is(err, unix.ENODATA) {
			return err
		}
	}
	if err := unix.Fchmod(fd, st.Mode&0o777); err != nil {
		return err
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	return unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), times, 0)
}
