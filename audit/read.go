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

	"golang.org/x/sys/unix"
)

// Filter selects events. Its zero value selects all.
type Filter struct {
	Agent string
	// Host matches the host with or without its port.
	Host string
	// Denied selects requests that were not allowed: [Deny] and [Error].
	Denied bool
	// Verdict, Rule and Status, if set, select events that have them.
	Verdict, Rule string
	Status        int
	// Since selects events of this time and later, and Until, if set, those before it.
	Since, Until time.Time
}

// Match reports whether the filter selects the event.
func (f Filter) Match(e *Event) bool {
	return (f.Agent == "" || f.Agent == e.Agent) &&
		(f.Host == "" || f.Host == e.Host || f.Host == hostOf(e.Host)) &&
		(!f.Denied || e.Verdict == Deny || e.Verdict == Error) &&
		(f.Verdict == "" || f.Verdict == e.Verdict) &&
		(f.Rule == "" || f.Rule == e.Rule) &&
		(f.Status == 0 || f.Status == e.Status) &&
		!e.Time.Before(f.Since) && (f.Until.IsZero() || e.Time.Before(f.Until))
}

// may reports whether a line that [Event.appendJSON] has written can be selected. It
// spares most lines of a long log their decoding: within a string, no quote stands alone.
func (f Filter) may(line []byte) bool {
	return (!f.Denied || bytes.Contains(line, []byte(`"verdict":"deny"`)) || bytes.Contains(line, []byte(`"verdict":"error"`))) &&
		(f.Verdict == "" || bytes.Contains(line, []byte(`"verdict":"`+f.Verdict+`"`))) &&
		(f.Agent == "" || bytes.Contains(line, []byte(`"agent":"`+f.Agent+`"`)))
}

// Read returns the selected events of every node in dir, by time.
func Read(dir string, f Filter) ([]Event, error) {
	var events []Event
	err := Each(context.Background(), dir, f, func(e Event) error {
		events = append(events, e)
		return nil
	})
	slices.SortStableFunc(events, func(a, b Event) int { return a.Time.Compare(b.Time) })
	return events, err
}

// Bounds of what is read of folders whose owners may have been taken over: no reader takes more
// time or memory because of what they contain.
const (
	// maxFolders bounds the nodes, and maxEntries the files in the folder of one.
	maxFolders, maxEntries = 500, 10_000
	// maxBad bounds the lines of one segment that are not events.
	maxBad = 10_000
	// maxSegment and maxLog bound a segment and the log of one node, in bytes. Its writer leaves
	// less: see [bounds].
	maxSegment, maxLog = 1 << 28, 5 << 28
)

