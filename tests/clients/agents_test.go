package clients

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/exit"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/tests/terminal"
)

// agentsFile is what `postern init` writes for each of the programs, with an agent for each.
const agentsFile = `version: 1
target: local
credentials:
  claude: {kind: header, header: x-api-key, secret: "file:../secret", placeholders: [ANTHROPIC_API_KEY]}
  subscription: {kind: bearer, secret: "file:../secret", placeholders: [CLAUDE_CODE_OAUTH_TOKEN]}
  openai: {kind: bearer, secret: "file:../secret", placeholders: [OPENAI_API_KEY]}
  google: {kind: header, header: x-goog-api-key, secret: "file:../secret", placeholders: [GEMINI_API_KEY]}
agents:
  claude: {presets: [claude, docs-read]}
  subscriber: {presets: [{name: claude, credential: subscription}, docs-read]}
  codex: {presets: [openai, docs-read]}
  gemini: {presets: [google, docs-read]}
  opencode: {presets: [{name: anthropic, credential: claude}, docs-read]}
`

// newAgents is a stack for programs that work as agents, with the user's home, in which they are
// installed.
func newAgents(t *testing.T) (s *stack, home string) {
	t.Helper()
	s = newStack(t, agentsFile, func(p *plan.Plan, upstream *plan.Upstream) {
		for _, a := range p.Agents {
			for i := range a.Rules {
				a.Rules[i].Upstream = upstream
			}
		}
	}, "agents")
	home = filepath.Join(s.dir, "home")
	s.environ = append(s.environ, "HOME="+home, "TERM=xterm-256color",
		"PATH="+filepath.Join(home, ".npm-global", "bin")+":"+os.Getenv("PATH"))
	return s, home
}

// person works with a program on a terminal.
type person struct {
	*stack
	ctx    context.Context
	screen *terminal.Screen
}

// patience is what only a program that hangs takes.
const patience = 5 * time.Minute

// starts starts the command with a terminal. The flags are of `postern run`.
func (s *stack) starts(agent string, flags []string, command ...string) *person {
	s.Helper()
	args := slices.Concat([]string{"run", "--file", s.file, "--agent", agent}, flags, []string{"--"}, command)
	cmd := exec.CommandContext(s.Context(), s.postern, args...)
	// Programs that find CI take no terminal.
	inCI := func(e string) bool { return strings.HasPrefix(e, "CI=") }
	cmd.Dir, cmd.Env = s.dir, slices.DeleteFunc(slices.Clone(s.environ), inCI)
	screen, err := terminal.Start(cmd)
	require.NoError(s, err)
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	s.Cleanup(func() {
		cancel()
		_ = screen.Close() // it is ended by a signal
	})
	return &person{s, ctx, screen}
}

// sees waits until the screen matches.
func (p *person) sees(expression string) {
	p.Helper()
	require.NoError(p, p.screen.Await(p.ctx, expression))
	require.NotContains(p, p.screen.Text(), canary, "the program has the credential")
}

// asks types a request, and sends it when the program shows it.
func (p *person) asks(request string) {
	p.Helper()
	require.NoError(p, p.screen.Type(request))
	p.sees(regexp.QuoteMeta(request[len(request)-10:])) // and does not take what follows for a part of it
	require.NoError(p, p.screen.Type("\r"))
}

// agent is a program that works as an agent, as a person starts it.
type agent struct {
	// name is that of the agent in the stack file.
	name    string
	command []string
	// ready is on its screen when a person may type.
	ready string
	// confirm is on its screen when it asks whether it may run a command. Its usual answer is yes.
	confirm string
	// api is where its model is.
	api string
	// variable has the placeholder, or what a command finds there if the program keeps it to itself.
	variable, has string
	// fetches is true if it has a tool of its own for pages.
	fetches bool
	// refused are hosts that it asks for and does without. If registry is true, so are npm's.
	refused  []string
	registry bool
}

