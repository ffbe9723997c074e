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
	all, _ := segmentsOf(dir, entries)
	return all, nil
}

// segmentsOf returns the segments among the entries of the folder, oldest first, and the paths of
// entries that have the name of a segment and are not regular files.
func segmentsOf(dir string, entries []fs.DirEntry) (all []segment, foreign []string) {
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), extension)
		first, err := strconv.ParseUint(name, 10, 64)
		switch path := filepath.Join(dir, e.Name()); {
		case !ok || err != nil || len(name) != 20 || first > maxSeq:
		case !e.Type().IsRegular():
			foreign = append(foreign, path)
		default:
			all = append(all, segment{path, first})
		}
	}
	slices.SortFunc(all, func(a, b segment) int { return strings.Compare(a.path, b.path) })
	slices.Sort(foreign)
	return all, foreign
}

// maxSeq bounds a credible sequence number, so that a damaged one does not end the numbering.
const maxSeq = 1 << 62

// lines reads the lines of a segment from where it stopped the last time.
type lines struct {
	file *os.File
	buf  *bufio.Reader
	// number is the number of the line that next has returned, from 1.
	number int
	part   []byte
	// long is set while a line is longer than maxLine.
	long bool
	// at is the number of bytes that were read, size the number of those that may be, and over the
	// number of those beyond.
	at, size, over int64
}

// errNotFile is returned for a segment that is not a regular file.
var errNotFile = errors.New("not a regular file")

// openLines opens the segment of that name, or at that path if folder is nil. Its lines can be read
// after refresh.
func openLines(folder *os.File, name string) (*lines, error) {
	f, err := openFile(folder, name)
	if err != nil {
		return nil, err
	}
	l := &lines{file: f}
	l.buf = bufio.NewReaderSize(l, 1<<16)
	return l, nil
}

// openFile opens the regular file of that name, or at that path if folder is nil, to be read.
func openFile(folder *os.File, name string) (*os.File, error) {
	dir := unix.AT_FDCWD
	if folder != nil {
		dir = int(folder.Fd())
	}
	// The folder is its writer's, who may be another user: nothing but a file is read. Without
	// O_NONBLOCK, a lease on the file (fcntl F_SETLEASE) would delay this for 45 s.
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENXIO):
		return nil, errNotFile
	case errors.Is(err, unix.EAGAIN):
		return nil, errors.New("another program keeps it from being opened (a lease, as fcntl makes)")
	case err != nil:
		return nil, fmt.Errorf("open: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, errors.Join(err, errNotFile)
	}
	return f, nil
}

// lines calls visit with each whole line and its number until visit returns false. A line that is too
// long is nil. torn reports whether there is a part of a line after the last one.
func (s segment) lines(visit func(line []byte, number int) bool) (torn bool, err error) {
	l, err := openLines(nil, s.path)
	if err != nil {
		return false, fmt.Errorf("read audit log: %s: %w", s.path, err)
	}
	defer l.file.Close()
	l.refresh()
	for {
		b, err := l.next()
		if errors.Is(err, io.EOF) {
			return l.torn(), nil
		}
		if err != nil || !visit(b, l.number) {
			return false, err
		}
	}
}

// refresh lets everything be read that the file has now, but for what is beyond maxSegment.
func (l *lines) refresh() {
	if info, err := l.file.Stat(); err == nil {
		l.size = min(info.Size(), maxSegment)
		l.over = info.Size() - l.size
	}
}

// Read implements [io.Reader]: it ends where the file did at the last refresh.
func (l *lines) Read(b []byte) (int, error) {
	left := l.size - l.at
	if left <= 0 {
		return 0, io.EOF
	}
	n, err := l.file.Read(b[:min(int64(len(b)), left)])
	l.at += int64(n)
	return n, err
}

// more reports whether there is something that next has not read.
func (l *lines) more() bool {
	_, err := l.buf.Peek(1)
	return err == nil
}

// next returns the next whole line, without its end and valid until the next call, and
// io.EOF if there is none yet. For a line longer than maxLine, next returns nil.
func (l *lines) next() ([]byte, error) {
	if n := len(l.part); n > 0 && l.part[n-1] == '\n' {
		l.part = l.part[:0]
	}
	for {
		b, err := l.buf.ReadSlice('\n')
		if l.long = l.long || len(l.part)+len(b) > maxLine; l.long {
			l.part = l.part[:0]
		} else {
			l.part = append(l.part, b...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return nil, io.EOF
		case err != nil:
			return nil, fmt.Errorf("read: %w", err)
		case l.long:
			l.long = false
			l.number++
			return nil, nil
		default:
			l.number++
			return l.part[:len(l.part)-1], nil
		}
	}
}

// torn reports whether there is a part of a line after the last whole one.
func (l *lines) torn() bool { return l.long || len(l.part) > 0 && l.part[len(l.part)-1] != '\n' }

// damage collects the lines of a segment that are not events.
type damage struct{ first, last, count int }

func (d *damage) add(line int) {
	if d.count == 0 {
		d.first = line
	}
	d.last = line
	d.count++
}

// say names the skipped lines of the file at path.
func (d *damage) say(path string) string {
	if d.count == 1 {
		return fmt.Sprintf("%s:%d: this line is not an event and was skipped", short(path), d.first)
	}
	return fmt.Sprintf("%s:%d: %d lines from here to line %d are not events and were skipped",
		short(path), d.first, d.count, d.last)
}

// unread collects the files and folders of which something was not read.
type unread struct {
	first string
	count int
}

func (u *unread) add(path string, why error) {
	if u.count == 0 {
		u.first = fmt.Sprintf("%s was not read: %v", short(path), why)
	}
	u.count++
}

func (u *unread) say() string {
	if u.count == 1 {
		return u.first
	}
	return fmt.Sprintf("%s; nor were %d more", u.first, u.count-1)
}

// short is the part of a path in the folder of the log: <node>/<segment>, or <node>.
func short(path string) string {
	if strings.HasSuffix(path, extension) {
		return filepath.Join(filepath.Base(filepath.Dir(path)), filepath.Base(path))
	}
	return filepath.Base(path)
}
