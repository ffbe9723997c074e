package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern/postern/stacks"
	"github.com/postern/postern/xds/api"
)

func newStatusCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the fleet: version, nodes, last ACK or NACK, credentials",
		Example: `  postern status
  postern status --json | jq '.nodes[] | select(.connected | not)'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// Needs no valid stack file: that may be what one wants to look into.
			file, err := stackFile(cmd)
			if err != nil {
				return err
			}
			home, err := stacks.HomeOf(file)
			if err != nil {
				return err
			}
			s, err := api.Dial(home.ControlSocket()).Status(cmd.Context())
			if err != nil {
				return fmt.Errorf("stack %s is not up: %w; bring it up with `go run . up %s`", stacks.NameOf(file), err, stacks.NameOf(file))
			}
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(s)
			}
			return printStatus(cmd.OutOrStdout(), stacks.NameOf(file), s, time.Now())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "everything, as JSON")
	return cmd
}

func printStatus(w io.Writer, name string, s *api.Status, now time.Time) error {
	version := s.Version
	if version == "" {
		version = "none yet"
	}
	live := 0
	for _, n := range s.Nodes {
		if n.Connected && n.Version == s.Version {
			live++
		}
	}
	fmt.Fprintf(w, "stack %s: version %s, live on %d/%d nodes\n", name, version, live, len(s.Nodes))
	if s.Problem != "" {
		fmt.Fprintf(w, "problem: %s\n", s.Problem)
	}
	if len(s.Killed) > 0 {
		fmt.Fprintf(w, "killed: %s; `postern unkill` lets them work again\n", strings.Join(s.Killed, ", "))
	}
	if s.Rejected != nil {
		fmt.Fprintf(w, "rejected: version %s, %s by node %s: %s\n", s.Rejected.Version, s.Rejected.Type, s.Rejected.Node, s.Rejected.Message)
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "\nNODE\tCONNECTED\tVERSION\tLAST ACK\tLAST NACK")
	for _, n := range s.Nodes {
		fmt.Fprintf(t, "%s\t%t\t%s\t%s\t%s\n", n.ID, n.Connected, orDash(n.Version), ago(n.LastAck, now), nack(n, now))
	}
	if len(s.Replicas) > 1 {
		fmt.Fprintln(t, "\nCONTROL PLANE\tPUBLICATION\tVERSION\tNODES\tREPORTED\tPROBLEM")
		for _, r := range s.Replicas {
			problem := orDash(r.Problem)
			if r.Stale {
				problem = "does not report any more"
			}
			fmt.Fprintf(t, "%s\t%d\t%s\t%d/%d\t%s\t%s\n", r.ID, r.Seq, orDash(r.Version), r.Connected, r.Nodes, ago(r.Time, now), problem)
		}
	}
	if len(s.Credentials) > 0 {
		fmt.Fprintln(t, "\nCREDENTIAL\tSOURCE\tVERSION\tIN USE SINCE\tSTATE")
		for _, c := range s.Credentials {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", c.Name, orDash(c.Source), orDash(c.Version), ago(c.Since, now), credentialState(c, now))
		}
	}
	return t.Flush()
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
	return ago(n.LastNack, now) + ": " + n.Nack
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
