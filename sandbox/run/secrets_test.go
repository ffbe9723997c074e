package run

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/sandbox/workspace"
	"github.com/postern/postern/sandbox/workspace/protect"
)

// shell runs a script in a new folder, with git's settings of nobody.
func shell(t *testing.T, dir, script string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-euc", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a",
		"GIT_AUTHOR_EMAIL=a@x.test", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@x.test")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// committed returns what the history of a new folder's repository, which the script makes, has of
// the folder's secrets.
func committed(t *testing.T, script string) ([]Leaked, string) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	dir = filepath.Join(dir, "my work")
	require.NoError(t, os.Mkdir(dir, 0o700))
	shell(t, dir, script)
	folders, err := hostpath.In(t.TempDir()).Folders()
	require.NoError(t, err)
	found, err := workspace.Search{}.Secrets(t.Context(), dir)
	require.NoError(t, err)
	return Committed(t.Context(), folders, dir, found), dir
}

// TestCommitted: a hidden file that the repository ever had is found, wherever that is still.
func TestCommitted(t *testing.T) {
	t.Parallel()
	const begin = "git init -q; echo a > a; git add a; git commit -qm a; mkdir -p s/.ssh; "
	const add = "echo x > .env; git add .env; "
	const commit = "git commit -qm b; "
	env, wild := []string{".env"}, []string{"*.key"}
	for name, c := range map[string]struct {
		script string
		ever   []string
	}{
		"never":                   {begin + "echo x > .env", nil},
		"no commit":               {"git init -q; echo x > .env", nil},
		"now":                     {begin + add + "git commit -qm b", env},
		"once":                    {begin + add + commit + "git rm -q --cached .env; git commit -qm c", env},
		"in the index":            {begin + add, env},
		"in the index, no commit": {"git init -q; " + add, env},
		"on another branch": {
			begin + "git checkout -qb b; " + add + "git commit -qm b; git checkout -q -; echo y > .env", env,
		},
		"in a stash": {begin + add + "git stash -q; echo y > .env", env},
		"dropped":    {begin + add + "git commit -qm b; git reset -q --hard HEAD~; echo y > .env", env},
		"in a folder": {
			begin + "echo x > s/.ssh/one; git add .; git commit -qm b", []string{"s/.ssh"},
		},
		"in a merge": {
			begin + "git checkout -qb b; echo b > b; git add b; git commit -qm b; git checkout -q -; " +
				"git merge -q --no-ff --no-commit b; " + add + commit + "git rm -q --cached .env; git commit -qm c",
			env,
		},
		"behind a replacement": {
			begin + add + "git commit -qm b; git replace --graft HEAD; git rm -q --cached .env; git commit -qm c; " +
				"git replace HEAD~ $(git commit-tree -m x $(git write-tree)) -f", env,
		},
		"a name with a wildcard": {
			begin + "echo x > '*.key'; echo x > other.txt; git add .; git commit -qm b", wild,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all, dir := committed(t, c.script)
			if c.ever == nil {
				require.Empty(t, all)
				return
			}
			require.Len(t, all, 1)
			all[0].id, all[0].hidden = unix.Stat_t{}, nil
			want := Leaked{
				Folder: dir, Clean: dir + "-clean", Paths: c.ever, git: dir + "/.git", searched: dir,
				most: workspace.DefaultSize,
			}
			require.Equal(t, want, all[0])
		})
	}
}

// TestCommittedIsBounded: however many repositories an agent makes, and however deep its files are,
// the look ends, and what was not looked at is said.
func TestCommittedIsBounded(t *testing.T) {
	t.Parallel()
	folders, err := hostpath.In(t.TempDir()).Folders()
	require.NoError(t, err)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	deep := strings.Repeat("a/", 2000)
	var hidden []workspace.Secret
	for n := range 20 {
		hidden = append(hidden, workspace.Secret{Path: deep + string(rune('a'+n))})
	}
	found := &workspace.Found{Repositories: []string{".", "a"}, Bare: []string{"x", "y"}, Hidden: hidden}
	ended, end := context.WithCancel(t.Context())
	end()
	all := Committed(ended, folders, dir, found)
	require.Len(t, all, 1)
	require.ErrorContains(t, all[0].Unknown, "look at the histories of all repositories in "+dir)

	shell(t, dir, "mkdir -p x/.bare y/.bare")
	found.Repositories, found.Bare = nil, []string{"x/.bare", "y/.bare"}
	all = Committed(t.Context(), folders, dir, found)
	require.Len(t, all, 2)
	require.NotEqual(t, all[0].Clean, all[1].Clean)
	require.ErrorContains(t, all[1].Unknown, "more files are hidden, or deeper, than can be looked for")
}

