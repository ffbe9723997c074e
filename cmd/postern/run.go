package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/sandbox"
	"github.com/postern/postern/stacks"
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
	var agent string
	var env []string
	cmd := &cobra.Command{
		Use:   "run --agent NAME [--env NAME[=VALUE]]... -- COMMAND [ARG]...",
		Short: "Run a command in a sandbox whose only way out is an agent's proxy",
		Long: `Runs a command in a sandbox. It sees the working directory (writable), the system's
programs and the toolchains on PATH (read-only), nothing else of your home, and no network but
the agent's proxy, which allows what the stack file says and adds the credentials.

The command's exit status is passed on. 125 means that the sandbox could not be set up, 126 that
the command cannot be executed, 127 that it was not found.`,
		Example: `  postern run --agent demo -- bash
  postern run --agent demo -- pip download --no-deps six
  postern run --agent demo --env CI=1 --env EDITOR -- npm test`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			stack, home, err := openStack(cmd)
			if err != nil {
				return err
			}
			// Not the root's context: Ctrl-C is for the command, which decides
			// when to end.
			status, err := runAgent(context.WithoutCancel(cmd.Context()), stack, home, agent, env, args)
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
	cmd.Flags().StringVarP(&agent, "agent", "a", "", "the agent of the stack file to run as")
	cmd.Flags().StringArrayVarP(&env, "env", "e", nil, "a variable for the command: NAME passes yours, NAME=VALUE sets it")
	if err := cmd.MarkFlagRequired("agent"); err != nil {
		panic(err) // the flag is declared above
	}
	return cmd
}

// statusSandbox is the exit status that says that there was no sandbox.
const statusSandbox = 125

// runAgent runs the command and returns its exit status, or why it did not run
// and the exit status that says so.
func runAgent(ctx context.Context, stack *stacks.Stack, home stacks.Home, agent string, env, command []string) (int, error) {
	spec, err := newSpec(stack.Plan, stack.Path, home, agent)
	if err != nil {
		return statusSandbox, err
	}
	spec.Command = command
	extra, err := extraEnv(env)
	if err != nil {
		return statusSandbox, err
	}
	spec.Env = append(spec.Env, extra...) // the last of a name counts
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

// newSpec collects what the stack says about the agent's sandbox.
func newSpec(p *plan.Plan, file string, home stacks.Home, agent string) (*sandbox.Spec, error) {
	i := slices.IndexFunc(p.Agents, func(a plan.Agent) bool { return a.Name == agent })
	if i < 0 {
		names := make([]string, len(p.Agents))
		for i, a := range p.Agents {
			names[i] = a.Name
		}
		return nil, fmt.Errorf("%s: there is no agent %q: it has %s", file, agent, oneOf(names))
	}
	workdir, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("find working directory: %w", err)
	}
	absolute, err := filepath.Abs(file)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", file, err)
	}
	s := &sandbox.Spec{
		Agent: agent, Workdir: workdir, Environ: os.Environ(),
		// The folder of all stacks of this user, not only of this one.
		Private:  []string{filepath.Dir(home.Root)},
		ReadOnly: []string{policyFolder(absolute, workdir)},
		Stdin:    os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
	}
	for _, a := range p.Agents {
		for _, rule := range a.Rules {
			// A destination's own socket is a way past the proxy.
			if path, ok := upstreamSocket(&rule); ok {
				s.Hidden = append(s.Hidden, path)
			}
		}
	}
	for _, rule := range p.Agents[i].Rules {
		s.Ports = append(s.Ports, int(rule.Port))
		if rule.Gateway != 0 {
			s.Gateways = append(s.Gateways, int(rule.Gateway))
		}
	}
	guardSources(s, p)
	s.Env = placeholders(p, &p.Agents[i])
	if s.Sockets, err = socketFolders(home, agent); err != nil {
		return nil, err
	}
	if s.CA, err = os.ReadFile(home.CACert()); err != nil {
		return nil, fmt.Errorf("read certificate authority: %w: is the stack up? `postern status` says", err)
	}
	if s.Inside, err = findInside(); err != nil {
		return nil, err
	}
	s.ReadOnly = append(s.ReadOnly, ownFolders(s.Inside)...)
	if daemon := os.Getenv("POSTERND"); daemon != "" {
		s.ReadOnly = append(s.ReadOnly, ownFolders(daemon)...)
	}
	return s, nil
}