// Each calls each for the selected events of every node in dir, until each returns an error or ctx
// is done. The events of one node come in the order of its log. Several nodes' events come by time.
//
// The folder of a node belongs to its writer, who may have been taken over. Each reads what was
// there when it began, follows no link, and waits for nothing. In place of what is not an event,
// not a regular file, not to be opened, or more than a writer leaves, Each passes a gap.
func Each(ctx context.Context, dir string, f Filter, each func(Event) error) error {
	r := &reader{dir: dir, filter: f, nodes: map[string]*nodeReader{}}
	defer r.close()
	return r.each(ctx, each)
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
		if err := r.each(ctx, each); ctx.Err() != nil {
			return nil
		} else if err != nil {
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
	// crowded is set once it is said that there are too many folders.
	crowded bool
}

func (r *reader) close() {
	for _, n := range r.nodes {
		n.close()
	}
}

// folders returns the names in the folder of the log. The nodes' user makes folders there too, so
// the control plane's is among them however many there are.
func (r *reader) folders() (names []string, more bool, err error) {
	dir, err := os.Open(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read audit log: %w", err)
	}
	defer dir.Close()
	entries, err := dir.ReadDir(maxFolders + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, false, fmt.Errorf("read audit log: %w", err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if more = len(names) > maxFolders; more && !slices.Contains(names, ControlPlane) {
		if _, err := os.Lstat(filepath.Join(r.dir, ControlPlane)); err == nil {
			names[0] = ControlPlane
		}
	}
	return names, more, nil
}

// each calls each for everything new since the last call.
func (r *reader) each(ctx context.Context, each func(Event) error) error {
	names, more, err := r.folders()
	if err != nil {
		return err
	}
	if more && !r.crowded {
		r.crowded = true
		gap := gap(fmt.Sprintf("%s has more than %d folders: the other ones were not read", r.dir, maxFolders))
		if err := r.pass(gap, each); err != nil {
			return err
		}
	}
	nodes := make([]*nodeReader, 0, len(names))
	for _, name := range names {
		n := r.nodes[name]
		if n == nil {
			n = &nodeReader{dir: filepath.Join(r.dir, name), filter: r.filter}
			r.nodes[name] = n
		}
		n.refresh()
		nodes = append(nodes, n)
	}
	for name, n := range r.nodes {
		if !slices.Contains(names, name) {
			n.close()
			delete(r.nodes, name)
		}
	}
	heads := make([]*Event, len(nodes))
	for i, n := range nodes {
		if heads[i], err = n.next(ctx); err != nil {
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
		if heads[first], err = nodes[first].next(ctx); err != nil {
			return err
		}
	}
}

// pass calls each for the event if the filter selects it.
func (r *reader) pass(e *Event, each func(Event) error) error {
	if !r.filter.Match(e) {
		return nil
	}
	return each(*e)
}

// nodeReader reads the selected events of one node.
type nodeReader struct {
	dir    string
	filter Filter
	// left are the segments after the one that is being read. They were listed once since refresh.
	left   []segment
	listed bool
	// done is the path of the last segment that was begun.
	done string
	path string
	open *lines
	bad  damage
	// unread are the files that were not read. told is set once it is said that the folder was not.
	unread unread
	told   bool
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

// refresh makes next return what the log has now. What is written later is for the next time: who
// writes as fast as somebody reads keeps nobody.
func (n *nodeReader) refresh() {
	n.listed = false
	if n.open != nil {
		n.open.refresh()
	}
}

// askEvery is the number of lines after which ctx is looked at.
const askEvery = 1024

// next returns the next event, or nil if there is none yet. The only error is that ctx is done.
func (n *nodeReader) next(ctx context.Context) (*Event, error) {
	if e := n.held; e != nil {
		n.held = nil
		return e, nil
	}
	for i := 0; ; i++ {
		if i%askEvery == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if n.open == nil && !n.begin() {
			return n.skipped(nil), nil
		}
		b, err := n.open.next()
		switch {
		case errors.Is(err, io.EOF):
			// A segment does not grow once there is a later one.
			if len(n.left) == 0 {
				if !n.list() {
					return n.skipped(nil), nil
				}
				if n.open.refresh(); n.open.more() {
					continue // this came before the later one did
				}
			}
			if n.open.torn() {
				n.bad.add(n.open.number + 1)
			}
			n.close()
		case err != nil:
			n.unread.add(n.path, err)
			n.close()
		case len(b) > 2 && b[0] == '{' && b[len(b)-1] == '}' && !n.filter.may(b):
			continue
		}
		if n.open == nil {
			if gap := n.skipped(nil); gap != nil {
				return gap, nil
			}
			continue
		}
		e := &Event{}
		if b == nil || !e.read(b) || !e.of(filepath.Base(n.dir)) {
			if n.bad.add(n.open.number); n.bad.count == maxBad {
				n.unread.add(n.path, errors.New("so many of its lines are not events that the rest was not read"))
				n.close()
				if gap := n.skipped(nil); gap != nil {
					return gap, nil
				}
			}
			continue
		}
		n.at = e.Time
		if n.filter.Match(e) || n.bad.count > 0 || n.unread.count > 0 {
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

// skipped returns what comes next: a gap for what was skipped, if something was and the filter
// selects the gap, and otherwise e, if the filter selects that.
func (n *nodeReader) skipped(e *Event) *Event {
	if e != nil && !n.filter.Match(e) {
		e = nil
	}
	var what []string
	if n.bad.count > 0 {
		what = append(what, n.bad.say(n.path))
	}
	if n.unread.count > 0 {
		what = append(what, n.unread.say())
	}
	if len(what) == 0 {
		return e
	}
	n.bad, n.unread = damage{}, unread{}
	gap := gap(strings.Join(what, "; "))
	gap.Node = filepath.Base(n.dir)
	if !n.at.IsZero() {
		gap.Time = n.at
	}
	if !n.filter.Match(gap) {
		return e
	}
	n.held = e
	return gap
}

// begin opens the next segment, and reports whether there is one.
func (n *nodeReader) begin() bool {
	for len(n.left) > 0 || n.list() {
		s := n.left[0]
		n.left = n.left[1:]
		n.done = s.path
		folder, err := n.folder()
		if err == nil {
			n.open, err = openLines(folder, filepath.Base(s.path))
			folder.Close()
		}
		switch {
		case err == nil:
			n.path = s.path
			if info, err := n.open.file.Stat(); err == nil && n.at.IsZero() {
				n.at = info.ModTime().UTC()
			}
			if n.open.refresh(); n.open.over > 0 {
				n.unread.add(s.path, fmt.Errorf("%d bytes at its end were not read: no segment is so large", n.open.over))
			}
			return true
		case !errors.Is(err, fs.ErrNotExist): // the oldest segments are removed while others are read
			n.unread.add(s.path, err)
		}
	}
	return false
}

// folder opens the folder of the node.
func (n *nodeReader) folder() (*os.File, error) {
	return os.OpenFile(n.dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}

// list finds the segments after the last that was begun, once since refresh, and reports whether
// there are any. It leaves out those that were closed before anything that is asked for, and the
// oldest of a log that is longer than any writer leaves.
func (n *nodeReader) list() bool {
	if n.listed {
		return false
	}
	n.listed = true
	folder, err := n.folder()
	if err == nil {
		defer folder.Close()
		err = n.look(folder)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !n.told {
		n.told = true
		n.unread.add(n.dir, err)
	}
	return len(n.left) > 0
}

func (n *nodeReader) look(folder *os.File) error {
	entries, err := folder.ReadDir(maxEntries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	all, foreign := segmentsOf(n.dir, entries)
	if !n.told {
		for _, path := range foreign {
			n.unread.add(path, errNotFile)
		}
		if len(entries) > maxEntries {
			n.unread.add(n.dir, fmt.Errorf("it has more than %d files: the other ones were not read", maxEntries))
		}
		n.told = len(foreign) > 0 || len(entries) > maxEntries
	}
	room := int64(maxLog)
	for i, s := range slices.Backward(all) {
		var st unix.Stat_t
		if s.path <= n.done {
			break
		}
		if unix.Fstatat(int(folder.Fd()), filepath.Base(s.path), &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			continue // it is gone
		}
		if i < len(all)-1 && time.Unix(st.Mtim.Unix()).Before(n.filter.Since) {
			continue
		}
		if room -= min(st.Size, maxSegment); room < 0 {
			n.unread.add(s.path, errors.New("this and everything older was not read: no log of a node is so large"))
			break
		}
		n.left = append(n.left, s)
	}
	slices.Reverse(n.left)
	return nil
}