// TestCommittedRunsNothing: an agent may have written the repository. What its settings start does
// not reach anything outside, and what cannot be read is said.
func TestCommittedRunsNothing(t *testing.T) {
	t.Parallel()
	all, dir := committed(t, `git init -q; echo x > .env; git add .env; git commit -qm a; echo '#!/bin/sh
		touch "'"$PWD"'/ran" /repository/ran; echo ran >&2' > tool; chmod +x tool
		for s in core.fsmonitor core.pager pager.log gpg.program core.sshCommand diff.external core.hooksPath; do
			git config $s "$PWD/tool"; done; git config log.showSignature true; git config core.worktree /etc
		git config uploadpack.packObjectsHook "$PWD/tool"`)
	require.NoFileExists(t, filepath.Join(dir, "ran"))
	require.Equal(t, []string{".env"}, all[0].Paths)
	all, _ = committed(t, "mkdir -p .git/objects; echo x > .env")
	require.ErrorContains(t, all[0].Unknown, "look at the history of ")
	require.ErrorContains(t, all[0].Unknown, "not a git repository")
}

// TestGitIsConfined: what looks at a repository that an agent may have written has a filter of
// system calls, no capability and no network.
func TestGitIsConfined(t *testing.T) {
	t.Parallel()
	folders, err := hostpath.In(t.TempDir()).Folders()
	require.NoError(t, err)
	var out, complaint strings.Builder
	l := Leaked{git: t.TempDir()}
	require.NoError(t, unix.Lstat(l.git, &l.id))
	require.NoError(t, l.confined(t.Context(), folders, nil, nil, &out, &complaint, "/bin/sh", "-c",
		"grep -E '^(Seccomp|CapBnd|NoNewPrivs):' /proc/self/status; grep -c : /proc/net/dev; "+
			"touch /repository/.git/x 2>/dev/null; unshare -U true 2>/dev/null || echo no namespace"),
		complaint.String())
	require.Equal(t, "CapBnd:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n1\nno namespace\n", out.String())
}

// TestGitElsewhereIsSearched: an agent that sees no secrets sees none in git's folder outside of
// its working directory, and what was committed there is said.
func TestGitElsewhereIsSearched(t *testing.T) {
	t.Parallel()
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	shell(t, root, `git init -qb main main; cd main; mkdir pkg; echo x > pkg/.env; echo x > .env
		git add .; git commit -qm a; git worktree add -q ../wt; cd ../wt; echo y > y; git add y; git commit -qm b`)
	registry := hostpath.In(t.TempDir())
	folders, err := registry.Folders()
	require.NoError(t, err)
	search := func(dir string, hide ...string) ([]Leaked, error) {
		dir = filepath.Join(root, dir)
		found, err := workspace.Search{}.Secrets(t.Context(), dir)
		require.NoError(t, err)
		g, err := findGit(dir)
		require.NoError(t, err)
		defer g.close()
		return Committed(t.Context(), folders, dir, found), g.search(t.Context(), workspace.Search{Hide: hide})
	}
	both := []string{".env", "pkg/.env"}
	leaked, err := search("wt")
	require.NoError(t, err)
	wt := Leaked{
		Folder: root + "/wt", Clean: root + "/wt-clean", hidden: both, Paths: both, Elsewhere: true,
		git: root + "/main/.git", own: "worktrees/wt", searched: root + "/wt", most: workspace.DefaultSize,
	}
	require.Len(t, leaked, 1)
	wt.id = leaked[0].id
	require.Equal(t, []Leaked{wt}, leaked)
	leaked, err = search("main/pkg")
	require.NoError(t, err)
	require.Len(t, leaked, 1)
	require.Equal(t, wt.id.Ino, leaked[0].id.Ino)
	leaked[0].id = wt.id // git reads in the folder
	require.Equal(t, []Leaked{{
		Folder: root + "/main", Clean: root + "/main-clean", hidden: both[1:], Paths: both[1:],
		Elsewhere: true, git: root + "/main/.git", id: wt.id, searched: root + "/main/pkg", most: wt.most,
	}}, leaked)
	require.NoError(t, cloned(t.Context(), wt, registry))
	require.FileExists(t, root+"/wt-clean/y")
	require.NoFileExists(t, root+"/wt-clean/.env")
	require.ErrorIs(t, cloned(t.Context(), wt, registry), os.ErrExist, "nothing is replaced")

	_, err = search("wt", "packed-*", "HEAD")
	require.ErrorContains(t, err, root+"/main/.git/HEAD looks like a secret, by the stack file hides HEAD")
	shell(t, root, "git -C main remote add x https://u:gh"+"p_q7Xw2LkP9sTfBz4Nn8RvJ3mYc6HdG5aUe1Wo@github.com/x")
	for _, dir := range []string{"wt", "main/pkg"} {
		_, err = search(dir)
		require.ErrorContains(t, err, root+"/main/.git/config looks like a secret, by its content: github-pat: move it")
	}
}

