package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Filter selects events. Its zero value selects all.
type Filter struct {
	Agent string
	// Host matches the host with or without its port.
	Host string
	// Denied selects requests that were not allowed: [Deny] and [Error].
	Denied bool
	// Since selects events of this time and later.
	Since time.Time
}

// Match reports whether the filter selects the event.
func (f Filter) Match(e *Event) bool {
	return (f.Agent == "" || f.Agent == e.Agent) &&
		(f.Host == "" || f.Host == e.Host || f.Host == hostOf(e.Host)) &&
		(!f.Denied || e.Verdict == Deny || e.Verdict == Error) &&
		!e.Time.Before(f.Since)
}

// may reports whether a line that [Event.appendJSON] has written can be selected. It
// spares most lines of a long log their decoding: within a string, no quote stands alone.
func (f Filter) may(line []byte) bool {
	return (!f.Denied || bytes.Contains(line, []byte(`"verdict":"deny"`)) || bytes.Contains(line, []byte(`"verdict":"error"`))) &&
		(f.Agent == "" || bytes.Contains(line, []byte(`"agent":"`+f.Agent+`"`)))
}

// Read returns the selected events of every node in dir, by time.
func Read(dir string, f Filter) ([]Event, error) {
	var events []Event
	err := Each(dir, f, func(e Event) error {
		events = append(events, e)
		return nil
	})
	slices.SortStableFunc(events, func(a, b Event) int { return a.Time.Compare(b.Time) })
	return events, err
}

// Each calls each for the selected events of every node in dir, until each returns an error. The
// events of one node come in the order of its log. Several nodes' events come by time. If a log
// contains something that is not an event, Each skips it and passes a gap in its place.
func Each(dir string, f Filter, each func(Event) error) error {
	r := &reader{dir: dir, filter: f, nodes: map[string]*nodeReader{}}
	defer r.close()
	return r.each(each)
}

// pollEvery is the interval at which Follow looks for new events.
const pollEvery = 50 * time.Millisecond

