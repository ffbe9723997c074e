package audit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of the log of one node. A variable only so that tests need not write a gibibyte.
type bounds struct {
	// segment is the size in bytes, and age the time, after which a segment is closed.
	segment int64
	age     time.Duration
	// total is the size in bytes of all segments of a node. Beyond it digests are made of some, and
	// then the oldest are removed.
	total int64
	// digest is how many bytes of one agent's events stay in a digest, twice: see [segment.digest].
	digest int64
}

var standard = bounds{segment: 16 << 20, age: 24 * time.Hour, total: 1 << 30, digest: 32 << 10}

// maxLine bounds a line, in bytes. An event is far shorter, because each of its few strings is
// clipped.
const maxLine = 1 << 20

// segment is one file of the log of one node: <dir>/<node>/<first>.jsonl, where first is
// the sequence number of its first event. Only the last segment of a node is written to,
// and no segment is ever changed, unless its digest replaces it: see [Writer.digest].
type segment struct {
	path  string
	first uint64
}

const extension = ".jsonl"

func segmentPath(dir string, first uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%020d", first)+extension)
}

// segments lists the segments in the folder of a node, oldest first. A folder that does
// not exist has none.
func segments(dir string) ([]segment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read audit log: %w", err)
	}
	var all []segment
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), extension)
		first, err := strconv.ParseUint(name, 10, 64)
		if !ok || err != nil || len(name) != 20 || first > maxSeq || !e.Type().IsRegular() {
			continue
		}
		all = append(all, segment{filepath.Join(dir, e.Name()), first})
	}
	slices.SortFunc(all, func(a, b segment) int { return strings.Compare(a.path, b.path) })
	return all, nil
}

// maxSeq bounds a sequence number that is believed: a damaged one ends no numbering.
const maxSeq = 1 << 62

// lines reads the lines of a segment from where it stopped the last time.
type lines struct {
	file *os.File
	buf  *bufio.Reader
	// number is the number of the line that next has returned, from 1.
	number int
	part   []byte
	// over is set while a line is longer than maxLine.
	over bool
}

// errNotFile is returned for a segment that is not a regular file.
var errNotFile = errors.New("read audit log: not a regular file")

func openLines(path string) (*lines, error) {
	// The folder is its writer's, who may be another user: nothing but a file is read.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, errNotFile
	}
	if err != nil {
		return nil, fmt.Errorf("read audit log: %w", err)
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, errors.Join(err, errNotFile)
	}
	return &lines{file: f, buf: bufio.NewReaderSize(f, 1<<16)}, nil
}

// next returns the next whole line, without its end and valid until the next call, and
// io.EOF if there is none yet. For a line longer than maxLine, next returns nil.
func (l *lines) next() ([]byte, error) {
	if n := len(l.part); n > 0 && l.part[n-1] == '\n' {
		l.part = l.part[:0]
	}
	for {
		b, err := l.buf.ReadSlice('\n')
		if l.over = l.over || len(l.part)+len(b) > maxLine; l.over {
			l.part = l.part[:0]
		} else {
			l.part = append(l.part, b...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return nil, io.EOF
		case err != nil:
			return nil, fmt.Errorf("read audit log: %w", err)
		case l.over:
			l.over = false
			l.number++
			return nil, nil
		default:
			l.number++
			return l.part[:len(l.part)-1], nil
		}
	}
}

// torn reports whether there is a part of a line after the last whole one.
func (l *lines) torn() bool { return l.over || len(l.part) > 0 && l.part[len(l.part)-1] != '\n' }

// damage collects the lines of a segment that are not events.
type damage struct{ first, last, count int }

func (d *damage) add(line int) {
	if d.count == 0 {
		d.first = line
	}
	d.last = line
	d.count++
}

// say names the lines of the file at path that were skipped.
func (d *damage) say(path string) string {
	name := filepath.Join(filepath.Base(filepath.Dir(path)), filepath.Base(path))
	if d.count == 1 {
		return fmt.Sprintf("%s:%d: this line is not an event and was skipped", name, d.first)
	}
	return fmt.Sprintf("%s:%d: %d lines from here to line %d are not events and were skipped", name, d.first, d.count, d.last)
}