// TestCommittedAsOwner: root looks at the history as the folder's owner.
func TestCommittedAsOwner(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "id -u; id -g; id -G")
	if os.Geteuid() != 0 {
		asOwner(cmd, unix.Stat_t{Uid: 65534})
		require.Nil(t, cmd.SysProcAttr, "nobody but root can be somebody else")
		return
	}
	asOwner(cmd, unix.Stat_t{Uid: 65534, Gid: 65533})
	out, err := cmd.Output()
	require.NoError(t, err)
	require.Equal(t, "65534\n65533\n65533\n", string(out))
}

func cloned(ctx context.Context, l Leaked, registry hostpath.Registry) error {
	_, err := l.Clone(ctx, registry, workspace.Search{})
	return err
}

// TestCleanIsBounded: a small repository whose files are large does not fill the disk, and nothing
// of the clone is left.
func TestCleanIsBounded(t *testing.T) {
	t.Parallel()
	all, dir := committed(t, `git init -q; echo s > .env; yes | head -c 8M > a; for n in $(seq 20); do cp a a$n; done
		git add .; git commit -qm a`)
	require.Len(t, all, 1)
	require.Equal(t, uint64(workspace.DefaultSize), all[0].most)
	all[0].most = 16 << 20
	require.ErrorContains(t, cloned(t.Context(), all[0], hostpath.In(t.TempDir())),
		"the clone is larger than its 16777216 bytes: an agent may have made its objects so")
	left, err := filepath.Glob(dir + "-clean*")
	require.NoError(t, err)
	require.Empty(t, left)
	all[0].most = workspace.DefaultSize
	require.NoError(t, cloned(t.Context(), all[0], hostpath.In(t.TempDir())))
}

// TestCleanOfHead: a clean repository has no secret of the last commit, although the folder has it
// no longer.
func TestCleanOfHead(t *testing.T) {
	t.Parallel()
	token := "gh" + "p_q7Xw2LkP9sTfBz4Nn8RvJ3mYc6HdG5aUe1Wo"
	all, dir := committed(t, `git init -q; mkdir keys; echo s > .env; echo s > .env.prod; echo s > shown.env
		echo k > keys/id_rsa
		echo 't = "`+token+`"' > app.py; echo y > y; git add .; git commit -qm a
		rm .env.prod shown.env keys/id_rsa; echo 't = env' > app.py`)
	require.Len(t, all, 1)
	search := workspace.Search{Show: map[string]string{"shown.env": "an example"}}
	registry := hostpath.In(t.TempDir())
	more, err := all[0].Clone(t.Context(), registry, search)
	require.NoError(t, err)
	folders, err := registry.Folders()
	require.NoError(t, err)
	require.Error(t, folders.Check(dir+"-clean/y"), "what is there may be an agent's")
	var took []string
	for _, s := range more {
		took = append(took, s.Path)
	}
	require.Equal(t, []string{".env.prod", "app.py", "keys/id_rsa"}, took)
	require.Equal(t, "shown.env\ny\n", shell(t, dir+"-clean", "git ls-tree -r --name-only HEAD"))
	const contents = "git cat-file --batch-all-objects --batch-check='%(objectname)' | git cat-file --batch"
	require.NotContains(t, shell(t, dir+"-clean", contents), token)
	require.Equal(t, "1\n", shell(t, dir+"-clean", "git rev-list --all --count"))
}

