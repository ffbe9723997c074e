package stacks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/advice"
	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
)

// File is a stack file as it was at one moment. What is compiled, shown and
// published comes from these bytes, whatever happens to the file afterwards.
type File struct {
	// Path is for messages: it is relative to the current folder if the file was found there or
	// above.
	Path string
	// Real is the absolute path without symbolic links.
	Real string
	// Found says how the file was found, if the caller of [Choose] has not named it and it is not
	// in the current folder, such as "in a folder above". Otherwise it is "".
	Found string

	// Ask asks a package client for its hosts. [Find] and [Open] set [ClientHosts].
	Ask func(ctx context.Context, client string) ([]HostPort, error)

	folder  home.Identity
	clients clientAnswers
	data    []byte
	// err is the reason why the file could not be read. A state folder may outlive its file.
	err error
}

// Name is the name of the stack: the base name of the file without its extension.
func (f *File) Name() string {
	base := filepath.Base(f.Real)
	return strings.TrimSuffix(base, filepath.Ext(base))
}

// Content returns what was read.
func (f *File) Content() ([]byte, error) {
	if f.err != nil {
		return nil, fmt.Errorf("read stack file: %w", f.err)
	}
	return f.data, nil
}

// Owner is the file as the owner of its state folder.
func (f *File) Owner() home.Owner {
	return home.Owner{Name: f.Name(), File: f.Real, Folder: f.folder}
}

// Home returns the state folder of the file's stack: see [home.Of].
func (f *File) Home() (home.Folder, error) { return home.Of(f.Owner()) }

// Command returns the command line of postern with these arguments that is about this file, from
// any folder.
func (f *File) Command(args ...string) string { return advice.About(f.Real, args...) }

// HomeOf is [File.Home] of the stack file at path.
func HomeOf(path string) (home.Folder, error) {
	f, err := Open(path)
	if err != nil {
		return home.Folder{}, err
	}
	return f.Home()
}

// Open reads the stack file that somebody named. It follows symbolic links. If only the file is
// missing, [File.Load] reports that.
func Open(path string) (*File, error) {
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		var dir string
		if dir, err = filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
			real = filepath.Join(dir, filepath.Base(path))
		}
	}
	if errors.Is(err, fs.ErrNotExist) { // even the folder
		real, failed := filepath.Abs(path)
		return &File{Path: path, Real: real, Ask: ClientHosts, err: err}, failed
	}
	if err != nil {
		return nil, fmt.Errorf("read stack file: %w", err)
	}
	f, err := open(filepath.Dir(real), filepath.Base(real))
	if err != nil && f == nil {
		return nil, fmt.Errorf("read stack file: %w", err)
	}
	f.Path = path
	return f, nil
}

// open reads the file in the folder, and holds the folder open meanwhile, because the kernel then
// tells where the folder is. If only the file cannot be read, open returns the error and what is
// known.
func open(dir, base string) (*File, error) {
	folder, err := openFolder(dir)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	f := &File{Path: filepath.Join(dir, base), Ask: ClientHosts}
	if f.folder, err = home.IdentityOf(folder); err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	real, err := os.Readlink(descriptor(folder))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	f.Real = filepath.Join(real, base)
	f.data, f.err = readIn(folder, base, f.Path)
	return f, f.err
}

func openFolder(dir string) (*os.File, error) {
	folder, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOTDIR) {
		if info, failed := os.Lstat(dir); failed == nil && info.Mode()&fs.ModeSymlink != 0 {
			return nil, linkError(dir)
		}
	}
	return folder, err
}

// linkError is not ENOTDIR, because a search must not pass over a link.
func linkError(path string) error {
	return fmt.Errorf("%s is a symbolic link, which an agent may have put there: name the file with --file, or remove the link", path)
}

// descriptor is a path of the folder that leads to it wherever it is moved to.
func descriptor(folder *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(folder.Fd())) }

// readIn reads a file in the folder. path is for messages.
func readIn(folder *os.File, base, path string) ([]byte, error) {
	data, err := hostpath.ReadIn(folder, base, maxFile)
	if errors.Is(err, unix.ELOOP) {
		return nil, linkError(path)
	}
	return data, err
}

// ErrChanged means that somebody else changed the stack file meanwhile.
var ErrChanged = errors.New("the file was changed meanwhile")

// lockFor bounds the wait for another edit. An agent that may read the file can hold the lock for
// ever.
const lockFor = 5 * time.Second

// lockFile takes the lock on an open file.
func lockFile(fd int) error {
	for until := time.Now().Add(lockFor); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return err
		case time.Now().After(until):
			return errors.New("another process holds its lock (flock), `lslocks` names it: wait for it or end it, or keep the file where no agent works")
		}
	}
}

// Replace writes the file, whole or not at all, and keeps its mode. If the file no longer has the
// old content, or its folder is another one, Replace leaves it alone and returns [ErrChanged].
func (f *File) Replace(old, new []byte) error {
	wrap := func(err error) error { return fmt.Errorf("write stack file %s: %w", f.Path, err) }
	folder, err := openFolder(filepath.Dir(f.Real))
	if err != nil {
		return wrap(err)
	}
	defer folder.Close()
	if now, err := home.IdentityOf(folder); err != nil {
		return wrap(err)
	} else if now != f.folder {
		return wrap(ErrChanged)
	}
	base := filepath.Base(f.Real)
	fd, err := unix.Openat(int(folder.Fd()), base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return wrap(err)
	}
	file := os.NewFile(uintptr(fd), f.Path)
	defer file.Close()
	// Held until the file is replaced: of two edits at once, the second then
	// finds another content.
	if err := lockFile(fd); err != nil {
		return wrap(err)
	}
	now, err := readIn(folder, base, f.Path)
	if err != nil {
		return wrap(err)
	}
	if !bytes.Equal(now, old) {
		return wrap(ErrChanged)
	}
	info, err := file.Stat()
	if err != nil {
		return wrap(err)
	}
	// The file is in the folder that was opened, wherever that is by now.
	if err := atomicfile.Write(filepath.Join(descriptor(folder), base), new, info.Mode().Perm()); err != nil {
		return wrap(err)
	}
	return nil
}
