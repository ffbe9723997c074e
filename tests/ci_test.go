package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/exit"
)

const ciStack = `version: 1
target: local
destinations:
  issues: {host: api.github.com, methods: [GET], paths: ["/repos/acme/app/issues"]}
agents:
  coder: {allow: [issues]}
`

// TestRecipes runs what docs/ci.md shows, but what installs, line by line as the runners do.
func TestRecipes(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/ci.md")
	require.NoError(t, err)
	section := func(name string) string {
		_, text, found := strings.Cut(string(page), "\n## "+name+"\n")
		require.True(t, found, name)
		text, _, _ = strings.Cut(text, "\n## ")
		return text
	}
	shown := indented.FindAllString(section("Cases: requests with their verdicts"), -1)
	cases := "\n" + strings.Join(shown, "\n") + "\n"
	cases = strings.ReplaceAll(cases, "\n    ", "\n")
	c := newCheckout(t)
	c.write(ciStack)
	root := filepath.Dir(c.dir)
	shell := func(line string) (string, int) {
		cmd := exec.CommandContext(t.Context(), "bash", "-ec", line)
		cmd.Dir = c.dir
		cmd.Env = append(c.environ, "PATH="+filepath.Dir(postern(t))+":"+os.Getenv("PATH"), "GITHUB_BASE_REF=main",
			"RUNNER_TEMP="+root, "CI_MERGE_REQUEST_TARGET_BRANCH_NAME=main", "GIT_CONFIG_GLOBAL=/dev/null")
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			require.NoError(t, err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	does := func(line string) string {
		said, status := shell(line)
		require.Equal(t, exit.Done, status, "%s\n%s", line, said)
		return said
	}
	for name, text := range map[string]string{
		"stacks/local.cases.yaml": cases, "package.json": `{"scripts": {"test": "echo it ran"}}`,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(c.dir, name), []byte(text), 0o600))
	}
	does("git init -q -b main . && git add . && git -c user.name=a -c user.email=a@b.test commit -q -m one && " +
		"git remote add origin . && git fetch -q origin && git switch -q -c proposal")
	c.edit("[GET]", "[GET, POST]")
	of := map[string]*regexp.Regexp{
		"GitHub Actions": regexp.MustCompile(`(?m)^ +- run: (.*)$`),
		"GitLab CI":      regexp.MustCompile(`(?m)^    - (.*)$`),
	}
	for name, lines := range of {
		ran := 0
		for _, m := range lines.FindAllStringSubmatch(section(name), -1) {
			line := strings.ReplaceAll(m[1], "/tmp/", root+"/gitlab-")
			if strings.HasPrefix(line, "make ") || strings.HasPrefix(line, "git clone ") { // TestNewcomer installs
				continue
			}
			ran++
			said := does(line)
			switch {
			case strings.HasPrefix(line, "postern test"):
				require.Contains(t, said, "3 of 3 cases passed\n")
			case strings.HasPrefix(line, "postern diff"):
				require.Contains(t, said, "[high: new: to write (POST) at /repos/acme/app/issues]", name)
			case strings.HasPrefix(line, "postern run"):
				require.Contains(t, said, "it ran\n")
				file, _, _ := strings.Cut(strings.TrimPrefix(line, "postern run "), " -- ")
				require.NotContains(t, does("postern effective "+file), "POST", "the reviewed policy")
			}
		}
		require.GreaterOrEqual(t, ran, 5, name)
	}
	c.edit("[GET, POST]", "[GET, DELETE]")
	c.edit("/repos/acme/app/issues", "/repos/**")
	said, status := shell("postern test")
	require.Equal(t, exit.Failed, status)
	require.Contains(t, said,
		"DELETE https://api.github.com/repos/acme/app: expected deny because of method_not_allowed, got allow")
	for _, name := range []string{"local", "gitlab-local"} {
		does("postern down --file " + filepath.Join(root, name+".yaml"))
	}
}