// TestSubmodulesBelow: no agent writes in a part of a repository that has submodules there.
func TestSubmodulesBelow(t *testing.T) {
	t.Parallel()
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	shell(t, root, `git init -qb main lib; git -C lib commit -q --allow-empty -m a; git init -qb main main; cd main
		mkdir -p pkg/deep docs pk; echo x > docs/a; echo x > pk/a
		git -c protocol.file.allow=always submodule --quiet add ../lib "pkg/deep/a sub"; git add .; git commit -qm a
		git worktree add -q ../wt; mkdir -p ../wt/pkg/deep`)
	registry := hostpath.In(t.TempDir())
	folders, err := registry.Folders()
	require.NoError(t, err)
	for dir, where := range map[string]string{
		"main/pkg": root + "/main", "main/pkg/deep": root + "/main", "wt/pkg": root + "/wt", "main/docs": "",
		"main/pk": "",
	} {
		err := refuseSubmodules(t.Context(), folders, filepath.Join(root, dir))
		if where == "" {
			require.NoError(t, err, dir)
			continue
		}
		require.EqualError(t, err, "git in "+where+" goes into its submodule pkg/deep/a sub, where it would run what "+
			"an agent puts in its place: use --overlay, or give the agent a clone (git clone --no-local)")
	}
	// Nor where git's folder is elsewhere, or the working directory is a submodule whose own index
	// the agent writes, or that has submodules.
	shell(t, root, `git clone -q --separate-git-dir apart main sep; mkdir -p linked/pkg none/a linked/docs
		ln -s ../main/.git linked/.git; ln -s nowhere none/.git; git init -qb main super; cd super
		git init -qb main embedded; git -C embedded commit -q --allow-empty -m a; git init -q ignored
		git -c protocol.file.allow=always submodule --quiet add ../main deep
		git -c protocol.file.allow=always submodule --quiet add ../lib flat; git add embedded; git commit -qm a`)
	for dir, refused := range map[string]bool{
		"sep/pkg": true, "sep/docs": false, "linked/pkg": true, "linked/docs": false, "none/a": true, "none": false,
		"super": false, "super/embedded": true, "super/ignored": false, "super/deep": true, "super/deep/docs": false,
		"super/deep/pkg": true, "super/flat": false, "main": false, "lib": false, "wt": false,
	} {
		require.NoError(t, os.MkdirAll(filepath.Join(root, dir), 0o700))
		err := refuseSubmodules(t.Context(), folders, filepath.Join(root, dir))
		require.Equal(t, refused, err != nil, "%s: %v", dir, err)
	}
	// Nor where a branch or a tag has one, where a repository is between, or where git's folder is
	// in the working directory.
	shell(t, root, `git init -qb main branch; cd branch; mkdir w; echo x >w/a; git add .; git commit -qm a
		git checkout -qb dev; git init -qb main w/sub; git -C w/sub commit -q --allow-empty -m a
		git add w/sub 2>/dev/null; git commit -qm b; git tag -am x t; git checkout -q main; git branch -qD dev
		rm -rf w/sub; git init -q w/between; mkdir clean; cd ..
		git init -qb main only; cd only; git commit -q --allow-empty -m a; git checkout -qb dev; git init -qb main w/sub
		git -C w/sub commit -q --allow-empty -m a; git add w/sub 2>/dev/null; git commit -qm b; git checkout -q main
		rm -rf w; mkdir w; cd ..
		git init -qb main outer; cd outer; mkdir -p a/b; git init -qb main a/b/c
		git -C a/b/c commit -q --allow-empty -m a; git add . 2>/dev/null; git commit -qm a; git init -q a; cd ..
		git init -qb main top; cd top; mkdir w; mv .git w/g; echo "gitdir: w/g" >.git
		echo 'gitdir: nowhere
postern: run this' >../none/a/.git`)
	for dir, refused := range map[string]string{
		"branch/w": "goes into its submodule w/sub", "branch/w/between": "", "branch/clean": "",
		"only/w":    "goes into its submodule w/sub",
		"outer/a/b": "goes into its submodule a/b/c", "top/w": "place", "none/a/b": "does not lead to",
	} {
		require.NoError(t, os.MkdirAll(filepath.Join(root, dir), 0o700))
		err := refuseSubmodules(t.Context(), folders, filepath.Join(root, dir))
		if refused == "" {
			require.NoError(t, err, dir)
			continue
		}
		require.ErrorContains(t, err, refused, dir)
		require.NotContains(t, err.Error(), "\n")
	}
	// What cannot be looked at may have some.
	require.NoError(t, os.WriteFile(filepath.Join(root, "main/.git/index"), []byte("x"), 0o600))
	err = refuseSubmodules(t.Context(), folders, filepath.Join(root, "main/docs"))
	require.ErrorContains(t, err, "look for submodules of ")
}

