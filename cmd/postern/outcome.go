package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/cut"
	"github.com/postern/postern/exit"
	"github.com/postern/postern/home"
	"github.com/postern/postern/visible"
	"github.com/postern/postern/xds/api"
)

// errNoNodes returns the error for a control plane without a node: whether nodes run here
// all the same, and the command that repairs the stack.
func errNoNodes(home home.Folder) error {
	if here := cut.RunningNodes(home); len(here) > 0 {
		return exit.With(exit.Partial, fmt.Errorf("the control plane has no node, but %s runs here, with the policy that it had before: `%s` makes it part of the stack again",
			strings.Join(here, ", "), home.Command("up")))
	}
	return exit.With(exit.Partial, fmt.Errorf("the control plane has no node, so nothing is enforced anywhere: `%s` starts one",
		home.Command("up")))
}

// imposed reports what happened to a publication that is never taken back. out and err are as
// [bundle.Operator.Kill] returns them, but out is not nil. Its exit status is
// [exit.Partial] if the publication is not in force everywhere, or would not outlive a restart.
func imposed(w io.Writer, home home.Folder, what string, out *bundle.Outcome, err error) error {
	name := filepath.Base(home.Root)
	v := out.Converged
	if v == nil {
		v = &api.Converged{}
	}
	unconfirmed := cut.Unconfirmed(home, out)
	visible.Printf(w, "%s: %s on %d nodes after %.1f ms\n", name, what, v.Nodes, v.Millis)
	var left []string
	for _, m := range v.Missing {
		// A node of this machine that does not run serves nobody. A node that runs is among the
		// unconfirmed.
		if slices.Contains(cut.NodesHere(home), m.Node) {
			visible.Printf(w, "%s: %s\n", name, missing(m.Node, m.Since, time.Now()))
			continue
		}
		left = append(left, missing(m.Node, m.Since, time.Now())+", and may serve its old version until it is back")
	}
	if len(unconfirmed) > 0 {
		left = append(left, fmt.Sprintf("node %s runs here and has not confirmed it", strings.Join(unconfirmed, ", ")))
	}
	if v.Nodes == 0 && len(unconfirmed) == 0 {
		left = append(left, "no node has confirmed it")
	}
	next := fmt.Sprintf("it is recorded as publication %d, and applies as soon as a control plane and its nodes see it: look with `%s`, and repair with `%s`",
		out.Seq, home.Command("status"), home.Command("up"))
	if out.Unrecorded != nil {
		next = "it is not recorded yet: the control plane records it as soon as it can, and a restart before that would forget it: make room or repair the store, and run this again"
	}
	switch {
	case err != nil:
		left = append(left, err.Error())
	case len(left) == 0:
		return nil
	}
	return exit.With(exit.Partial, fmt.Errorf("%s: %s, in part: %s; %s", name, what, strings.Join(left, "; "), next))
}

// isPartial reports whether err means that a part was done.
func isPartial(err error) bool { return exit.Status(err) == exit.Partial }

// lacking says of each credential of the fleet here why its requests fail, and what to do.
func lacking(ctx context.Context, home home.Folder) (lacks []string) {
	s, err := api.Dial(home.ControlSocket()).Status(ctx)
	if err != nil {
		return nil // nothing is known, and `postern status` says why
	}
	for _, c := range s.Credentials {
		if !c.OK {
			lacks = append(lacks, visible.Sprintf("credential %s: %s", c.Name, c.Problem))
		}
	}
	return lacks
}
