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
	require.Len(t, lines, 5)

	home, err := os.MkdirTemp("", "readme-") // not t.TempDir: the path of a socket must be short
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(home)) })
	file := filepath.Join(home, ".config", "postern", "stacks", "work.yaml")
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o700))
	require.NoError(t, os.WriteFile(file, []byte(stack[1]), 0o600))
	program := strings.NewReplacer("go run .", stackProgram(t), "bin/postern", postern(t))
	run := func(line string) string {
		cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "bash", "-ec", program.Replace(line))
		cmd.Dir = home
		for _, v := range os.Environ() {
			if !strings.HasPrefix(v, "XDG_") && !strings.HasPrefix(v, "GIT_") {
				cmd.Env = append(cmd.Env, v)
			}
		}
		cmd.Env = append(cmd.Env, "HOME="+home, "POSTERN_HOME="+filepath.Join(home, "state"), "ANTHROPIC_API_KEY="+envCanary,
			"POSTERND="+posternd(t), "ENVOY="+fleet.Envoy(t), "PULUMI="+pulumiCLI(t), "GIT_CONFIG_GLOBAL=/dev/null")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s\n%s", line, out)
		require.NotContains(t, string(out), envCanary, line)
		return string(out)
	}
	run("git init -q ~/src/app && cd ~/src/app && git -c user.name=a -c user.email=a@b.test commit -q --allow-empty -m one")
	t.Cleanup(func() { run("go run . destroy work") })
	for _, line := range lines {
		run(line)
	}
	require.Equal(t, "postern\n", run("bin/postern run -s work --agent coder --workdir ~/agent -- printenv ANTHROPIC_API_KEY"))
	require.Contains(t, run("bin/postern effective -s work --agent coder"), "coder may GET https://api.github.com/repos/**")
}