// TestCleanNames: two repositories are made clean in two folders.
func TestCleanNames(t *testing.T) {
	t.Parallel()
	all, dir := committed(t, `mkdir -p a/b a-b
		for d in a/b a-b; do (cd $d; git init -q; echo s > .env; git add .; git commit -qm a); done`)
	require.Len(t, all, 2)
	for _, l := range all {
		require.NoError(t, cloned(t.Context(), l, hostpath.In(t.TempDir())))
	}
	require.DirExists(t, dir+"-a-b-clean")
	require.DirExists(t, dir+"-a-b-clean-2")
}

// TestCleanClone: the command makes a repository in which nobody finds the secret. An agent may
// have written the repository that has it, with all that git runs.
func TestCleanClone(t *testing.T) {
	t.Parallel()
	const secret = "the-secret-of-the-test"
	const traps = `; printf '#!/bin/sh\ntouch "'"$PWD"'/ran"\nexit 1\n' > tool; chmod +x tool
		for h in pre-commit commit-msg post-commit post-checkout reference-transaction post-index-change pre-auto-gc; do
			cp tool .git/hooks/$h; done
		for s in core.fsmonitor filter.x.clean filter.x.smudge gpg.program core.editor core.sshCommand; do
			git config $s "$PWD/tool"; done
		git config uploadpack.packObjectsHook "$PWD/tool"; git config commit.gpgSign true`
	const work = "echo '* filter=x' > .gitattributes; echo a > a; echo " + secret + " > .env; git add .; " +
		"git commit -qm a"
	for name, c := range map[string]struct{ script, at, clean string }{
		"the folder's, now": {"git init -q; " + work + "; git tag old; git branch other" + traps, "", "-clean"},
		"the folder's, once": {
			"git init -q; " + work + "; git rm -q --cached .env; git commit -qm c" + traps, "", "-clean",
		},
		"another's": {"mkdir 'a  b'; cd 'a  b'; git init -q; " + work + traps, "a  b", "-a  b-clean"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all, dir := committed(t, c.script)
			require.Len(t, all, 1)
			require.Contains(t, all[0].Paths, ".env")
			require.Equal(t, dir+c.clean, all[0].Clean, "no agent writes there")
			require.NoError(t, cloned(t.Context(), all[0], hostpath.In(t.TempDir())))
			require.NoFileExists(t, filepath.Join(dir, c.at, "ran"))
			const contents = "git cat-file --batch-all-objects --batch-check='%(objectname)' | git cat-file --batch"
			clone := shell(t, all[0].Clean, contents)
			require.NotContains(t, clone, secret)
			require.Equal(t, 1, strings.Count(clone, "\ntree "), "one commit")
			require.FileExists(t, filepath.Join(all[0].Clean, "a"))
			require.NoFileExists(t, filepath.Join(all[0].Clean, ".env"))
			require.FileExists(t, filepath.Join(dir, c.at, ".env"), "the person's stays")
		})
	}
}

// TestNoCloneOfAHistoryThatIsNotWhole: who wrote the repository removed an object. Then nothing
// says that the clone is clean, so there is none.
func TestNoCloneOfAHistoryThatIsNotWhole(t *testing.T) {
	t.Parallel()
	all, dir := committed(t, `git init -q; for i in 1 2; do echo $i > a; git add a; git commit -qm $i; done
		echo x > .env; git add .env; git commit -qm c; o=$(git rev-parse HEAD~2)
		rm -f .git/objects/$(echo $o | cut -c 1-2)/$(echo $o | cut -c 3-)`)
	require.Len(t, all, 1)
	require.ErrorContains(t, all[0].Unknown, "look at the history of ")
	require.ErrorIs(t, cloned(t.Context(), all[0], hostpath.In(t.TempDir())), all[0].Unknown)
	entries, err := filepath.Glob(dir + "-clean*")
	require.NoError(t, err)
	require.Empty(t, entries)
}

