package tests

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestWorkspaces runs what docs/workspace.md shows, as a person does who reads it.
func TestWorkspaces(t *testing.T) {
	t.Parallel()
	p := newPath(t)
	work := filepath.Join(p.dir, "work")
	require.NoError(t, os.MkdirAll(filepath.Join(work, "src"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(work, "src", "main.go"), []byte("package main\n"), 0o600))
	run := func(args ...string) result {
		return p.posternIn(work, append([]string{"run", "--agent", "demo"},
			args...)...)
	}

	// Nothing is left of a run that changes nothing, and nothing is said.
	quiet := run("--overlay", "--", "cat", "src/main.go")
	require.Equal(t, "package main\n", p.ok(quiet))
	require.NotContains(t, quiet.stderr, "postern:")
	require.Empty(t, p.ok(p.postern("workspace", "list")))
	require.NoFileExists(t, filepath.Join(filepath.Dir(p.home.Root), "workdirs"), "the folder is not an agent's")

	changed := run("--overlay", "--", "sh", "-c",
		"echo // x >> src/main.go; mkdir doc; echo d > doc/index.md; echo '#!/bin/sh' > Makefile; exit 3")
	require.Equal(t, 3, changed.status, changed.stderr)
	require.Contains(t, changed.stderr, "is as it was, and 4 changes are kept apart: postern --file ")
	require.NoFileExists(t, filepath.Join(work, "Makefile"))
	id, _, ok := strings.Cut(p.ok(p.postern("workspace", "list")), " ")
	require.True(t, ok)
	require.Contains(t, changed.stderr, " workspace diff "+id+" (")
	diff := p.ok(p.postern("workspace", "diff", id))
	require.Contains(t, diff,
		"diff --git a/Makefile b/Makefile\nnew file mode 100644\n! a build runs commands from it\n--- /dev/null\n+++ b/Makefile\n")
	require.Contains(t, diff, " package main\n+// x\n")
	require.Contains(t, p.ok(p.postern("workspace", "diff", "--json", id, "src")),
		`{"path":"src/main.go","kind":"modified","mode":"100600"}`)

	require.Contains(t, p.ok(p.postern("workspace", "apply", id, "src/main.go", "doc")),
		"applied 3 changes to "+work+"\n1 change is left")
	content, err := os.ReadFile(filepath.Join(work, "src", "main.go"))
	require.NoError(t, err)
	require.Equal(t, "package main\n// x\n", string(content))
	require.Contains(t, p.ok(p.postern("workdir", "list")), work)
	// A person's file in the place of the agent's is not replaced.
	require.NoError(t, os.WriteFile(filepath.Join(work, "Makefile"), []byte("mine\n"), 0o600))
	refused := p.postern("workspace", "apply", id)
	require.Equal(t, 4, refused.status)
	require.Contains(t, refused.stderr, "not applied: Makefile: it changed in the host's folder meanwhile\n")
	require.Contains(t, p.ok(p.postern("workspace", "discard", id)), "discarded "+id)
	require.Empty(t, p.ok(p.postern("workspace", "list")))

	require.NoError(t, os.WriteFile(filepath.Join(work, ".env"), []byte("TOKEN=x\n"), 0o600))
	for _, mode := range []string{"overlay", "read-only"} {
		hidden := run("--workspace", mode, "--", "ls", "-A")
		require.Equal(t, "Makefile\ndoc\nsrc\n", p.ok(hidden), mode)
		require.Contains(t, hidden.stderr, "postern: hidden from the agent, because they look like secrets: .env\n")
		require.Empty(t, p.ok(p.postern("workspace", "list")), mode)
	}
	require.Equal(t, ".env  (its name)\n", p.ok(p.posternIn(work, "workspace", "scan")))
	require.JSONEq(t, `{"path":".env","why":"its name","hidden":true,"committed":false}`,
		p.ok(p.posternIn(work, "workspace", "scan", "--json")))
	read := run("--workspace", "read-only", "--", "sh", "-c", "cat src/main.go; touch x")
	require.NotZero(t, read.status)
	require.Contains(t, read.stdout, "package main\n")
	require.NoFileExists(t, filepath.Join(work, "x"))
	direct := run("--", "sh", "-c", "mkdir -p .git/hooks; echo x > .git/hooks/pre-commit; echo x > plain")
	p.ok(direct)
	require.Contains(t, direct.stderr,
		"postern: look before you use it: .git/hooks/pre-commit (git may run commands from it)\n")
	require.NotContains(t, direct.stderr, "plain")
	require.NotContains(t, run("--quiet", "--", "rm", ".git/hooks/pre-commit").stderr, "look before")
	p.killedSays(t, work)
	p.gitApplied(t)
	// Anywhere, also where there can be no working directory.
	alone := p.posternIn("/", "--file", filepath.Join(p.dir, "stacks", "local.yaml"), "run", "--agent", "demo",
		"--workspace", "tmpfs", "--", "sh", "-c", "pwd; ls -A")
	require.Equal(t, "/workspace\n", p.ok(alone))
	// A volume is there for the next command of the agent.
	require.Empty(t, p.ok(p.postern("workspace", "volume", "list")))
	p.ok(run("--workspace", "volume", "--", "sh", "-c", "pwd > here"))
	require.Equal(t, "/workspace\n", p.ok(run("--workspace", "volume", "--", "cat", "here")))
	require.Equal(t, "demo  workspace  1MiB\n", p.ok(p.postern("workspace", "volume", "list")))
	require.Empty(t, p.ok(p.postern("home", "list")))
	require.Equal(t, "cleared volume workspace of agent demo\n", p.ok(p.postern("workspace", "volume", "clear", "demo",
		"workspace")))
	require.Empty(t, p.ok(run("--workspace", "volume", "--", "ls", "-A")))
	both := run("--workspace", "tmpfs", "--workdir", work, "--", "true")
	require.Equal(t, 125, both.status)
	require.Contains(t, both.stderr, "leave out --workdir")
}

// killedSays kills `postern run`: what its command wrote is said by the next command (F6).
func (p *path) killedSays(t *testing.T, work string) {
	t.Helper()
	kill := func(script string) {
		t.Helper()
		run := exec.CommandContext(t.Context(), postern(t), "run", "--agent", "demo", "--", "sh", "-c",
			script+"; echo done; exec sleep 600")
		run.Dir, run.Env = work, p.environ
		stdout, err := run.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, run.Start())
		_, err = io.ReadFull(stdout, make([]byte, len("done\n")))
		require.NoError(t, err)
		require.NoError(t, run.Process.Kill())
		require.Error(t, run.Wait())
	}
	const envrc = "postern: look before you use it: sub/.envrc (a shell may load it)\n"
	kill("mkdir sub; echo evil > sub/.envrc")
	require.DirExists(t, filepath.Join(work, ".vscode"), "in the place of a file that the command was not to make")
	for _, args := range [][]string{{"status"}, {"workspace", "list"}, {"workdir", "list"}} {
		r := p.postern(args...)
		p.ok(r)
		require.DirExists(t, filepath.Join(work, ".vscode"), "it only looks")
		require.Regexp(t, "(?m)^warning: the command that began in "+work+" on [0-9: -]+ was killed: what it wrote "+
			"that programs here run, says .* workspace scan "+work+"$", r.stderr)
	}
	require.Contains(t, p.posternIn(work, "workspace", "scan").stderr, envrc)
	require.NoDirExists(t, filepath.Join(work, ".vscode"))
	require.NotContains(t, p.postern("status").stderr, "was killed")

	kill("echo more > sub/.envrc")
	next := p.posternIn(work, "run", "--agent", "demo", "--", "sh", "-c", "echo third > sub/.tool-versions")
	p.ok(next)
	require.Contains(t, next.stderr, envrc)
	require.Contains(t, next.stderr, "postern: look before you use it: sub/.tool-versions (a shell may load it)\n")
	require.NotContains(t, p.posternIn(work, "run", "--agent", "demo", "--", "true").stderr, "look before")
}

