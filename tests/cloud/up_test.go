package cloud_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/tests/fleet"
)

// program is the Pulumi program, which drives the engine itself.
var program = fleet.Built("postern-stack-aws", "./cmd/postern-stack", "aws")

// programAlone is the one without AWS, which is the policy pack, too.
var programAlone = fleet.Built("postern-stack", "./cmd/postern-stack")

// checkout is a folder with one stack, driven by the real engine with the
// stand-in for the provider's plugin, if there is to be one.
type checkout struct {
	t         *testing.T
	dir, file string
	env       []string
	// pulumi is the path of the engine.
	pulumi string
}

func newCheckout(t *testing.T, stack string, plugin bool, change ...string) *checkout {
	t.Helper()
	if _, err := exec.LookPath(os.Getenv("PULUMI")); err != nil && os.Getenv("CI") != "true" {
		t.Skip("set PULUMI to the Pulumi CLI")
	}
	pulumi, err := filepath.Abs(os.Getenv("PULUMI"))
	require.NoError(t, err)
	c := &checkout{t: t, dir: t.TempDir(), pulumi: pulumi}
	c.file = filepath.Join(c.dir, "standin.json")
	bin := filepath.Join(c.dir, "bin")
	require.NoError(t, os.MkdirAll(bin, 0o700))
	require.NoError(t, os.MkdirAll(filepath.Join(c.dir, "stacks"), 0o700))
	if plugin {
		self, err := os.Executable()
		require.NoError(t, err)
		require.NoError(t, os.Symlink(self, filepath.Join(bin, standInName)))
	}
	b, err := os.ReadFile(filepath.Join("..", "..", "stacks", stack+".yaml"))
	require.NoError(t, err)
	text := strings.NewReplacer(change...).Replace(string(b))
	require.NoError(t, os.WriteFile(filepath.Join(c.dir, "stacks", stack+".yaml"), []byte(text), 0o600))
	c.env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "STANDIN="+c.file, "POSTERN_HOME="+filepath.Join(c.dir, "home"),
		"PULUMI_HOME="+filepath.Join(c.dir, "user"))
	return c
}

// savesAtTheEnd has the engine write the state at the end of each operation, as it stands then. As
// it is used, the engine writes all of it twice for each of the 175 resources, which is more than
// half of an operation's processor time. It is for tests whose operations end by themselves.
func (c *checkout) savesAtTheEnd() *checkout {
	c.t.Helper()
	script := filepath.Join(c.dir, "pulumi")
	require.NoError(c.t, os.WriteFile(script, []byte("#!/bin/sh\nPULUMI_SKIP_CHECKPOINTS=true exec "+c.pulumi+" \"$@\"\n"), 0o700))
	c.pulumi = script
	return c
}

func (c *checkout) run(args ...string) (out string, status int) {
	c.t.Helper()
	file, err := program()
	require.NoError(c.t, err)
	cmd := exec.CommandContext(c.t.Context(), file, args...)
	cmd.Dir, cmd.Env = c.dir, append(slices.Clone(c.env), "PULUMI="+c.pulumi)
	var both bytes.Buffer
	cmd.Stdout, cmd.Stderr = &both, &both
	_ = cmd.Run() // the status says it
	return both.String(), cmd.ProcessState.ExitCode()
}

func (c *checkout) state() standInState {
	c.t.Helper()
	s, err := readStandIn(c.file)
	require.NoError(c.t, err)
	return s
}

// fail lets the creation of a resource fail; "" none. Held is one that must not
// have been made by then, "" none.
func (c *checkout) fail(name, with, held string) {
	c.t.Helper()
	s := c.state()
	s.Fail, s.With, s.Held = name, with, held
	require.NoError(c.t, writeStandIn(c.file, s))
}

// noOrphan requires that nothing was made twice.
func (c *checkout) noOrphan() {
	c.t.Helper()
	seen := map[string]bool{}
	for _, m := range c.state().Made {
		require.False(c.t, seen[m.URN], "made twice: %s", m.URN)
		seen[m.URN] = true
	}
}

