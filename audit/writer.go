package audit

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Writer appends the events of one node to its file. It is safe for
// concurrent use.
type Writer struct {
	node string

	mu   sync.Mutex
	file *os.File
	seq  uint64
}

// NewWriter opens dir/<node>.jsonl and goes on after the last event in it. A
// torn last line, of a machine that lost power, is cut off and declared as a gap.
func NewWriter(dir, node string) (*Writer, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make audit folder: %w", err)
	}
	path := filepath.Join(dir, node+".jsonl")
	last, whole, err := scan(path)
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
	w := &Writer{node: node, file: f, seq: last}
	if size > whole {
		return w, w.Gap("the last line was torn")
	}
	return w, nil
}

// scan returns the last sequence number in the file and the length of its whole lines.
func scan(path string) (last uint64, whole int64, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("open audit log: %w", err)
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<16)
	for {
		b, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return last, whole, nil
		}
		if err != nil {
			return 0, 0, fmt.Errorf("read audit log: %w", err)
		}
		var e Event
		if err := json.Unmarshal(b, &e); err != nil {
			return 0, 0, fmt.Errorf("%s: line after event %d is not an event: %w", path, last, err)
		}
		last, whole = e.Seq, whole+int64(len(b))
	}
}

// Copy writes the events of Envoy's access log, as it comes from r, until r
// ends. It does not return before every line is written: a full disk stops the
// log, then Envoy, and not the record.
func (w *Writer) Copy(r io.Reader) error {
	br := bufio.NewReaderSize(r, 1<<16)
	for {
		b, err := br.ReadBytes('\n')
		if len(b) > 1 && err == nil {
			if err := w.line(b); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read access log: %w", err)
		}
	}
}

func (w *Writer) line(b []byte) error {
	e, err := decode(b)
	if err != nil {
		// A line that cannot be read is an event that would be lost silently.
		return w.Gap("a line of the access log could not be read")
	}
	if e == nil {
		return nil
	}
	return w.append(e)
}

// Gap records that events may be missing, and why.
func (w *Writer) Gap(why string) error {
	return w.append(&Event{Time: time.Now().UTC(), Verdict: Gap, Detail: why})
}

func (w *Writer) append(e *Event) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	e.Node, e.Seq = w.node, w.seq+1
	b, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode event: %w", err)
	}
	if _, err := w.file.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("write event: %w", err)
	}
	w.seq++
	return nil
}

// Close closes the file.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.file.Close()
}
