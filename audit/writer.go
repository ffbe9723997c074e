package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Writer appends the events of one node to its file. It is safe for
// concurrent use.
type Writer struct {
	// Watch, if set before the first event, is called with every event that
	// was written.
	Watch func(*Event)

	// Mirror, if set before the first event, gets every line that was written,
	// in whole batches.
	Mirror io.Writer

	node string

	mu   sync.Mutex
	file *os.File
	seq  uint64
	// buffer is what the last events were encoded into.
	buffer []byte
	// ids are those of the events that have one.
	ids map[string]bool
	// open is the file that says that this writer was not closed.
	open string
}

// maxBatch is about how many bytes of the access log are taken at once: what a
// pipe holds.
const maxBatch = 1 << 16

// NewWriter opens dir/<node>.jsonl and goes on after the last event in it. After
// a slash, node names a replica: events have that, the file has not. What
// a writer that was never closed may have lost is declared as a gap; a torn last
// line, of a machine that lost power, is cut off. The file dir/<node>.open is
// there while a writer is.
func NewWriter(dir, node string) (*Writer, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make audit folder: %w", err)
	}
	name, _, _ := strings.Cut(node, "/")
	path := filepath.Join(dir, name+".jsonl")
	last, whole, ids, err := scan(path)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil && size > whole {
		if err = f.Truncate(whole); err == nil {
			_, err = f.Seek(whole, io.SeekStart)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open audit log: %w", err), f.Close())
	}
	w := &Writer{node: node, file: f, seq: last, ids: ids, open: filepath.Join(dir, name+".open")}
	_, err = os.Stat(w.open)
	killed := err == nil
	if err = os.WriteFile(w.open, nil, 0o600); err == nil {
		switch {
		case size > whole:
			err = w.Gap("the last line was torn")
		case killed:
			err = w.Gap("what wrote this log was killed: what happened in its last moments may be missing")
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open audit log: %w", err), f.Close())
	}
	return w, nil
}

// scan returns the last sequence number in the file, the length of its whole
// lines, and the IDs of the events that have one.
func scan(path string) (last uint64, whole int64, ids map[string]bool, err error) {
	ids = map[string]bool{}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, ids, nil
	}
	if err != nil {
		return 0, 0, nil, fmt.Errorf("open audit log: %w", err)
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<16)
	for {
		b, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return last, whole, ids, nil
		}
		if err != nil {
			return 0, 0, nil, fmt.Errorf("read audit log: %w", err)
		}
		var e Event
		if err := json.Unmarshal(b, &e); err != nil {
			return 0, 0, nil, fmt.Errorf("%s: line after event %d is not an event: %w", path, last, err)
		}
		last, whole = e.Seq, whole+int64(len(b))
		if e.ID != "" {
			ids[e.ID] = true
		}
	}
}

// Copy writes the events of Envoy's access log, as it comes from r, until r
// ends. It does not return before every line is written: a full disk stops the
// log, then Envoy, and not the record. What is there to be read is written at
// once, and before Copy waits for more.
func (w *Writer) Copy(r io.Reader) error {
	br := bufio.NewReaderSize(r, maxBatch)
	var batch []*Event
	for {
		b, err := br.ReadBytes('\n')
		if len(b) > 1 && err == nil {
			e, err := decode(b)
			if err != nil {
				// A line that cannot be read is an event that would be lost silently.
				e = gap("a line of the access log could not be read")
			}
			if e != nil {
				batch = append(batch, e)
			}
		}
		if err != nil || !hasLine(br) {
			if err := w.append(batch...); err != nil {
				return err
			}
			batch = batch[:0]
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read access log: %w", err)
		}
	}
}

// hasLine reports whether a whole line can be had from r without reading.
func hasLine(r *bufio.Reader) bool {
	b, _ := r.Peek(r.Buffered())
	return bytes.IndexByte(b, '\n') >= 0
}

// Record writes what has happened to the policy, unless an event with its ID
// is in the log already. It is on disk when Record returns.
func (w *Writer) Record(e Event) error {
	e.Verdict = Change
	if err := w.append(&e); err != nil {
		return err
	}
	if err := w.file.Sync(); err != nil {
		return fmt.Errorf("write event: %w", err)
	}
	return nil
}

// Gap records that events may be missing, and why.
func (w *Writer) Gap(why string) error { return w.append(gap(why)) }

func gap(why string) *Event { return &Event{Time: time.Now().UTC(), Verdict: Gap, Detail: why} }

// append numbers events and writes them, all with one write.
func (w *Writer) append(events ...*Event) error {
	if len(events) == 0 {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	seq, b := w.seq, w.buffer[:0]
	for _, e := range events {
		if e.ID != "" && w.ids[e.ID] {
			continue
		}
		seq++
		e.Node, e.Seq = w.node, seq
		b = append(e.appendJSON(b), '\n')
	}
	if w.buffer = b; cap(b) > 2*maxBatch {
		w.buffer = nil
	}
	if _, err := w.file.Write(b); err != nil {
		return fmt.Errorf("write event: %w", err)
	}
	written := seq > w.seq
	w.seq = seq
	if w.Mirror != nil && written {
		if _, err := w.Mirror.Write(b); err != nil {
			return fmt.Errorf("mirror event: %w", err)
		}
	}
	for _, e := range events {
		if e.ID != "" {
			w.ids[e.ID] = true
		}
		if w.Watch != nil && written {
			w.Watch(e)
		}
	}
	return nil
}

// Close closes the file.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(w.file.Close(), os.Remove(w.open))
}
