package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel/trace"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/home"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/publish"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/visible"
)

func newPushCmd() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "push",
		Short: "Publish the stack file as it is, and wait until the fleet has converged",
		Long: `Shows what the stack file would change of what is live, publishes it, and waits until the fleet has
converged. Changes of high risk need an answer on the terminal, or --yes. So does a stack file whose
folder was replaced. A stack file that an agent may write is only a proposal: it always needs an
answer on a terminal.`,
		Example: `  $EDITOR stacks/local.yaml
  postern push`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, home, err := openHome(cmd)
			if err != nil {
				return err
			}
			stack, err := file.Load()
			if err != nil {
				return err
			}
			o, live, err := openLive(cmd, home, stack.Plan)
			if err != nil {
				return err
			}
			warn(cmd.ErrOrStderr(), stack)
			r := review(cmd, file, home, plan.Diff(live.Plan, stack.Plan), yes)
			r.Print(cmd.OutOrStdout())
			if err := r.Ask(cmd.Context()); err != nil {
				return err
			}
			if err := publishPlan(cmd.Context(), cmd.OutOrStdout(), o, home, stack.Plan); err != nil {
				return publish.Refused(err, stack.Source)
			}
			return home.Claim(file.Owner())
		},
	}
	addYes(cmd, &yes)
	return cmd
}

func addYes(cmd *cobra.Command, yes *bool) {
	cmd.Flags().BoolVarP(yes, "yes", "y", false, "publish changes of high risk without asking; never a file that an agent may have written")
}

// review is the question whether the changes, from the file, are to be published.
func review(cmd *cobra.Command, file *stacks.File, home home.Folder, changes []plan.Change, yes bool) *publish.Review {
	return &publish.Review{
		File: file, Home: home, Changes: changes, Careful: true, Yes: yes, Command: again(home),
		In: os.Stdin, Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr(),
	}
}

// again returns this command line without --yes, as one about the stack that works in any folder.
func again(home home.Folder) string {
	var words []string
	for i := 1; i < len(os.Args); i++ {
		switch a := os.Args[i]; {
		case a == "--yes" || a == "-y":
		case a == "-s" || a == "--stack" || a == "--file":
			i++ // the path of the file takes their place
		case strings.HasPrefix(a, "-s") || strings.HasPrefix(a, "--stack=") || strings.HasPrefix(a, "--file="):
		default:
			words = append(words, a)
		}
	}
	return home.Command(words...)
}

// openLive finds the operator, and what is live, which is probably similar to expected.
func openLive(cmd *cobra.Command, home home.Folder, expected *plan.Plan) (*bundle.Operator, *publish.Live, error) {
	o, err := operator(cmd.Context(), cmd.ErrOrStderr(), home)
	if err != nil {
		return nil, nil, err
	}
	if err := o.Expect(expected); err != nil {
		return nil, nil, err
	}
	live, err := readLive(cmd, o)
	return o, live, err
}

func readLive(cmd *cobra.Command, o *bundle.Operator) (*publish.Live, error) {
	live, err := publish.ReadLive(cmd.Context(), o)
	if err == nil && live.Note != "" {
		visible.Println(cmd.ErrOrStderr(), "note:", live.Note)
	}
	return live, err
}

// publishPlan rolls p out and reports what is live then.
func publishPlan(ctx context.Context, w io.Writer, o *bundle.Operator, home home.Folder, p *plan.Plan) error {
	ctx, span := trace.SpanFromContext(ctx).TracerProvider().Tracer("").Start(ctx, "publish")
	defer span.End()
	total := ""
	if len(o.Controls) > 0 {
		s, err := o.Controls[0].Status(ctx)
		if err != nil {
			return fmt.Errorf("the fleet is not up: %w; bring it up with `%s`", err, home.Command("up"))
		}
		total = fmt.Sprintf("/%d", len(s.Nodes))
	}
	v, err := o.Publish(ctx, p)
	if err != nil {
		return err
	}
	if len(o.Controls) > 0 && v.Nodes+len(v.Missing) == 0 {
		visible.Printf(w, "version %s is published, and live on no node\n", v.Version)
		return errNoNodes(home)
	}
	visible.Printf(w, "version %s live on %d%s nodes after %.1f ms\n", v.Version, v.Nodes, total, v.Millis)
	for _, m := range v.Missing {
		visible.Printf(w, "%s; it takes the version when it is back, and decides by its old version until then\n", missing(m.Node, m.Since, time.Now()))
	}
	for _, lack := range lacking(ctx, home) {
		visible.Printf(w, "note: its requests fail: %s\n", lack)
	}
	return nil
}

// operator returns the operator who publishes to the stack of the folder. Control planes elsewhere
// find the publication in the store.
func operator(ctx context.Context, w io.Writer, home home.Folder) (*bundle.Operator, error) {
	if !bundle.Linked(home.BundleURL()) {
		return nil, becomeCloud(ctx, w, "the bundle store is "+home.BundleURL())
	}
	return publish.Operator(home, func(line string) { visible.Println(w, line) }), nil
}

// warn prints what is odd about the stack file.
func warn(w io.Writer, s *stacks.Stack) {
	for _, p := range s.Warnings {
		visible.Error(w, "warning:", p)
	}
}
