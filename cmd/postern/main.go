// Command postern is the operator's side of Postern: run an agent behind the proxies, change what
// the agent may reach, see what it did.
package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/postern/postern/advice"
	"github.com/postern/postern/cloud"
	"github.com/postern/postern/cmd/postern/cases"
	"github.com/postern/postern/cmd/postern/doctor"
	"github.com/postern/postern/cmd/postern/records"
	"github.com/postern/postern/cmd/postern/workspaces"
	"github.com/postern/postern/completion"
	"github.com/postern/postern/drive"
	"github.com/postern/postern/exit"
	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/manual"
	"github.com/postern/postern/publish"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/telemetry"
	"github.com/postern/postern/usage"
	"github.com/postern/postern/visible"
	"github.com/postern/postern/xds/api"
)

func main() {
	hostpath.KeepDescriptors()
	if cloud.Linked(stacks.TargetAWS) {
		hostpath.CleanEnvironment()
	}
	collectLess()
	ctx, stop := usage.Signals(func(sig usage.SignalError) {
		visible.Printf(os.Stderr, "postern: %v: it ends what it has begun; once more ends it at once\n", sig)
	})
	tracer, flush, err := telemetry.Tracer(ctx, "postern")
	if err != nil {
		err = exit.BadUsage(err) // of a variable
	} else {
		ctx, span := tracer.Start(ctx, "postern")
		if err = usage.Ended(ctx, newRoot().ExecuteContext(ctx)); err != nil {
			// The error itself may quote what somebody wrote.
			span.SetStatus(codes.Error, "failed")
		}
		span.End()
		flush()
	}
	stop()
	if err == nil {
		return
	}
	visible.Error(os.Stderr, "postern:", err)
	os.Exit(exit.Status(err))
}

// collectLess makes a short command collect garbage less often, which would be half of the time for
// loading a large stack file. GOGC in the environment takes precedence.
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

The stack is that of --file or --stack, of $POSTERN_STACK, the stack "local" of this project
(stacks/local.yaml here or above) or of yours (~/.config/postern/stacks/local.yaml), or your only
one. The agent is that of --agent, of $POSTERN_AGENT, or the stack's only one.`,
		Example: `  postern init
  postern run -- bash
  postern allow --client pip
  postern allow api.example.com --method GET --path '/v1/**'
  postern audit --denied --since 1h
  postern explain https://api.example.com/v1/users
  postern status`,
		Version:      version(),
		SilenceUsage: true, SilenceErrors: true,
	}
	drive.Flags(root)
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		trace.SpanFromContext(cmd.Context()).SetName(cmd.CommandPath())
		cmd.SetContext(api.WithProgress(cmd.Context(), func(line string) { visible.Println(cmd.ErrOrStderr(), line) }))
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
	root.AddCommand(
		newInitCmd(), newRunCmd(), newLearnCmd(), cases.New(stackFile), cases.NewSchema(), newAllowCmd(), newRevokeCmd(), newDiffCmd(), newPushCmd(), newHistoryCmd(), newRollbackCmd(), newKillCmd(), newUnkillCmd(), newEvictCmd(),
		newEffectiveCmd(), newExplainCmd(), newStatusCmd(), records.New(records.Stack{Home: openHome, Account: openAccount}), newDriftCmd(), newSecretCmd(), newOperatorCmd(), workspaces.NewWorkdir(), workspaces.New(openState), workspaces.NewHome(openState), doctor.New(),
		newDemoCmd(),
		&cobra.Command{
			Use: "version", Short: "Print the version", Args: cobra.NoArgs, Example: "  postern version",
			RunE: func(cmd *cobra.Command, _ []string) error {
				visible.Println(cmd.OutOrStdout(), "postern", version())
				return nil
			},
		},
		&cobra.Command{
			Use: "man DIR", Short: "Write the manual pages into a folder", Hidden: true, Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				_, err := manual.Write(cmd.Root(), args[0])
				return err
			},
		},
	)
	root.AddCommand(drive.Commands(driven)...)
	root.SetVersionTemplate("postern {{.Version}}\n")
	root.SetHelpTemplate(root.HelpTemplate() + `{{with index .Annotations "exit"}}
Exit status:
{{.}}{{end}}`)
	usage.Errors(root)
	finish(root, root)
	return root
}

// finish adds the exit statuses to the help of cmd and of the commands below it, and what a shell
// completes.
func finish(root, cmd *cobra.Command) {
	if statuses := exit.Help(strings.TrimPrefix(strings.TrimPrefix(cmd.CommandPath(), root.Name()), " ")); statuses != "" {
		if cmd.Annotations == nil {
			cmd.Annotations = map[string]string{}
		}
		cmd.Annotations["exit"] = statuses
	}
	completion.Add(cmd)
	for _, c := range cmd.Commands() {
		finish(root, c)
	}
}

// release has the commit that this was built from: tools/build.sh sets it.
var release = "0.0.0-unknown"

// version says which Postern this is.
func version() string {
	return fmt.Sprintf("%s (%s, %s/%s)", release, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// stackFile reads the stack file that the global flags choose: see [stacks.Choose].
func stackFile(cmd *cobra.Command) (*stacks.File, error) {
	file, err := stacks.Choose(cmd.Flag("file").Value.String(), cmd.Flag("stack").Value.String())
	if errors.Is(err, stacks.ErrName) {
		return nil, exit.BadUsage(err)
	}
	if err == nil && !cmd.Flag("file").Changed {
		publish.Announce(cmd.ErrOrStderr(), file)
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

// openState is [openHome] for a command that advises to run another: see [workspaces.Stack].
func openState(cmd *cobra.Command) (home.Folder, string, error) {
	_, home, err := openHome(cmd)
	return home, " --file " + advice.Path(home.File()), err
}

// noteProposal warns that an agent may have written what a command shows.
func noteProposal(cmd *cobra.Command, file *stacks.File) {
	if agents, err := publish.Proposal(file); err != nil || agents != nil {
		visible.Printf(cmd.ErrOrStderr(),
			"note: an agent may write %s, so the live version may differ: `%s` compares\n",
			visible.Text(file.Path), visible.Text(file.Command("diff")))
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