// TestUpGoesOnWhereItStopped: an `up` that fails half-way is run again, and
// nothing is lost or made twice.
func TestUpGoesOnWhereItStopped(t *testing.T) {
	t.Parallel()
	c := newCheckout(t, "dev-aws", true, "lock: false", "lock: 30d")
	// The service needs the balancer, which needs no secret.
	for _, x := range []struct{ name, with, do, held string }{
		{"dev-aws-secrets-dev/anthropic", "creating Secrets Manager Secret (dev/anthropic): api error InvalidRequestException: a secret with this name is already scheduled for deletion", "restore-secret", "dev-aws-proxies-balancer"},
		{"dev-aws-proxies-balancer", "creating ELBv2 Load Balancer: api error AccessDenied: User is not authorized to perform: elasticloadbalancing:CreateLoadBalancer", `docs/aws.md, "Permissions"`, ""},
		{"dev-aws-proxies-service", "creating ECS Service: operation error ECS: CreateService, api error Throttling: Rate exceeded", "wait a minute and run this again", ""},
	} {
		before := c.state().Made
		c.fail(x.name, x.with, x.held)
		out, status := c.run("up", "dev-aws")
		require.Equal(t, 1, status, out)
		require.Contains(t, out, "error: "+x.name+": ")
		require.Contains(t, out, x.do)
		after := c.state().Made
		require.Greater(t, len(after), len(before), "the rest goes on as far as it can")
		for id := range before {
			require.Contains(t, after, id, "what was made is not made again")
		}
		c.noOrphan()
	}
	before := c.state().Made
	c.fail("", "", "")
	out, status := c.run("up", "dev-aws")
	require.Equal(t, 0, status, out)
	c.noOrphan()
	after := c.state().Made
	for id := range before {
		require.Contains(t, after, id)
	}
	require.Regexp(t, `(?m)^  store +s3://bucket-of-BucketV2-[a-z0-9]+\?region=eu-west-1$`, out)
	require.Regexp(t, `(?m)^  secrets +postern/dev-aws/ca-key .*dev/anthropic`, out)
	require.Regexp(t, `(?m)^  operatorPolicy +arn:aws:`, out)
	stores, err := filepath.Glob(filepath.Join(c.dir, "home", "dev-aws-*", "operator", "store"))
	require.NoError(t, err)
	require.Len(t, stores, 1, "where to publish is noted")

	out, status = c.run("up", "dev-aws")
	require.Equal(t, 0, status, out)
	require.NotRegexp(t, `\d+ (created|updated|replaced|deleted)`, out, "there is nothing to do")
	require.NotContains(t, out, "drifted", "what resources do to each other is not drift")
	require.Equal(t, after, c.state().Made)

	// Somebody changes something by hand, and deletes something.
	s := c.state()
	for id, m := range s.Made {
		if m.Name == "dev-aws-fence-proxies" && strings.HasSuffix(m.Type, ":SecurityGroup") {
			m.Hand = "mine"
			s.Made[id] = m
		}
	}
	for id, m := range s.Made {
		if m.Name == "dev-aws-fence-agent-coder" && strings.HasSuffix(m.Type, ":SecurityGroup") {
			delete(s.Made, id)
		}
	}
	require.Len(t, s.Made, len(after)-1)
	require.NoError(t, writeStandIn(c.file, s))
	out, status = c.run("refresh", "dev-aws", "--expect-no-changes")
	require.Equal(t, 1, status, out)
	require.Contains(t, out, "dev-aws-fence-agent-coder")
	require.Contains(t, out, "description is mine, not The proxies")
	require.Contains(t, out, ": 1 changed, 1 gone, ")
	require.Contains(t, out, "stack dev-aws: 2 resources have drifted")
	out, status = c.run("refresh", "dev-aws", "--expect-no-changes")
	require.Equal(t, 0, status, out)
	out, status = c.run("up", "dev-aws")
	require.Equal(t, 0, status, out)
	c.noOrphan()
	require.Len(t, c.state().Made, len(after))

	out, status = c.run("destroy", "dev-aws")
	require.Equal(t, 0, status, out)
	kept := c.state().Made
	for id, m := range kept {
		require.Contains(t, m.Name, "dev-aws-audit-", "%s stays, and only the locked log may", id)
		require.Contains(t, out, id, "what stays is named")
	}
	require.NotEmpty(t, kept)
	require.Contains(t, out, fmt.Sprintf("%d deleted, %d kept", len(after)-len(kept), len(kept)))
}

