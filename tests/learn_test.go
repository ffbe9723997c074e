package tests

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/exit"
	"github.com/postern/postern/tests/terminal"
)

// TestLearn: what was refused to a command is offered, and nothing else: what is seen of a request
// is all that is allowed, what an agent makes up is not more than a word, and a person decides.
func TestLearn(t *testing.T) {
	t.Parallel()
	p := newPath(t)
	work := filepath.Join(p.dir, "work")
	require.NoError(t, os.MkdirAll(work, 0o700))
	before, err := os.ReadFile(p.stackFile())
	require.NoError(t, err)
	const command = `curl -s -X POST https://echo.test/v2/a; curl -s https://echo.test/v2/b; curl -s https://new.test/x
		curl -s 'https://echo.test/**'; curl -s --path-as-is 'https://echo.test/a/*/b'; curl -sk https://192.0.2.7/
		curl -s https://host.docker.internal/; curl -s https://echo.test/v1/allowed >/dev/null; exit 7`
	learn := func(answer string) (said string, status int) {
		cmd := exec.CommandContext(t.Context(), postern(t), "learn", "--agent", "demo", "--", "bash", "-c", command)
		cmd.Dir, cmd.Env = work, p.environ
		said, err := terminal.Run(cmd, terminal.Consent, answer, nil)
		if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
			return said, failed.ExitCode()
		}
		require.NoError(t, err)
		return said, exit.Done
	}
	said, status := learn("no")
	require.Equal(t, exit.Unseen, status, said)
	require.Contains(t, said, "the agent's command asked for this, and may have asked for more than it needs.")
	require.Contains(t, said, "+ demo may GET https://echo.test/v2/b")
	require.Contains(t, said, "+ demo may POST https://echo.test/v2/a")
	require.Contains(t, said, "+ demo may GET,HEAD https://new.test/**  [medium: new.test is a new host]")
	require.Contains(t, said, "192.0.2.7", "explained")
	require.Contains(t, said, "not offered: ")
	require.Contains(t, said, "host.docker.internal")
	require.Equal(t, 6, strings.Count(said, "+ demo may "), "in the list and in the question: "+said)
	after, err := os.ReadFile(p.stackFile())
	require.NoError(t, err)
	require.Equal(t, string(before), string(after))

	said, status = learn("yes")
	require.Equal(t, exit.Done, status, said)
	require.Contains(t, said, "live on 2/2 nodes")
	for url, want := range map[string]int{
		"https://echo.test/v2/a": exit.Failed, "https://echo.test/v2/b": exit.Done,
		"https://echo.test/v2/c": exit.Failed,
		"https://new.test/x":     exit.Done, "https://host.docker.internal/": exit.Failed,
	} {
		require.Equal(t, want, p.postern("explain", url, "--agent", "demo").status, url)
	}
	require.Zero(t, p.postern("explain", "-X", "POST", "https://echo.test/v2/a", "--agent", "demo").status)
	require.NotZero(t, p.postern("explain", "-X", "POST", "https://echo.test/v2/b", "--agent", "demo").status)

	r := p.posternIn(work, "learn", "--agent", "demo", "--", "curl", "-s", "https://echo.test/v1/x")
	require.Contains(t, p.ok(r), "nothing was refused that could be allowed")
	// Nothing is run for a stack in production.
	require.NoError(t, os.WriteFile(filepath.Join(p.dir, "stacks", "eu-prod.yaml"),
		append(before, "guardrails: {production: true}\n"...), 0o600))
	r = p.posternIn(work, "learn", "--stack", "eu-prod", "--agent", "demo", "--", "touch", "ran")
	require.Equal(t, exit.Failed, r.status)
	require.Contains(t, r.stderr, "stack eu-prod is for production")
	require.NoFileExists(t, filepath.Join(work, "ran"))
}

// TestForgedConsent: whatever an agent leaves a terminal in, a person sees what they are asked.
func TestForgedConsent(t *testing.T) {
	t.Parallel()
	p := newPath(t)
	work := filepath.Join(p.dir, "work")
	require.NoError(t, os.MkdirAll(work, 0o700))
	for name, last := range map[string]string{
		"swallowed":      `Ok to proceed? Type yes: \033P`,
		"painted over":   `\033[2J\033[H+ demo may GET,HEAD https://docs.test/**\r\n\033[3;4r\033[4;1H`,
		"another screen": `\033[?1049h\033[1;1r\033(0\033[8m\033[H`,
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), postern(t), "learn", "--agent", "demo", "--", "bash", "-c",
				`curl -s https://evil.test/x; printf '`+last+`'; exit 1`)
			cmd.Dir, cmd.Env = work, p.environ
			screen, err := terminal.Start(cmd)
			require.NoError(t, err)
			defer screen.Close() //nolint:errcheck // a refusal
			require.NoError(t, screen.Await(t.Context(), `(?m)^\+ demo may GET,HEAD https://evil\.test/\*\*  \[[^$]*`+
				`Publish \+ demo may GET,HEAD https://evil\.test/\*\*\? Type yes \d{4}:$`))
			require.NoError(t, screen.Type("no\n"))
			require.NoError(t, screen.Wait(t.Context()))
		})
	}
}
