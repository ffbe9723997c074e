// Command postern is the operator's side of Postern: run an agent behind the
// gate, change what it may reach, see what it did.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/postern/postern/stacks"
	"github.com/postern/postern/telemetry"
	"github.com/postern/postern/xds/api"
)

// Exit statuses beside 0.
const (
	statusFailure = 1
	statusUsage   = 2
)

// usageError is a command line that makes no sense.
type usageError struct{ error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	tracer, flush, err := telemetry.Tracer(ctx, "postern")
	if err == nil {
		ctx, span := tracer.Start(ctx, "postern")
		if err = newRoot().ExecuteContext(ctx); err != nil {
			// Not the error itself: it may quote what somebody wrote.
			span.SetStatus(codes.Error, "failed")
		}
		span.End()
		flush()
	}
	stop()
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "postern:", err)
	if errors.As(err, &usageError{}) {
		os.Exit(statusUsage)
	}
	os.Exit(statusFailure)
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "postern",
		Short: "Run AI agents behind a wall with one guarded way out",
		Long: `Runs agents in a sandbox whose only way out is a fleet of proxies, changes
what they may reach while they run, and shows what they did.

The fleet itself is brought up with "make up", or "go run . up local".`,
		Example: `  postern run --agent demo -- bash
  postern allow --client pip --agent demo
  postern allow api.example.com --agent demo --method GET --path '/v1/**'
  postern audit --denied --since 1h
  postern effective --agent demo
  postern explain https://api.example.com/v1/users --agent demo
  postern status`,
		SilenceUsage: true, SilenceErrors: true,
	}
	root.PersistentFlags().StringP("stack", "s", "local", "the stack: the name of a file in stacks/, without .yaml")
	root.PersistentFlags().String("file", "", "the stack file itself, instead of --stack")
	root.PersistentFlags().BoolP("verbose", "v", false, "say on standard error what is done, and show more")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		trace.SpanFromContext(cmd.Context()).SetName(cmd.CommandPath())
		if verbose, err := cmd.Flags().GetBool("verbose"); err != nil || !verbose {
			return err
		}
		log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelDebug}))
		if file, err := stackFile(cmd); err == nil {
			home, err := stacks.HomeOf(file)
			log.Debug("stack", "file", file, "home", home.Root, "error", err)
		}
		cmd.SetContext(api.WithLog(cmd.Context(), log))
		return nil
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see %q", err, cmd.CommandPath()+" --help")}
	})
	root.AddCommand(
		newRunCmd(), newAllowCmd(), newRevokeCmd(), newDiffCmd(), newPushCmd(), newHistoryCmd(), newRollbackCmd(), newKillCmd(), newUnkillCmd(), newEvictCmd(),
		newEffectiveCmd(), newExplainCmd(), newStatusCmd(), newAuditCmd(), newDriftCmd(), newSecretCmd(), newOperatorCmd(), newDemoCmd(),
	)
	for _, c := range root.Commands() {
		checkArgs(c)
	}
	return root
}

// checkArgs makes wrong arguments of cmd, and of the commands below it, a usageError.
func checkArgs(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usageError{fmt.Errorf("%w; see %q", err, cmd.CommandPath()+" --help")}
			}
			return nil
		}
	}
	for _, c := range cmd.Commands() {
		checkArgs(c)
	}
}

// stackFile is the stack file that the global flags name: --file, or
// stacks/<stack>.yaml in the working folder or the nearest one above it.
func stackFile(cmd *cobra.Command) (string, error) {
	if f := cmd.Flag("file").Value.String(); f != "" {
		return f, nil
	}
	name := cmd.Flag("stack").Value.String()
	if filepath.Base(name) != name || name == "." || name == ".." {
		return "", usageError{fmt.Errorf("%q is no stack: name one, such as local for stacks/local.yaml, or use --file", name)}
	}
	relative := filepath.Join("stacks", name+".yaml")
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the stack file: %w", err)
	}
	for up := "."; ; up = filepath.Join("..", up) {
		if _, err := os.Stat(filepath.Join(up, relative)); err == nil {
			return filepath.Join(up, relative), nil
		}
		if abs := filepath.Join(dir, up); abs == filepath.Dir(abs) {
			return "", fmt.Errorf("there is no %s here or in a folder above: change into the repository, or use --file", relative)
		}
	}
}

// openStack loads the stack that the global flags name, and finds its state
// folder and its control plane.
func openStack(cmd *cobra.Command) (*stacks.Stack, stacks.Home, *api.Client, error) {
	file, err := stackFile(cmd)
	if err != nil {
		return nil, stacks.Home{}, nil, err
	}
	stack, err := stacks.Load(file)
	if err != nil {
		return nil, stacks.Home{}, nil, err
	}
	home, err := stacks.HomeOf(file)
	if err != nil {
		return nil, stacks.Home{}, nil, err
	}
	return stack, home, api.Dial(home.ControlSocket()), nil
}
