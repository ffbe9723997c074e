package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern/postern/cmd/postern/notes"
	"github.com/postern/postern/cmd/postern/workspaces"
	"github.com/postern/postern/exit"
	"github.com/postern/postern/home"
	"github.com/postern/postern/observe"
	"github.com/postern/postern/publish"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/visible"
	"github.com/postern/postern/xds/api"
)

func newStatusCmd() *cobra.Command {
	var asJSON, watch bool
	cmd := &cobra.Command{
		Use:   "status [-w] [-v] [--json]",
		Short: "Show the fleet: version, nodes, last ACK or NACK, credentials",
		Long: `Shows the fleet. With --verbose it also shows what each node has of each resource type. With --watch
it continues until Ctrl-C. On a terminal the table is drawn again when something changes. Otherwise
each change is a line, or, with --json, an object.

If the control planes are on other machines, it shows what they report to the bundle store, with up to
50 nodes of each. Nodes with trouble come first.`,
		Example: `  postern status
  postern status --watch
  postern status --json | jq '.nodes[] | select(.connected | not)'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// Needs no valid stack file, because a user may want to find out why it is not valid.
			file, home, err := openHome(cmd)
			if err != nil {
				return err
			}
			workspaces.NameUnsaid(cmd.ErrOrStderr())
			verbose, err := cmd.Flags().GetBool("verbose")
			if err != nil {
				return err
			}
			fleet, err := fleetOf(cmd, file, home)
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			table := func(w io.Writer, s *api.Status, now time.Time) error {
				return printStatus(w, file.Name(), s, now, statusDetails{types: verbose, source: sourceOf(file), elsewhere: publish.Elsewhere(home), up: file.Command("up")})
			}
			if watch {
				return (&watcher{w: w, screen: isTerminal(w), asJSON: asJSON, draw: table}).run(cmd.Context(), fleet.Watch)
			}
			s, err := fleet.Status(cmd.Context())
			if err != nil {
				return errors.Join(err, recordedKills(cmd, home))
			}
			if asJSON {
				err = visible.Encode(w, s, "  ")
			} else {
				err = table(w, s, time.Now())
			}
			if err != nil || publish.Elsewhere(home) {
				return err
			}
			if !asJSON {
				notes.Changed(cmd.Context(), w, file, home, s)
				notes.Refused(cmd.Context(), w, home, time.Now())
			}
			if len(s.Nodes) == 0 {
				return errNoNodes(home)
			}
			conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(cmd.Context(), "unix", home.XDSSocket())
			if err != nil {
				return exit.With(exit.Partial, fmt.Errorf("no node can connect to the control plane: %w: `%s` repairs it", err, file.Command("up")))
			}
			return conn.Close()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print everything, as JSON")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "continue, and show every change, until interrupted")
	return cmd
}

// observed is the source of a fleet's state: its control plane, or what the control planes report
// to the bundle store.
type observed interface {
	Status(ctx context.Context) (*api.Status, error)
	// Watch calls each at first and with each change until ctx is done.
	Watch(ctx context.Context, each func(*api.Status) error) error
}

func fleetOf(cmd *cobra.Command, file *stacks.File, home home.Folder) (observed, error) {
	if !publish.Elsewhere(home) {
		return observe.Here{Client: api.Dial(home.ControlSocket()), Stack: file.Name()}, nil
	}
	o, err := operator(cmd.Context(), cmd.ErrOrStderr(), home)
	return &observe.Reported{Operator: o, Stack: file.Name()}, err
}

// statusDetails hold what a status can show in more detail.
type statusDetails struct {
	// types adds what each node has of each resource type.
	types bool
	// source returns the place of a rule in the stack file, or "" if it is not there.
	source func(rule string) string
	// elsewhere is set if the status comes from the control planes' reports.
	elsewhere bool
	// up is the command that repairs the stack.
	up string
}

// sourceOf returns the place of a rule in the stack file. It compiles the file only when there is
// something to explain.
func sourceOf(file *stacks.File) func(rule string) string {
	return func(rule string) string {
		stack, err := file.Load()
		if err != nil {
			return "" // a file that does not load is another command's problem
		}
		return stack.Source(rule)
	}
}

func printStatus(w io.Writer, name string, s *api.Status, now time.Time, details statusDetails) error {
	version := s.Version
	if version == "" {
		version = "none yet"
	}
	if details.elsewhere {
		printReporting(w, name, version, s)
	} else {
		visible.Printf(w, "stack %s: version %s, live on %d/%d nodes%s\n",
			name, version, s.Live(), len(s.Nodes), whoIsKilled(s))
	}
	if s.Wanted != s.Version {
		visible.Printf(w, "rolling out: version %s\n", s.Wanted)
	}
	for _, n := range s.Nodes {
		switch {
		case !n.Connected:
			visible.Printf(w, "%s\n", missing(n.ID, n.Since, now))
		case n.Problem != "":
			visible.Printf(w, "node %s does not serve: %s; `%s` repairs it\n", n.ID, n.Problem, details.up)
		case n.Streams > 1:
			visible.Printf(w,
				"node %s has %d streams: another process has its ID, and everything that the node is sent\n",
				n.ID, n.Streams)
		}
	}
	for _, r := range s.RefusedNodes {
		visible.Printf(w, "refused: node %q since %s: %s; it keeps the version that it had; if it belongs here, `%s` makes it part of the stack\n",
			r.ID, ago(r.Since, now), r.Reason, details.up)
	}
	for _, p := range s.Published {
		visible.Printf(w, "published: %s lead into a sandbox of agent %s since %s\n",
			strings.Join(p.Addresses, ", "), p.Agent, p.Since.Local().Format(time.TimeOnly))
	}
	if s.Problem != "" {
		visible.Printf(w, "problem: %s\n", s.Problem)
	}
	if len(s.Killed) > 0 {
		visible.Println(w, "killed agents get no answer but a denial; `postern unkill` lets them work again")
	}
	if s.Rejected != nil {
		visible.Printf(w, "rejected: version %s, %s by node %s: %s\n", s.Rejected.Version, s.Rejected.Type, s.Rejected.Node, strings.TrimSpace(s.Rejected.Message))
		if about := publish.About(s.Rejected, details.source); about != "" {
			visible.Printf(w, "  it is about %s\n", about)
		}
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	visible.Printf(t, "\nNODE\tCONNECTED\tVERSION\tLAST ACK\tLAST NACK\n")
	for _, n := range s.Nodes {
		visible.Printf(t, "%s\t%t\t%s\t%s\t%s\n",
			n.ID, n.Connected, orDash(n.Version), ago(n.LastAck, now), nack(n, now))
	}
	if len(s.Replicas) > 1 || details.elsewhere && len(s.Replicas) > 0 {
		visible.Println(t)
		printReplicas(t, s.Replicas, now)
	}
	if details.types {
		visible.Printf(t, "\nNODE\tTYPE\tWANTED\tACKED\tLAST ACK\tREFUSED\n")
		for _, n := range s.Nodes {
			for _, r := range n.Types {
				visible.Printf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", n.ID, r.Name, orDash(s.Wanted), orDash(r.Version), ago(r.AckedAt, now), orDash(strings.TrimSpace(r.Nack)))
			}
		}
	}
	if len(s.Credentials) > 0 {
		visible.Printf(t, "\nCREDENTIAL\tSOURCE\tVERSION\tIN USE SINCE\tSTATE\n")
		for _, c := range s.Credentials {
			visible.Printf(t, "%s\t%s\t%s\t%s\t%s\n",
				c.Name, orDash(c.Source), orDash(c.Version), ago(c.Since, now), credentialState(c, now))
		}
	}
	return t.Flush()
}

// whoIsKilled ends the first line of a status: it names the agents that an operator has stopped.
func whoIsKilled(s *api.Status) string {
	if len(s.Killed) == 0 {
		return ""
	}
	return "; killed: " + strings.Join(s.Killed, ", ")
}

// recordedKills returns the agents that are killed by what is recorded, when the control plane does
// not say it, or nil.
func recordedKills(cmd *cobra.Command, home home.Folder) error {
	o, err := operator(cmd.Context(), cmd.ErrOrStderr(), home)
	if err != nil {
		return nil //nolint:nilerr // the first line says already that the control plane does not answer
	}
	return observe.RecordedKills(cmd.Context(), o)
}

// printReporting prints the first line of the status of such a fleet. It counts control planes, not
// nodes, because the reports may not list all nodes.
func printReporting(w io.Writer, stack, version string, s *api.Status) {
	took, reporting := 0, 0
	for _, r := range s.Replicas {
		if !r.Stale {
			reporting++
			if r.Seq == s.Seq {
				took++
			}
		}
	}
	visible.Printf(w, "stack %s: version %s, live at %d/%d control planes, by what they report%s\n",
		stack, version, took, reporting, whoIsKilled(s))
	if reporting == 0 {
		visible.Println(w, "problem: no control plane reports: publications are not served; nodes keep the version that they have")
	}
}

func printReplicas(w io.Writer, replicas []api.Replica, now time.Time) {
	visible.Printf(w, "CONTROL PLANE\tPUBLICATION\tVERSION\tNODES\tREPORTED\tPROBLEM\n")
	for _, r := range replicas {
		problem := orDash(r.Problem)
		if r.Stale {
			problem = "no longer reports"
		}
		visible.Printf(w, "%s\t%d\t%s\t%d/%d\t%s\t%s\n",
			r.ID, r.Seq, orDash(r.Version), r.Connected, r.Nodes, ago(r.Time, now), problem)
	}
}

func credentialState(c api.Credential, now time.Time) string {
	switch {
	case !c.OK:
		return "routes fail closed: " + c.Problem
	case c.Problem != "":
		return "works, but since " + ago(c.Troubled, now) + ": " + c.Problem
	}
	return "ok"
}

func nack(n api.Node, now time.Time) string {
	if n.LastNack.IsZero() {
		return "-"
	}
	return ago(n.LastNack, now) + ": " + strings.TrimSpace(n.Nack)
}

func ago(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return now.Sub(t).Round(time.Second).String() + " ago"
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
