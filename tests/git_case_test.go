package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/exit"
)

// gitElsewhere: git reads where its folder is not in the working directory, and an agent that
// rewrites what leads there sees nothing more.
func (p *path) gitElsewhere(t *testing.T, home string) {
	t.Helper()
	root, err := filepath.EvalSymlinks(filepath.Dir(p.dir))
	require.NoError(t, err)
	root = filepath.Join(root, "git")
	require.NoError(t, os.Mkdir(root, 0o755))
	host := func(script string) string {
		cmd := exec.CommandContext(t.Context(), "sh", "-ec", script)
		cmd.Dir, cmd.Env = root, append(os.Environ(), "HOME="+home)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", script, out)
		return strings.TrimSpace(string(out))
	}
	run := func(dir, script string, flags ...string) result {
		args := append([]string{"run", "--file", p.stackFile(), "--agent", "demo"}, flags...)
		return p.posternIn(filepath.Join(root, dir), append(args, "--", "bash", "-c", script)...)
	}
	host(`git config --global commit.gpgsign false; git config --global protocol.file.allow always
		git init -qb main lib && git -C lib commit -q --allow-empty -m lib
		git init -qb main main && cd main && mkdir -p pkg/a && echo 1 > pkg/a/f && git add . && git commit -qm first
		git submodule --quiet add ../lib sub && git commit -qm second
		git worktree add -q ../wt && git worktree add -q ../wt2 && rm .git/hooks/*`)

	// Git outside follows links, copies objects from where they lead, and believes what an object
	// that is there says. So nothing of git's folder can be written: not even what only a commit
	// needs.
	common, module := root+"/main/.git", root+"/main/.git/modules/sub"
	tree := func() string {
		return host("cd main/.git; find . -printf '%p %y %l\\n' | sort; find . -type f -exec sha256sum {} + | sort")
	}
	before := tree()
	for dir, subject := range map[string]string{"wt": "second", "main/sub": "lib"} {
		r := run(dir, "git status --porcelain && git log -1 --format=%s")
		require.Equal(t, subject+"\n", p.ok(r))
		require.Contains(t, r.stderr, "git only reads in this folder, because its repository is elsewhere: "+
			"to let the command commit, give it a clone (git clone --no-local)")
		at := map[string]string{"wt": common, "main/sub": module}[dir]
		for _, script := range []string{
			"echo x > new && git add new", "git commit -q --allow-empty -m x",
			"git checkout -qb other", "git stash list; git gc",
			"echo x | git hash-object -w --stdin", "git update-ref refs/replace/" + strings.Repeat("1", 40) + " HEAD",
			"mv " + at + "/objects/pack " + at + "/objects/p",
			"ln -s /x " + at + "/objects/00", "ln -s /x " + at + "/refs/heads/x",
			"f=$(find " + at + "/objects -type f -name '[0-9a-f]*' | head -1); chmod u+w $f; echo x > $f",
			"mkdir -p " + at + "/branches && echo /x > " + at + "/branches/origin",
			"git init -q x && git -C x commit -q --allow-empty -m x; git add -f x",
		} {
			require.NotEqual(t, exit.Done, run(dir, script).status, "%s: %s", dir, script)
		}
	}
	host("rm -rf wt/new wt/x main/sub/new main/sub/x")
	require.Equal(t, before, tree())
	require.Equal(t, "second f\n", p.ok(run("main/pkg/a", "echo $(git log -1 --format=%s) $(git ls-files)")))
	for _, c := range []struct{ dir, script string }{
		{"wt", "echo x > " + common + "/hooks/pre-commit"},
		{"wt", "echo x >> " + common + "/config"},
		{"wt", "mv " + common + "/config c"},
		{"wt", "echo x > " + common + "/commondir"},
		{"wt", "echo x > " + common + "/index"},
		{"wt", "echo x > " + common + "/worktrees/wt2/HEAD"},
		{"wt", "echo x > " + common + "/worktrees/wt/commondir"},
		{"wt", "echo x > " + common + "/worktrees/wt/gitdir"},
		{"wt", "echo x > " + common + "/worktrees/wt/config.worktree"},
		{"wt", "rm -f " + common + "/worktrees/wt/gitdir"},
		{"main/sub", "echo x > " + module + "/hooks/pre-commit"},
		{"main/sub", "git config core.fsmonitor ./x"},
		{"main/sub", "echo x > " + module + "/commondir"},
		{"main/sub", "rm -f " + module + "/config"},
		{"main/sub", "mkdir -p " + module + "/modules/x"},
		{"main/sub", "echo /x > " + module + "/objects/info/alternates"},
		{"wt", "echo /x > " + common + "/objects/info/alternates"},
		{"wt", "mv " + common + "/objects/info x"},
		{"main/pkg/a", "echo x > " + common + "/x"},
		{"main/pkg/a", "ls " + root + "/main/sub"},
	} {
		require.NotEqual(t, exit.Done, run(c.dir, c.script).status, "%s: %s", c.dir, c.script)
	}
	require.Empty(t, host("find main/.git -name commondir -path '*modules*' -o -name config.worktree"))
	require.Empty(t, host("git -C main status --porcelain --ignore-submodules"))
	require.Empty(t, host("find main/.git -name alternates -o -name modules -path '*modules/*/modules'"))

	// Whoever sees no secrets sees none in there.
	require.Equal(t, "second\n", p.ok(run("wt", "git log -1 --format=%s", "--overlay")))
	host("git -C main remote add token https://u:gh" + "p_q7Xw2LkP9sTfBz4Nn8RvJ3mYc6HdG5aUe1Wo@github.com/x")
	for _, dir := range []string{"wt", "main/pkg/a"} {
		for _, flags := range [][]string{{"--overlay"}, nil} {
			r := run(dir, "cat "+common+"/config", flags...)
			require.NotEqual(t, exit.Done, r.status, r.stdout)
			require.Contains(t, r.stderr, common+"/config looks like a secret, by its content: github-pat")
		}
	}
	host("git -C main remote remove token")

	// What .git names must lead back, whoever wrote it.
	require.NoError(t, os.Mkdir(filepath.Join(home, ".ssh"), 0o700))
	host("git init -q --separate-git-dir apart sep")
	for _, c := range []struct{ dir, named, why string }{
		{"wt", home + "/.ssh", "does not say that it is the git folder of"},
		{"wt", common, "does not say that it is the git folder of"},
		{"wt", common + "/worktrees/wt2", "does not say that it is the git folder of"},
		{"wt", module, "does not say that it is the git folder of"},
		{"wt", root + "/nowhere", "does not lead to git's folder"},
		{"sep", root + "/apart", "does not say that it is the git folder of"},
	} {
		file := filepath.Join(root, c.dir, ".git")
		before, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file, []byte("gitdir: "+c.named+"\n"), 0o600))
		r := run(c.dir, "git status; ls "+c.named+"/..")
		require.NotEqual(t, exit.Done, r.status, "%s: %s", c.named, r.stdout)
		require.Contains(t, r.stderr, c.why, c.named)
		require.NoError(t, os.WriteFile(file, before, 0o600))
	}
	require.Equal(t, "second\n", p.ok(run("wt", "git log -1 --format=%s")), "as it was")
	if os.Geteuid() == 0 {
		require.NoError(t, os.Chown(common+"/worktrees/wt", 1000, 1000))
		require.Contains(t, run("wt", "git status").stderr, "does not belong to the owner of")
		require.NoError(t, os.Chown(common+"/worktrees/wt", 0, 0))
	}
	require.Contains(t, run("wt", "git status", "--runtime", "vm").stderr, "is not shown by runtime vm")

	// Git above would go into what an agent puts in the place of a submodule.
	host("mkdir main/part && git -C main submodule --quiet add ../lib part/sub")
	r := run("main/part", "true")
	require.Equal(t, exit.Sandbox, r.status)
	require.Contains(t, r.stderr, "goes into its submodule part/sub, where it would run what an agent puts")
	p.ok(run("main/part", "true", "--overlay"))

	// Nor may it be where another agent works.
	p.ok(run("main", "true", "--agent", "other"))
	require.Contains(t, run("wt", "git status").stderr, "another agent works or has worked there")
}