// Follow is [Each], and then continues with every new event, until ctx is done (it then returns
// nil) or each returns an error.
func Follow(ctx context.Context, dir string, f Filter, each func(Event) error) error {
	r := &reader{dir: dir, filter: f, nodes: map[string]*nodeReader{}}
	defer r.close()
	// Not by inotify: of its instances a user has 128, and agents' tools take them.
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if err := r.each(each); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// reader remembers how far it has read the log of each node.
type reader struct {
	dir    string
	filter Filter
	nodes  map[string]*nodeReader
}

func (r *reader) close() {
	for _, n := range r.nodes {
		n.close()
	}
}

// each calls each for everything new since the last call.
func (r *reader) each(each func(Event) error) error {
	folders, err := os.ReadDir(r.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read audit log: %w", err)
	}
	var nodes []*nodeReader
	for _, d := range folders {
		if !d.IsDir() {
			continue
		}
		n := r.nodes[d.Name()]
		if n == nil {
			n = &nodeReader{dir: filepath.Join(r.dir, d.Name()), filter: r.filter}
			r.nodes[d.Name()] = n
		}
		nodes = append(nodes, n)
	}
	heads := make([]*Event, len(nodes))
	for i, n := range nodes {
		if heads[i], err = n.next(); err != nil {
			return err
		}
	}
	for {
		first := -1
		for i, e := range heads {
			if e != nil && (first < 0 || e.Time.Before(heads[first].Time)) {
				first = i
			}
		}
		if first < 0 {
			return nil
		}
		if err := each(*heads[first]); err != nil {
			return err
		}
		if heads[first], err = nodes[first].next(); err != nil {
			return err
		}
	}
}

// nodeReader reads the selected events of one node.
type nodeReader struct {
	dir    string
	filter Filter
	// left are the segments after the one that is being read.
	left []segment
	// done is the path of the last segment that was begun.
	done string
	path string
	open *lines
	bad  damage
	// held came after lines that were skipped, which are told of first.
	held *Event
	// at is the time of the last event.
	at time.Time
}

func (n *nodeReader) close() {
	if n.open != nil {
		n.open.file.Close()
		n.open = nil
	}
}

// next returns the next event, or nil if there is none yet.
func (n *nodeReader) next() (*Event, error) {
	if e := n.held; e != nil {
		n.held = nil
		return e, nil
	}
	for {
		if n.open == nil {
			if more, err := n.begin(); !more {
				return n.skipped(nil), err
			}
		}
		b, err := n.open.next()
		switch {
		case errors.Is(err, io.EOF):
			// A segment does not grow once there is a later one.
			if len(n.left) == 0 {
				if err := n.list(); err != nil || len(n.left) == 0 {
					return n.skipped(nil), err
				}
				if _, err := n.open.buf.Peek(1); err == nil {
					continue // this came before the later one did
				}
			}
			if n.open.torn() {
				n.bad.add(n.open.number + 1)
			}
			n.close()
			if gap := n.skipped(nil); gap != nil {
				return gap, nil
			}
			continue
		case err != nil:
			return nil, err
		}
		if len(b) > 2 && b[0] == '{' && b[len(b)-1] == '}' && !n.filter.may(b) {
			continue
		}
		e := &Event{}
		if b == nil || !e.read(b) || !e.of(filepath.Base(n.dir)) {
			n.bad.add(n.open.number)
			continue
		}
		n.at = e.Time
		if n.filter.Match(e) || n.bad.count > 0 {
			if e = n.skipped(e); e != nil {
				return e, nil
			}
		}
	}
}

// of reports whether the event may be in the folder of that name. A folder belongs to its writer,
// who may have been taken over: no node speaks for another, and none reports changes of the policy.
func (e *Event) of(folder string) bool {
	writer, _, _ := strings.Cut(e.Node, "/")
	return writer == folder && (folder == ControlPlane || e.Verdict != Change || e.Kind == eventsRemoved)
}

// skipped returns what comes next: a gap for the lines that were skipped, if there
// are some and the filter selects it, and otherwise e, if the filter selects that.
func (n *nodeReader) skipped(e *Event) *Event {
	if e != nil && !n.filter.Match(e) {
		e = nil
	}
	if n.bad.count == 0 {
		return e
	}
	gap := &Event{Time: n.at, Node: filepath.Base(n.dir), Verdict: Gap, Detail: n.bad.say(n.path)}
	n.bad = damage{}
	if !n.filter.Match(gap) {
		return e
	}
	n.held = e
	return gap
}

// begin opens the next segment, and reports whether there is one. Segments that were
// closed before anything that is asked for are left alone.
func (n *nodeReader) begin() (bool, error) {
	for {
		if len(n.left) == 0 {
			if err := n.list(); err != nil || len(n.left) == 0 {
				return false, err
			}
		}
		s := n.left[0]
		n.left = n.left[1:]
		n.done = s.path
		info, err := os.Stat(s.path)
		if err == nil && len(n.left) > 0 && info.ModTime().Before(n.filter.Since) {
			continue
		}
		if n.open, err = openLines(s.path); err == nil {
			n.path = s.path
			if n.at.IsZero() {
				n.at = info.ModTime().UTC()
			}
			return true, nil
		}
		// The oldest segments are removed while others are read. What is not a file is damage, as what is not an event is.
		switch {
		case errors.Is(err, errNotFile):
			n.path = s.path
			n.bad.add(1)
		case !errors.Is(err, fs.ErrNotExist):
			return false, err
		}
	}
}

// list finds the segments after the last that was begun.
func (n *nodeReader) list() error {
	all, err := segments(n.dir)
	if err != nil {
		return err
	}
	n.left = slices.DeleteFunc(all, func(s segment) bool { return s.path <= n.done })
	return nil
}
