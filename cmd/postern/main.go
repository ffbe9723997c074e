// Command postern is the operator's side of Postern: run an agent behind the proxies, change what
// the agent may reach, see what it did.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/postern/postern/home"
	"github.com/postern/postern/publish"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/telemetry"
	"github.com/postern/postern/xds/api"
)

// Exit statuses besides 0; run and diff have some of their own.
const (
	statusFailure = 1
	statusUsage   = 2
	// statusPartial is for a command of which part is done: the message says what remains.
	statusPartial = 4
)

// exitStatus returns the exit status for err. The help of the root command explains each.
func exitStatus(err error) int {
	var unseen *publish.UnseenError
	var others *otherChangesError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usageError{}):
		return statusUsage
	case isPartial(err):
		return statusPartial
	case errors.As(err, &unseen):
		return publish.StatusUnseen
	case errors.As(err, &others):
		return publish.StatusOther
	}
	return statusFailure
}

// usageError is a command line that makes no sense.
type usageError struct{ error }

func main() {
	collectLess()
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
	os.Exit(exitStatus(err))
}

// collectLess lets a command that ends soon collect garbage less often: half of the
// time in which a large stack file loads goes into that. GOGC in the environment counts instead.
func collectLess() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(800)
		debug.SetMemoryLimit(1 << 30) // from there on it collects as usual
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "postern",
		Short: "Run AI agents behind a wall with one guarded way out",
		Long: `Runs agents in a sandbox whose only way out is a fleet of proxies. Changes what the agents may
reach while they run. Shows what they did.

"make up" or "go run . up local" brings the fleet itself up.

The exit status is 0 if the command did its work, 1 if it failed, and 2 if the command line is not
valid. Commands that publish have three more. 3: nothing was published, because a person must see
the difference first. 4: part of the work is done, and the message says what remains. 5: nothing was
published, because more than the request would have been.`,
		Example: `  postern run --agent demo -- bash
  postern allow --client pip --agent demo
  postern allow api.example.com --agent demo --method GET --path '/v1/**'
  postern audit --denied --since 1h
  postern effective --agent demo
  postern explain https://api.example.com/v1/users --agent demo
  postern status`,
		SilenceUsage: true, SilenceErrors: true,
	}
	root.PersistentFlags().StringP("stack", "s", "local", "the stack: the name, without .yaml, of a file in stacks/ here or above, or in ~/.config/postern/stacks")
	root.PersistentFlags().String("file", "", "the stack file itself, instead of --stack")
	root.PersistentFlags().BoolP("verbose", "v", false, "show more, and say on standard error what is done")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		trace.SpanFromContext(cmd.Context()).SetName(cmd.CommandPath())
		cmd.SetContext(api.WithProgress(cmd.Context(), func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), line) }))
		if verbose, err := cmd.Flags().GetBool("verbose"); err != nil || !verbose {
			return err
		}
		log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelDebug}))
		if file, home, err := openHome(cmd); file != nil {
			log.Debug("stack", "file", file.Real, "home", home.Root, "error", err)
		}
		cmd.SetContext(api.WithLog(cmd.Context(), log))
		return nil
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see %q", err, cmd.CommandPath()+" --help")}
	})
	root.AddCommand(
		newRunCmd(), newAllowCmd(), newRevokeCmd(), newDiffCmd(), newPushCmd(), newHistoryCmd(), newRollbackCmd(), newKillCmd(), newUnkillCmd(), newEvictCmd(),
		newEffectiveCmd(), newExplainCmd(), newStatusCmd(), newAuditCmd(), newDriftCmd(), newSecretCmd(), newOperatorCmd(), newWorkdirCmd(), newDemoCmd(),
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

// stackFile reads the stack file that the global flags name: --file, or the one
// that [stacks.Find] finds for --stack. A file that was found above the working
// folder is named on standard error: it may not be the one that was meant.
func stackFile(cmd *cobra.Command) (*stacks.File, error) {
	if path := cmd.Flag("file").Value.String(); path != "" {
		return stacks.Open(path)
	}
	file, err := stacks.Find(cmd.Flag("stack").Value.String())
	if errors.Is(err, stacks.ErrName) {
		return nil, usageError{err}
	}
	if err == nil && file.Above {
		fmt.Fprintf(cmd.ErrOrStderr(), "stack file: %s\n", publish.Visible(file.Real))
	}
	return file, err
}

// openHome finds the state folder of the stack that the global flags name. It
// needs no valid stack file.
func openHome(cmd *cobra.Command) (*stacks.File, home.Folder, error) {
	file, err := stackFile(cmd)
	if err != nil {
		return nil, home.Folder{}, err
	}
	home, err := file.Home()
	return file, home, err
}

// noteProposal warns that an agent may have written what a command shows.
func noteProposal(cmd *cobra.Command, file *stacks.File) {
	if agents, err := publish.Proposal(file); err != nil || agents != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "note: an agent may write %s, so the live version may differ: `postern diff` compares\n", publish.Visible(file.Path))
	}
}

// openStack loads the stack that the global flags name, and finds its state
// folder.
func openStack(cmd *cobra.Command) (*stacks.Stack, home.Folder, error) {
	file, home, err := openHome(cmd)
	if err != nil {
		return nil, home, err
	}
	noteProposal(cmd, file)
	stack, err := file.Load()
	return stack, home, err
}