// TestRulesAreReplaced: AWS has no two rules with a number in an ACL. A stack that is up gets other
// resolvers, a zone and an agent on Fargate.
func TestRulesAreReplaced(t *testing.T) {
	t.Parallel()
	resolvers := func(list string) string { return "version: 1\nproxies: {resolvers: [" + list + "]}" }
	c := newCheckout(t, "prod-aws", true, "version: 1", resolvers(`"192.0.2.53:53", "192.0.2.54:53"`), "zones: 3", "zones: [a, c]", "protect: true", "protect: false").savesAtTheEnd()
	out, status := c.run("up", "prod-aws")
	require.Equal(t, 0, status, out)
	file := filepath.Join(c.dir, "stacks", "prod-aws.yaml")
	for _, change := range [][]string{
		{resolvers(`"192.0.2.53:53", "192.0.2.54:53"`), resolvers(`"192.0.2.54:53"`)},
		{"zones: [a, c]", "zones: [a, b, c]"},
		{"compute: ec2\n      count: 2\n      instance: m7i.large\n      ami: ami-00000000000000000\n", "compute: fargate\n", "    runtime: gvisor\n", "", "      metadata: disabled\n", ""},
	} {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		changed := strings.NewReplacer(change...).Replace(string(b))
		require.NotEqual(t, string(b), changed)
		require.NoError(t, os.WriteFile(file, []byte(changed), 0o600))
		out, status := c.run("up", "prod-aws")
		require.Equal(t, 0, status, out)
		c.noOrphan()
	}
}

// TestDestroyWhatWasProtected: as docs/aws.md says, protect: false, up, destroy.
// Before that nothing is destroyed, and after it nothing stays that is not locked.
func TestDestroyWhatWasProtected(t *testing.T) {
	t.Parallel()
	c := newCheckout(t, "dev-aws", true, "protect: false", "protect: true").savesAtTheEnd()
	out, status := c.run("up", "dev-aws")
	require.Equal(t, 0, status, out)
	whole := c.state().Made
	out, status = c.run("destroy", "dev-aws")
	require.NotEqual(t, 0, status, out)
	require.Contains(t, out, "dev-aws-audit-log, ", "what is protected is named")
	require.Contains(t, out, "write `protect: false` in the stack file, run `postern up dev-aws`, then this again")
	require.Equal(t, whole, c.state().Made, "a refused destroy deletes nothing")

	file := filepath.Join(c.dir, "stacks", "dev-aws.yaml")
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, bytes.ReplaceAll(b, []byte("protect: true"), []byte("protect: false")), 0o600))
	out, status = c.run("up", "dev-aws")
	require.Equal(t, 0, status, out)
	out, status = c.run("destroy", "dev-aws")
	require.Equal(t, 0, status, out)
	require.Empty(t, c.state().Made)
}

// TestUpWithoutPlugin: what is missing is said before anything is made, by every
// command that needs it; a preview offline does not.
func TestUpWithoutPlugin(t *testing.T) {
	t.Parallel()
	c := newCheckout(t, "prod-aws", false)
	// Those that find no state ask the account first.
	for _, command := range []string{"preview", "up", "refresh", "destroy"} {
		out, status := c.run(command, "prod-aws")
		require.Equal(t, 1, status, out)
		require.Contains(t, out, "install the provider plugin aws 6.83.0: `pulumi plugin install resource aws v6.83.0`;")
		require.Contains(t, out, "nothing was changed, and `preview --offline` needs no plugin")
	}
	out, status := c.run("preview", "prod-aws", "--offline")
	require.Equal(t, 0, status, out)
	require.Contains(t, out, "stack prod-aws, offline: ")
	out, status = c.run("check", "prod-aws")
	require.Equal(t, 0, status, out)
	require.Contains(t, out, "waived   FLT-01 target of a listener -> an admin port of the proxies")
	out, status = c.run("prove", "prod-aws")
	require.Equal(t, 0, status, out)
	require.Contains(t, out, "stack prod-aws: every assertion holds")
	require.Contains(t, out, "credential anthropic, in the header x-api-key: at api.anthropic.com; may write")
}

// TestBadStackOnAWS: what the file gets wrong is said with its place, before the
// engine starts.
func TestBadStackOnAWS(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct{ old, new, says string }{
		"missing region":     {"  region: eu-west-1\n", "", "aws has no region"},
		"unknown zone count": {"zones: 3", "zones: 9", "eu-west-1 is known to have 3 zones"},
		"overlap":            {"egress: 10.80.0.0/20", "egress: 10.64.8.0/21", "agents 10.64.0.0/20 and egress 10.64.8.0/21 overlap"},
		"secret elsewhere":   {"prod/github?region=eu-west-1", "prod/github?region=us-east-1", "its control plane reads its own region only"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCheckout(t, "prod-aws", false, x.old, x.new)
			out, status := c.run("up", "prod-aws")
			require.Equal(t, 1, status)
			require.Contains(t, out, x.says)
			require.Regexp(t, `stacks/prod-aws\.yaml:\d+:\d+: `, out)
			require.NoDirExists(t, filepath.Join(c.dir, "home"))
		})
	}
}
