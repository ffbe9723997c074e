package workspace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/workspace/beneath"
	"github.com/postern/postern/visible"
)

// atOnce is how many names of a folder are read at once.
const atOnce = 1000

// removePatience bounds the time in which a folder is removed.
const removePatience = 10 * time.Minute

// RemoveAll removes the folder, in which no agent works any longer, and all that is in it. An agent
// may have nested folders deeper than a process may open, and taken from their owner the right to
// search them. So what is in a folder is moved up before the folder is removed, and two folders are
// open at a time. If somebody makes more there meanwhile, RemoveAll goes on, until ctx ends or
// [removePatience] is over.
func RemoveAll(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, removePatience, fmt.Errorf("it takes more than %v: if a program "+
		"still writes there, end it; running this again goes on", removePatience))
	defer cancel()
	top, err := openOwned(dir)
	if err != nil {
		return err
	}
	defer top.Close()
	for moved := 0; ; {
		switch err := os.Remove(dir); {
		case err == nil:
			return nil
		case !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST):
			return err
		}
		err := eachName(ctx, top, func(name string) error {
			removed, err := unlink(top, name)
			if err == nil && !removed {
				err = flatten(ctx, top, name, &moved)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("remove %s: %w", visible.Quote(dir), err)
		}
	}
}

// eachName calls remove for what is in the folder, and for no more than some of what is made there
// meanwhile.
func eachName(ctx context.Context, dir *os.File, remove func(name string) error) error {
	if _, err := dir.Seek(0, 0); err != nil {
		return err
	}
	entries, err := dir.Readdirnames(atOnce)
	for _, name := range entries {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := remove(name); err != nil {
			return err
		}
	}
	if err == io.EOF {
		return nil
	}
	return err
}

// unlink removes what the folder has under the name, unless that is a folder.
func unlink(dir *os.File, name string) (removed bool, err error) {
	err = unix.Unlinkat(int(dir.Fd()), name, 0)
	if errors.Is(err, unix.EISDIR) {
		return false, nil
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return false, &os.PathError{Op: "remove", Path: visible.Quote(name), Err: err}
	}
	return true, nil
}

// flatten moves folders in the folder of that name to top, and removes what else is in it, and the
// folder itself once it is empty.
func flatten(ctx context.Context, top *os.File, name string, moved *int) error {
	if unix.Unlinkat(int(top.Fd()), name, unix.AT_REMOVEDIR) == nil {
		return nil // empty, and perhaps somebody else's
	}
	dir, err := openAnyway(top, name)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	return eachName(ctx, dir, func(e string) error {
		if removed, err := unlink(dir, e); err != nil || removed {
			return err
		}
		// To move a folder is to write it.
		below, err := openAnyway(dir, e)
		if err != nil {
			return err
		}
		if err := below.Close(); err != nil {
			return err
		}
		for {
			*moved++
			to := "removed-" + strconv.Itoa(*moved)
			err := unix.Renameat2(int(dir.Fd()), e, int(top.Fd()), to, unix.RENAME_NOREPLACE)
			if !errors.Is(err, unix.EEXIST) {
				return err
			}
		}
	})
}

// openOwned opens a folder that an agent has as its own, below one that is ours. If the agent has
// taken rights from the owner, the owner gets them back.
func openOwned(path string) (*os.File, error) {
	above, err := beneath.Folder(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer above.Close()
	name := filepath.Base(path)
	e, err := beneath.Look(above, name)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	if e != nil && e.Mode&0o700 != 0o700 {
		return openAnyway(above, name)
	}
	return beneath.Open(above, name, unix.O_RDONLY|unix.O_DIRECTORY)
}

// openAnyway opens the folder, and gives its owner all rights first.
func openAnyway(dir *os.File, name string) (*os.File, error) {
	place, err := beneath.Open(dir, name, unix.O_PATH|unix.O_DIRECTORY)
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
