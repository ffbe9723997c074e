package clients

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

// TestMCP: the official SDKs and Claude Code reach git outside their sandbox, over HTTP and as a
// command, in the protocols that they know. What an agent could smuggle to git is refused.
func TestMCP(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackFile+"  tooled: {allow: [api, clone], tools: {git: {repositories: [git.test/acme/app]}}}\n",
		func(*plan.Plan, *plan.Upstream) {}, "pip", "npm", "agents")
	const app = "git.test/acme/app"
	const command = "/run/postern/postern-sandbox"
	type arguments = map[string]string
	for _, sdk := range []struct {
		name    string
		program []string
		ways    []string
	}{
		{
			"python",
			[]string{"env", "PYTHONPATH=" + filepath.Join(s.dir, "python"), "python3", "mcp_client.py"},
			[]string{
				"http legacy 2025-11-25", "stdio legacy 2025-11-25", "http auto 2026-07-28", "stdio auto 2026-07-28",
			},
		},
		{"typescript", []string{"node", "mcp_client.mjs"}, []string{"http", "stdio"}},
	} {
		t.Run(sdk.name, func(t *testing.T) {
			t.Parallel()
			s := s.in(t)
			program := s.program(sdk.program[len(sdk.program)-1])
			dir := filepath.Dir(program)
			many := filepath.Join(s.dir, dir, "many")
			require.NoError(t, os.MkdirAll(filepath.Join(many, ".git", "objects"), 0o700))
			require.NoError(t, os.Mkdir(filepath.Join(many, ".git", "refs"), 0o700))
			head := []byte("ref: refs/heads/main\n")
			require.NoError(t, os.WriteFile(filepath.Join(many, ".git", "HEAD"), head, 0o600))
			for i := range 2000 {
				name := filepath.Join(many, fmt.Sprintf("%s-%d", strings.Repeat("long", 20), i))
				require.NoError(t, os.WriteFile(name, nil, 0o600))
			}
			cases := []struct {
				tool      string
				arguments arguments
				failed    bool
				says      string
			}{
				{"clone", arguments{"repository": app, "path": dir + "/WAY"}, false, ""},
				{"log", arguments{"path": dir + "/WAY"}, false, "Test: first"},
				{"clone", arguments{"repository": app, "path": dir + "/WAY"}, true, "already exists"},
				{"clone", arguments{"repository": "--upload-pack=touch x", "path": "x"}, true, "git may not talk to"},
				{"clone", arguments{"repository": "ext::sh -c id", "path": "x"}, true, "git may not talk to"},
				{"clone", arguments{"repository": "file:///etc", "path": "x"}, true, "git may not talk to"},
				{"clone", arguments{"repository": "git.test/acme/other", "path": "x"}, true, "git may not talk to"},
				{"clone", arguments{"repository": app, "path": "../x"}, true, "is not"},
				{"clone", arguments{"repository": app, "path": "--template=x"}, true, "is not"},
				{"log", arguments{"revision": "--output=x"}, true, "is not valid"},
				// The agent's rules have no push.
				{"push", arguments{"repository": app, "branch": "main", "path": dir + "/WAY"}, true, "403"},
				{"status", arguments{"path": dir + "/many"}, true, "it says too much"},
				{"log", arguments{"path": strings.Repeat("x", 100<<10)}, true, ""},
				{"shell", arguments{}, true, "unknown tool"},
				{"status", arguments{"path": dir + "/WAY"}, false, "## main"},
			}
			var calls [][]any
			for _, c := range cases {
				calls = append(calls, []any{c.tool, c.arguments})
			}
			text, err := json.Marshal(calls)
			require.NoError(t, err)
			args := append(sdk.program[:len(sdk.program)-1:len(sdk.program)-1], program, string(text),
				"http://localhost:3129/git", command, "mcp", "git")
			lines := strings.Split(strings.TrimSpace(s.ok(s.run("tooled", nil, args...))), "\n")
			require.Len(t, lines, len(sdk.ways)*len(cases))
			for i, line := range lines {
				var said struct {
					Way, Text string
					Tools     []string
					Failed    bool
				}
				require.NoError(t, json.Unmarshal([]byte(line), &said), line)
				c := cases[i%len(cases)]
				require.Equal(t, sdk.ways[i/len(cases)], said.Way)
				require.ElementsMatch(t, []string{"branch", "clone", "fetch", "log", "push", "status"}, said.Tools)
				require.Equal(t, c.failed, said.Failed, "%s, %v: %s", said.Way, c.tool, said.Text)
				require.Contains(t, said.Text, c.says, "%s, %v", said.Way, c.tool)
				require.Less(t, len(said.Text), 70<<10)
			}
			require.NoFileExists(t, filepath.Join(s.dir, "x"))
			s.injected("git.test/acme/app/git-upload-pack")
		})
	}

	for way, server := range map[string]string{
		"http":  `{"type":"http","url":"http://localhost:3129/git"}`,
		"stdio": `{"command":"` + command + `","args":["mcp","git"]}`,
	} {
		t.Run("claude "+way, func(t *testing.T) {
			t.Parallel()
			s := s.in(t)
			to := "claude-" + way
			t.Cleanup(func() { require.NoError(t, os.RemoveAll(filepath.Join(s.dir, to))) })
			asked := func(prompt string) string {
				env := []string{"ANTHROPIC_BASE_URL=http://localhost:8080", "CLAUDE_CODE_MAX_RETRIES=0"}
				return s.ok(s.run("tooled", env, "home/.npm-global/bin/claude", "-p", prompt, "--strict-mcp-config",
					"--mcp-config", `{"mcpServers":{"git":`+server+`}}`,
					"--allowedTools", "mcp__git__clone,mcp__git__log"))
			}
			require.Contains(t, asked(`Please call: mcp__git__clone {"repository":"`+app+`","path":"`+to+`"}`),
				"the tool says: done")
			require.Contains(t, asked(`Please call: mcp__git__log {"path":"`+to+`"}`), "Test: first")
			require.Contains(t, asked(`Please call: mcp__git__clone {"repository":"ext::sh -c id","path":"x"}`),
				"git may not talk to")
		})
	}
}