// TestSecrets runs what docs/workspace.md shows of secret files: what the stack file hides and
// shows, a file with a token, and what was committed.
func TestSecrets(t *testing.T) {
	t.Parallel()
	p := newPathOf(t, strings.NewReplacer("allow: [echo] ", "workspace: {mode: overlay, hide: [\"*.mine\"], "+
		"show: {test/id_rsa: made up for tests}}\n    allow: [echo] ", "allow: []", "allow: [nothing]",
		"agents:", "  nothing: {host: nothing.test}\nagents:").Replace(pathStack))
	work := filepath.Join(p.dir, "work")
	token := "gh" + "p_q7Xw2LkP9sTfBz4Nn8RvJ3mYc6HdG5aUe1Wo"
	for at, content := range map[string]string{
		"a.mine": "x", "test/id_rsa": "made up", "deploy.sh": "echo " + token, "main.go": "package main",
		".env": "K=v",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(work, at)), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(work, at), []byte(content), 0o600))
	}
	git := exec.CommandContext(t.Context(), "sh", "-euc", `git init -q; git add deploy.sh main.go
		git -c user.name=a -c user.email=a@x.test commit -qm first`)
	git.Dir = work
	out, err := git.CombinedOutput()
	require.NoError(t, err, "%s", out)

	run := p.posternIn(work, "run", "--agent", "demo", "--", "sh", "-c",
		"ls -A; ls test; git cat-file -p HEAD:deploy.sh")
	require.Equal(t, ".git\nmain.go\ntest\nid_rsa\necho "+token, p.ok(run))
	require.Contains(t, run.stderr, "postern: hidden from the agent, because they look like secrets: "+
		".env, a.mine, deploy.sh (github-pat)\n")
	require.Contains(t, run.stderr, "postern: shown to the agent, although they look like secrets: "+
		"test/id_rsa (made up for tests)\n")
	require.Contains(t, run.stderr, "because they were committed: deploy.sh; ")
	require.NotContains(t, run.stderr, token)

	scan := p.posternIn(work, "workspace", "scan", "--agent", "demo")
	require.Equal(t, ".env  (its name)\na.mine  (the stack file hides *.mine)\n"+
		"deploy.sh  (its content: github-pat; committed)\ntest/id_rsa  (its name; shown: made up for tests)\n",
		p.ok(scan))
	require.NotContains(t, p.ok(p.posternIn(work, "workspace", "scan", "--json")), "a.mine", "no agent was named")

	// The line that it says, as a person pastes it, and the agent in what it makes.
	_, line, ok := strings.Cut(strings.Split(scan.stderr, "\nnote: ")[0], ":\n")
	require.True(t, ok, scan.stderr)
	words := strings.Fields(line)
	require.Equal(t, "postern", words[0], line)
	made := p.posternIn("/", words[1:]...)
	p.ok(made)
	require.Contains(t, made.stderr, "made "+work+"-clean\n")
	clean := p.postern("run", "--agent", "demo", "--workdir", work+"-clean", "--", "sh", "-c",
		"ls; git cat-file --batch-all-objects --batch-check='%(objectname)' | git cat-file --batch")
	require.NotContains(t, p.ok(clean), token)
	require.Contains(t, clean.stdout, "main.go\n")
	require.NotContains(t, clean.stderr, "committed")
}

