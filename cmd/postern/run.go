package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern/postern/advice"
	"github.com/postern/postern/bundle"
	"github.com/postern/postern/cmd/postern/notes"
	"github.com/postern/postern/cmd/postern/workspaces"
	"github.com/postern/postern/cut"
	"github.com/postern/postern/denials"
	"github.com/postern/postern/exit"
	"github.com/postern/postern/home"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/program"
	"github.com/postern/postern/publish"
	"github.com/postern/postern/sandbox"
	"github.com/postern/postern/sandbox/run"
	"github.com/postern/postern/setup"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/usage"
	"github.com/postern/postern/visible"
	"github.com/postern/postern/xds/api"
)

const (
	// auditPatience is the time that the event of a denial may take from Envoy to the audit log, and
	// seenPatience how long a command that succeeded waits for one.
	auditPatience = 500 * time.Millisecond
	seenPatience  = 150 * time.Millisecond
)

// running are the flags of run.
type running struct {
	agent, workdir, mode    string
	runtime, image          string
	env, publish            []string
	quiet, verbose, overlay bool
	noPreset                bool
	persistHome             run.Persist
	// print only prints what the runtime would be asked for.
	print bool

	// learn leaves it to learn to say what was refused to the command that ended, of the stack file.
	learn bool
	file  *stacks.File
	ended denials.Command
}

// newRunCmd runs a command behind the gate.
func newRunCmd() *cobra.Command {
	var f running
	cmd := &cobra.Command{
		Use: "run [--agent NAME] [--workdir DIR] [--overlay] [--env NAME[=VALUE]]... [--publish [ADDRESS:]PORT]... " +
			"[--persist-home] [--runtime RUNTIME [--image IMAGE]] -- COMMAND [ARG]...",
		Short: "Run a command in a sandbox whose only way out is an agent's proxy",
		Long: `Runs a command in a sandbox. The command sees the working directory (writable), the system's programs
and the toolchains on PATH (both read-only). It sees nothing else of your home. Its only network is the
agent's proxy, which allows what is published and adds the credentials.

A stack on this machine that is stopped, as after a restart, is brought up first. If its file has
changes that are not published, "postern up" has to publish them first.

The command does not start in a folder where it could write what Postern trusts: a secret, a helper,
the state folder or one of Postern's own programs. From then on the folder counts as an agent's, and
nothing in it is trusted.

A command that Postern knows by its name, such as claude or codex, gets its preset: variables and files
in the home, with which the program starts in a sandbox. The preset opens no host: see "postern init"
and the presets of the stack file.

With --overlay the command sees the folder and writes to a layer over it. The folder does not change
until you apply the layer: see "postern workspace". With --workspace read-only the command cannot
change the folder. With --workspace tmpfs it sees an empty folder in memory instead, at /workspace, and
with --workspace volume one that the agent keeps: see "postern workspace volume".

With --persist-home the command has the home that the agent keeps, at /agent, with what its earlier
commands left there: see "postern home". No other agent ever has it, and nothing of yours is in it.

With --publish a port of this machine leads to the same port of the sandbox's loopback, on 127.0.0.1
and ::1 unless another address is named. "postern status" and the audit log have it. No port leads
into a virtual machine.

With the runtime container or gvisor, the command sees an image's files in place of this machine's
programs. --print shows the container as a line for docker. With --runtime vm, it has a kernel of its
own, in a virtual machine of QEMU, and --print shows the line for QEMU. --runtime never isolates less
than the stack file says.

When the command has failed, what was refused to it is explained. When it has succeeded, one line on a
terminal counts what was refused.`,
		Example: `  postern run -- bash
  postern run -- pip download --no-deps six
  postern run --agent coder --workdir ~/agent -- bash
  postern run --overlay -- bash
  postern run --workspace tmpfs -- bash
  postern run --persist-home -- go test ./...
  postern run --publish 3000 -- npm start
  postern run --env CI=1 --env EDITOR -- npm test
  postern run --runtime container --image debian:12 -- bash
  postern run --runtime vm -- bash`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			status, err := f.run(cmd, args)
			if err != nil && exit.Status(err) == exit.Usage {
				return err
			}
			if err != nil {
				visible.Error(os.Stderr, "postern:", err)
			}
			if status != exit.Done {
				os.Exit(status)
			}
			return nil
		},
	}
	f.flags(cmd)
	return cmd
}

