package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sys/unix"

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
			stack, home, err := openStack(cmd)
			if err != nil {
				return err
			}
			o, err := operator(cmd.ErrOrStderr(), home)
			if err != nil {
				return err
			}
			live, err := livePlan(cmd.Context(), o)
			if err != nil {
				return err
			}
			warn(cmd.ErrOrStderr(), stack)
			printChanges(cmd.OutOrStdout(), plan.Diff(live, stack.Plan))
			return blamed(publish(cmd.Context(), cmd.OutOrStdout(), o, home, stack.Plan), stack.Source)
		},
	}
}

// publish rolls p out and says what is live then.
func publish(ctx context.Context, w io.Writer, o *bundle.Operator, home stacks.Home, p *plan.Plan) error {
	ctx, span := trace.SpanFromContext(ctx).TracerProvider().Tracer("").Start(ctx, "publish")
	defer span.End()
	total := ""
	if len(o.Controls) > 0 {
		s, err := o.Controls[0].Status(ctx)
		if err != nil {
			return fmt.Errorf("the fleet is not up: %w; bring it up with `go run . up %s`", err, p.Stack)
		}
		total = fmt.Sprintf("/%d", len(s.Nodes))
	}
	v, err := o.Publish(ctx, p)
	if err != nil {
		return err
	}
	if len(o.Controls) > 0 && v.Nodes+len(v.Missing) == 0 {
		fmt.Fprintf(w, "version %s is published, and live on no node\n", v.Version)
		return errNoNodes(home, p.Stack)
	}
	fmt.Fprintf(w, "version %s live on %d%s nodes after %.1f ms\n", v.Version, v.Nodes, total, v.Millis)
	for _, m := range v.Missing {
		fmt.Fprintf(w, "%s; it takes the version when it is back, and decides by what it had until then\n", missing(m.Node, m.Since, time.Now()))
	}
	return nil
}

// operator is who publishes to the stack of the folder. Control planes that are
// elsewhere find what is published in the store.
func operator(w io.Writer, home stacks.Home) (*bundle.Operator, error) {
	if !bundle.Linked(home.BundleURL()) {
		return nil, becomeCloud(home.BundleURL())
	}
	o := &bundle.Operator{
		Store: &bundle.Store{URL: home.BundleURL(), Stack: home.Stack(), Trusted: home.Trusted(), Authority: bundle.CertificateIn(home.CACert())},
		Key:   home.OperatorKey(), Say: func(line string) { fmt.Fprintln(w, line) },
	}
	if !elsewhere(home) {
		o.Controls = []*api.Client{api.Dial(home.ControlSocket())}
		o.Kept = home.KeptBundles()
	}
	return o, nil
}

// elsewhere reports whether the stack's control planes are on other machines.
func elsewhere(home stacks.Home) bool {
	_, err := os.Stat(home.ControlSocket())
	return err != nil && !strings.HasPrefix(home.BundleURL(), "file://")
}

// becomeCloud runs the same command by postern-cloud, which is beside this
// program and is built of the same, with the clouds' drivers (`make cloud`): they
// would double the time that every `postern run` takes to start. It returns only
// if it cannot.
func becomeCloud(store string) error {
	self, err := os.Executable()
	if err == nil {
		err = unix.Exec(self+"-cloud", os.Args, os.Environ())
	}
	return fmt.Errorf("the bundle store is %s, for which another program is needed: %w; run `make cloud`, which builds bin/postern-cloud", store, err)
}

// livePlan is what was published last; nothing if nothing was.
func livePlan(ctx context.Context, o *bundle.Operator) (*plan.Plan, error) {
	live, err := o.Newest(ctx)
	if errors.Is(err, bundle.ErrNone) {
		return &plan.Plan{}, nil
	}
	if err != nil {
		return nil, err
	}
	return live.Plan, nil
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
