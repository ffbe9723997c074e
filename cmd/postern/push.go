package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/xds/api"
	"github.com/postern/postern/xds/bundle"
)

func newPushCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "push",
		Short: "Publish the stack file as it is, and wait until the fleet has converged",
		Example: `  $EDITOR stacks/local.yaml
  postern push`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			stack, home, client, err := openStack(cmd)
			if err != nil {
				return err
			}
			live, err := livePlan(cmd.Context(), home)
			if err != nil {
				return err
			}
			warn(cmd.ErrOrStderr(), stack)
			printChanges(cmd.OutOrStdout(), plan.Diff(live, stack.Plan))
			return publish(cmd.Context(), cmd.OutOrStdout(), home, client, stack.Plan)
		},
	}
}

// publish rolls p out and says what is live then.
func publish(ctx context.Context, w io.Writer, home stacks.Home, client *api.Client, p *plan.Plan) error {
	s, err := client.Status(ctx)
	if err != nil {
		return fmt.Errorf("the fleet is not up: %w; bring it up with `go run . up %s`", err, p.Stack)
	}
	v, err := bundle.Publish(ctx, home.BundleURL(), client, p)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "version %s live on %d/%d nodes after %.1f ms\n", v.Version, v.Nodes, len(s.Nodes), v.Millis)
	return nil
}

// livePlan is what was published last; nothing if nothing was.
func livePlan(ctx context.Context, home stacks.Home) (*plan.Plan, error) {
	if _, err := os.Stat(home.Root); errors.Is(err, fs.ErrNotExist) {
		return &plan.Plan{}, nil // and it is not for us to make the folder
	}
	live, err := bundle.Read(ctx, home.BundleURL())
	if errors.Is(err, bundle.ErrNone) {
		return &plan.Plan{}, nil
	}
	return live, err
}

// warn says what is odd about the stack file.
func warn(w io.Writer, s *stacks.Stack) {
	for _, p := range s.Warnings {
		fmt.Fprintln(w, "warning:", p)
	}
}

// printChanges says what changes, the riskiest first, and why it is risky.
func printChanges(w io.Writer, changes []plan.Change) {
	if len(changes) == 0 {
		fmt.Fprintln(w, "nothing changes for any agent")
	}
	for _, c := range changes {
		fmt.Fprintln(w, c.Line())
	}
}
