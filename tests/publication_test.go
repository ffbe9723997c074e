package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/exit"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/tests/terminal"
)

// TestUpOfAProposal: up brings up nothing that an agent may have written, and that
// nobody has seen.
func TestUpOfAProposal(t *testing.T) {
	t.Parallel()
	c := newCheckout(t)
	refuses := func(says string, args ...string) {
		t.Helper()
		cmd := c.command(append([]string{"up", "local"}, args...)...)
		out, err := cmd.CombinedOutput()
		var failed *exec.ExitError
		require.ErrorAs(t, err, &failed, "%s", out)
		require.Equal(t, exit.Unseen, failed.ExitCode(), "%s", out)
		require.Contains(t, string(out), says)
	}
	require.NoError(t, hostpath.In(filepath.Dir(c.home.Root)).Record(c.dir))
	refuses("+ demo may use any method at https://one.test/**")
	require.NoDirExists(t, c.home.Root, "nothing is made")
	said, err := terminal.Run(c.command("up", "local"), terminal.Consent, "yes", nil)
	require.NoError(t, err, said)
	require.Contains(t, said, "where an agent may write, so it is only a proposal.")
	first := c.live()
	require.Contains(t, said, "~ the guardrails are not those for production")
	require.Contains(t, said, "~ no policies of your own count")
	require.Equal(t, map[string]int{"same": 4}, c.does("up").Changes, "nothing to see")

	// What a trusted file said of guardrails is not left out without a word.
	policies := filepath.Join(t.TempDir(), "policies")
	require.NoError(t, os.Mkdir(policies, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(policies, "a.yaml"), []byte(`policies:
  - id: ACME-02
    severity: warning
    says: Whoever writes has a limit.
    fix: add limits
    expression: "!rule.writes || rule.limited"
    tests:
      - {name: reads, verdict: holds, rule: {writes: false, limited: false}}
      - {name: writes, verdict: fails, rule: {writes: true, limited: false}}
`), 0o600))
	require.NoError(t, os.Remove(filepath.Join(filepath.Dir(c.home.Root), "workdirs")))
	guardrails := "guardrails: {policies: " + policies + "}\n"
	c.edit("agents:", guardrails+"agents:")
	c.does("up")
	require.NoError(t, hostpath.In(filepath.Dir(c.home.Root)).Record(c.dir))
	require.Equal(t, map[string]int{"same": 4}, c.does("up").Changes, "nothing to see")
	c.edit(guardrails, "")
	refuses("~ policies of your own count from nowhere, was " + policies + "\n")
	c.edit("agents:", guardrails+"agents:")
	require.Equal(t, map[string]int{"same": 4}, c.does("up").Changes, "a refused one counts for nothing")
	require.NoError(t, os.WriteFile(c.home.GuardrailsFile(), []byte("{"), 0o600))
	c.edit(guardrails, "")
	refuses("~ no policies of your own count\n")
	said, err = terminal.Run(c.command("up", "local"), terminal.Consent, "yes", nil)
	require.NoError(t, err, said)

	c.edit("allow: [one]", "allow: [one, two]")
	refuses("postern up --file " + c.stackFile())
	refuses("for which --yes does not count", "--yes")
	require.Equal(t, []string{"update local-bundle"}, changed(c.does("preview")), "a look is free")
	require.Equal(t, first, c.live())
	c.edit("allow: [one, two]", "allow: [one]")
	c.edit("agents:", "proxies: {count: 2}\nagents:")
	refuses("~ 2 proxies, was 1")

	// In another folder that has its place, which is not an agent's.
	require.NoError(t, os.Remove(filepath.Join(filepath.Dir(c.home.Root), "workdirs")))
	c.edit("proxies: {count: 2}\n", "")
	stacks := filepath.Dir(c.stackFile())
	content, err := os.ReadFile(c.stackFile())
	require.NoError(t, err)
	require.NoError(t, os.Rename(stacks, stacks+".old"))
	require.NoError(t, os.Mkdir(stacks, 0o700))
	c.write(string(content))
	require.Equal(t, map[string]int{"same": 4}, c.does("up").Changes, "the same policy: nothing to see")
	require.NoError(t, os.Rename(stacks, stacks+".older")) // so that its inode is not free for the next folder
	require.NoError(t, os.Mkdir(stacks, 0o700))
	c.write(string(content))
	c.edit("allow: [one]", "allow: [two]")
	refuses("is not the one from which the stack was brought up")
	c.does("up", "--yes")
	require.NotEqual(t, first, c.live())
	c.does("up")

	// Of a stack that is stopped, nothing says how many proxies there were.
	require.NoError(t, hostpath.In(filepath.Dir(c.home.Root)).Record(c.dir))
	for _, process := range processes(t, c.home.Root) {
		pid, _, _ := strings.Cut(process, " ")
		number, err := strconv.Atoi(pid)
		require.NoError(t, err)
		_ = syscall.Kill(number, syscall.SIGKILL) // its parent may have taken it along
	}
	refuses("~ 1 proxies\n")
}
