// Package begun keeps on disk, while a command may write a folder, what was there when the command
// began. Who was killed says nothing about that at the end, so the next one does.
package begun

import (
	"bufio"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/sandbox/wire"
)

// Note is about one command, and is kept until its end is told. It outlives this process, and a
// restart of the machine.
type Note struct {
	// Folder is where the folder was, by its real path.
	Folder string
	// At is when the command began.
	At time.Time

	id   home.Identity
	file *os.File
}

// head is the first line of the file of a [Note]. What was in the folder follows.
type head struct {
	Folder wire.Bytes    `json:"folder"`
	ID     home.Identity `json:"id"`
	At     time.Time     `json:"at"`
}

// Begin notes in dir, where no agent may write, that a command begins which may write the folder,
// and what was in there, as JSON. It returns when that is on disk. As long as this process lives,
// nobody takes the command for one that has ended.
func Begin(dir, folder string, were any) (n *Note, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("note what is in %s before the command starts: %w", folder, err)
		}
	}()
	root, err := hostpath.OpenBelow("/", folder)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	n = &Note{Folder: folder, At: time.Now()}
	if n.id, err = home.IdentityOf(root); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	in, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	n.file, err = makeHeld(in)
	if err != nil {
		return nil, err
	}
	made := n
	defer func() {
		if err != nil {
			n, err = nil, errors.Join(err, made.Said())
		}
	}()
	w := bufio.NewWriter(n.file)
	lines := json.NewEncoder(w)
	if err := lines.Encode(head{wire.Bytes(folder), n.id, n.At}); err != nil {
		return nil, err
	}
	if err := lines.Encode(were); err != nil {
		return nil, err
	}
	above, err := os.Open(filepath.Dir(dir)) // dir may be new
	if err != nil {
		return nil, err
	}
	defer above.Close()
	return n, errors.Join(w.Flush(), n.file.Sync(), in.Sync(), above.Sync())
}

// makeHeld makes a file in the folder, whose lock this process has. While it has not, it has the
// folder's.
func makeHeld(dir *os.File) (*os.File, error) {
	if err := flock(dir, unix.LOCK_SH); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir.Name(), rand.Text()), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(flock(f, unix.LOCK_EX), flock(dir, unix.LOCK_UN)); err != nil {
		return nil, errors.Join(err, os.Remove(f.Name()), f.Close())
	}
	return f, nil
}

// lockPatience bounds the wait for another process.
const lockPatience = 5 * time.Second

// flock takes the lock of the file, for which another process waits a moment only.
func flock(f *os.File, how int) error {
	for until := time.Now().Add(lockPatience); ; time.Sleep(time.Millisecond) {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(until) {
			return err
		}
	}
}

// Said removes what is on disk: a person was told.
func (n *Note) Said() error { return errors.Join(os.Remove(n.file.Name()), n.file.Close()) }

// Close leaves what is on disk: the next one says it.
func (n *Note) Close() { n.file.Close() }

// Of reports whether it is about the folder that is at the path now.
func (n *Note) Of(folder string) bool {
	f, err := hostpath.OpenBelow("/", folder) // an agent may have put something else there
	if err != nil {
		return false
	}
	defer f.Close()
	id, err := home.IdentityOf(f)
	return err == nil && id.Same(n.id)
}

// Were has in were, a pointer, what was in the folder.
func (n *Note) Were(were any) error {
	if _, err := n.file.Seek(0, 0); err != nil {
		return err
	}
	lines := json.NewDecoder(bufio.NewReader(n.file))
	if err := lines.Decode(new(head)); err != nil {
		return err
	}
	return lines.Decode(were)
}

// Running has in were, a pointer, what was in the folder when the first of the commands began there
// that still go on, and reports whether there is one. A command that begins meanwhile notes the
// same. So what one command takes back at its end, and another makes again, is named at the other's
// end.
func Running(dir, folder string, were any) (found bool, err error) {
	entries, err := list(dir)
	var first *Note
	for _, e := range entries {
		n, failed := open(filepath.Join(dir, e.Name()), true)
		err = errors.Join(err, failed)
		if n == nil {
			continue
		}
		if n.Of(folder) && (first == nil || n.At.Before(first.At)) {
			n, first = first, n
		}
		if n != nil {
			n.Close()
		}
	}
	if first != nil {
		defer first.Close()
		err = errors.Join(err, first.Were(were))
	}
	if err != nil {
		return false, fmt.Errorf("look for commands that go on in %s: %w", folder, err)
	}
	return first != nil, nil
}

// mostGone bounds the notes that are kept about folders that are not where they were: each was
// moved, or removed.
const mostGone = 100

// Unsaid calls each with every command of which a note is in dir, and which has ended without a
// word. Nobody else gets a note until it is closed or said. Of the notes about folders that are not
// where they were, Unsaid then removes the oldest, but for the last [mostGone].
func Unsaid(dir string, each func(*Note)) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("look for commands that ended without a word: %w", err)
		}
	}()
	entries, err := list(dir)
	if err != nil {
		return err
	}
	var gone []string // from the oldest on
	slices.SortStableFunc(entries, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, e := range entries {
		n, failed := open(filepath.Join(dir, e.Name()), false)
		if err = errors.Join(err, failed); n == nil {
			continue // the others are told all the same
		}
		if !n.Of(n.Folder) {
			gone = append(gone, n.file.Name())
		}
		each(n)
	}
	for _, path := range gone[:max(0, len(gone)-mostGone)] {
		n, failed := open(path, false)
		if err = errors.Join(err, failed); n != nil {
			err = errors.Join(err, n.Said())
		}
	}
	return err
}

// list returns the files in dir. Each of them is locked by its command, as long as that goes on.
func list(dir string) (files []fs.FileInfo, err error) {
	in, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer in.Close()
	if err := flock(in, unix.LOCK_EX); err != nil {
		return nil, err
	}
	return in.Readdir(-1)
}

// open returns the note in the file. It returns nil if its command goes on, or, if running, has
// ended, and if it was said meanwhile.
func open(path string, running bool) (*Note, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	goesOn := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil
	if goesOn != running || unix.Fstat(int(f.Fd()), &st) != nil || st.Nlink == 0 {
		f.Close()
		return nil, nil
	}
	n := &Note{file: f}
	var h head
	// Nothing has begun while this fails: Begin returns when the note is on disk.
	switch err := json.NewDecoder(bufio.NewReader(f)).Decode(&h); {
	case err != nil && running:
		f.Close()
		return nil, nil
	case err != nil:
		return nil, n.Said()
	}
	n.Folder, n.At, n.id = string(h.Folder), h.At, h.ID
	return n, nil
}
