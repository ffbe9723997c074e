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
	// Above is set if [Find] found the file in a folder above the current one.
	Above bool

	// Ask asks a package client for its hosts. [Find] and [Open] set [ClientHosts].
	Ask func(ctx context.Context, client string) ([]HostPort, error)

	folder  home.Identity
	clients clientAnswers
	data    []byte
	// err is why the file could not be read: a state folder may outlive its file.
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

// HomeOf is [File.Home] of the stack file at path.
func HomeOf(path string) (home.Folder, error) {
	f, err := Open(path)
	if err != nil {
		return home.Folder{}, err
	}
	return f.Home()
}

// ErrName means that no stack can have that name.
var ErrName = errors.New("is not the name of a stack")

// NotFoundError means that there is no file for a stack of that name.
type NotFoundError struct{ Name, Own string }

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("there is no stacks/%s.yaml here or in a folder above, and no %s: change into the repository, or use --file", e.Name, e.Own)
}

// Find reads the file of the stack called name. It looks for stacks/<name>.yaml in the current
// folder and upwards, and then for <name>.yaml in [OwnFolder]. Neither stacks nor the file may be a
// symbolic link: the current folder may be an agent's, and a link there would choose another stack
// for the operator's next command. The error is a [*NotFoundError] if there is no such file.
func Find(name string) (*File, error) {
	if filepath.Base(name) != name || name == "." || name == ".." {
		return nil, fmt.Errorf("%q %w: name one, such as local for stacks/local.yaml, or use --file", name, ErrName)
	}
	dir, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("find the stack file: %w", err)
	}
	own, err := OwnFolder()
	if err != nil {
		return nil, err
	}
	for up := "."; ; up = filepath.Join("..", up) {
		f, err := open(filepath.Join(up, "stacks"), name+".yaml")
		if err == nil {
			f.Above = up != "."
			return f, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return nil, fmt.Errorf("find the stack file: %w", err)
		}
		if abs := filepath.Join(dir, up); abs == filepath.Dir(abs) {
			break
		}
	}
	// No agent writes here, so links, as of dotfiles, may lead elsewhere.
	f, err := Open(filepath.Join(own, name+".yaml"))
	if err == nil {
		err = f.err
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, &NotFoundError{Name: name, Own: filepath.Join(own, name+".yaml")}
	}
	return f, err
}

// OwnFolder returns the folder in which a user keeps stack files outside agents' folders:
// $XDG_CONFIG_HOME/postern/stacks, or ~/.config/postern/stacks.
func OwnFolder() (string, error) {
	config := os.Getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(config) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find your own stack files: %w; set XDG_CONFIG_HOME", err)
		}
		config = filepath.Join(home, ".config")
	}
	return filepath.Join(config, "postern", "stacks"), nil
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

// open reads the file in the folder, and holds the folder open meanwhile: the kernel says where it
// is. If only the file cannot be read, open returns the error and what is known.
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

// linkError is not one of ENOTDIR: a link must not be passed over in a search.
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

// lockFor bounds the wait for another edit. An agent that may read the file can hold the lock for ever.
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
	// In the folder that was opened, wherever it is by now.
	if err := atomicfile.Write(filepath.Join(descriptor(folder), base), new, info.Mode().Perm()); err != nil {
		return wrap(err)
	}
	return nil
}