// guardSources keeps the agent from reading the files that secrets are in, and
// from changing the helpers, which run outside with the control plane's rights.
func guardSources(s *sandbox.Spec, p *plan.Plan) {
	for _, c := range p.Credentials {
		switch r, err := plan.ParseReference(c.Secret); {
		case err != nil:
		case r.Source == plan.SourceFile:
			s.Hidden = append(s.Hidden, r.Name)
		case r.Source == plan.SourceExec:
			s.ReadOnly = append(s.ReadOnly, r.Name)
		}
	}
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

// upstreamSocket is the Unix socket that the rule's destination is pinned to.
func upstreamSocket(rule *plan.Rule) (string, bool) {
	if rule.Upstream == nil {
		return "", false
	}
	return strings.CutPrefix(rule.Upstream.Address, "unix:")
}

// ownFolders are those of Postern's own checkout that hold what is run outside the
// sandbox: its programs, Envoy and the Pulumi CLI, git's hooks. An agent that
// works there can still change the sources: see README, security limitations.
func ownFolders(program string) []string {
	bin := filepath.Dir(program)
	folders := []string{bin}
	for _, name := range []string{".cache", ".git"} {
		dir := filepath.Join(filepath.Dir(bin), name)
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			folders = append(folders, dir)
		}
	}
	return folders
}

// policyFolder is what an agent must not change to keep it from the policy:
// the stack file's folder, because a file that an editor replaces would lose
// its protection, or just the file if that is the agent's own folder.
func policyFolder(file, workdir string) string {
	if dir := filepath.Dir(file); dir != workdir {
		return dir
	}
	return file
}

// socketFolders are the folders of the agent's sockets, one per node.
func socketFolders(home stacks.Home, agent string) ([]string, error) {
	nodes, err := os.ReadDir(home.NodesDir())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("find nodes: %w", err)
	}
	var folders []string
	for _, n := range nodes {
		dir := home.AgentDir(n.Name(), agent)
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			folders = append(folders, dir)
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

// findInside finds the program that runs inside: beside this one.
func findInside() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find postern-sandbox: %w", err)
	}
	path := filepath.Join(filepath.Dir(self), "postern-sandbox")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("find postern-sandbox: %w: run `make build`", err)
	}
	return path, nil
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
		case seen[text]:
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

// denialText explains one denial in two lines.
func denialText(e *audit.Event) string {
	request := strings.TrimSpace(e.Method + " " + e.Host)
	if e.Method != "" && e.Method != "CONNECT" {
		request = e.Method + " " + e.Host + e.Path
	}
	text := fmt.Sprintf("postern: denied by policy: %s (rule %s: %s)\n", printable(request), printable(e.Rule), printable(string(e.Reason)))
	if hint := denialHint(e); hint != "" {
		text += "  " + hint + "\n"
	}
	return text
}

// denialHint says what an operator can do, or is empty.
func denialHint(e *audit.Event) string {
	// The agent wrote it, and somebody may paste it into a shell.
	name, port, err := net.SplitHostPort(e.Host)
	if err != nil {
		return ""
	}
	host, err := plan.CanonicalHost(name)
	if err != nil {
		return ""
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		return ""
	} else if n != 443 {
		host = net.JoinHostPort(host, strconv.FormatUint(n, 10))
	}
	switch e.Reason {
	case plan.ReasonHost:
		return fmt.Sprintf("an operator can allow it: postern allow %s --agent %s", host, e.Agent)
	case plan.ReasonMethod, plan.ReasonPath:
		return fmt.Sprintf("an operator can allow it: postern allow %s --agent %s --method METHOD --path PATH", host, e.Agent)
	case plan.ReasonScheme:
		return "use https, or an operator can give the destination a gateway in the stack file"
	case plan.ReasonCredential:
		return "an operator can look why: postern status"
	case plan.ReasonAllowed, plan.ReasonAgent, plan.ReasonName, plan.ReasonAddress, plan.ReasonUpstream, plan.ReasonTLS, plan.ReasonMalformed:
	}
	return ""
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
