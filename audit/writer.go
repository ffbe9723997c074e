package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern/postern/plan"
)

// Writer appends the events of one node to its segments. It is safe for
// concurrent use.
type Writer struct {
	// Watch, if set before the first event, is called with every written event.
	Watch func(*Event)

	// Mirror, if set before the first event, gets every written line, in whole batches.
	Mirror io.Writer

	node   string
	dir    string
	bounds bounds

	mu sync.Mutex
	// file is the last segment, named after its first event, born when it was opened, and of the
	// given size. sum is the hash of what was written to it.
	file  *os.File
	first uint64
	born  time.Time
	size  int64
	sum   hash.Hash
	chain *chain
	// carried is the number of its bytes that repeat which streams are open.
	carried int64
	seq     uint64
	// buffer holds the last encoded events.
	buffer []byte
	// ids are the IDs of events that have one. The map is nil until an ID is looked up.
	ids map[string]bool
	// open are the streams that have begun and not ended, by their IDs.
	open map[string]*stream
	// denied are the recent denials, by agent.
	denied map[string]*denials
	// whole are the segments, by their first event, for which a digest is not worth it.
	whole map[uint64]bool
	// mark is a file that exists while this writer is not closed. After a loss it stays, so that
	// the next writer declares a gap.
	mark  string
	lossy bool
}

// markName is the file that exists while a writer does.
const markName = "open"

// maxBatch is about the number of bytes of the access log that are taken at once: the content of a
// pipe.
const maxBatch = 1 << 16

// NewWriter continues the log of a node, in the folder dir/<node>, after its last event. If node
// has a slash, the part after it names a replica: the events have it, and the folder does not.
//
// NewWriter continues the log whatever it contains. If it finds something that is not an event,
// such as the torn line of a machine that lost power, it leaves that in place and declares a gap.
// It also declares the loss of a writer that was never closed. It reads only the last segment. The
// file <node>/open exists while a writer does.
func NewWriter(dir, node string) (*Writer, error) { return newWriter(dir, node, standard) }

func newWriter(dir, node string, b bounds) (*Writer, error) {
	name, _, _ := strings.Cut(node, "/")
	w := &Writer{
		node: node, dir: filepath.Join(dir, name), bounds: b,
		open: map[string]*stream{}, denied: map[string]*denials{}, whole: map[uint64]bool{},
	}
	w.mark = filepath.Join(w.dir, markName)
	if err := os.MkdirAll(w.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make audit folder: %w", err)
	}
	_, err := os.Stat(w.mark)
	killed := err == nil
	gaps, err := w.resume(killed)
	if err != nil {
		return nil, err
	}
	if killed {
		gaps = append(gaps, "what wrote this log was killed: what happened in its last moments may be missing")
	}
	if err := os.WriteFile(w.mark, nil, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("open audit log: %w", err), w.file.Close())
	}
	for _, why := range gaps {
		if err := w.Gap(why); err != nil {
			return nil, errors.Join(err, w.file.Close())
		}
	}
	if err := w.Lost(); err != nil {
		return nil, errors.Join(err, w.file.Close())
	}
	return w, nil
}

