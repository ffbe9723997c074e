package clients

import (
	"bytes"
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/home"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/tests/fleet"
)

// canary is the credential that no client may ever have.
const canary = "c4n4ry-of-the-clients"

// encoded is how it looks where it is a password (RFC 7617).
var encoded = base64.StdEncoding.EncodeToString([]byte("x-access-token:" + canary))

// stackFile has one destination for each protocol, all at the upstream of this test.
const stackFile = `version: 1
target: local
credentials:
  key: {kind: header, header: x-api-key, secret: "file:../secret", placeholders: [ANTHROPIC_API_KEY]}
  password: {kind: basic, username: x-access-token, secret: "file:../secret"}
  token: {kind: bearer, secret: "file:../secret"}
destinations:
  api:
    host: api.test
    methods: [GET, POST]
    paths: ["/v1/**"]
    credential: key
    gateway: 8080
    upstream: {address: "unix:../upstream.sock", ca: ../ca.pem}
  sockets:
    host: ws.test
    methods: [GET]
    paths: ["/v1/**"]
    credential: key
    upstream: {address: "unix:../upstream.sock", ca: ../ca.pem}
  wheels:
    host: wheels.test
    methods: [GET, HEAD]
    paths: ["/simple/**", "/files/**"]
    credential: password
    upstream: {address: "unix:../upstream.sock", ca: ../ca.pem}
  packages:
    host: packages.test
    methods: [GET, HEAD]
    paths: [/postern-demo, "/postern-demo/**"]
    credential: token
    upstream: {address: "unix:../upstream.sock", ca: ../ca.pem}
  clone:
    host: git.test
    git: {read: ["acme/*"]}
    credential: password
    upstream: {address: "unix:../upstream.sock", ca: ../ca.pem}
  push:
    host: git.test
    git: {write: ["acme/app"]}
    credential: password
    upstream: {address: "unix:../upstream.sock", ca: ../ca.pem}
  rpc:
    host: rpc.test
    methods: [POST]
    paths: [/grpc.health.v1.Health/Check, "/grpc.reflection.v1.ServerReflection/*"]
    credential: token
    upstream: {address: "unix:../upstream.sock", ca: ../ca.pem}
agents:
  # One for each group of tests, so that what was denied to one is not told to another.
  python: {allow: [api, sockets]}
  node: {allow: [api, sockets]}
  java: {allow: [api]}
  go: {allow: [api]}
  coder: {allow: [api]}
  builder: {allow: [api, wheels, packages, clone, rpc]}
  writer: {allow: [push]}
`

// stack is a fleet that is up, and a folder from which `postern run` finds it.
type stack struct {
	testing.TB
	postern string // the CLI, with postern-sandbox next to it
	file    string
	dir     string // the clients, and the working directory inside
	environ []string
	home    home.Folder
	up      *upstream
}

// newStack brings up a control plane, a node and the upstream. It changes the plan of the stack
// file before that is published. clients are the names of installers, all if there is none.
func newStack(
	t *testing.T, stackFile string, change func(p *plan.Plan, upstream *plan.Upstream), clients ...string,
) *stack {
	t.Helper()
	root, err := os.MkdirTemp("", "clients-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })
	write := func(name, content string) string {
		path := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	write("secret", canary)
	s := &stack{TB: t, file: write("stacks/local.yaml", stackFile), dir: clientsDir(t, clients...)}

	// Where the CLI looks for the state of this stack file.
	file, err := stacks.Open(s.file)
	require.NoError(t, err)
	real, err := file.Home()
	require.NoError(t, err)
	s.home = home.Folder{Root: filepath.Join(root, "home", filepath.Base(real.Root))}
	require.NoError(t, s.home.Claim(file.Owner()))
	f := fleet.NewIn(t, s.home, 1)
	write("ca.pem", string(f.UpstreamCA.PEM))
	s.up = newUpstream(t, f, root)

	bin := t.TempDir()
	fleet.Put(t, bin, "postern", "postern-sandbox")
	s.postern = filepath.Join(bin, "postern")
	s.environ = append(os.Environ(), "POSTERN_HOME="+filepath.Join(root, "home"))
	loaded, err := stacks.Load(s.file)
	require.NoError(t, err)
	pin := plan.Upstream{Address: "unix:" + filepath.Join(root, "upstream.sock"), CA: string(f.UpstreamCA.PEM)}
	change(loaded.Plan, &pin)
	f.MustPublish(loaded.Plan)
	return s
}

// build builds a static program.
func build(t testing.TB, dir, path, pkg string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-o", path, pkg)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// in is s with failures reported to a subtest.
func (s *stack) in(t *testing.T) *stack {
	c := *s
	c.TB = t
	return &c
}

// result is how a command ended.
type result struct {
	stdout, stderr string
	status         int
	took           time.Duration
}

// text is all that a person sees of it.
func (r result) text() string { return r.stdout + r.stderr }

// run runs a command in the sandbox of an agent.
func (s *stack) run(agent string, env []string, command ...string) result {
	s.Helper()
	args := []string{"run", "--file", s.file, "--agent", agent}
	for _, kv := range env {
		args = append(args, "--env", kv)
	}
	cmd := exec.CommandContext(s.Context(), s.postern, append(append(args, "--"), command...)...)
	cmd.Dir, cmd.Env = s.dir, s.environ
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	if _, ok := err.(*exec.ExitError); !ok { //nolint:errorlint // exactly this type
		require.NoError(s, err)
	}
	r := result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode(), time.Since(start)}
	require.NotContains(s, r.text(), canary, "the client has the credential")
	require.NotContains(s, r.text(), encoded, "the client has the credential")
	return r
}

// ok requires that a command succeeded, and returns what it printed.
func (s *stack) ok(r result) string {
	s.Helper()
	require.Zero(s, r.status, "%s", r.text())
	return r.stdout
}

// denied requires an audit event of a denial that says what matches.
func (s *stack) denied(what string, match func(audit.Event) bool) {
	s.Helper()
	require.Eventually(s, func() bool {
		events, err := audit.Read(s.home.AuditDir(), audit.Filter{Denied: true})
		require.NoError(s, err)
		for _, e := range events {
			if match(e) {
				return true
			}
		}
		return false
	}, time.Minute, 20*time.Millisecond, "no event of the denial of %s", what)
}

// program copies one of testdata into the sandbox's working directory, and
// returns its path there.
func (s *stack) program(name string) string {
	s.Helper()
	dir, err := os.MkdirTemp(s.dir, "run-")
	require.NoError(s, err)
	s.Cleanup(func() { require.NoError(s, os.RemoveAll(dir)) })
	content, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(s, err)
	path := filepath.Join(dir, name)
	require.NoError(s, os.WriteFile(path, content, 0o600))
	rel, err := filepath.Rel(s.dir, path)
	require.NoError(s, err)
	return rel
}
