package sandbox

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// eachRuntime runs a test under every runtime, as every caller that can use it.
func eachRuntime(t *testing.T, test func(t *testing.T, b *box)) {
	t.Helper()
	eachCaller(t, test)
	eachEngine(t, test)
	t.Run("vm", func(t *testing.T) {
		t.Parallel()
		b := newBox(t, os.Getuid())
		b.spec.Machine = true
		test(t, b)
	})
}

// host runs a script in the working directory, outside of the sandbox.
func (b *box) host(t *testing.T, script string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-ec", script)
	cmd.Dir = b.spec.Workdir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
}

// repository makes the working directory one of git's, with files of the user's that programs run.
func (b *box) repository(t *testing.T) {
	t.Helper()
	b.host(t, `git init -q; rm -rf .git/hooks; mkdir .idea; ln -s /etc .claude; echo mine > .envrc; git config x.y z`)
	if b.spec.Container != nil {
		b.give(t)
		return
	}
	b.own(t)
}

// TestProtectedFiles (P54): an agent that writes its folder can neither write nor replace what
// programs of the host run, also where there is nothing yet.
func TestProtectedFiles(t *testing.T) {
	t.Parallel()
	eachRuntime(t, func(t *testing.T, b *box) {
		b.repository(t)
		b.spec.Protect = true
		before := tree(t, b.spec.Workdir)
		out := b.sh(t, `touch x; while read -r try; do
				(eval "$try") >/dev/null 2>&1 && echo "did $try"
			done <<'END'
echo x > .git/hooks/pre-commit
echo x >> .git/config
git config core.fsmonitor ./x
rm -rf .git/hooks
mkdir -p .git/remotes && echo URL: /x > .git/remotes/origin
mkdir -p .git/branches && echo /x > .git/branches/origin
mv .git/hooks h
mv .git g
rm -f .git/config; test ! -e .git/config
mv -f x .git/config
ln -f x .git/config
echo x >> .envrc
mv .envrc e
mv -f x .envrc
chmod 777 .envrc
echo x > .mcp.json
rm -d .mcp.json
mv .mcp.json m
mkdir .vscode/x
ln -s x .vscode/tasks.json
touch .idea/x
umount .git/config
mount -o remount,bind,rw .envrc
END
			rm -rf x h g e m; cat .envrc; echo y > .git/description; echo y > .git/configs && rm .git/configs`)
		require.Equal(t, "mine\n", out)
		after := tree(t, b.spec.Workdir)
		require.Equal(t, "y\n", after[".git/description"].content)
		for _, path := range []string{".git/description", "try"} { // the second has a long content
			delete(before, path)
			delete(after, path)
		}
		require.Equal(t, before, after)
	})
}

// TestProtectedGit: the agent can use git.
func TestProtectedGit(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		b.sh(t, `git init -q up && git -C up -c user.name=a -c user.email=a@b.test commit -q --allow-empty -m x
			git -C up branch feature && git clone -qn ./up c && mv c/.git . && rm -r c`)
		b.spec.Protect = true
		b.sh(t, `set -e; touch x; git add x
			git -c user.name=a -c user.email=a@b.test commit -qm x; git checkout -qb other; git gc -q
			git checkout -q feature
			git worktree list`)
		require.NoError(t, os.Symlink("/etc", filepath.Join(b.spec.Workdir, ".vscode")))
		b.spec.Protect, b.spec.Workspace.Protected = false, []string{".vscode"}
		out, status := b.run(t, "true")
		require.Equal(t, 99, status)
		require.Contains(t, out, "protect .vscode from the agent")
	})
}

// TestProtectionEnds: a program of the host replaces a file that the agent cannot write. The new
// one is not protected, so the run ends.
func TestProtectionEnds(t *testing.T) {
	t.Parallel()
	eachRuntime(t, func(t *testing.T, b *box) {
		b.repository(t)
		b.spec.Protect = true
		cmd := b.command(t, "sh", "-c", `echo ready; read line; echo "$line"; until echo x >> .git/config; do :; done
			exec sleep 1000`)
		var complained bytes.Buffer
		cmd.Stderr = &complained
		input, err := cmd.StdinPipe()
		require.NoError(t, err)
		output, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		next := lineReader(output)
		require.Equal(t, "ready", next(t))
		b.host(t, "echo more >> .envrc; touch new; rm new; git status > /dev/null")
		_, err = io.WriteString(input, "still here\n")
		require.NoError(t, err)
		require.Equal(t, "still here", next(t))
		b.host(t, "git config a.b c")
		require.Error(t, cmd.Wait())
		require.Equal(t, 99, cmd.ProcessState.ExitCode())
		require.Contains(t, complained.String(), filepath.Join(b.spec.Workdir, ".git/config")+" was replaced")
	})
}

// TestProtectionLostBefore: what is replaced before the command starts is not the file that was
// found: no command starts.
func TestProtectionLostBefore(t *testing.T) {
	t.Parallel()
	eachRuntime(t, func(t *testing.T, b *box) {
		b.repository(t)
		b.spec.Protect, b.spec.Replace = true, true
		out, status := b.run(t, "touch", "ran")
		require.Equal(t, 99, status)
		require.Contains(t, out, filepath.Join(b.spec.Workdir, ".envrc")+" was replaced")
		require.NoFileExists(t, filepath.Join(b.spec.Workdir, "ran"))
	})
}
