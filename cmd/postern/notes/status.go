// Package notes says, besides what a command was asked for, what has changed and what was refused.
// It has the control plane note which ports of this machine lead into sandboxes.
package notes

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/denials"
	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath/roots"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/publish"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/visible"
	"github.com/postern/postern/xds/api"
)

// Changed writes what has changed under the fleet of this machine since it was told: the stack
// file and the authorities that it names, and the files that the proxies read when they started.
func Changed(ctx context.Context, w io.Writer, file *stacks.File, home home.Folder, s *api.Status) {
	live, _, err := publish.Operator(home, nil).Live(ctx)
	if err != nil {
		return // the table says what is wrong
	}
	stack, err := file.Load()
	switch {
	case err != nil:
		visible.Printf(w, "note: %s has a mistake, and what is live stays: `%s` shows it\n",
			visible.Text(file.Path), file.Command("diff"))
	case len(plan.Diff(live.Plan, stack.Plan)) > 0:
		visible.Printf(w, "note: %s, or an authority that it names, has changes that are not live: `%s` shows them\n",
			visible.Text(file.Path), file.Command("diff"))
	}
	read := []string{}
	if path, _ := roots.Find("/"); path != "" {
		read = append(read, path)
	}
	if len(live.Plan.Resolvers) == 0 {
		read = append(read, "/etc/resolv.conf")
	}
	for _, n := range s.Nodes {
		pid := filepath.Join(home.NodeDir(n.ID), "pid")
		for _, path := range changedSince(pid, read) {
			visible.Printf(w, "note: %s changed after node %s had started, which may not know it: "+
				"`kill $(cat %s)` ends the node, and `%s` starts it again\n", path, n.ID, pid, file.Command("up"))
		}
	}
}

// changedSince returns the files that were changed after the file at path was.
func changedSince(path string, files []string) []string {
	began, err := os.Stat(path)
	if err != nil {
		return nil // the node is elsewhere
	}
	return slices.DeleteFunc(slices.Clone(files), func(f string) bool {
		info, err := os.Stat(f)
		return err != nil || !info.ModTime().After(began.ModTime())
	})
}

const (
	// refusedWithin is how far status looks back for credentials that destinations refused.
	refusedWithin = time.Hour
	// refusedPatience bounds the time that reading a long log may take.
	refusedPatience = time.Second
)

// Refused writes which credentials a destination has refused lately, each with the last time.
func Refused(ctx context.Context, w io.Writer, home home.Folder, now time.Time) {
	ctx, cancel := context.WithTimeout(ctx, refusedPatience)
	defer cancel()
	var last []audit.Event
	// At the end of ctx, what was found counts.
	_ = audit.Each(ctx, home.AuditDir(), audit.Filter{Since: now.Add(-refusedWithin)}, func(e audit.Event) error {
		if denials.Refused(&e) {
			last = append(slices.DeleteFunc(last, func(o audit.Event) bool {
				return o.Credential == e.Credential && o.Host == e.Host
			}), e)
		}
		return nil
	})
	for _, e := range last {
		visible.Printf(w, "note: %s refused credential %s (%d) %s ago\n",
			visible.Text(e.Host), visible.Text(e.Credential), e.Status, now.Sub(e.Time).Round(time.Second))
	}
}
