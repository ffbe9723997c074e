package tests

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/tests/fleet"
)

// TestReadmeProject runs what README's section about an agent on a project shows, line by line, in an empty home.
func TestReadmeProject(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(readme), "\n## Your agent on your project\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	stack := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindStringSubmatch(section)
	require.NotNil(t, stack)
	lines := indented.FindAllString(section, -1)
	require.Len(t, lines, 4)

	home, err := os.MkdirTemp("", "readme-") // not t.TempDir: the path of a socket must be short
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(home)) })
	file := filepath.Join(home, ".config", "postern", "stacks", "local.yaml")
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o700))
	require.NoError(t, os.WriteFile(file, []byte(stack[1]), 0o600))
	// What `postern init` starts is next to postern.
	own := filepath.Dir(postern(t))
	require.Equal(t, own, filepath.Dir(stackProgram(t)))
	folder := home
	run := func(line string) string {
		cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "bash", "-ec", line)
		cmd.Dir = folder
		for _, v := range os.Environ() {
			if !strings.HasPrefix(v, "POSTERN_") && !strings.HasPrefix(v, "XDG_") && !strings.HasPrefix(v, "GIT_") {
				cmd.Env = append(cmd.Env, v)
			}
		}
		cmd.Env = append(cmd.Env, "HOME="+home, "PATH="+own+":"+os.Getenv("PATH"),
			"POSTERN_HOME="+filepath.Join(home, "state"), "ANTHROPIC_API_KEY="+envCanary,
			"POSTERND="+posternd(t), "ENVOY="+fleet.Envoy(t), "PULUMI="+pulumiCLI(t), "GIT_CONFIG_GLOBAL=/dev/null")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s\n%s", line, out)
		require.NotContains(t, string(out), envCanary, line)
		return string(out)
	}
	run("git init -q ~/src/app && cd ~/src/app && git -c user.name=a -c user.email=a@b.test commit -q --allow-empty -m one")
	run("postern up --yes")
	t.Cleanup(func() { run("postern down") }) // also when it is down
	for _, line := range lines {
		run(line)
		folder = filepath.Join(home, "agent") // to which the first line goes
	}
	require.Equal(t, "postern\n", run("postern run -q -- printenv ANTHROPIC_API_KEY"))
	require.Contains(t, run("postern effective"), "coder may GET https://api.github.com/repos/**")
	everyday(t, run)
}

// everyday runs what docs/everyday.md shows, row by row, but what needs an account.
func everyday(t *testing.T, run func(line string) string) {
	t.Helper()
	page, err := os.ReadFile("../docs/everyday.md")
	require.NoError(t, err)
	ran := 0
	for _, row := range regexp.MustCompile(`(?m)^\| .* \| (.*) \|$`).FindAllStringSubmatch(string(page), -1) {
		for _, m := range inline.FindAllStringSubmatch(row[1], -1) {
			line := m[1]
			switch {
			case !strings.HasPrefix(line, "postern ") || strings.Contains(line, "prod-aws"):
				continue
			case strings.HasSuffix(line, " -f"): // it does not end
				line = "timeout 2 " + line + " || [ $? = 124 ]"
			case strings.HasPrefix(line, "postern learn "):
				line += " || [ $? = 3 ]" // nobody is there to ask
			case strings.HasPrefix(line, "postern explain "):
				line += " || [ $? = 1 ]" // denied
			case regexp.MustCompile("^postern (allow|rollback|up)").MatchString(line): // nobody is there to ask
				line += " || { [ $? = 3 ] && " + line + " --yes; }"
			}
			run(line)
			ran++
		}
	}
	require.Greater(t, ran, 15)
}