// resume opens the segment to continue with, and returns what is wrong with the last one. killed is
// true if the last writer was not closed.
func (w *Writer) resume(killed bool) (gaps []string, err error) {
	if w.chain, err = openChain(w.dir, w.node); err != nil {
		return nil, err
	}
	all, err := segments(w.dir)
	if err != nil {
		return nil, err
	}
	missed, err := w.settle(all, killed)
	if err != nil {
		return nil, err
	}
	if missed != "" {
		gaps = append(gaps, missed)
	}
	if len(all) == 0 {
		w.seq = w.chain.last
		return gaps, w.create()
	}
	last := all[len(all)-1]
	size, gap, err := w.scan(last)
	if err != nil {
		return nil, err
	}
	w.seq = max(w.seq, w.chain.last)
	if gap != "" {
		gaps = append(gaps, gap)
	}
	if last.first <= w.chain.closed {
		return gaps, w.create()
	}
	w.first, w.sum = last.first, sha256.New()
	if gap != "" {
		// A damaged segment is not continued, so the next start does not find the damage again.
		if w.size, err = last.summed(w.sum, maxSegment); err != nil {
			return nil, err
		}
		if err := w.seal(); err != nil {
			return nil, err
		}
		return gaps, w.create()
	}
	if w.size, err = last.summed(w.sum, size); err != nil {
		return nil, err
	}
	w.file, err = os.OpenFile(last.path, os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	w.born = time.Now()
	return gaps, nil
}

// scan continues from a segment: its last sequence number, and the open streams. It returns the
// length of the segment, and which parts are not events.
func (w *Writer) scan(s segment) (size int64, gap string, err error) {
	w.seq = s.first - 1
	var bad damage
	last := 0
	torn, err := s.lines(func(b []byte, number int) bool {
		last = number
		size += int64(len(b)) + 1
		w.seq++ // what cannot be read was most likely one event
		var e Event
		if b == nil || !e.read(b) {
			bad.add(number)
			return true
		}
		// An implausible number is not followed.
		if e.Seq > w.seq && e.Seq-s.first < 1<<32 {
			w.seq = e.Seq
		}
		w.track(&e)
		return true
	})
	if err != nil {
		return 0, "", err
	}
	if torn {
		bad.add(last + 1)
	}
	if bad.count > 0 {
		return 0, bad.say(s.path), nil
	}
	return size, "", nil
}

// create begins a segment with the next event.
func (w *Writer) create() error {
	// A segment without an event, which a crash has left, has the same name.
	for first := w.seq + 1; ; first++ {
		f, err := os.OpenFile(segmentPath(w.dir, first), os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
		if errors.Is(err, fs.ErrExist) {
			w.seq = first
			continue
		}
		if err != nil {
			return fmt.Errorf("begin a segment of the audit log: %w", err)
		}
		w.file, w.first, w.size, w.carried, w.born, w.sum = f, first, 0, 0, time.Now(), sha256.New()
		return nil
	}
}

// Copy writes the events of Envoy's access log, which it reads from r, until r ends. It returns
// only when every line is written: a full disk stops the log, and then Envoy, instead of losing a
// record. Copy writes whatever is available at once, before it waits for more.
func (w *Writer) Copy(r io.Reader) error {
	br := bufio.NewReaderSize(r, maxBatch)
	var batch []*Event
	for {
		b, err := readLine(br)
		if len(b) > 1 && err == nil || errors.Is(err, errLong) {
			e, failed := decode(b)
			if err != nil || failed != nil {
				// A line that cannot be read is an event that would be lost silently.
				e, err = gap("a line of the access log could not be read"), nil
			}
			if e != nil {
				batch = append(batch, e)
			}
		}
		if err != nil || !hasLine(br) || len(batch) >= maxEvents {
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

// maxEvents bounds a batch, and so the events that are not yet in the file.
const maxEvents = 1000

var errLong = errors.New("the line is too long")

// readLine reads one line. For a line longer than maxLine, readLine returns errLong and
// continues after that line.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	long := false
	for {
		b, err := r.ReadSlice('\n')
		if line == nil && err == nil {
			return b, nil
		}
		if long = long || len(line)+len(b) > maxLine; !long {
			line = append(line, b...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case err == nil && long:
			return nil, errLong
		default:
			return line, err
		}
	}
}

// hasLine reports whether r has buffered a whole line.
func hasLine(r *bufio.Reader) bool {
	b, _ := r.Peek(r.Buffered())
	return bytes.IndexByte(b, '\n') >= 0
}

// Record writes an event about the policy, unless the log already has an event with its ID. The
// event is on disk when Record returns.
func (w *Writer) Record(e Event) error {
	e.Verdict = Change
	if err := w.append(&e); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.file.Sync(); err != nil {
		return fmt.Errorf("write event: %w", err)
	}
	return w.checkpoint(0)
}

// Unrecorded records that a node has refused n requests because it could not record its decisions,
// and why.
func (w *Writer) Unrecorded(n uint64, why string) error {
	return w.append(&Event{Time: time.Now().UTC(), Verdict: Deny, Reason: plan.ReasonUnrecorded, Count: n, Detail: why})
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
	if err := w.turn(); err != nil {
		return err
	}
	return w.write(events)
}

func (w *Writer) write(events []*Event) error {
	seq, b := w.seq, w.buffer[:0]
	written := make([]*Event, 0, len(events))
	for _, e := range events {
		known, err := w.known(e.ID)
		if err != nil {
			return err
		}
		if known || !w.track(e) || w.flood(e) {
			continue
		}
		seq++
		e.Node, e.Seq = w.node, seq
		b = append(e.appendJSON(b), '\n')
		written = append(written, e)
	}
	if w.buffer = b; cap(b) > 2*maxBatch {
		w.buffer = nil
	}
	if len(written) == 0 {
		return nil
	}
	if err := appendWhole(w.file, b); err != nil {
		w.lossy = true
		return fmt.Errorf("write event: %w", err)
	}
	for _, e := range written {
		if e.ID != "" {
			w.ids[e.ID] = true
		}
	}
	w.sum.Write(b)
	w.seq, w.size = seq, w.size+int64(len(b))
	if w.Mirror != nil {
		if _, err := w.Mirror.Write(b); err != nil {
			return fmt.Errorf("mirror event: %w", err)
		}
	}
	if w.Watch != nil {
		for _, e := range written {
			w.Watch(e)
		}
	}
	return nil
}

// known reports whether the log has an event with the ID. Only events of the control plane have
// one. The first such event makes it search the whole log.
func (w *Writer) known(id string) (bool, error) {
	if id == "" {
		return false, nil
	}
	if w.ids == nil {
		ids := map[string]bool{}
		all, err := segments(w.dir)
		if err != nil {
			return false, err
		}
		for _, s := range all {
			if err := s.collect(ids); err != nil {
				return false, err
			}
		}
		w.ids = ids
	}
	return w.ids[id], nil
}

// collect adds the IDs of the segment's events.
func (s segment) collect(ids map[string]bool) error {
	_, err := s.lines(func(b []byte, _ int) bool {
		var e Event
		if bytes.Contains(b, []byte(`"id":"`)) && e.read(b) && e.ID != "" {
			ids[e.ID] = true
		}
		return true
	})
	return err
}

// turn begins a new segment if it is due, or if somebody removed or shortened the last one. So no
// event is written where no reader looks.
func (w *Writer) turn() error {
	there, err := os.Stat(w.file.Name())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look at the audit log: %w", err)
	}
	mine, err := w.file.Stat()
	if err != nil {
		return fmt.Errorf("look at the audit log: %w", err)
	}
	why := ""
	switch {
	case there == nil || !os.SameFile(there, mine):
		why = filepath.Base(w.file.Name()) + " was moved or removed: its events are where it is now"
	case mine.Size() < w.size:
		why = filepath.Base(w.file.Name()) + " was shortened: events that were in it are missing"
	case w.size-w.carried >= w.bounds.segment, w.size > 0 && time.Since(w.born) >= w.bounds.age:
	default:
		return nil
	}
	old := w.file
	if err := os.MkdirAll(w.dir, 0o700); err != nil {
		return fmt.Errorf("make audit folder: %w", err)
	}
	if err := old.Sync(); err != nil {
		return fmt.Errorf("close a segment of the audit log: %w", err)
	}
	if err := w.seal(); err != nil {
		return err
	}
	if err := w.create(); err != nil {
		return err
	}
	if err := old.Close(); err != nil {
		return fmt.Errorf("close a segment of the audit log: %w", err)
	}
	if why != "" {
		if err := os.WriteFile(w.mark, nil, 0o600); err != nil {
			return fmt.Errorf("open audit log: %w", err)
		}
		if err := w.write([]*Event{gap(why)}); err != nil {
			return err
		}
	}
	if err := w.repeat(); err != nil {
		return err
	}
	return w.trim()
}

// trim keeps the log within its bound. It makes digests of the segments that filled fastest. If
// that is not enough, it records and then makes the removal of the oldest segments.
func (w *Writer) trim() error {
	all, err := segments(w.dir)
	if err != nil {
		return err
	}
	sizes := make([]int64, len(all))
	total := w.bounds.segment // the size that the new one will have
	// filled are the segments for which a digest is worth it, with the time that each took to fill.
	filled := map[int]time.Duration{}
	var before time.Time
	for i, s := range all {
		info, err := os.Stat(s.path)
		if err != nil {
			continue
		}
		sizes[i] = info.Size()
		total += info.Size()
		if i < len(all)-1 && info.Size() > w.bounds.segment/2 && !w.whole[s.first] {
			filled[i] = math.MaxInt64 // the oldest: its beginning is not known
			if !before.IsZero() {
				filled[i] = info.ModTime().Sub(before)
			}
		}
		before = info.ModTime()
	}
	fastest := slices.SortedFunc(maps.Keys(filled), func(i, j int) int {
		return cmp.Or(cmp.Compare(filled[i], filled[j]), cmp.Compare(i, j))
	})
	for _, i := range fastest {
		if total <= w.bounds.total {
			return nil
		}
		saved, err := w.digest(all[i])
		if err != nil {
			return err
		}
		if saved == 0 {
			w.whole[all[i].first] = true
		}
		sizes[i] -= saved
		total -= saved
	}
	n := 0
	for ; n < len(all)-1 && total > w.bounds.total; n++ {
		total -= sizes[n]
	}
	if n == 0 {
		return nil
	}
	err = w.write([]*Event{{
		Time: time.Now().UTC(), Verdict: Change, Kind: eventsRemoved,
		Detail: fmt.Sprintf("%d to %d, the oldest: a node keeps %d MiB", all[0].first, all[n].first-1,
			w.bounds.total>>20),
	}})
	if err != nil {
		return err
	}
	// The checkpoint names the oldest segment, even if that is the one which is written to.
	if err := errors.Join(w.chain.prune(all[n].first), w.checkpoint(0)); err != nil {
		return err
	}
	for _, s := range all[:n] {
		delete(w.whole, s.first)
		if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove an old segment of the audit log: %w", err)
		}
	}
	return nil
}

// Close closes the log.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := errors.Join(w.tell(0), w.checkpoint(0), w.file.Close())
	if w.lossy || err != nil {
		return err // what is not signed stays the tail of a writer that was not closed
	}
	return os.Remove(w.mark)
}