// TestHomes runs what docs/workspace.md shows of homes. P7, P47: what a command keeps in its home
// is there for the agent's next command, in another folder too, and for no other agent.
func TestHomes(t *testing.T) {
	t.Parallel()
	p := newPath(t)
	for _, dir := range []string{"one", "two"} {
		require.NoError(t, os.Mkdir(filepath.Join(p.dir, dir), 0o700))
	}
	run := func(dir, script string, args ...string) result {
		return p.posternIn(filepath.Join(p.dir, dir), append(append([]string{"run", "--agent", "demo"}, args...),
			"--", "sh", "-c", script)...)
	}
	require.Empty(t, p.ok(p.postern("home", "list")))
	require.Equal(t, "/agent\n", p.ok(run("one", `cd; pwd; mkdir .claude; echo state > .claude/x
		printf 'package main\nfunc main() {}\n' > /tmp/m.go; go run /tmp/m.go`, "--persist-home")))
	kept := p.ok(run("two", `cd; cat .claude/x; go env GOCACHE; ls .cache/go-build | wc -l`, "--persist-home"))
	require.Regexp(t, `^state\n/agent/\.cache/go-build\n[1-9][0-9]+\n$`, kept)
	require.NotContains(t, p.ok(run("one", "ls -A ~")), ".claude", "not without being asked")
	require.Regexp(t, `^demo  [0-9]+MiB\n$`, p.ok(p.postern("home", "list")))
	require.Contains(t, p.ok(p.postern("home", "list", "--json")), `{"agent":"demo","bytes":`)
	unknown := p.postern("home", "clear", "../demo")
	require.Equal(t, 1, unknown.status)
	require.Contains(t, unknown.stderr, `agent "../demo" keeps no home`)
	require.Equal(t, "cleared the home of agent demo\n", p.ok(p.postern("home", "clear", "demo")))
	require.Empty(t, p.ok(p.postern("home", "list")))
	require.Equal(t, "/agent\n", p.ok(run("one", "cd; pwd; test ! -e .claude", "--persist-home")))
}
