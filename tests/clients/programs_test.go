package clients

import (
	"strings"
	"time"

	"github.com/stretchr/testify/require"
)

// program is a client that is a command line.
type program struct {
	name string
	// command is for a shell. Allowed commands also print says; denied ones
	// fail, and say so in the words of the program and of `postern run`.
	command string
	agent   string
	says    string
	// fails is what the program itself says; gate what `postern run` adds.
	fails, gate string
	// arrived are hosts and paths that must have been reached.
	arrived []string
}

const (
	commit = "git -c user.name=Test -c user.email=test@example.test commit -q --allow-empty -m second"
	clone  = "cd /tmp && git clone -q https://git.test/acme/app.git && cd app && cat README"
	pip    = "python3 -m pip install --target /tmp/site --index-url "
	rpc    = "bin/grpcurl "
)

// programs are run in this order, each in a sandbox of its own.
var programs = []program{
	{name: "curl", command: "curl -sS https://api.test/v1/echo/curl", says: `"path":"/v1/echo/curl"`, arrived: []string{"api.test/v1/echo/curl"}},
	{name: "curl without proxy", command: "curl -sS --noproxy '*' https://api.test/v1/echo/curl2", says: "/v1/echo/curl2", arrived: []string{"api.test/v1/echo/curl2"}},
	{name: "curl, gateway", command: "curl -sS http://localhost:8080/v1/echo/curl3", says: "/v1/echo/curl3", arrived: []string{"api.test/v1/echo/curl3"}},
	{
		// The second event is sent when the first was acknowledged.
		name: "curl, events", says: "data: two",
		command: `curl -sSN https://api.test/v1/events/curl | while read -r line; do echo "$line"; [ "$line" = "data: one" ] && curl -sS https://api.test/v1/ack/curl; done; true`,
	},
	{name: "curl, path", command: "curl -sS --fail-with-body https://api.test/v2/curl", fails: `403`, gate: "GET api.test:443/v2/curl (rule builder/default: path_not_allowed)"},
	{name: "curl, host", command: "curl -sS https://denied.test/curl", fails: `CONNECT tunnel failed, response 403`, gate: "CONNECT denied.test:443 (rule builder/default: host_not_allowed)"},
	{name: "curl without proxy, host", command: "curl -sS --noproxy '*' https://denied.test/curl", fails: `alert access denied`, gate: "CONNECT denied.test:443"},

	{name: "git clone", command: clone, says: "hello from git", arrived: []string{"git.test/acme/app.git/info/refs", "git.test/acme/app.git/git-upload-pack"}},
	{name: "git push", command: clone + " && " + commit + " && git push", fails: `unable to access .* error: 403`, gate: "GET git.test:443/acme/app.git/info/refs"},
	{name: "git push, allowed", agent: "writer", command: clone + " && " + commit + " && git push", says: "hello from git", arrived: []string{"git.test/acme/app.git/git-receive-pack"}},
	{name: "git, repository", command: "git clone https://git.test/other/app.git /tmp/app", fails: `unable to access .* error: 403`, gate: "GET git.test:443/other/app.git/info/refs"},
	{name: "git, host", command: "git clone https://denied.test/acme/app.git /tmp/app", fails: `CONNECT tunnel failed, response 403`, gate: "CONNECT denied.test:443"},

	{
		name: "pip", says: "hello from a wheel", arrived: []string{"wheels.test/simple/postern-demo/", "wheels.test/files/postern_demo-1.0-py3-none-any.whl"},
		command: pip + "https://wheels.test/simple postern-demo && PYTHONPATH=/tmp/site python3 -c 'import postern_demo; print(postern_demo.GREETING)'",
	},
	// pip keeps to itself why it cannot read a page of an index.
	{name: "pip, path", command: pip + "https://wheels.test/other postern-demo", fails: `No matching distribution found`, gate: "GET wheels.test:443/other/postern-demo/ (rule builder/default: path_not_allowed)"},
	{name: "pip, host", command: pip + "https://denied.test/simple postern-demo", fails: `Tunnel connection failed: 403 Forbidden`, gate: "CONNECT denied.test:443"},

	{
		name: "npm", says: "hello from a package", arrived: []string{"packages.test/postern-demo", "packages.test/postern-demo/-/postern-demo-1.0.0.tgz"},
		command: "cd /tmp && npm install --registry https://packages.test postern-demo && node -e 'console.log(require(\"postern-demo\"))'",
	},
	{name: "npm, path", command: "cd /tmp && npm install --registry https://packages.test other", fails: `403 Forbidden - GET https://packages.test/other - denied by policy`, gate: "GET packages.test:443/other"},
	{name: "npm, host", command: "cd /tmp && npm install --registry https://denied.test postern-demo", fails: `403 Forbidden - GET https://denied.test/postern-demo - denied by policy`, gate: "CONNECT denied.test:443"},

	// Its list is a stream in both directions.
	{
		name: "grpcurl", command: rpc + "rpc.test:443 list && " + rpc + "rpc.test:443 grpc.health.v1.Health/Check", says: `"status": "SERVING"`,
		arrived: []string{"rpc.test/grpc.health.v1.Health/Check", "rpc.test/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"},
	},
	{name: "grpcurl, path", command: rpc + "rpc.test:443 grpc.health.v1.Health/Watch", fails: `(?s)PermissionDenied.*denied by policy`, gate: "POST rpc.test:443/grpc.health.v1.Health/Watch"},
	// It tries until its time is over and forgets what the proxy said.
	{name: "grpcurl, host", command: rpc + "-connect-timeout 1 denied.test:443 list", fails: `Failed to dial target host "denied.test:443"`, gate: "CONNECT denied.test:443"},
	{name: "grpcurl without proxy, host", command: "env -u HTTPS_PROXY -u https_proxy " + rpc + "denied.test:443 list", fails: `tls: access denied`, gate: "CONNECT denied.test:443"},
}

