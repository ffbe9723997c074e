package tests

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/engine/pack"
	"github.com/postern/postern/exit"
	"github.com/postern/postern/policies/guardrail"
)

// onlyTest is a policy that the stack file of [newCheckout] breaks if its host is not below .test.
const onlyTest = `policies:
  - id: ACME-01
    says: Agents reach hosts of tests only.
    fix: name a host below .test
    expression: rule.host.endsWith(".test")
    tests:
      - {name: a host of a test, verdict: holds, rule: {host: one.test}}
      - {name: another host, verdict: fails, rule: {host: one.example}}
  - id: ACME-02
    types: [postern:local:Node]
    says: Nodes are named after the stack.
    fix: name them so
    expression: resource.name.startsWith("local-node-")
    tests:
      - {name: named, verdict: holds, resource: {name: local-node-1}}
      - {name: not named, verdict: fails, resource: {name: n1}}
`

// own writes that policy next to the stack file, and names it there.
func (c *checkout) own() string {
	c.t.Helper()
	folder := filepath.Join(c.dir, "policies")
	require.NoError(c.t, os.MkdirAll(folder, 0o700))
	require.NoError(c.t, os.WriteFile(filepath.Join(folder, "own.yaml"), []byte(onlyTest), 0o600))
	c.edit("target: local\n", "target: local\nguardrails: {policies: ../policies}\n")
	return folder
}

// TestGuardrailsStopUp: `up` and `preview` stop before anything is created, and say why.
func TestGuardrailsStopUp(t *testing.T) {
	t.Parallel()
	c := newCheckout(t)
	c.own()
	run := func(args ...string) (string, int) {
		cmd := c.command(args...)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		_ = cmd.Run()
		t.Logf("%v: %s", args, stderr.String())
		return stdout.String(), cmd.ProcessState.ExitCode()
	}
	out, status := run("check", "local")
	require.Equal(t, exit.Done, status, out)
	require.Contains(t, out, "guardrails: ")
	out, status = run("policy", "test", "local")
	require.Equal(t, exit.Done, status, out)
	require.Equal(t, 4, strings.Count(out, "ok "))

	c.edit("host: one.test", "host: one.example")
	for op, more := range map[string][]string{"preview": nil, "up": {"--yes"}} {
		said := c.fails(op, more...)
		require.Contains(t, said, "guardrails do not hold, so nothing is created:\n  ACME-01 demo/one")
		require.NoDirExists(t, filepath.Join(c.home.Root, "pulumi"))
	}
	require.Contains(t, c.fails("preview", "--offline"), "ACME-01 demo/one")
	require.Empty(t, processes(t, c.home.Root))

	out, status = run("check", "local", "--json")
	require.Equal(t, exit.Open, status)
	var report guardrail.Report
	require.NoError(t, json.Unmarshal([]byte(out), &report))
	require.True(t, report.Blocks())
	out, status = run("check", "local", "--sarif")
	require.Equal(t, exit.Open, status)
	require.Contains(t, out, `"ruleId": "ACME-01"`)
	require.True(t, json.Valid([]byte(out)))

	waiver := "\n  waivers:\n    - {guardrail: ACME-01, resource: demo/one, owner: me, reason: a trial, expires: \"2999-01-01\"}"
	c.edit("guardrails: {policies: ../policies}", "guardrails:\n  policies: ../policies"+waiver)
	out, status = run("check", "local")
	require.Equal(t, exit.Done, status, out)
	require.Contains(t, out, "waived   ACME-01 demo/one")
	c.edit("2999-01-01", "2020-01-01")
	out, status = run("check", "local")
	require.Equal(t, exit.Open, status)
	require.Contains(t, out, "the waiver of ACME-01 for demo/one ended on 2020-01-01")
	c.edit("guardrail: ACME-01", "guardrail: ACME-99")
	out, status = run("check", "local")
	require.Equal(t, exit.Open, status)
	require.Contains(t, out, `local.yaml:6:7: there is no guardrail "ACME-99"`)

	// A policy that is wrong stops everything.
	require.NoError(t, os.WriteFile(filepath.Join(c.dir, "policies", "own.yaml"), []byte("policies: none\n"), 0o600))
	require.Contains(t, c.fails("up", "--yes"), "own.yaml:1:1: there is no list of policies")
	_, status = run("check", "local", "--state", filepath.Join(c.dir, "none.json"))
	require.Equal(t, exit.Failed, status)
}