// flags adds the flags of run.
func (f *running) flags(cmd *cobra.Command) {
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().StringVarP(&f.agent, "agent", "a", "", "the agent, as the stack file names it (default: $POSTERN_AGENT, or the only one)")
	cmd.Flags().StringVarP(&f.workdir, "workdir", "w", ".", "the agent's working directory; it is created if it does not exist")
	cmd.Flags().StringArrayVarP(&f.env, "env", "e", nil, "a variable for the command: NAME passes yours, NAME=VALUE sets one")
	cmd.Flags().StringArrayVar(&f.publish, "publish", nil,
		"let this machine reach a port of the sandbox, written [ADDRESS:]PORT (default address: loopback)")
	cmd.Flags().BoolVarP(&f.quiet, "quiet", "q", false,
		"do not say what was found, what was refused, and what the command wrote that programs of this machine run")
	cmd.Flags().BoolVar(&f.noPreset, "no-preset", false,
		"start a program that Postern knows ("+strings.Join(program.Names(), ", ")+") without its preset")
	cmd.Flags().StringVar(&f.runtime, "runtime", "",
		"what isolates the agent: bubblewrap, container, gvisor or vm (default: the stack file's, or bubblewrap)")
	cmd.Flags().StringVar(&f.image, "image", "",
		"the image of a container, by name or digest, which the engine must have (default: what the stack file says)")
	f.persistHome.Flag(cmd.Flags())
	cmd.Flags().BoolVar(&f.print, "print", false, "only print what the runtime would be asked for")
	cmd.Flags().BoolVar(&f.overlay, "overlay", false,
		"keep what the command writes apart from the folder: the same as --workspace overlay")
	cmd.Flags().StringVar(&f.mode, "workspace", "",
		"what the command has of the folder: write, read-only, overlay, "+
			"tmpfs or volume (default: what the stack file says, or write)")
	cmd.MarkFlagsMutuallyExclusive("overlay", "workspace")
}

// run finds the stack and the agent, and runs the command. If the command did not run, it returns
// the reason and the exit status for it.
func (f *running) run(cmd *cobra.Command, args []string) (int, error) {
	file, home, err := openHome(cmd)
	if err != nil {
		return exit.Sandbox, err
	}
	f.file = file
	if f.learn {
		if err := learnable(file, home); err != nil {
			return exit.Sandbox, err
		}
	}
	p, err := ready(cmd.Context(), file, home)
	if err != nil {
		return exit.Sandbox, err
	}
	agent, found, err := stacks.ChooseAgent(p, f.agent)
	if err != nil {
		return exit.Usage, err
	}
	if f.verbose, err = cmd.Flags().GetBool("verbose"); err != nil {
		return exit.Sandbox, err
	}
	if f.agent = agent; found != "" && !f.quiet {
		visible.Printf(os.Stderr, "postern: agent %s (%s) of %s\n", agent, found, visible.Text(file.Real))
	}
	r := &run.Request{
		Plan: p, File: file.Path, Home: home, Agent: agent, Workdir: f.workdir, Args: os.Args, Command: args,
		Mode: plan.WorkspaceMode(f.mode), PersistHome: f.persistHome, Runtime: plan.Runtime(f.runtime),
		Image: f.image,
	}
	if !f.quiet {
		r.Notes = os.Stderr
	}
	if f.overlay {
		r.Mode = plan.WorkspaceOverlay
	}
	if known := program.Of(args[0]); known != nil && !f.noPreset {
		r.Program = *known
		if !f.quiet {
			visible.Printf(os.Stderr, "postern: preset %s (--no-preset leaves it out): %s\n", known.Name, known.Given())
		}
	}
	return f.start(cmd.Context(), r)
}

// ready returns what [published] returns, and brings a stack of this machine up first that is stopped.
// It does so only if the stack file says what is published: nobody has asked to publish anything.
func ready(ctx context.Context, file *stacks.File, home home.Folder) (*plan.Plan, error) {
	p, err := published(ctx, file, home)
	if err != nil || publish.Elsewhere(home) || len(cut.RunningNodes(home)) > 0 {
		return p, err
	}
	if _, err := api.Dial(home.ControlSocket()).Status(ctx); err == nil {
		return p, nil
	}
	if err := setup.Unchanged(file, home, p); err != nil {
		return nil, err
	}
	visible.Printf(os.Stderr, "postern: stack %s is stopped; bringing it up (at most %s)\n",
		file.Name(), setup.UpPatience)
	if err := setup.BringUp(ctx, file, false); err != nil {
		return nil, err
	}
	return published(ctx, file, home)
}

