package tests

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// ownToolsStack has a tool that answers, and one that takes its time.
const ownToolsStack = `version: 1
target: local
tools:
  ticket:
    about: Opens a ticket
    command: [TOOLS/ticket, --project, acme]
    arguments:
      properties: {title: {type: string, maxLength: 20}}
      required: [title]
    env: [TICKET_TOKEN]
  slow: {about: Takes its time, command: [TOOLS/slow]}
agents:
  demo: {tools: {own: [ticket, slow]}}
  other: {}
`

const ownToolsURL = "http://localhost:3129/tools"

// TestOwnTools: programs of the operator's run outside when an agent says so: with its arguments
// and nothing else of it, as long as the reviewed policy has them, and with an event for each.
func TestOwnTools(t *testing.T) {
	t.Parallel()
	c := newCheckout(t)
	p := &toolsPath{path: &path{checkout: c}, work: filepath.Join(c.dir, "work")}
	tools := filepath.Join(filepath.Dir(c.dir), "tools")
	p.host(filepath.Dir(c.dir), `mkdir -m 700 tools; mkdir co/work
		printf '#!/bin/sh\necho "$@"; cat; [ -n "$TICKET_TOKEN" ] || exit 4
			echo "$TICKET_TOKEN" >&2; touch `+tools+`/ran' > tools/ticket
		printf '#!/bin/sh\ntouch `+tools+`/slow-ran; exec sleep 9871' > tools/slow; chmod 700 tools/*`)
	c.write(strings.ReplaceAll(ownToolsStack, "TOOLS", tools))
	p.environ = append(p.environ, "TICKET_TOKEN="+pathCanary)
	c.environ = p.environ
	c.does("up")
	client, err := buildMCPClient()
	require.NoError(t, err)
	p.host(p.work, "cp "+client+" mcpclient")
	run := func(script string) result {
		return p.posternIn(p.work, "run", "--file", p.stackFile(), "--agent", "demo", "--", "sh", "-c", script)
	}
	said := func(r result) (all []toolSaid) {
		t.Helper()
		for line := range strings.Lines(p.ok(r)) {
			var s toolSaid
			require.NoError(t, json.Unmarshal([]byte(line), &s), line)
			all = append(all, s)
		}
		return all
	}
	documented := false
	exists := func(name string) func() bool {
		return func() bool {
			_, err := os.Stat(filepath.Join(tools, name))
			return err == nil
		}
	}

	require.Equal(t, "slow\nticket\n", p.ok(run("./mcpclient "+ownToolsURL)))
	all := said(run(`./mcpclient ` + ownToolsURL + ` ticket '{"title":"$(id) --x"}' ticket '{}' ticket '{"title":1}' \
		ticket '{"title":"a","--project":"x"}' ticket '{"title":"longer than twenty bytes"}' sh '{}'`))
	require.False(t, all[0].Failed, all[0].Text)
	require.Equal(t, "--project acme\n{\"title\":\"$(id) --x\"}", all[0].Text)
	require.True(t, exists("ran")())
	for _, s := range all[1:] {
		require.True(t, s.Failed, s.Text)
	}
	all = said(run(`./mcpclient '/run/postern/postern-sandbox mcp tools' ticket '{"title":"b"}' ticket '{}' git '{}'`))
	require.False(t, all[0].Failed, all[0].Text)
	require.True(t, all[1].Failed && all[2].Failed, all)
	r := run(`env; cat /proc/*/environ; ls ` + tools + ` 2>&1; ./mcpclient ` + ownToolsURL + ` ticket '{"title":"a"}'`)
	require.NotContains(t, r.stdout+r.stderr, pathCanary)
	require.NotContains(t, r.stdout, "slow\n", "the agent does not see the programs")
	r = p.posternIn(p.work, "run", "--file", p.stackFile(), "--agent", "other", "--", "./mcpclient", ownToolsURL)
	require.NotZero(t, r.status, "another agent has no tools: %s", r.stdout)
	doc, err := os.ReadFile("../docs/tools.md")
	require.NoError(t, err)
	for line := range strings.Lines(string(doc)) {
		if command, ok := strings.CutPrefix(line, "    postern run "); ok && strings.Contains(line, ownToolsURL) {
			cmd := exec.CommandContext(t.Context(), "sh", "-ec", postern(t)+" run --agent demo "+command)
			cmd.Dir, cmd.Env = p.work, append(p.environ, "POSTERN_STACK="+p.stackFile())
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			require.Contains(t, string(out), `{\"title\":\"Broken\"}`)
			documented = true
		}
	}
	require.True(t, documented)
	events := p.ok(p.postern("audit"))
	require.Equal(t, 4, strings.Count(events, "tool-called: ticket"), events)
	require.Regexp(t, `tool-ended: ticket: status 0 after `, events)
	require.NotContains(t, events, pathCanary)

	// What is proposed is no tool until it is pushed.
	proposed := strings.ReplaceAll(ownToolsStack, "TOOLS", tools)
	proposed = strings.Replace(proposed, "own: [ticket, slow]", "own: [ticket]", 1)
	c.write(strings.Replace(proposed, "other: {}", "other: {tools: {own: [slow]}}", 1))
	r = p.posternIn(p.work, "run", "--file", p.stackFile(), "--agent", "other", "--", "./mcpclient", ownToolsURL)
	require.NotZero(t, r.status, r.stdout)
	diff := p.postern("diff")
	require.Regexp(t, `(?i)high.*\n.*other has tool slow outside|other has tool slow outside(?s:.*)high`, diff.stdout)

	// A tool that is taken away is away for runs that have begun, too.
	c.write(proposed)
	done := make(chan result)
	go func() {
		done <- run(`touch ready; for i in $(seq 600); do [ -e go ] && break; sleep 0.1; done
			./mcpclient ` + ownToolsURL + ` slow '{}' ticket '{"title":"b"}'`)
	}()
	require.Eventually(t, func() bool {
		_, err := os.Stat(p.work + "/ready")
		return err == nil
	}, time.Minute, 10*time.Millisecond)
	c.does("up")
	require.NoError(t, os.WriteFile(p.work+"/go", nil, 0o600))
	all = said(<-done)
	require.True(t, all[0].Failed)
	require.Contains(t, all[0].Text, "the agent has this tool no more as the run began with it")
	require.False(t, all[1].Failed, all[1].Text)
	require.False(t, exists("slow-ran")())
	c.write(strings.ReplaceAll(ownToolsStack, "TOOLS", tools))
	c.does("up")

	// Nothing of a call is left when its agent, or the run, is killed.
	for _, how := range []string{"SIGKILL", "kill"} {
		cmd := exec.CommandContext(t.Context(), postern(t), "run", "--file", p.stackFile(), "--agent", "demo", "--",
			"./mcpclient", ownToolsURL, "slow", "{}")
		cmd.Dir, cmd.Env = p.work, p.environ
		require.NoError(t, cmd.Start())
		require.Eventually(t, exists("slow-ran"), time.Minute, 10*time.Millisecond, how)
		require.Eventually(t, func() bool { return len(running("9871")) == 1 }, time.Minute, 10*time.Millisecond, how)
		if how == "SIGKILL" {
			require.NoError(t, cmd.Process.Kill())
		} else {
			p.ok(p.postern("kill", "--agent", "demo"))
		}
		require.Eventually(t, func() bool { return len(running("9871")) == 0 }, time.Minute, 10*time.Millisecond, how)
		_ = cmd.Wait()
		require.NoError(t, os.Remove(filepath.Join(tools, "slow-ran")))
	}
	r = run(`./mcpclient ` + ownToolsURL)
	require.NotZero(t, r.status)
	require.Contains(t, r.stderr, "agent demo has no tools in this run: the agent is killed")
}
