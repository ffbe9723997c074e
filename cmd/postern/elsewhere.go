package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern/postern/stacks"
	"github.com/postern/postern/xds/api"
	"github.com/postern/postern/xds/bundle"
)

// statusElsewhere shows the fleet of a stack whose control planes cannot be
// asked, by what is in the bundle store.
func statusElsewhere(cmd *cobra.Command, file string, home stacks.Home, asJSON, watch bool) error {
	if watch {
		return errors.New("--watch needs a control plane on this machine; this stack's are elsewhere, and report to the bundle store every few seconds")
	}
	o, err := operator(cmd.ErrOrStderr(), home)
	if err != nil {
		return err
	}
	s := &api.Status{Stack: stacks.NameOf(file), Nodes: []api.Node{}}
	live, err := o.Current(cmd.Context())
	switch {
	case errors.Is(err, bundle.ErrNone):
	case err != nil:
		s.Problem = err.Error()
	default:
		s.Seq = live.Seq
		if s.Version, err = live.Plan.Version(); err != nil {
			return err
		}
		for _, a := range live.Plan.Agents {
			if live.Killed.Agent(a.Name) {
				s.Killed = append(s.Killed, a.Name)
			}
		}
	}
	s.Wanted = s.Version
	if s.Replicas, err = o.Reports(cmd.Context()); err != nil {
		return err
	}
	if asJSON {
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		return enc.Encode(s)
	}
	return printElsewhere(cmd.OutOrStdout(), s, time.Now())
}

func printElsewhere(w io.Writer, s *api.Status, now time.Time) error {
	took, reporting := 0, 0
	for _, r := range s.Replicas {
		if !r.Stale {
			reporting++
			if r.Seq == s.Seq {
				took++
			}
		}
	}
	version := s.Version
	if version == "" {
		version = "none yet"
	}
	// Not how many nodes: one that has just moved is in two reports.
	fmt.Fprintf(w, "stack %s: version %s, live at %d/%d control planes, by what they report\n", s.Stack, version, took, reporting)
	if s.Problem != "" {
		fmt.Fprintf(w, "problem: %s\n", s.Problem)
	}
	if reporting == 0 {
		fmt.Fprintln(w, "problem: no control plane reports: what is published is not served anew; nodes keep what they have")
	}
	if len(s.Killed) > 0 {
		fmt.Fprintf(w, "killed: %v; `postern unkill` lets them work again\n", s.Killed)
	}
	if len(s.Replicas) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	printReplicas(t, s.Replicas, now)
	return t.Flush()
}
