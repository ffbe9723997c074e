package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern/postern/accesslog"
	"github.com/postern/postern/audit"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/publish"
	"github.com/postern/postern/sandbox"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/xds/bundle"
)

const (
	// maxDenials is how many denials are explained after a command failed.
	maxDenials = 5
	// auditPatience is how long the event of a denial may take from Envoy to
	// the audit log.
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
			status, err := runAgent(context.WithoutCancel(cmd.Context()), p, file.Path, home, agent, workdir, env, args, verbose)
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

// statusSandbox is the exit status that says that there was no sandbox.
const statusSandbox = 125

// published returns the plan that is live: what runs is what an operator has
// signed, not what the stack file says at the moment.
func published(ctx context.Context, home stacks.Home) (*plan.Plan, error) {
	// Not operator: a control plane that answers needs no driver of its store.
	live, _, err := publish.Operator(home, nil).Live(ctx)
	switch {
	case err == nil:
		return live.Plan, nil
	case errors.Is(err, bundle.ErrNone):
		return nil, fmt.Errorf("%w: bring the stack up with `go run . up %s`", err, home.Stack())
	case !bundle.Linked(home.BundleURL()):
		return nil, becomeCloud(home.BundleURL())
	}
	return nil, err
}

// runAgent runs the command and returns its exit status, or why it did not run
// and the exit status that says so.
func runAgent(ctx context.Context, p *plan.Plan, file string, home stacks.Home, agent, workdir string, env, command []string, verbose bool) (int, error) {
	workdir, err := makeWorkdir(home, workdir)
	if err != nil {
		return statusSandbox, err
	}
	spec, err := newSpec(p, file, home, agent, workdir)
	if err != nil {
		return statusSandbox, err
	}
	spec.Command = command
	if verbose {
		spec.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	extra, err := extraEnv(env)
	if err != nil {
		return statusSandbox, err
	}
	spec.Env = append(spec.Env, extra...) // the last of a name counts
	done, err := hostpath.In(filepath.Dir(home.Root)).Use(spec.Workdir)
	if err != nil {
		return statusSandbox, err
	}
	defer done()
	start := time.Now()
	result, err := sandbox.Run(ctx, spec)
	var refused *sandbox.RefusedError
	switch {
	case errors.As(err, &refused):
		return refused.Status, err
	case err != nil:
		return statusSandbox, err
	case result.Status != 0 && result.Connections > 0:
		explainDenials(ctx, os.Stderr, home.AuditDir(), agent, start)
	}
	return result.Status, nil
}

// makeWorkdir returns the absolute path of dir, and makes the folder if there is none. A path that leads into an agent's
// folder and out again is the agent's choice, and refused.
func makeWorkdir(home stacks.Home, dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find working directory: %w", err)
	}
	folders, err := hostpath.In(filepath.Dir(home.Root)).Folders()
	if err != nil {
		return "", err
	}
	there := abs
	real, err := filepath.EvalSymlinks(there)
	for errors.Is(err, fs.ErrNotExist) { // what is not there yet is made where its folder is
		there = filepath.Dir(there)
		real, err = filepath.EvalSymlinks(there)
	}
	if err != nil {
		return "", fmt.Errorf("find working directory: %w", err)
	}
	if err := leadsOut(folders, dir, abs, real); err != nil {
		return "", err
	}
	if _, err := os.Stat(abs); errors.Is(err, fs.ErrNotExist) {
		// An agent that works above could have a link there by the time that the folder is made.
		if err := folders.Check(abs); err != nil {
			return "", fmt.Errorf("make the working directory %s: %w: name a folder that is there, or one elsewhere", abs, err)
		}
		if err := os.MkdirAll(abs, 0o700); err != nil {
			return "", fmt.Errorf("make working directory: %w", err)
		}
		fmt.Fprintf(os.Stderr, "postern: made the agent's working directory %s\n", abs)
	}
	return abs, nil
}

// leadsOut refuses the absolute path of a folder that leads through an agent's folder to the real one outside of it.
func leadsOut(folders *hostpath.Folders, dir, abs, real string) error {
	writable := (*hostpath.WritableError)(nil)
	if errors.As(folders.Check(abs), &writable) && real != writable.Step && !strings.HasPrefix(real, writable.Step+"/") {
		return fmt.Errorf("use %s as working directory: %w, and leads out of there: name the folder itself", dir, writable)
	}
	return nil
}

// newSpec collects what the published plan says about the agent's sandbox, and refuses to if the agent could write in workdir
// what the host trusts.
func newSpec(p *plan.Plan, file string, home stacks.Home, agent, workdir string) (*sandbox.Spec, error) {
	i := slices.IndexFunc(p.Agents, func(a plan.Agent) bool { return a.Name == agent })
	if i < 0 {
		names := make([]string, len(p.Agents))
		for i, a := range p.Agents {
			names[i] = a.Name
		}
		return nil, fmt.Errorf("the publication of %s has no agent %q: it has %s; `postern push` publishes the file", file, agent, oneOf(names))
	}
	s := &sandbox.Spec{
		Agent: agent, Workdir: workdir, Environ: os.Environ(),
		// The folder of all stacks of this user, not only of this one.
		Private: []string{filepath.Dir(home.Root)},
		Stdin:   os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
	}
	var err error
	if s.Workdir, err = s.RealWorkdir(); err != nil {
		return nil, err
	}
	folders, err := hostpath.In(filepath.Dir(home.Root)).Folders(s.Workdir)
	if err != nil {
		return nil, err
	}
	// Of what was found: an agent that works above may have put a link there since makeWorkdir looked.
	if err := leadsOut(folders, workdir, workdir, s.Workdir); err != nil {
		return nil, err
	}
	for _, f := range p.Files() {
		s.Private = append(s.Private, f.Path)
	}
	for _, rule := range p.Agents[i].Rules {
		s.Ports = append(s.Ports, int(rule.Port))
		if rule.Gateway != 0 {
			s.Gateways = append(s.Gateways, int(rule.Gateway))
		}
	}
	s.Env = placeholders(p, &p.Agents[i])
	if s.Sockets, err = socketFolders(home, agent); err != nil {
		return nil, err
	}
	if s.CA, err = hostpath.ReadFile(home.CACert(), 1<<20); err != nil {
		return nil, fmt.Errorf("read certificate authority: %w: is the stack up? `postern status` says", err)
	}
	own, err := ownPrograms(home)
	if err != nil {
		return nil, err
	}
	if err := trusted(folders, s.Workdir, home, p, own); err != nil {
		return nil, err
	}
	s.Trusted = func(path string) bool {
		err := folders.Check(path)
		writable := (*hostpath.WritableError)(nil)
		return err == nil || errors.As(err, &writable) && writable.Names > 0 // a further name leads nowhere
	}
	if s.Bubblewrap, err = findBubblewrap(folders); err != nil {
		return nil, err
	}
	if s.Inside, err = findInside(folders); err != nil {
		return nil, err
	}
	return s, nil
}

// placeholders are the variables that the clients of the agent's credentials
// insist on. What they send is replaced on the way.
func placeholders(p *plan.Plan, a *plan.Agent) []string {
	var env []string
	for _, c := range p.Credentials {
		if !slices.ContainsFunc(a.Rules, func(r plan.Rule) bool { return r.Credential == c.Name }) {
			continue
		}
		for _, name := range c.Placeholders {
			env = append(env, name+"=postern")
		}
	}
	return env
}

// socketFolders are the folders of the agent's sockets, one per node.
func socketFolders(home stacks.Home, agent string) ([]string, error) {
	nodes, err := os.ReadDir(home.NodesDir())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("find nodes: %w", err)
	}
	var folders []string
	for _, n := range nodes {
		if folder, err := folderOf(home, n.Name(), agent); err == nil {
			folder.Close()
			folders = append(folders, folder.Name())
		}
	}
	switch {
	case len(nodes) == 0:
		return nil, errors.New("find nodes: the stack is not up: run `make up`")
	case len(folders) == 0:
		return nil, fmt.Errorf("find nodes: no node serves the agent %q yet: publish the stack file with `make up`", agent)
	}
	return folders, nil
}

