package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/postern/postern/exit"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/publish"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/visible"
)

// errDiffer makes the exit status 1, like diff and kubectl diff. Failures have the status 2 here.
var errDiffer = errors.New("there are differences")

func newDiffCmd() *cobra.Command {
	var against string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "diff [--against live|FILE]",
		Short: "Show what the stack file would change for agents, by risk",
		Long: `Compares the meaning of the stack file with what is live, as the control plane reports it, or with
another stack file. Shows hosts, methods, write access, credentials and where they reach, not lines
of YAML. The riskiest change comes first. Nothing is changed.`,
		Example: `  postern diff
  git show HEAD:stacks/local.yaml > /tmp/before.yaml; postern diff --against /tmp/before.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, home, err := openHome(cmd)
			if err != nil {
				return exit.BadUsage(err)
			}
			stack, err := file.Load()
			if err != nil {
				return exit.BadUsage(err)
			}
			var old *plan.Plan
			if against == "live" {
				var live *publish.Live
				if _, live, err = openLive(cmd, home, stack.Plan); err == nil {
					old = live.Plan
				}
			} else {
				var other *stacks.Stack
				if other, err = stacks.Load(against); err == nil {
					old = other.Plan
				}
			}
			if err != nil {
				return exit.BadUsage(err)
			}
			warn(cmd.ErrOrStderr(), stack)
			changes := plan.Diff(old, stack.Plan)
			w := cmd.OutOrStdout()
			if asJSON {
				if changes == nil {
					changes = []plan.Change{}
				}
				if err := visible.Encode(w, changes, ""); err != nil {
					return exit.BadUsage(fmt.Errorf("write changes: %w", err))
				}
			} else {
				publish.PrintChanges(w, changes)
			}
			if len(changes) > 0 {
				return errDiffer
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&against, "against", "live", "what to compare with: live, or a stack file")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the changes as JSON")
	return cmd
}