// TestCloneRemovesWhatItHas: the clone decides what is removed from it, and not what was said of
// its history before.
func TestCloneRemovesWhatItHas(t *testing.T) {
	t.Parallel()
	all, dir := committed(t, `git init -q; mkdir -p d/.ssh; echo x > d/.ssh/id; echo x > '*.key'; echo a > a.key.txt
		git add .; git commit -qm a; echo x > .env; git init -q sub; cd sub; echo x > .env; echo s > s; git add s
		git commit -qm s; cd ..; git add sub; git commit -qm b`)
	require.Len(t, all, 1)
	require.Subset(t, all[0].hidden, []string{".env", "*.key", "sub/.env"})
	all[0].Paths = nil
	require.NoError(t, cloned(t.Context(), all[0], hostpath.In(t.TempDir())))
	require.Equal(t, "a.key.txt\nsub\n", shell(t, dir+"-clean", "git ls-tree -r --name-only HEAD"))
	require.NoFileExists(t, dir+"-clean/*.key")
}

// TestAKilledCloneHasNoName: a clone has its name when it is clean, not before.
func TestAKilledCloneHasNoName(t *testing.T) {
	t.Parallel()
	all, dir := committed(t, "git init -q; echo x > .env; git add .env; git commit -qm a; "+
		"head -c 9000000 /dev/urandom > b; git add b; git commit -qm b")
	seen := make(chan string, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		defer close(seen)
		for ctx.Err() == nil {
			if names, err := filepath.Glob(dir + "-clean*/.git"); err == nil && len(names) > 0 {
				seen <- names[0]
				return
			}
		}
	}()
	require.Error(t, cloned(ctx, all[0], hostpath.In(t.TempDir())))
	cancel()
	require.Regexp(t, `-clean\.[A-Z2-7]+\.part/\.git$`, <-seen)
}

// TestCloneOfNothingElse: an agent that can write a repository has it lead to another one, whose
// files are no part of the clone.
func TestCloneOfNothingElse(t *testing.T) {
	t.Parallel()
	const private = "git init -qb main private; (cd private; echo canary > canary; git add .; git commit -qm p); " +
		"git init -qb main; echo x > .env; git add .env; git commit -qm a; "
	for name, c := range map[string]struct{ before, after, fails string }{
		"alternates and a link": {`echo "$PWD/private/.git/objects" > .git/objects/info/alternates
			ln -sf "$PWD/private/.git/refs/heads/main" .git/refs/heads/main; echo y > .env`, "", ""},
		"links": {`rm -rf .git/refs/heads .git/objects; ln -s "$PWD/private/.git/refs/heads" .git/refs/heads
			ln -s "$PWD/private/.git/objects" .git/objects; echo y > .env`, "", "not appear to be a git repository"},
		"a common folder": {`echo "$PWD/private/.git" > .git/commondir`, "", "Invalid path"},
		"a link in its place": {
			"", `mv .git old; ln -s "$PWD/private/.git" .git`, "not the one that was searched",
		},
		"another in its place": {
			"", `mv .git old; mv private/.git .git`, "not the one that was searched",
		},
		"a link above": {
			"", `mv "$PWD" "$PWD-old"; ln -s "$PWD-old/private" "$PWD"`, "not the one that was searched",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, dir := committed(t, private+c.before)
			l := Leaked{
				Folder: dir, Clean: dir + "-clean", hidden: []string{".env"}, git: dir + "/.git",
				most: workspace.DefaultSize,
			}
			require.NoError(t, unix.Lstat(l.git, &l.id))
			shell(t, dir, c.after)
			err := cloned(t.Context(), l, hostpath.In(t.TempDir()))
			require.NoFileExists(t, dir+"-clean/canary")
			if c.fails == "" {
				require.NoError(t, err)
				require.DirExists(t, dir+"-clean")
				return
			}
			require.ErrorContains(t, err, c.fails)
			require.NoDirExists(t, dir+"-clean")
		})
	}
}