// published returns the live plan: what runs is what an operator has signed, not what the stack
// file says at the moment.
func published(ctx context.Context, file *stacks.File, home home.Folder) (*plan.Plan, error) {
	// Not operator: a control plane that answers needs no driver of its store.
	live, _, err := publish.Operator(home, nil).Live(ctx)
	switch {
	case err == nil:
		return live.Plan, nil
	case errors.Is(err, bundle.ErrNone):
		return nil, fmt.Errorf("%w: bring the stack up with `%s`", err, file.Command("up"))
	case !bundle.Linked(home.BundleURL()):
		return nil, becomeCloud(ctx, os.Stderr, "the bundle store is "+home.BundleURL())
	}
	return nil, err
}

// start runs the command and returns its exit status.
func (f *running) start(ctx context.Context, r *run.Request) (int, error) {
	w, err := r.Workspace()
	if err != nil {
		return exit.Sandbox, err
	}
	var dropped []string
	if r.Env, dropped, err = run.Env(f.env); err != nil {
		return exit.Usage, exit.BadUsage(err)
	}
	if len(dropped) > 0 {
		visible.Printf(os.Stderr,
			"postern: --env %s: the command gets Postern's value, without which nothing gets out\n",
			strings.Join(dropped, ", --env "))
	}
	var unmake func() // set if the working directory was made
	switch {
	case w.Mode.HasFolder():
		if r.Workdir, unmake, err = run.Workdir(r.Home, r.Workdir); err != nil {
			return exit.Sandbox, err
		}
	case r.Workdir != ".":
		return exit.Sandbox,
			fmt.Errorf("workspace %s has no working directory on the host: leave out --workdir", w.Mode)
	}
	var refused *sandbox.RefusedError
	p, err := run.Prepare(ctx, r)
	if err != nil {
		if unmake != nil {
			unmake()
		}
		if errors.As(err, &refused) {
			return refused.Status, err
		}
		return exit.Sandbox, err
	}
	if unmake != nil {
		visible.Printf(os.Stderr, "postern: made the agent's working directory %s\n", r.Workdir)
	}
	p.Spec.Stdin, p.Spec.Stdout, p.Spec.Stderr = os.Stdin, os.Stdout, os.Stderr
	if f.verbose {
		p.Spec.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if f.print {
		line, err := p.Spec.Line()
		if err == nil {
			line, err = pasted(line)
		}
		if err := errors.Join(err, p.Abandon(context.WithoutCancel(ctx))); err != nil {
			return exit.Sandbox, err
		}
		_, err = io.WriteString(os.Stdout, line+"\n")
		return 0, err
	}
	publishing, stopPublishing := context.WithCancel(ctx)
	defer stopPublishing()
	if err := notes.Publish(publishing, r, p, f.publish); err != nil {
		abandoned := p.Abandon(context.WithoutCancel(ctx))
		if errors.Is(err, sandbox.ErrPublish) {
			return exit.Usage, exit.BadUsage(err)
		}
		return exit.Sandbox, errors.Join(err, abandoned)
	}
	defer p.Done()
	f.ended = denials.Command{File: r.Home.File(), Dir: r.Home.AuditDir(), Agent: r.Agent, Since: time.Now()}
	bounded, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	if p.Unsigned && !f.quiet && isTerminal(os.Stderr) {
		visible.Println(os.Stderr,
			"postern: commits made in the sandbox are not signed, because your key is not there; "+
				"to sign them afterwards: git rebase --exec 'git commit --amend --no-edit --gpg-sign' BASE")
	}
	p.Bound(bounded, stop)
	defer workspaces.Begin(ctx, os.Stderr, " --file "+advice.Path(f.ended.File), p, f.quiet)()
	var result sandbox.Result
	// Ctrl-C is for the command, which decides when to end.
	usage.Pass(bounded, func() { result, err = sandbox.Run(bounded, p.Spec) })
	switch {
	case errors.As(err, &refused):
		return refused.Status, err
	case bounded.Err() != nil:
		return exit.Sandbox, fmt.Errorf("the command was ended: %w", context.Cause(bounded))
	case err != nil:
		return exit.Sandbox, err
	case f.quiet || f.learn || result.Connections == 0:
	case result.Status != 0:
		f.ended.Explain(os.Stderr, f.ended.Read(ctx, auditPatience))
	case isTerminal(os.Stderr):
		f.ended.Count(os.Stderr, f.ended.Read(ctx, seenPatience))
	}
	return result.Status, nil
}

// pasted returns a command line as it is, so that a shell takes it. It returns an error if a
// terminal would act on the line, or would not show all of it.
func pasted(line string) (string, error) {
	hides := func(r rune) bool { return r != '\n' && r != '\t' && visible.Hides(r) }
	if strings.ContainsFunc(line, hides) {
		return "", fmt.Errorf("the command line is not printed, because some of its characters cannot be seen: %s",
			visible.Lines(line))
	}
	return line, nil
}
