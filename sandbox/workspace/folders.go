package workspace

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/home"
	"github.com/postern/postern/sandbox/workspace/beneath"
)

// seen is what the agent could see of the host's folder. The time of a file says nothing about a
// folder that was moved: its files keep theirs. So each folder is known by its path and identity.
type seen struct {
	folders map[string]home.Identity
	// hidden has every byte of the paths. JSON's text, as in a [Record], has only UTF-8.
	hidden []string
}

const seenFile = "seen.json"

// seenLine is one object of the file: a folder that could be seen, or a path that could not.
type seenLine struct {
	Path   []byte         `json:"path"`
	Folder *home.Identity `json:"folder,omitempty"`
}

// record writes down what the agent can see: every folder but those that are hidden or that this
// user cannot read.
func (r *Run) record(ctx context.Context, folder *os.File) error {
	r.seen = &seen{folders: map[string]home.Identity{}, hidden: r.Hidden}
	hidden := make(map[string]bool, len(r.Hidden))
	for _, at := range r.Hidden {
		hidden[at] = true
	}
	if err := r.seen.below(ctx, folder, ".", hidden); err != nil {
		return fmt.Errorf("look at the folders: %w", err)
	}
	var content []byte
	for at, id := range r.seen.folders {
		content = append(content, seenLine{Path: []byte(at), Folder: &id}.bytes()...)
	}
	for _, at := range r.Hidden {
		content = append(content, seenLine{Path: []byte(at)}.bytes()...)
	}
	return atomicfile.Write(filepath.Join(r.dir, seenFile), content, 0o600)
}

func (l seenLine) bytes() []byte {
	line, err := json.Marshal(l)
	if err != nil {
		panic(err) // bytes and numbers
	}
	return append(line, '\n')
}

func (s *seen) below(ctx context.Context, dir *os.File, at string, hidden map[string]bool) error {
	entries, err := names(dir)
	if err != nil {
		return err
	}
	for _, name := range entries {
		child := path.Join(at, name)
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if hidden[child] {
			continue
		}
		e, err := beneath.Look(dir, name)
		if err != nil {
			return err
		}
		if !e.Is(unix.S_IFDIR) {
			continue
		}
		below, err := beneath.Open(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			continue // what is not known is refused
		}
		if s.folders[child], err = home.IdentityOf(below); err == nil {
			err = s.below(ctx, below, child, hidden)
		}
		below.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// load reads what the agent could see. A run without that file saw no folder.
func (r *Run) load() error {
	if r.seen != nil {
		return nil
	}
	s := &seen{folders: map[string]home.Identity{}, hidden: r.Hidden}
	f, err := os.Open(filepath.Join(r.dir, seenFile))
	if errors.Is(err, fs.ErrNotExist) {
		r.seen = s
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	for lines := json.NewDecoder(f); ; {
		var l seenLine
		switch err := lines.Decode(&l); {
		case errors.Is(err, io.EOF):
			r.seen = s
			return nil
		case err != nil:
			return fmt.Errorf("read %s: %w", f.Name(), err)
		case l.Folder != nil:
			s.folders[string(l.Path)] = *l.Folder
		default:
			s.hidden = append(s.hidden, string(l.Path))
		}
	}
}

// saw reports whether the host's folder, which is open, is the one that the agent saw at the path,
// or one that Apply made there. The working directory itself is known by the record.
func (r *Run) saw(at string, dir *os.File) bool {
	if at == "." {
		return true
	}
	now, err := home.IdentityOf(dir)
	then, known := r.seen.folders[at]
	return err == nil && known && now.Same(then)
}

// made writes down that Apply made the folder, which is open, so that the next one continues there.
func (r *Run) made(at string, dir *os.File) error {
	id, err := home.IdentityOf(dir)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(r.dir, seenFile), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if _, err := f.Write(seenLine{Path: []byte(at), Folder: &id}.bytes()); err != nil {
		return errors.Join(err, f.Truncate(info.Size())) // half a line would end every later run
	}
	r.seen.folders[at] = id
	return f.Sync()
}
