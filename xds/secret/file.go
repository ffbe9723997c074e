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
	// fileEvery is how often a file is looked at. It is not watched: of inotify's instances
	// a user has 128, and any program of the same user may take the last.
	fileEvery = 250 * time.Millisecond
	// settled is the age from which on a file with the same times has the same content: a
	// file system's clock may stand still for some milliseconds.
	settled = time.Second
)

// look is what tells one state of a file from another.
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

// same reports whether what was read after l is what the file holds at the later look.
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

// followFile sends what the file holds, now and after each change.
func (f *feed) followFile(ctx context.Context) {
	var last look
	for {
		now := lookAt(f.ref.Name)
		if !last.same(now) {
			last = now
			if value, err := hostpath.ReadFile(f.ref.Name, maxSource); err != nil {
				f.fail(ctx, fileTrouble(f.ref.Name, err))
			} else {
				f.value(ctx, value, "")
			}
		}
		if !sleep(ctx, fileEvery) {
			return
		}
	}
}

// fileTrouble says why a file cannot be read, and what to do. That a machine has no
// descriptor left, or its disk does not answer, says nothing of the secret.
func fileTrouble(path string, err error) *trouble {
	var unfit *hostpath.UnfitError
	var errno syscall.Errno
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return &trouble{text: "there is no file " + path}
	case errors.Is(err, fs.ErrPermission):
		return &trouble{text: fmt.Sprintf("cannot read %s: permission denied: let the control plane's user read it", path)}
	case errors.As(err, &unfit):
		return &trouble{text: unfit.Error()}
	case errors.As(err, &errno):
		return &trouble{text: fmt.Sprintf("cannot read %s: %s", path, errno), down: true}
	}
	return &trouble{text: "cannot read " + path, down: true}
}
