package leak

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/postern/postern/atomicfile"
)

// settled is how old a change must be for a file to be remembered. A file can change several times
// within a tick of the clock, and a mapped one until the kernel writes it back, with one ctime.
const settled = time.Minute

// Clean remembers the files of one folder in which no credential was found. A file that is written,
// or replaced by another one, has another ctime: nobody but root can set that.
type Clean struct {
	// path is "" if nothing is remembered.
	path   string
	before map[File]bool
	// Now has the files that this search has met. Read is set if one of them was read.
	Now  map[File]bool
	Read bool
	// began is when the search began.
	began time.Time
}

// File is a file of the folder, as it was when it was last changed.
type File struct {
	Inode uint64
	// Changed is the ctime, in nanoseconds.
	Changed int64
}

// cleanSize is how many bytes a file takes.
const cleanSize = 16

// OpenClean returns what is remembered in the file, which is for one folder and one [Version], for
// a search that began at that time. If the path is "", nothing is.
func OpenClean(path string, began time.Time) (*Clean, error) {
	c := &Clean{path: path, before: map[File]bool{}, Now: map[File]bool{}, began: began}
	if path == "" {
		return c, nil
	}
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for ; len(content) >= cleanSize; content = content[cleanSize:] {
		f := File{binary.LittleEndian.Uint64(content), int64(binary.LittleEndian.Uint64(content[8:]))}
		c.before[f] = true
	}
	return c, nil
}

// Has reports whether the file was found clean, and has not changed since.
func (c *Clean) Has(f File) bool {
	if c.before[f] {
		c.Now[f] = true
	}
	return c.before[f]
}

// Add remembers a file, which is as it was before it was read.
func (c *Clean) Add(f File) {
	if f.Changed < c.began.Add(-settled).UnixNano() {
		c.Now[f], c.Read = true, true
	}
}

// Save writes down what the search has seen. If that is not the whole folder, what was known of the
// rest stays.
func (c *Clean) Save(whole bool) error {
	if c.path == "" || !c.Read {
		return nil
	}
	if !whole {
		maps.Copy(c.Now, c.before)
	}
	content := make([]byte, 0, cleanSize*len(c.Now))
	for f := range c.Now {
		content = binary.LittleEndian.AppendUint64(content, f.Inode)
		content = binary.LittleEndian.AppendUint64(content, uint64(f.Changed))
	}
	if err := os.MkdirAll(filepath.Dir(c.path), 0o700); err != nil {
		return err
	}
	return atomicfile.Write(c.path, content, 0o600)
}