// findInside finds the program that runs inside: next to this one.
func findInside(folders *hostpath.Folders) (string, error) {
	self, err := os.Executable()
	if err == nil {
		self, err = folders.Program(filepath.Join(filepath.Dir(self), "postern-sandbox"), hostpath.User)
	}
	if err != nil {
		return "", fmt.Errorf("find postern-sandbox: %w; `make build` builds it", err)
	}
	return self, nil
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

// explainDenials says what the policy denied to the agent since the start of
// a command that failed, and what an operator can do about it.
func explainDenials(ctx context.Context, out io.Writer, dir, agent string, since time.Time) {
	events := denials(ctx, dir, audit.Filter{Agent: agent, Denied: true, Since: since})
	seen := map[string]bool{}
	more := 0
	for _, e := range events {
		text := denialText(&e)
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
		fmt.Fprintf(out, "postern: and %d more: postern audit --agent %s --denied\n", more, agent)
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
func denialText(e *audit.Event) string {
	message := accesslog.Advice[e.Reason].Message
	if message == "" {
		return ""
	}
	request := strings.TrimSpace(e.Method + " " + e.Host)
	if e.Method != "" && e.Method != "CONNECT" {
		request = e.Method + " " + e.Host + e.Path
	}
	text := fmt.Sprintf("postern: %s: %s (rule %s: %s)\n", message, printable(request), printable(e.Rule), printable(string(e.Reason)))
	if hint := accesslog.Hint(e.Reason, e.Agent, pasteable(e.Host)); hint != "" {
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

// oneOf lists names for a message.
func oneOf(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