// TestNoCloneWhileACommandWrites: a command that may write the repository may replace it.
func TestNoCloneWhileACommandWrites(t *testing.T) {
	t.Parallel()
	all, dir := committed(t, "mkdir sub; cd sub; git init -q; echo x > .env; git add .env; git commit -qm a")
	require.Len(t, all, 1)
	registry := hostpath.In(t.TempDir())
	done, err := registry.Use(dir, "a")
	require.NoError(t, err)
	defer done()
	require.ErrorIs(t, cloned(t.Context(), all[0], registry), hostpath.ErrRuns)
	require.NoDirExists(t, all[0].Clean)
}

// TestCommittedFollowsNoLink: a git folder that a link leads to is another one's.
func TestCommittedFollowsNoLink(t *testing.T) {
	t.Parallel()
	_, dir := committed(t, "git init -q; echo x > .env; git add .env; git commit -qm a; "+
		"mv .git ../git; ln -s ../git .git")
	folders, err := hostpath.In(t.TempDir()).Folders()
	require.NoError(t, err)
	found, err := workspace.Search{}.Secrets(t.Context(), dir)
	require.NoError(t, err)
	found.Repositories = []string{"."} // as it was a moment ago
	all := Committed(t.Context(), folders, dir, found)
	require.Len(t, all, 1)
	require.ErrorIs(t, all[0].Unknown, unix.ELOOP)
}

// TestCommittedInEach: no repository hides another one.
func TestCommittedInEach(t *testing.T) {
	t.Parallel()
	all, dir := committed(t, `for d in '!a' . z; do (mkdir -p "$d/.git/objects"; cd "$d"; [ "$d" = '!a' ] || git init -q
		echo x > .env; [ "$d" = '!a' ] || { git add .env; git commit -qm a; }); done`)
	var folders []string
	for _, l := range all {
		folders = append(folders, l.Folder)
	}
	require.ElementsMatch(t, []string{dir, filepath.Join(dir, "!a"), filepath.Join(dir, "z")}, folders)
}

// TestClonedObjectsAreOwn: a local clone has the original's objects. An agent that writes the clone
// writes none of the original's, nor a protected file by another name.
func TestClonedObjectsAreOwn(t *testing.T) {
	t.Parallel()
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	const blob = ".git/objects/ce/013625030ba8dba906f756967f9e9ca394464a"
	shell(t, root, `git init -qb main app; cd app; echo hello > f; git add .; git commit -qm a; cd ..
		git clone -q app agent; cd agent; echo mine > .mise.toml; ln .mise.toml y; test `+blob+` -ef ../app/`+blob)
	original, err := os.ReadFile(filepath.Join(root, "app", blob))
	require.NoError(t, err)
	var notes strings.Builder
	p, dir := &Prepared{notes: &notes}, filepath.Join(root, "agent")
	_, err = p.protect(dir, protect.WorkdirOf(dir))
	require.NoError(t, err)
	for _, done := range p.done {
		done()
	}
	shell(t, dir, "chmod u+w "+blob+"; echo poison > "+blob+"; echo poison > y; test $(cat .mise.toml) = mine")
	now, err := os.ReadFile(filepath.Join(root, "app", blob))
	require.NoError(t, err)
	require.Equal(t, original, now)
	shell(t, filepath.Join(root, "app"), "rm f; git checkout -q f; test $(cat f) = hello; git fsck --strict")
	require.Regexp(t, "^postern: "+dir+" has copies of its own now of files that had other names "+
		`\(hard links, as a local git clone makes them\), which the agent would have written, too: 4, [1-9] KiB\n$`,
		notes.String())
}

// TestCommittedInBare: git's folder may have any name.
func TestCommittedInBare(t *testing.T) {
	t.Parallel()
	all, dir := committed(t, `git init -qb main x; cd x; mkdir d; echo x > d/.env; echo y > y; git add .
		git commit -qm a; cd ..; git clone -q --bare x .bare; rm -rf x; echo "gitdir: ./.bare" > .git
		git worktree add -q trees/main main; mkdir -p plain/objects plain/refs; test -e trees/main/d/.env`)
	require.Len(t, all, 1)
	require.NoError(t, all[0].Unknown)
	require.Equal(t, filepath.Join(dir, ".bare"), all[0].Folder)
	require.Equal(t, []string{"d/.env"}, all[0].Paths)
	require.NoError(t, cloned(t.Context(), all[0], hostpath.In(t.TempDir())))
	require.NoFileExists(t, filepath.Join(all[0].Clean, "d/.env"))
	require.FileExists(t, filepath.Join(all[0].Clean, "y"))
}