// TestPolicyPack: the real engine asks the guardrails about a program, and makes nothing that they
// refuse. What it saves is checked the same.
func TestPolicyPack(t *testing.T) {
	t.Parallel()
	c := newCheckout(t)
	project, err := os.ReadFile(filepath.Join("..", "Pulumi.yaml"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(c.dir, "Pulumi.yaml"), project, 0o600))
	plugin, err := buildPlugin()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(filepath.Dir(plugin), filepath.Join(c.dir, "bin")))
	root := filepath.Dir(c.dir)
	path, state, packed := filepath.Join(root, "path"), filepath.Join(root, "state"), filepath.Join(root, "pack")
	for _, folder := range []string{path, state, packed} {
		require.NoError(t, os.MkdirAll(folder, 0o700))
	}
	self, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(path, "pulumi-language-go"), []byte("#!/bin/sh\n"+
		languageHostOf+"="+stackProgram(t)+" exec "+self+" \"$@\"\n"), 0o700))
	require.NoError(t, os.Symlink(stackProgram(t), filepath.Join(path, pack.Program)))
	manifest, err := os.ReadFile(filepath.Join("..", "policies", "pack", "PulumiPolicy.yaml"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(packed, "PulumiPolicy.yaml"), manifest, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(packed, "guardrails.yaml"),
		[]byte("production: false\npolicies: own\n"), 0o600))
	require.NoError(t, os.MkdirAll(filepath.Join(packed, "own"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(packed, "own", "own.yaml"), []byte(onlyTest), 0o600))

	environ := append(c.environ,
		"PATH="+path+string(filepath.ListSeparator)+os.Getenv("PATH"), "PULUMI_HOME="+filepath.Join(root, "pulumi"),
		"PULUMI_BACKEND_URL=file://"+state, "PULUMI_CONFIG_PASSPHRASE=", "PULUMI_SKIP_UPDATE_CHECK=true",
		"PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION=true")
	pulumi := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), pulumiCLI(t), append(args, "--non-interactive")...)
		cmd.Dir, cmd.Env = c.dir, environ
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := pulumi("stack", "init", "local")
	require.NoError(t, err, out)

	c.edit("host: one.test", "host: one.example")
	for _, args := range [][]string{
		{"preview", "-s", "local", "--policy-pack", packed, "--color=never"},
		{"up", "-s", "local", "--yes", "--policy-pack", packed, "--color=never"},
	} {
		out, err = pulumi(args...)
		require.Error(t, err, out)
		require.Contains(t, out, "ACME-01 demo/one")
		require.Empty(t, processes(t, c.home.Root), "nothing was created")
		require.NoDirExists(t, c.home.CADir())
	}

	c.edit("host: one.example", "host: one.test")
	out, err = pulumi("up", "-s", "local", "--yes", "--policy-pack", packed, "--color=never")
	require.NoError(t, err, out)
	require.Contains(t, out, "+ 6 created")
	c.live()

	// What the engine has saved, and what it shows of a preview, say the same without it.
	saved, shown := filepath.Join(root, "state.json"), filepath.Join(root, "preview.json")
	out, err = pulumi("stack", "export", "-s", "local", "--file", saved)
	require.NoError(t, err, out)
	preview := exec.CommandContext(t.Context(), pulumiCLI(t), "preview", "-s", "local", "--json", "--show-sames",
		"--non-interactive")
	preview.Dir, preview.Env = c.dir, environ
	text, err := preview.Output()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(shown, text, 0o600))
	for _, file := range []string{saved, shown} {
		text, err := c.command("check", "--state", file, "--json").Output()
		var report guardrail.Report
		require.NoError(t, json.Unmarshal(text, &report), "%v: %s", err, text)
		require.Equal(t, 4, report.Resources, file)
		require.True(t, report.Production)
		for _, f := range report.Findings {
			require.Equal(t, "LOC-01", f.Rail, "%s: %s", file, f)
		}
	}
	// Without those that stay, a preview is no whole.
	preview = exec.CommandContext(t.Context(), pulumiCLI(t), "preview", "-s", "local", "--json", "--non-interactive")
	preview.Dir, preview.Env = c.dir, environ
	text, err = preview.Output()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(shown, text, 0o600))
	text, err = c.command("check", "--state", shown).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(text), "--show-sames")

	// The engine's own look at a saved state.
	out, err = pulumi("policy", "analyze", "--file", saved, "--policy-pack", packed)
	require.NoError(t, err, out)
	require.NoError(t, os.WriteFile(filepath.Join(packed, "own", "own.yaml"),
		[]byte(strings.Replace(onlyTest, `"local-node-"`, `"remote-"`, 1)), 0o600))
	out, err = pulumi("policy", "analyze", "--file", saved, "--policy-pack", packed)
	require.Error(t, err, out)
	require.Contains(t, out, "ACME-02")
	out, err = pulumi("destroy", "-s", "local", "--yes", "--color=never")
	require.NoError(t, err, out)
	require.Empty(t, processes(t, c.home.Root))
}
