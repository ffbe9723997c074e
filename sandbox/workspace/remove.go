package workspace

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// RemoveAll removes the folder, in which no agent works any longer, and all that is in it. An agent
// may have nested folders deeper than a process may open, and taken from their owner the right to
// search them. So what is in a folder is moved up before the folder is removed, and two folders are
// open at a time.
func RemoveAll(dir string) error {
	top, err := openOwned(dir)
	if err != nil {
		return err
	}
	defer top.Close()
	for moved := 0; ; {
		entries, err := names(top)
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			return os.Remove(dir)
		}
		for _, name := range entries {
			if removed, err := unlink(top, name); err != nil || removed {
				if err != nil {
					return err
				}
				continue
			}
			if err := flatten(top, name, &moved); err != nil {
				return fmt.Errorf("remove %s: %w", Quote(name), err)
			}
			if _, err := top.Seek(0, 0); err != nil {
				return err
			}
		}
	}
}

// unlink removes what the folder has under the name, unless that is a folder.
func unlink(dir *os.File, name string) (removed bool, err error) {
	err = unix.Unlinkat(int(dir.Fd()), name, 0)
	if errors.Is(err, unix.EISDIR) {
		return false, nil
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return false, &os.PathError{Op: "remove", Path: Quote(name), Err: err}
	}
	return true, nil
}

// flatten removes the folder of that name in top, and moves the folders in it to top.
func flatten(top *os.File, name string, moved *int) error {
	if unix.Unlinkat(int(top.Fd()), name, unix.AT_REMOVEDIR) == nil {
		return nil // empty, and perhaps somebody else's
	}
	dir, err := openAnyway(top, name)
	if err != nil {
		return err
	}
	defer dir.Close()
	entries, err := names(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if removed, err := unlink(dir, e); err != nil || removed {
			if err != nil {
				return err
			}
			continue
		}
		// To move a folder is to write it.
		if below, err := openAnyway(dir, e); err != nil {
			return err
		} else if err := below.Close(); err != nil {
			return err
		}
		for {
			*moved++
			to := "removed-" + strconv.Itoa(*moved)
			err := unix.Renameat2(int(dir.Fd()), e, int(top.Fd()), to, unix.RENAME_NOREPLACE)
			if errors.Is(err, unix.EEXIST) {
				continue
			}
			if err != nil {
				return err
			}
			break
		}
	}
	return unix.Unlinkat(int(top.Fd()), name, unix.AT_REMOVEDIR)
}

// openOwned opens a folder that an agent has as its own, below one that is ours. If the agent has
// taken rights from the owner, the owner gets them back.
func openOwned(path string) (*os.File, error) {
	above, err := openFolder(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer above.Close()
	name := filepath.Base(path)
	e, err := look(above, name)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	if e.mode&0o700 != 0o700 {
		return openAnyway(above, name)
	}
	return openBelow(above, name, unix.O_RDONLY|unix.O_DIRECTORY)
}

// openAnyway opens the folder, and gives its owner all rights first.
func openAnyway(dir *os.File, name string) (*os.File, error) {
	place, err := openBelow(dir, name, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer place.Close()
	at := fmt.Sprintf("/proc/self/fd/%d", place.Fd())
	if err := os.Chmod(at, 0o700); err != nil { //nolint:gosec // the owner's alone: a folder
		return nil, err
	}
	return os.Open(at)
}
