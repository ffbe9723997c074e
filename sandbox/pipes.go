package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// maxPipes bounds how many named pipes a working directory may have: each takes a descriptor.
const maxPipes = 64

// pipesIn returns the named pipes (FIFOs) below the folder. A folder that the caller owns and cannot read is an error: the
// agent is its owner, too, and can make it readable.
func pipesIn(dir string) ([]string, error) {
	var pipes []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // it is gone since
			return nil
		case errors.Is(err, fs.ErrPermission):
			if info, failed := os.Lstat(path); failed == nil && int(info.Sys().(*syscall.Stat_t).Uid) != os.Geteuid() {
				return fs.SkipDir // nor can the agent
			}
			return fmt.Errorf("look for pipes of the host: %w: run `chmod u+rwx %s`", err, strconv.Quote(path))
		case err != nil:
			return fmt.Errorf("look for pipes of the host: %w", err)
		case d.Type()&fs.ModeNamedPipe == 0:
		case len(pipes) == maxPipes:
			return fmt.Errorf("%s has more than %d named pipes: if nobody needs them, run `find %s -type p -delete`", dir, maxPipes, strconv.Quote(dir))
		default:
			pipes = append(pipes, path)
		}
		return nil
	})
	return pipes, err
}

// coverPipes covers each named pipe that is in the working directory now: whoever reads it outside would take what the
// agent writes. Those that the agent makes are its own. What is put over one moves with it, and cannot be opened.
// say, which may be nil, is told if that takes long.
func (v *view) coverPipes(workdir string, say *os.File) error {
	if say != nil {
		word := time.AfterFunc(2*time.Second, func() { fmt.Fprintf(say, "postern: looking for named pipes in %s\n", workdir) })
		defer word.Stop()
	}
	pipes, err := pipesIn(workdir)
	if err != nil {
		return err
	}
	for _, path := range pipes {
		fd, err := v.passed.data(nil)
		if err != nil {
			return err
		}
		v.add("--perms", "0000", "--ro-bind-data", strconv.Itoa(fd), path)
	}
	return nil
}
