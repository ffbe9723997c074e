package audit

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Filter selects events. Its zero value selects all.
type Filter struct {
	Agent string
	// Host matches the host with or without its port.
	Host string
	// Denied selects denials only.
	Denied bool
	// Since selects events of this time and later.
	Since time.Time
}

// Match reports whether the filter selects the event.
func (f Filter) Match(e *Event) bool {
	return (f.Agent == "" || f.Agent == e.Agent) &&
		(f.Host == "" || f.Host == e.Host || f.Host == hostOf(e.Host)) &&
		(!f.Denied || e.Verdict == Deny) &&
		!e.Time.Before(f.Since)
}

// Read returns the selected events of every node in dir, by time.
func Read(dir string, f Filter) ([]Event, error) {
	r := newReader(dir, f)
	defer r.close()
	return r.more()
}

// Follow calls each for the selected events of every node in dir: those that
// are there, by time, and then every new one, until ctx is done (it then
// returns nil) or each returns an error.
func Follow(ctx context.Context, dir string, f Filter, each func(Event) error) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("follow audit log: %w", err)
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("follow audit log: %w", err)
	}
	defer w.Close()
	if err := w.Add(dir); err != nil {
		return fmt.Errorf("follow audit log: %w", err)
	}
	r := newReader(dir, f)
	defer r.close()
	for {
		events, err := r.more()
		if err != nil {
			return err
		}
		for _, e := range events {
			if err := each(e); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-w.Errors:
			return fmt.Errorf("follow audit log: %w", err)
		case <-w.Events:
		}
	}
}

// reader remembers how far it has read each node's file.
type reader struct {
	dir    string
	filter Filter
	files  map[string]*tail
}

type tail struct {
	file *os.File
	buf  *bufio.Reader
	part []byte
}

func newReader(dir string, f Filter) *reader {
	return &reader{dir: dir, filter: f, files: map[string]*tail{}}
}

func (r *reader) close() {
	for _, t := range r.files {
		t.file.Close()
	}
}

// more returns what is new since the last call.
func (r *reader) more() ([]Event, error) {
	paths, err := filepath.Glob(filepath.Join(r.dir, "*.jsonl"))
	if err != nil {
		return nil, fmt.Errorf("read audit log: %w", err)
	}
	var events []Event
	for _, p := range paths {
		t := r.files[p]
		if t == nil {
			f, err := os.Open(p)
			if err != nil {
				return nil, fmt.Errorf("read audit log: %w", err)
			}
			t = &tail{file: f, buf: bufio.NewReaderSize(f, 1<<16)}
			r.files[p] = t
		}
		for {
			b, err := t.buf.ReadBytes('\n')
			t.part = append(t.part, b...)
			if errors.Is(err, io.EOF) {
				break // a line that is still being written is read next time
			}
			if err != nil {
				return nil, fmt.Errorf("read audit log: %w", err)
			}
			var e Event
			err = json.Unmarshal(t.part, &e)
			t.part = t.part[:0]
			if err != nil {
				return nil, fmt.Errorf("%s: a line is not an event: %w", strings.TrimPrefix(p, r.dir+"/"), err)
			}
			if r.filter.Match(&e) {
				events = append(events, e)
			}
		}
	}
	sort.SliceStable(events, func(i, j int) bool { return events[i].Time.Before(events[j].Time) })
	return events, nil
}
