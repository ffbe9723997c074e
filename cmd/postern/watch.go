package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/postern/postern/visible"
	"github.com/postern/postern/xds/api"
)

// watcher shows the fleet as it changes: on a terminal a table that is drawn again, otherwise a
// line for each change, or a JSON object.
type watcher struct {
	w      io.Writer
	screen bool
	asJSON bool
	// draw writes the table.
	draw func(io.Writer, *api.Status, time.Time) error
	last *api.Status
}

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// run shows the fleet until ctx is done: watch calls with each change of it.
func (v *watcher) run(ctx context.Context, watch func(context.Context, func(*api.Status) error) error) error {
	return watch(ctx, func(s *api.Status) error {
		defer func() { v.last = s }()
		now := time.Now()
		switch {
		case v.asJSON:
			return visible.Encode(v.w, s, "")
		case v.screen:
			var b bytes.Buffer
			b.WriteString("\x1b[H\x1b[2J") // home, and clear
			if err := v.draw(&b, s, now); err != nil {
				return err
			}
			visible.Printf(&b, "\n%s; Ctrl-C ends\n", now.Format("15:04:05"))
			_, err := v.w.Write(b.Bytes())
			return err
		}
		for _, line := range statusChanges(v.last, s) {
			if _, err := io.WriteString(v.w, visible.Sprintf("%s  %s\n", now.Format("15:04:05.000"), line)); err != nil {
				return err
			}
		}
		return nil
	})
}

// statusChanges returns the differences between is and was, one line each. was is nil at first. A
// repeated acknowledgement is not a change.
func statusChanges(was, is *api.Status) []string {
	if was == nil {
		was = &api.Status{}
	}
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if is.Wanted != was.Wanted && is.Wanted != is.Version {
		add("rolling out version %s", is.Wanted)
	}
	before := map[string]api.Node{}
	for _, n := range was.Nodes {
		before[n.ID] = n
	}
	for _, n := range is.Nodes {
		b := before[n.ID]
		delete(before, n.ID)
		switch {
		case n.Connected && !b.Connected:
			add("node %s connected", n.ID)
		case !n.Connected && (b.Connected || b.ID == ""):
			add("node %s is not connected", n.ID)
		}
		if n.Version != b.Version && n.Version != "" {
			add("node %s has version %s", n.ID, n.Version)
		}
		if n.LastNack.After(b.LastNack) {
			add("node %s refused: %s", n.ID, strings.TrimSpace(n.Nack))
		}
	}
	for _, n := range was.Nodes {
		if _, gone := before[n.ID]; gone {
			add("node %s is no longer part of the stack", n.ID)
		}
	}
	if is.Seq != was.Seq || is.Version != was.Version {
		add("publication %d, version %s, is live on %d/%d nodes", is.Seq, orDash(is.Version), is.Live(), len(is.Nodes))
	}
	if is.Rejected != nil && (was.Rejected == nil || was.Rejected.Error() != is.Rejected.Error()) {
		add("version %s was taken back: node %s refused %s", is.Rejected.Version, is.Rejected.Node, is.Rejected.Type)
	}
	if a, b := strings.Join(was.Killed, ", "), strings.Join(is.Killed, ", "); a != b {
		add("killed: %s", orDash(b))
	}
	problems := map[string]string{}
	for _, c := range was.Credentials {
		problems[c.Name] = c.Problem
	}
	for _, c := range is.Credentials {
		switch p, known := problems[c.Name]; {
		case c.Problem == p && known, c.Problem == "" && !known:
		case c.Problem == "":
			add("credential %s is there again", c.Name)
		default:
			add("credential %s: %s", c.Name, c.Problem)
		}
	}
	return out
}

// missing says since when a node has been missing.
func missing(id string, since, now time.Time) string {
	if since.IsZero() {
		return fmt.Sprintf("node %s is missing: it has not connected since the control plane started", id)
	}
	return fmt.Sprintf("node %s is missing since %s (%s)", id, since.Local().Format("15:04:05"), now.Sub(since).Round(time.Second))
}
