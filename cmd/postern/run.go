package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern/postern/accesslog"
	"github.com/postern/postern/audit"
	"github.com/postern/postern/bundle"
	"github.com/postern/postern/home"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/publish"
	"github.com/postern/postern/sandbox"
	"github.com/postern/postern/sandbox/run"
)

const (
	// maxDenials bounds the denials that are explained after a command failed.
	maxDenials = 5
	// auditPatience is the time that the event of a denial may take from Envoy to the audit log.
	auditPatience = 500 * time.Millisecond
)

// newRunCmd runs a command behind the gate.
func newRunCmd() *cobra.Command {
	var agent, workdir string
	var env []string
	cmd := &cobra.Command{
		Use:   "run --agent NAME [--workdir DIR] [--env NAME[=VALUE]]... -- COMMAND [ARG]...",
		Short: "Run a command in a sandbox whose only way out is an agent's proxy",
		Long: `Runs a command in a sandbox. The command sees the working directory (writable), the system's programs
and the toolchains on PATH (both read-only). It sees nothing else of your home. Its only network is the
agent's proxy, which allows what is published and adds the credentials.

The command does not start in a folder where it could write what Postern trusts: a secret, a helper,
the state folder or one of Postern's own programs. From then on the folder counts as an agent's, and
nothing in it is trusted.

The exit status is the command's own. 125 means that the sandbox could not be set up, 126 that the
command cannot be executed, and 127 that the command was not found.`,
		Example: `  postern run --agent demo -- bash
  postern run --agent demo -- pip download --no-deps six
  postern run --agent demo --workdir ~/agent -- bash
  postern run --agent demo --env CI=1 --env EDITOR -- npm test`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, home, err := openHome(cmd)
			if err != nil {
				return err
			}
			p, err := published(cmd.Context(), home)
			if err != nil {
				return err
			}
			verbose, err := cmd.Flags().GetBool("verbose")
			if err != nil {
				return err
			}
			// Not the root's context: Ctrl-C is for the command, which decides
			// when to end.
			status, err := runAgent(context.WithoutCancel(cmd.Context()), &run.Request{
				Plan: p, File: file.Path, Home: home, Agent: agent, Workdir: workdir, Args: os.Args,
			}, env, args, verbose)
			if err != nil {
				fmt.Fprintln(os.Stderr, "postern:", err)
			}
			if status != 0 {
				os.Exit(status)
			}
			return nil
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().StringVarP(&agent, "agent", "a", "", "the agent, as the stack file names it")
	cmd.Flags().StringVarP(&workdir, "workdir", "w", ".", "the agent's working directory; it is created if it does not exist")
	cmd.Flags().StringArrayVarP(&env, "env", "e", nil, "a variable for the command: NAME passes yours, NAME=VALUE sets one")
	if err := cmd.MarkFlagRequired("agent"); err != nil {
		panic(err) // the flag is declared above
	}
	return cmd
}

// statusSandbox is the exit status for a sandbox that could not be set up.
const statusSandbox = 125

// published returns the live plan: what runs is what an operator has signed, not what the stack
// file says at the moment.
func published(ctx context.Context, home home.Folder) (*plan.Plan, error) {
	// Not operator: a control plane that answers needs no driver of its store.
	live, _, err := publish.Operator(home, nil).Live(ctx)
	switch {
	case err == nil:
		return live.Plan, nil
	case errors.Is(err, bundle.ErrNone):
		return nil, fmt.Errorf("%w: bring the stack up with `go run . up %s`", err, home.Stack())
	case !bundle.Linked(home.BundleURL()):
		return nil, becomeCloud(ctx, os.Stderr, "the bundle store is "+home.BundleURL())
	}
	return nil, err
}

// runAgent runs the command and returns its exit status. If the command did not run, it returns the
// reason and the exit status for it.
func runAgent(ctx context.Context, r *run.Request, env, command []string, verbose bool) (int, error) {
	workdir, made, err := run.Workdir(r.Home, r.Workdir)
	if err != nil {
		return statusSandbox, err
	}
	if r.Workdir = workdir; made {
		fmt.Fprintf(os.Stderr, "postern: made the agent's working directory %s\n", workdir)
	}
	if r.Env, err = extraEnv(env); err != nil {
		return statusSandbox, err
	}
	spec, done, err := run.Prepare(r)
	if err != nil {
		return statusSandbox, err
	}
	defer done()
	spec.Command = command
	spec.Stdin, spec.Stdout, spec.Stderr = os.Stdin, os.Stdout, os.Stderr
	if verbose {
		spec.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	start := time.Now()
	result, err := sandbox.Run(ctx, spec)
	var refused *sandbox.RefusedError
	switch {
	case errors.As(err, &refused):
		return refused.Status, err
	case err != nil:
		return statusSandbox, err
	case result.Status != 0 && result.Connections > 0:
		explainDenials(ctx, os.Stderr, r.Home.AuditDir(), r.Home.Stack(), r.Agent, start)
	}
	return result.Status, nil
}

// extraEnv makes NAME=VALUE of what --env was given.
func extraEnv(flags []string) ([]string, error) {
	var env []string
	for _, f := range flags {
		name, _, hasValue := strings.Cut(f, "=")
		if name == "" || strings.ContainsAny(name, " \t\n\x00") {
			return nil, fmt.Errorf("--env %q: a variable needs a name", f)
		}
		if !hasValue {
			value, ok := os.LookupEnv(name)
			if !ok {
				return nil, fmt.Errorf("--env %s: there is no such variable here: set it, or use --env %s=VALUE", name, name)
			}
			f = name + "=" + value
		}
		env = append(env, f)
	}
	return env, nil
}

// explainDenials prints what the policy denied to the agent since the start of a command that
// failed, and what an operator can do about it.
func explainDenials(ctx context.Context, out io.Writer, dir, stack, agent string, since time.Time) {
	events := denials(ctx, dir, audit.Filter{Agent: agent, Denied: true, Since: since})
	seen := map[string]bool{}
	more := 0
	for _, e := range events {
		text := denialText(stack, &e)
		switch {
		case text == "" || seen[text]:
		case len(seen) == maxDenials:
			more++
		default:
			seen[text] = true
			fmt.Fprint(out, text)
		}
	}
	if more > 0 {
		fmt.Fprintf(out, "postern: and %d more: postern audit --agent %s%s --denied\n", more, agent,
			accesslog.InStack(stack))
	}
}

// denials reads the events, and waits a moment for the first if there is none:
// the log is written after the answer.
func denials(ctx context.Context, dir string, f audit.Filter) []audit.Event {
	if events, err := audit.Read(dir, f); err != nil || len(events) > 0 {
		return events
	}
	ctx, cancel := context.WithTimeout(ctx, auditPatience)
	defer cancel()
	var events []audit.Event
	// What it returns is that the time is over, or that we have what we want.
	_ = audit.Follow(ctx, dir, f, func(e audit.Event) error {
		events = append(events, e)
		cancel()
		return nil
	})
	return events
}

// denialText explains one denial in two lines. It is empty if the command itself gave up.
func denialText(stack string, e *audit.Event) string {
	message := accesslog.Advice[e.Reason].Message
	if message == "" {
		return ""
	}
	request := strings.TrimSpace(e.Method + " " + e.Host)
	if e.Method != "" && e.Method != "CONNECT" {
		request = e.Method + " " + e.Host + e.Path
	}
	text := fmt.Sprintf("postern: %s: %s (rule %s: %s)\n", message, printable(request), printable(e.Rule), printable(string(e.Reason)))
	if hint := accesslog.Hint(e.Reason, stack, e.Agent, pasteable(e.Host)); hint != "" {
		text += "  " + hint + "\n"
	}
	return text
}

// pasteable returns the argument of `postern allow` for a host and port, or "" if the host is not
// a name: an agent wrote it, and somebody may paste it into a shell.
func pasteable(hostPort string) string {
	name, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		return ""
	}
	host, err := plan.CanonicalHost(name)
	if err != nil {
		return ""
	}
	n, err := strconv.ParseUint(port, 10, 16)
	switch {
	case err != nil:
		return ""
	case n != 443:
		return net.JoinHostPort(host, strconv.FormatUint(n, 10))
	}
	return host
}

// printable keeps what an agent sent from acting on the operator's terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return '?'
		}
		return r
	}, s)
}
