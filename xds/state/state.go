// Package state keeps in a private folder what a control plane must know after a restart.
package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/hostpath"
)

// The state files.
const (
	// Nodes has the nodes that are part of the stack, and Removed the removed ones.
	Nodes   = "nodes.json"
	Removed = "removed.json"
	// Leases has the rules that have ended.
	Leases = "leases.json"
	// Good is the last publication that converged.
	Good = "good.bundle"
	// Kill is a publication that kills more than Good does and could not be rolled out whole. It
	// counts if its number is greater.
	Kill = "kill.bundle"
	// reserve is room on the disk for one of the two: see [Folder.Reserve].
	reserve = "kill.reserve"
)

// Folder holds the state files. If a file cannot be written, [Folder.Retry] tries again: what is
// served does not depend on the file, but a restart does. It is safe for concurrent use.
type Folder struct {
	dir string
	log *slog.Logger

	// saving is held while a file is written, and comes before mu.
	saving sync.Mutex

	mu sync.Mutex
	// unwritten are the contents that could not be written, and problems why, by file.
	unwritten map[string][]byte
	problems  map[string]string
}

// In returns the state files in dir.
func In(dir string, log *slog.Logger) *Folder {
	return &Folder{dir: dir, log: log, unwritten: map[string][]byte{}, problems: map[string]string{}}
}

// Path returns where the file is.
func (f *Folder) Path(name string) string { return filepath.Join(f.dir, name) }

// maxState bounds the size of a state file, in bytes: ten thousand nodes and leases take a
// hundredth of it.
const maxState = 64 << 20

// ErrDamaged means that a state file does not hold what was written. The file is kept for people,
// under another name. Its replacement is made from the store, and from the nodes when they
// reconnect.
var ErrDamaged = errors.New("a state file is damaged")

// Read decodes the file into v, and reports false if there is none.
func (f *Folder) Read(name string, v any) (bool, error) {
	path := f.Path(name)
	b, err := hostpath.ReadFile(path, maxState)
	unfit := (*hostpath.UnfitError)(nil)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case errors.As(err, &unfit): // too large, or a pipe, for whose writer nobody waits
	case err != nil:
		return false, fmt.Errorf("read control plane state: %w", err)
	case json.Unmarshal(b, v) == nil:
		return true, nil
	}
	aside := path + ".damaged"
	if err := os.Rename(path, aside); err != nil {
		return false, fmt.Errorf("set aside %s, which is damaged: %w", path, err)
	}
	f.log.Error("a state file is damaged, and was set aside", "file", path, "as", aside)
	return false, ErrDamaged
}

// LastWritten returns when one of the files was written last, or zero.
func (f *Folder) LastWritten() time.Time {
	var last time.Time
	for _, name := range []string{Leases, Good, Nodes, Removed} {
		if info, err := os.Stat(f.Path(name)); err == nil && info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	return last
}

// Lost reports whether the file is not there.
func (f *Folder) Lost(name string) bool {
	_, err := os.Stat(f.Path(name))
	return errors.Is(err, fs.ErrNotExist)
}

// Save replaces the file.
func (f *Folder) Save(name string, content []byte) error {
	f.saving.Lock()
	defer f.saving.Unlock()
	return f.write(name, content)
}

// SaveJSON replaces the file by v's JSON.
func (f *Folder) SaveJSON(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	return f.Save(name, b)
}

// SaveKill replaces the file by a publication that stops somebody. If the disk is full, the
// reserve makes room for it.
func (f *Folder) SaveKill(name string, sealed []byte) {
	err := f.Save(name, sealed)
	if (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)) && os.Remove(f.Path(reserve)) == nil {
		err = f.Save(name, sealed)
	}
	if err != nil {
		f.log.Error("keep who is killed", "file", f.Path(name), "error", err)
	}
}

// write is Save for a caller that holds saving.
func (f *Folder) write(name string, content []byte) error {
	err := atomicfile.Write(f.Path(name), content, 0o600)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.unwritten[name], f.problems[name] = content, err.Error()
		return err
	}
	f.written(name)
	return nil
}

// written forgets what could not be written to the file before. mu is held.
func (f *Folder) written(name string) {
	delete(f.unwritten, name)
	delete(f.problems, name)
}

// Stage prepares a content for the file: see [Folder.Commit].
func (f *Folder) Stage(name string, content []byte) (*atomicfile.Staged, error) {
	return atomicfile.Stage(f.Path(name), content, 0o600)
}

// Commit replaces the file by the staged content.
func (f *Folder) Commit(name string, staged *atomicfile.Staged) error {
	f.saving.Lock()
	defer f.saving.Unlock()
	if err := staged.Commit(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.written(name)
	return nil
}

// Retry writes what could not be written.
func (f *Folder) Retry() {
	f.saving.Lock()
	defer f.saving.Unlock()
	f.mu.Lock()
	unwritten := maps.Clone(f.unwritten)
	f.mu.Unlock()
	for name, content := range unwritten {
		if f.write(name, content) == nil {
			f.log.Info("what could not be written is written", "file", f.Path(name))
		}
	}
}

// Problem says why a file could not be written; "" if all are.
func (f *Folder) Problem() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, problem := range f.problems {
		return problem
	}
	return ""
}

// Reserve keeps as much of the disk as a kill takes, if the publication that is served has that
// many bytes: twice as much, since the old file and the new one are there at the same time, and
// some for what a kill adds.
func (f *Folder) Reserve(publication int) {
	size, path := int64(2*publication+16<<10), f.Path(reserve)
	if info, err := os.Stat(path); err == nil && info.Size() >= size {
		return
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return // tried again every second
	}
	defer file.Close()
	// Not a file with holes, which keeps nothing.
	if err := syscall.Fallocate(int(file.Fd()), 0, 0, size); err != nil {
		_ = os.Remove(path)
	}
}
