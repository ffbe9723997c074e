package tests

import (
	"context"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/exit"
	"github.com/postern/postern/tests/fleet"
)

// newcomer is somebody in an empty home who has read the README.
type newcomer struct {
	t       *testing.T
	home    string
	environ []string
	who     *syscall.Credential // nil: root
}

// in runs a line of a shell in a folder below the home, and returns what it said and its status.
func (n *newcomer) in(folder, line string) (said string, status int) {
	n.t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(n.t.Context()), "/bin/bash", "-c", line)
	cmd.Dir, cmd.Env = filepath.Join(n.home, folder), n.environ
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: n.who}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		require.NoError(n.t, err, line)
	}
	require.NotContains(n.t, string(out), envCanary, line)
	return string(out), cmd.ProcessState.ExitCode()
}

func (n *newcomer) does(folder, line string) string {
	n.t.Helper()
	said, status := n.in(folder, line)
	require.Equal(n.t, exit.Done, status, "%s\n%s", line, said)
	return said
}

// TestNewcomer plays a new user, as root and as an ordinary user: install, init, run in the folder of
// a project, allow what was denied by pasting what is advised, and a machine that was restarted.
func TestNewcomer(t *testing.T) {
	t.Parallel()
	root, err := os.MkdirTemp("", "new-") // not t.TempDir: the path of a socket must be short
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })
	require.NoError(t, os.Chmod(root, 0o755)) // ordinary users are to start what is installed there
	prefix := filepath.Join(root, "usr")
	tools := append(os.Environ(), "ENVOY="+fleet.Envoy(t), "PULUMI="+pulumiCLI(t))
	install := func(target, prefix string) (string, error) {
		cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "make", target, "PREFIX="+prefix)
		cmd.Dir, cmd.Env = "..", tools
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	said, err := install("install", prefix)
	require.NoError(t, err, said)
	require.Contains(t, said, prefix+"/bin/postern init")
	require.NoError(t, filepath.WalkDir(prefix, func(path string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := d.Info()
		require.NoError(t, err)
		require.True(t, d.Type() == fs.ModeSymlink || info.Mode()&0o022 == 0, "%s: %s", path, info.Mode())
		return nil
	}))

	// Others could lead the link elsewhere at any time.
	open := filepath.Join(root, "open")
	require.NoError(t, os.Mkdir(open, 0o700))
	require.NoError(t, os.Chmod(open, 0o777))
	require.NoError(t, os.Symlink(prefix, filepath.Join(open, "p")))
	for _, target := range []string{"install", "uninstall"} {
		said, err := install(target, open+"/p")
		require.Error(t, err, target)
		require.Contains(t, said, "nothing was done: others may write "+open, target)
	}

	users := map[string]*syscall.Credential{"u": {Uid: 65534, Gid: 65534}}
	if os.Geteuid() == 0 {
		users["r"] = nil
	} else {
		users["u"] = nil
	}
	t.Run("users", func(t *testing.T) {
		for name, who := range users {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				n := &newcomer{t: t, home: filepath.Join(root, name), who: who}
				require.NoError(t, os.MkdirAll(filepath.Join(n.home, "app", "sub"), 0o755))
				if who != nil {
					for _, dir := range []string{"", "app", "app/sub"} {
						require.NoError(t, os.Chown(filepath.Join(n.home, dir), int(who.Uid), int(who.Gid)))
					}
				}
				n.environ = []string{
					"HOME=" + n.home, "PATH=" + prefix + "/bin:/usr/local/bin:/usr/bin:/bin",
					"POSTERN_HOME=" + filepath.Join(n.home, "s"),
					"ANTHROPIC_API_KEY=" + envCanary, "GIT_CONFIG_GLOBAL=/dev/null",
				}
				n.firstHour()
			})
		}
	})
	said, err = install("uninstall", prefix)
	require.NoError(t, err, said)
	left, err := filepath.Glob(filepath.Join(prefix, "*", "postern*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func (n *newcomer) firstHour() {
	t := n.t
	require.Regexp(t, `^postern \d`, n.does("", "postern --version"))
	require.Equal(t, n.does("", "postern --version"), n.does("", "postern version"))
	said, status := n.in("app", "postern run -- true")
	require.Equal(t, exit.Sandbox, status, said)
	require.Contains(t, said, "`postern init` writes one")
	said, status = n.in("", "postern init </dev/null")
	require.Equal(t, exit.Usage, status, said)

	said = n.does("app", "env -u ANTHROPIC_API_KEY postern init --program claude --mine --yes </dev/null")
	t.Cleanup(func() { n.does("", "postern down --audit") })
	require.NotContains(t, said, "It works")
	require.Contains(t, said, "But claude has no key, and cannot work yet:\n  credential claude: ANTHROPIC_API_KEY was not "+
		"set when the control plane was started: export it and run `postern up` again\n")
	n.does("", "postern up --yes")
	require.Regexp(t, `(?m)^claude +env .* ok$`, n.does("", "postern status"))
	require.Contains(t, said, "wrote ~/.config/postern/stacks/local.yaml")
	require.Contains(t, said, "denied by policy: CONNECT example.com:443")
	require.Contains(t, said, "postern run -- claude")
	require.Empty(t, n.does("", "postern workdir list"), "no agent has worked yet")

	said = n.does("app/sub", "postern run -- printenv ANTHROPIC_API_KEY")
	require.Contains(t, said, "postern: agent coder (the only one) of "+n.home+"/.config/postern/stacks/local.yaml\n")
	require.True(t, strings.HasSuffix(said, "\npostern\n"), said)
	require.Equal(t, "postern\n", n.does("app/sub",
		"POSTERN_STACK=local postern run --quiet -a coder -- printenv ANTHROPIC_API_KEY 2>/dev/null"))

	if n.who == nil { // somebody else may not see the tree that this was installed from
		tree, err := filepath.Abs("..")
		require.NoError(t, err)
		said, status = n.in("", "postern run --workdir "+filepath.Join(tree, "tools")+" -- true")
		require.Equal(t, exit.Sandbox, status, said)
		require.Contains(t, said, "Postern's own sources: "+tree)
	}

	// What is advised works when it is pasted, in any folder.
	said, status = n.in("app", "postern run --quiet -- curl -sS https://one.test/v1/x")
	require.NotEqual(t, exit.Done, status)
	require.NotContains(t, said, "postern:")
	said, _ = n.in("app", "postern run -- curl -sS https://one.test/v1/x")
	advised := regexp.MustCompile(`(?m)^  an operator can allow reading there: (.*)$`).FindStringSubmatch(said)
	require.NotNil(t, advised, said)
	n.does("..", advised[1])
	require.Contains(t, n.does("", "postern effective"), "coder may GET,HEAD https://one.test/**")

	n.project()

	// After a restart of the machine.
	for _, process := range processes(t, filepath.Join(n.home, "s")) {
		pid, _, _ := strings.Cut(process, " ")
		number, err := strconv.Atoi(pid)
		require.NoError(t, err)
		_ = syscall.Kill(number, syscall.SIGKILL) // its parent may have taken it along
	}
	// What nobody has published is not published by that.
	n.does(".config/postern/stacks", "cp local.yaml before.yaml && sed -i 's|, docs-read||' local.yaml")
	said, status = n.in("app", "postern run -- true")
	require.Equal(t, exit.Sandbox, status, said)
	require.Regexp(t, `is stopped, and .* changes that are not published: see .*, `+
		"and bring the stack up with .postern up", said)
	n.does(".config/postern/stacks", "cp before.yaml local.yaml && echo 'proxies: {count: 2}' >>local.yaml")
	said, status = n.in("app", "postern run -- true")
	require.Equal(t, exit.Sandbox, status, said)
	require.Regexp(t, `is stopped, and .* has 2 proxies, was 1: bring the stack up with .postern up`, said)
	n.does(".config/postern/stacks", "mv before.yaml local.yaml")
	said = n.does("app", "postern run -- true")
	require.Contains(t, said, "postern: stack local is stopped; bringing it up")
	require.NotContains(t, n.does("app", "postern run -- true"), "is stopped")

	// Somebody wanted it down.
	n.does("app", "postern down")
	said, status = n.in("app", "postern run -- true")
	require.Equal(t, exit.Sandbox, status, said)
	require.Contains(t, said, "nothing was published yet: bring the stack up with `postern up")
}

// project is a day in a repository as people have it: a remote over SSH, an environment made by uv,
// and a server that is looked at from outside.
func (n *newcomer) project() {
	t := n.t
	n.does("app", "git init -q . && git remote add origin git@git.test:acme/app && "+
		"echo .venv >.gitignore && git add . && git -c user.name=Ann -c user.email=ann@example.test commit -q -m one")
	require.Equal(t, "Ann\n", n.does("app", "postern run --quiet -- git log -1 --format=%an"))
	// On a busy machine the event comes later than the command waits for it.
	var said string
	for try := 0; try < 5 && !strings.Contains(said, "CONNECT git.test:22"); try++ {
		var status int
		said, status = n.in("app", "postern run -- git fetch")
		require.NotEqual(t, exit.Done, status)
	}
	require.Contains(t, said, "CONNECT git.test:22", "what was asked for is said")

	n.does("app", uvEnvironment)
	require.Equal(t, n.home+"/app/.venv\n", n.does("app",
		"postern run --quiet -- .venv/bin/python -c 'import json, sys; print(sys.prefix)'"))

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	require.NoError(t, l.Close())
	require.Equal(t, "<p>hi</p>\n", n.does("app", "echo '<p>hi</p>' >index.html; "+
		"timeout 60 postern run --quiet --publish "+port+" -- python3 -m http.server "+port+" >/dev/null 2>&1 & "+
		"until curl -sf http://localhost:"+port+"/index.html; do sleep 0.1; done; kill $!; wait"))
}