func (c program) run(s *stack, _ string) {
	s.Helper()
	agent := c.agent
	if agent == "" {
		agent = "builder"
	}
	r := s.run(agent, nil, "sh", "-c", c.command)
	if c.fails != "" {
		require.NotZero(s, r.status, "%s", r.text())
		require.Regexp(s, c.fails, r.text())
		require.Contains(s, r.stderr, "postern: denied by policy: "+c.gate)
		require.Less(s, r.took, time.Minute, "a denial does not hang")
		return
	}
	require.Contains(s, s.ok(r), c.says)
	for _, where := range c.arrived {
		for _, r := range s.injected(where) {
			require.Equal(s, "HTTP/2.0", r.proto, "%+v", r)
		}
	}
}

// coder is an agent program that does what a prompt says.
type coder struct {
	name string
	// base is where it believes the sampling API to be.
	base string
	// fails is what it says if that is denied, and gate what `postern run` adds.
	fails, gate string
	// sdk is true for the Agent SDK, false for the CLI.
	sdk bool
}

var agents = []coder{
	{name: "claude-code, gateway", base: "http://localhost:8080"},
	{name: "claude-code, intercept", base: "https://api.test"},
	{name: "claude-code, path", base: "https://api.test/v2", fails: `API Error: 403 .*denied by policy`, gate: "POST api.test:443/v2/v1/messages (rule coder/default: path_not_allowed)"},
	{name: "claude-code, host", base: "https://denied.test", fails: `API Error: .*proxy refused the tunnel`, gate: "CONNECT denied.test:443 (rule coder/default: host_not_allowed)"},
	{name: "agent sdk, gateway", sdk: true, base: "http://localhost:8080"},
	{name: "agent sdk, intercept", sdk: true, base: "https://api.test"},
	{name: "agent sdk, path", sdk: true, base: "https://api.test/v2", fails: `API Error: 403 .*denied by policy`, gate: "POST api.test:443/v2/v1/messages"},
	{name: "agent sdk, host", sdk: true, base: "https://denied.test", fails: `API Error: .*proxy refused the tunnel`, gate: "CONNECT denied.test:443"},
}

// run lets the agent run a command, which is in the same sandbox, and checks
// that the model got to see what came of it.
func (c coder) run(s *stack, python, script string) {
	s.Helper()
	where := "/v1/echo/" + strings.NewReplacer(" ", "-", ",", "").Replace(c.name)
	prompt := "Please run: curl -sS https://api.test" + where + "; hostname; echo key=$ANTHROPIC_API_KEY"
	command := []string{"home/.npm-global/bin/claude", "-p", prompt, "--allowedTools", "Bash"}
	if c.sdk {
		command = []string{"python3", script, prompt}
	}
	// The key is a placeholder that the stack file names. Tried again is what
	// could be a disturbance, ten times with growing pauses: not here.
	r := s.run("coder", []string{"ANTHROPIC_BASE_URL=" + c.base, "CLAUDE_CODE_MAX_RETRIES=0", python}, command...)
	if c.fails != "" {
		require.NotZero(s, r.status, "%s", r.text())
		require.Regexp(s, c.fails, r.text())
		require.Contains(s, r.stderr, "postern: denied by policy: "+c.gate)
		return
	}
	out := s.ok(r)
	require.Contains(s, out, `the tool says: {"path":"`+where+`"`)
	require.Contains(s, out, "coder\nkey=postern")
	s.injected("api.test" + where)
	s.injected("api.test/v1/messages")
}