// TestAgentsByName (P31, P33, P34, P57): each program starts by its name on a terminal, in a home
// that it has never seen, and shows the screen on which it is ready: no login, no question whether
// it may be used here. Its model has it run a command and read a page. All of that comes without
// the key.
func TestAgentsByName(t *testing.T) {
	t.Parallel()
	all, _ := newAgents(t)
	claude := []string{"claude", "--permission-mode", "default", "--allowedTools", "Bash,WebFetch"}
	for _, a := range []agent{
		{
			name: "claude", command: claude, ready: `manual mode on`, api: "api.anthropic.com/v1/messages",
			variable: "ANTHROPIC_API_KEY", fetches: true,
		},
		{
			name: "subscriber", command: claude, ready: `manual mode on`, api: "api.anthropic.com/v1/messages",
			variable: "CLAUDE_CODE_OAUTH_TOKEN", has: "NOTHING",
		},
		{
			name: "codex", command: []string{"codex"}, ready: `Ask Codex to do anything`,
			api: "api.openai.com/v1/responses", variable: "OPENAI_API_KEY", refused: []string{"raw.githubusercontent.com:443"},
		},
		{
			name: "gemini", command: []string{"gemini"}, ready: `Type your message`, confirm: `Allow execution of`,
			api: "generativelanguage.googleapis.com/v1beta/models", variable: "GEMINI_API_KEY",
		},
		{
			name: "opencode", command: []string{"opencode"}, ready: `Ask anything`,
			api: "api.anthropic.com/v1/messages", variable: "ANTHROPIC_API_KEY", fetches: true, registry: true,
		},
	} {
		t.Run(a.name, func(t *testing.T) {
			s := all.in(t)
			s.dir = t.TempDir()
			p := s.starts(a.name, nil, a.command...)
			p.sees(a.ready)
			p.asks("Please run: echo $POSTERN_AGENT has ${" + a.variable + ":=nothing} | tr a-z A-Z")
			if a.confirm != "" {
				p.sees(a.confirm)
				require.NoError(t, p.screen.Type("\r"))
			}
			p.sees(`the tool says:[\s\S]*` + strings.ToUpper(a.name) + `\s+HAS\s+` + cmp.Or(a.has, "POSTERN"))
			if a.fetches {
				p.asks("Please fetch: https://docs.python.org/3/")
				p.sees(`the tool says:[\s\S]*` + marker)
				require.NotEmpty(t, s.up.seen("docs.python.org", "/3/"))
			}
			s.injected(a.api)
			events, err := audit.Read(s.home.AuditDir(), audit.Filter{Denied: true, Agent: a.name})
			require.NoError(t, err)
			if a.registry {
				hosts, err := stacks.ClientHosts(t.Context(), "npm")
				require.NoError(t, err)
				for _, h := range hosts {
					a.refused = append(a.refused, fmt.Sprintf("%s:%d", h.Host, h.Port))
				}
			}
			for _, e := range events {
				require.Contains(t, a.refused, e.Host, "%+v", e)
			}
		})
	}
}

// TestAgentResumes (P7, P57): in a home that persists, a second run goes on where the first has ended.
func TestAgentResumes(t *testing.T) {
	t.Parallel()
	s, _ := newAgents(t)
	s.dir = t.TempDir()
	persist := []string{"--persist-home"}
	p := s.starts("claude", persist, "claude", "--permission-mode", "default")
	p.sees(`manual mode on`)
	p.asks("Please note: the postern is green")
	p.sees(`hello from the stand-in`)
	require.NoError(t, p.screen.Type("/exit\r"))
	require.NoError(t, p.screen.Wait(p.ctx))

	p = s.starts("claude", persist, "claude", "--permission-mode", "default", "--continue")
	p.sees(`Please note: the postern is green[\s\S]*hello from the stand-in`)
}

// TestAgentsAreTheUsers: the preset is said. What an agent has put in the place of the program is
// not started, whatever PATH says.
func TestAgentsAreTheUsers(t *testing.T) {
	t.Parallel()
	s, home := newAgents(t)
	s.dir = t.TempDir()
	bin := filepath.Join(s.dir, "bin")
	require.NoError(t, os.Mkdir(bin, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(bin, "claude"), []byte("#!/bin/sh\necho another\n"), 0o700))
	r := s.run("claude", nil, "claude", "--version")
	require.Regexp(t, `^\d.*Claude Code`, s.ok(r))
	require.Contains(t, r.stderr, "postern: preset claude (--no-preset leaves it out): CLAUDE_CODE_SANDBOXED, ")
	require.Contains(t, r.stderr, ", ~/.claude.json\n")

	environ := s.environ
	s.environ = append(environ, "PATH="+bin+":"+filepath.Join(home, ".npm-global", "bin"))
	require.Regexp(t, `^\d.*Claude Code`, s.ok(s.run("claude", nil, "claude", "--version")))
	s.environ = append(environ, "PATH="+bin)
	r = s.run("claude", nil, "claude", "--version")
	require.Equal(t, exit.NotFound, r.status, r.text())
	require.Contains(t, r.stderr, "claude is not on PATH in a folder that the sandbox shows and no agent can write")
	require.Equal(t, "another\n", s.ok(s.run("claude", nil, "bin/claude")), "by its path it is asked for")
}
