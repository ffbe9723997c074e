package secret

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/postern/postern/hostpath"
)

const (
	// fileEvery is the interval at which a file is checked. It is not watched: a user has 128
	// instances of inotify, and any program of the same user may take the last one.
	fileEvery = 250 * time.Millisecond
	// settled is the age from which on a file with the same times has the same content: a
	// file system's clock may stand still for some milliseconds.
	settled = time.Second
)

// look distinguishes one state of a file from another.
type look struct {
	// info is nil if the file cannot be looked at.
	info os.FileInfo
	at   time.Time
}

func lookAt(path string) look {
	info, err := os.Stat(path)
	if err != nil {
		info = nil
	}
	return look{info, time.Now()}
}

// same reports whether what was read after l is still what the file holds at the later look.
func (l look) same(later look) bool {
	if l.info == nil || later.info == nil {
		return false
	}
	a, b := l.info, later.info
	old, ok := a.Sys().(*syscall.Stat_t)
	new, is := b.Sys().(*syscall.Stat_t)
	return ok && is && os.SameFile(a, b) && a.Size() == b.Size() && a.Mode() == b.Mode() && old.Ctim == new.Ctim &&
		l.at.Sub(a.ModTime()) > settled && l.at.Sub(time.Unix(old.Ctim.Unix())) > settled
}

// foldersFor is the time for which the list of agents' folders is reused: files that are checked at
// the same moment read it once.
const foldersFor = fileEvery / 2

// folders returns what agents may write.
func (s *Store) folders() (*hostpath.Folders, error) {
	s.lately.Lock()
	defer s.lately.Unlock()
	if s.lately.folders != nil && time.Since(s.lately.at) < foldersFor {
		return s.lately.folders, nil
	}
	folders, err := s.agents.Folders()
	s.lately.folders, s.lately.at = folders, time.Now()
	return folders, err
}

// followFile sends what the file holds, now and after each change.
func (f *feed) followFile(ctx context.Context) {
	var last look
	for {
		now := lookAt(f.ref.Name)
		folders, err := f.store.folders()
		if err == nil {
			// Checked each time, because an agent may work there since the last look.
			err = folders.Check(f.ref.Name)
		}
		var value []byte
		if err == nil && !last.same(now) {
			last = now
			value, err = folders.ReadFile(f.ref.Name, maxSource)
		}
		switch {
		case err != nil:
			last = look{}
			f.fail(ctx, fileTrouble(f.ref.Name, err))
		case value != nil:
			f.value(ctx, value, "")
		}
		if !sleep(ctx, fileEvery) {
			return
		}
	}
}

// fileTrouble says why a file cannot be read, and what to do. If the machine has no descriptor
// left, or its disk does not answer, that says nothing about the secret.
func fileTrouble(path string, err error) *trouble {
	var unfit *hostpath.UnfitError
	var writable *hostpath.WritableError
	var damaged *hostpath.DamagedError
	var errno syscall.Errno
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return &trouble{text: "there is no file " + path}
	case errors.Is(err, fs.ErrPermission):
		return &trouble{text: fmt.Sprintf("cannot read %s: permission denied: let the control plane's user read it", path)}
	case errors.As(err, &unfit):
		return &trouble{text: unfit.Error()}
	case errors.As(err, &writable):
		return &trouble{text: writable.Error() + ": copy it to where no agent works, and name the copy in the stack file"}
	case errors.As(err, &damaged):
		return &trouble{text: damaged.Error()}
	case errors.As(err, &errno):
		return &trouble{text: fmt.Sprintf("cannot read %s: %s", path, errno), down: true}
	}
	return &trouble{text: "cannot read " + path, down: true}
}
