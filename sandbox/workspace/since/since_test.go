package since

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/workspace/beneath"
	"github.com/postern/postern/sandbox/workspace/tool"
	"github.com/postern/postern/tests/nobody"
)

// TestHostToolsSince: what an agent wrote in place of what a program runs is named, and the rest is
// not.
func TestHostToolsSince(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	for path, content := range map[string]string{
		".git/config": "a", ".git/hooks/old": "a", "Makefile": "a", "main.go": "a", "gone/package.json": "a",
		".mcp.json":                   "a",
		"node_modules/x/package.json": "a",
	} {
		write(t, filepath.Join(dir, path), content)
	}
	before, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	require.Empty(t, before.Since(before))
	// The same length, and the times of the old one.
	info, err := os.Stat(filepath.Join(dir, ".git/config"))
	require.NoError(t, err)
	write(t, filepath.Join(dir, ".git/config"), "b")
	require.NoError(t, os.Chtimes(filepath.Join(dir, ".git/config"), info.ModTime(), info.ModTime()))
	write(t, filepath.Join(dir, "Makefile"), "a") // as it was
	write(t, filepath.Join(dir, "main.go"), "b")
	write(t, filepath.Join(dir, "sub/.git/hooks/x\x1b[2J"), "b")
	write(t, filepath.Join(dir, "node_modules/x/package.json"), "b")
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "gone")))
	require.NoError(t, os.Chmod(filepath.Join(dir, ".git/hooks/old"), 0o755))
	require.NoError(t, os.Remove(filepath.Join(dir, ".mcp.json")))
	require.NoError(t, os.Symlink("main.go", filepath.Join(dir, ".mcp.json")))
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, ".envrc"), 0o600))
	after, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	changed := after.Since(before)
	require.Equal(t, []string{
		".git/config (git may run commands from it)",
		`.git/hooks/old, "sub/.git/hooks/x\x1b[2J" (git may run commands from it)`, ".envrc (a shell may load it)",
		".mcp.json, main.go (an agent outside follows it)",
		"gone/package.json (removed)",
	}, changed)
}

// TestHostToolsBehindLinks: what a link or an included file leads to is named, too.
func TestHostToolsBehindLinks(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	for _, at := range []string{"real/gh/x", "envs/rc", "cfg/tasks.json", "lib/x", "gh2/y", ".git/objects/a", "a/b/c"} {
		write(t, filepath.Join(dir, at), "a")
	}
	write(t, filepath.Join(dir, "sub/.git/config"), "[include]\n\tpath = ../../lib/x\n")
	write(t, filepath.Join(dir, "g/commondir"), "../c\n") // sub2/.git leads to g
	write(t, filepath.Join(dir, "c/config"), "[include]\n\tpath = ../lib/y\n")
	write(t, filepath.Join(dir, "lib/y"), "a")
	for at, to := range map[string]string{
		".git/hooks": "../way/gh", "way": "real", ".envrc": "envs/rc", ".vscode": dir + "/cfg",
		"sub/.git/hooks": "../../gh2",
		".claude":        "/nowhere", ".idea": "..", ".zed": ".zed", ".husky": "a",
	} {
		require.NoError(t, os.Symlink(to, filepath.Join(dir, at)))
	}
	before, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	for _, at := range []string{
		"real/gh/pre-commit", "envs/rc", "cfg/tasks.json", "lib/x", "gh2/post-index-change", "a/b/c",
		"c/hooks/post-checkout", "lib/y",
	} {
		write(t, filepath.Join(dir, at), "b")
	}
	write(t, filepath.Join(dir, "c/config"), "[include]\n\tpath = ../lib/y\n# b\n")
	after, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	changed := after.Since(before)
	require.Equal(t, []string{
		"c/config, gh2/post-index-change, lib/x, lib/y, a/b/c and 2 more (git may run commands from it)",
		"envs/rc (a shell may load it)", "cfg/tasks.json (an editor may run commands from it)",
	}, changed)
}

// TestRepositoriesAmongPackages: what packages have is no project's, but git acts on a repository
// there as on any other.
func TestRepositoriesAmongPackages(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	before, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	for _, path := range []string{
		"node_modules/a/package.json", "node_modules/q/.git/config", "target/.git", "a/.venv/lib/q/.GIT/hooks/x",
		"__pycache__/bare/HEAD", "__pycache__/bare/config", ".tox/Makefile",
	} {
		write(t, filepath.Join(dir, path), "a")
	}
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "venv/q"), 0o700))
	require.NoError(t, os.Symlink("/x", filepath.Join(dir, "venv/q/.git")))
	after, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	changed := after.Since(before)
	require.Equal(t, []string{
		"node_modules/q/.git/config (git may run commands from it)",
		"a/.venv/lib/q/.GIT/hooks/x (git may run commands from it)",
		"__pycache__/bare/HEAD (git takes its folder for a repository)",
		"target/.git, venv/q/.git (git takes its folder from it)",
	}, changed)
}

// TestHostToolsFlood: what git acts on comes first, whatever else is there. So does a folder that
// can be used and not listed, and a link where git writes.
func TestHostToolsFlood(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	before, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	for _, path := range []string{
		"!1/package.json", "!2/Makefile", ".git/commondir", ".git/rebase-merge/git-rebase-todo",
		".git/worktrees/x/config.worktree",
	} {
		write(t, filepath.Join(dir, path), "a")
	}
	require.NoError(t, os.MkdirAll(filepath.Join(dir, ".git/logs/refs/heads"), 0o700))
	require.NoError(t, os.Symlink("/x", filepath.Join(dir, ".git/logs/refs/heads/main")))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "sub/.git/hooks"), 0o700))
	require.NoError(t, os.Chmod(filepath.Join(dir, "sub/.git"), 0o311))
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "sub/.git"), 0o700) })
	var after Tools
	nobody.Do(t, dir, func() { after, err = HostTools(t.Context(), dir) })
	require.NoError(t, err)
	changed := after.Since(before)
	require.Equal(t, []string{
		".git/commondir (git may run commands from it)",
		".git/rebase-merge/git-rebase-todo (git may run commands from it)",
		".git/worktrees/x/config.worktree (git may run commands from it)",
		".git/logs/refs/heads/main (git writes where this link leads)",
		"sub/.git (its names cannot be listed, and git and others may still use what is in it)",
		`"!1/package.json", "!2/Makefile" (a build runs commands from it)`,
	}, changed)
}

// TestHostToolsFloodOfAKind: ten thousand files of one kind are one line, and hide no other one.
func TestHostToolsFloodOfAKind(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	write(t, filepath.Join(dir, "sub/.git/config"), "[core]\n\thooksPath = deep/hooks\n")
	before, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	for n := range 2_000 {
		for _, name := range []string{".gitattributes", ".envrc", "Makefile", "hooks/pre-commit"} {
			at := fmt.Sprintf(".%d/%s", n, name)
			if name == "hooks/pre-commit" {
				at = fmt.Sprintf("sub/deep/hooks/%d", n)
			}
			write(t, filepath.Join(dir, at), "a")
		}
	}
	for _, at := range []string{
		".lefthook.yml", "z/.git/hooks/pre-commit", "z/.mise.toml", "z/package.json", "z/.vscode/tasks.json",
		"z/" + strings.Repeat("l", 250) + "/.mcp.json",
	} {
		write(t, filepath.Join(dir, at), "a")
	}
	after, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	require.Equal(t, []string{
		"z/.git/hooks/pre-commit (git may run commands from it)",
		".0/.gitattributes, .1/.gitattributes, .10/.gitattributes, .100/.gitattributes, .1000/.gitattributes " +
			"and 1995 more (git may run commands from it)",
		".lefthook.yml (git may run commands from it)",
		"sub/deep/hooks/0, sub/deep/hooks/1, sub/deep/hooks/10, sub/deep/hooks/100, sub/deep/hooks/1000 " +
			"and 1995 more (git may run commands from it)",
		".0/.envrc, .1/.envrc, .10/.envrc, .100/.envrc, .1000/.envrc and 1995 more (a shell may load it)",
		"z/.mise.toml (a shell may load it)",
		"z/" + strings.Repeat("l", 198) + "... (an agent outside follows it)",
		"z/.vscode/tasks.json (an editor may run commands from it)",
		".0/Makefile, .1/Makefile, .10/Makefile, .100/Makefile, .1000/Makefile and 1996 more " +
			"(a build runs commands from it)",
	}, after.Since(before))
}

// TestHostToolsThatDeceive: files because of which git's commands show something else than there
// is are named if an agent made them.
func TestHostToolsThatDeceive(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	git := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%v: %s", args, out)
	}
	git("init", "-q")
	write(t, filepath.Join(dir, "mine"), "a")
	write(t, filepath.Join(dir, "theirs"), "a")
	git("add", ".")
	git("update-index", "--skip-worktree", "mine")
	write(t, filepath.Join(dir, ".git/info/exclude"), "/build\n")
	before, err := HostTools(t.Context(), dir)
	require.NoError(t, err)

	write(t, filepath.Join(dir, "other"), "a")
	git("add", "other")
	after, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	changed := after.Since(before)
	require.Empty(t, changed, "what a person hides stays a person's")

	git("update-index", "--assume-unchanged", "theirs")
	write(t, filepath.Join(dir, ".git/info/exclude"), "/build\n/evil\n")
	write(t, filepath.Join(dir, ".git/refs/replace/"+strings.Repeat("0", 40)), strings.Repeat("1", 40)+"\n")
	after, err = HostTools(t.Context(), dir)
	require.NoError(t, err)
	changed = after.Since(before)
	require.Equal(t, []string{
		".git/index, .git/info/exclude (git does not show some files, or what changes in them, because of it)",
		".git/refs/replace/" + strings.Repeat("0", 40) +
			" (git shows another history or other contents because of it)",
	}, changed)
}

// TestHostToolsOfUnlistedGit: git uses all that is in its folder, also where nobody can list it.
func TestHostToolsOfUnlistedGit(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	write(t, filepath.Join(dir, ".git/config"), "a")
	before, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	require.NoError(t, os.Chmod(filepath.Join(dir, ".git"), 0o311))
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, ".git"), 0o700) })
	var after Tools
	nobody.Do(t, dir, func() { after, err = HostTools(t.Context(), dir) })
	require.NoError(t, err)
	changed := after.Since(before)
	require.Equal(t, []string{
		".git (its names cannot be listed, and git and others may still use what is in it)", ".git/config (removed)",
	}, changed)
}

// TestHostToolsOfGit: what a submodule's git folder, the objects, and the repository's own settings
// have git act on is named.
func TestHostToolsOfGit(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	home, err := os.UserHomeDir()
	require.NoError(t, err)
	fromHome, err := filepath.Rel(home, dir)
	require.NoError(t, err)
	write(t, filepath.Join(dir, ".git/config"), "[core]\n\thooksPath = ./tools/hk\n"+
		"[core] hooksPath = tools/one\n[include]\n path = \"../share/gc\"\n\tpath = more\n"+
		"[includeIf \"gitdir:x\"] path = ~/"+fromHome+"/share/home\n"+
		"[filter \"q\"]\n\tclean = "+dir+"/bin/clean.sh -v\n[branch \"main\"]\n\tremote = origin\n")
	for _, at := range []string{".bare/HEAD", ".bare/objects/x", ".bare/refs/x", "half/HEAD", "half/refs/x"} {
		write(t, filepath.Join(dir, at), "a")
	}
	write(t, filepath.Join(dir, ".git/config.worktree"), "[diff \"z\"]\n\ttextconv = bin/text\n")
	before, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	var want []string
	for _, at := range []string{
		".bare/config", ".bare/config.worktree", ".bare/hooks/pre-commit",
		".git/modules/a/b/info/attributes", ".git/modules/a/b/rebase-merge/git-rebase-todo",
		".git/modules/a/b/worktrees/q/commondir", ".git/modules/sub/hooks/x", ".git/more",
		".git/objects/info/alternates", ".git/sequencer/todo", "bin/clean.sh", "bin/text", "deep", "share/fs",
		"share/gc", "share/home", "tools/hk/sub/pre-commit", "tools/one/pre-commit",
	} {
		write(t, filepath.Join(dir, at), "[core]\n\tfsmonitor = fs\n[include]\n\tpath = ../deep\n")
		want = append(want, at)
	}
	for _, at := range []string{
		"main", "half/config",
		"tools/other",
	} {
		write(t, filepath.Join(dir, at), "a")
	}
	write(t, filepath.Join(dir, ".git/objects/ab", strings.Repeat("a", 38)), "a")
	write(t, filepath.Join(dir, ".git/modules/a/b/HEAD"), "ref: refs/heads/x\n")
	write(t, filepath.Join(dir, ".bare/refs/y"), "ref: refs/heads/x\n")
	after, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	var changed []string
	for at, f := range after {
		if before[at] != f {
			changed = append(changed, at)
			require.Equal(t, "git may run commands from it", f.Who, at)
		}
	}
	require.ElementsMatch(t, want, changed)
	require.Contains(t, after.Since(before), ".bare/config, .bare/config.worktree, .bare/hooks/pre-commit "+
		"(git may run commands from it)")
}

// TestHostToolsBounded: however much an agent writes, the look ends, and what was not looked at is
// said at the end of each run, even if it was so before.
func TestHostToolsBounded(t *testing.T) {
	t.Parallel()
	const said = ". (there is more than could be looked at: look yourself, .git first)"
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	look := func(ctx context.Context) []string {
		t.Helper()
		found, err := HostTools(ctx, dir)
		require.NoError(t, err)
		return found.Since(found)
	}
	require.Empty(t, look(t.Context()))

	// The time is over.
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	write(t, filepath.Join(dir, "Makefile"), "a")
	require.Equal(t, []string{said}, look(ended))

	// Each of half a million words of the settings may be a path, for each of many files, and of
	// repositories in one another.
	var words strings.Builder
	for n := range 300_000 {
		fmt.Fprintf(&words, " %x", n)
	}
	at := filepath.Join(dir, "deep")
	for range 300 {
		for _, name := range []string{"HEAD", "refs", "objects", "config"} {
			write(t, filepath.Join(at, name), "a")
		}
		at = filepath.Join(at, "x")
	}
	require.Empty(t, look(t.Context()))
	for n := range 20_000 {
		write(t, filepath.Join(dir, fmt.Sprintf("many/%d/%d", n/1000, n)), "")
	}
	write(t, filepath.Join(dir, ".git/config.worktree"), "[x]\n\ty = "+words.String())
	require.Equal(t, []string{said}, look(t.Context()))
	write(t, filepath.Join(dir, ".git/config"), strings.Repeat("[include]\n\tpath = a\n\tpath = b\n", 1000))
	write(t, filepath.Join(dir, ".git/config.worktree"), "")
	require.Empty(t, look(t.Context()), "the same file is read once")
	var included strings.Builder
	for n := range 50 {
		fmt.Fprintf(&included, "[include]\n\tpath = f%d\n", n)
	}
	write(t, filepath.Join(dir, ".git/config"), included.String())
	require.Equal(t, []string{said}, look(t.Context()))
}

// TestNotLookedAt: if the time was over in one of the two looks, nothing is said to be made that
// may have been there, nor to be removed that may be there. What was seen twice is compared.
func TestNotLookedAt(t *testing.T) {
	t.Parallel()
	const more = ". (there is more than could be looked at: look yourself, .git first)"
	old, other := File{state: "1", Who: tool.Who("Makefile")}, File{state: "2", Who: tool.Who("Makefile")}
	led := File{state: "1", Who: tool.Who(".git/config"), how: tool.Who(".git/config")}
	before := Tools{"Makefile": old, "setup.py": old, "tox.ini": old, "gone/Makefile": old}
	after := Tools{"Makefile": old, "setup.py": other, "tox.ini": led, "new/Makefile": old}
	build := " (a build runs commands from it)"
	git := "tox.ini (git may run commands from it)"
	require.Equal(t, []string{git, "setup.py, new/Makefile" + build, "gone/Makefile (removed)"}, after.Since(before))
	after["."] = unfinished
	require.Equal(t, []string{more, "setup.py, new/Makefile" + build}, after.Since(before))
	before["."] = unfinished
	require.Equal(t, []string{
		more, "setup.py" + build, "new/Makefile (a build runs commands from it: it was not looked at before the " +
			"command, and may be older)",
	}, after.Since(before))
	delete(after, ".")
	require.Equal(t, []string{
		"setup.py" + build, "new/Makefile (a build runs commands from it: it was not looked at before the " +
			"command, and may be older)",
		"gone/Makefile (removed)",
	}, after.Since(before))
}

// TestSamplesComeLast: what `git init` puts next to the hooks hides no hook, which git runs.
func TestSamplesComeLast(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	before, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	script(t, dir, "git init -q; git init -q sub")
	write(t, filepath.Join(dir, ".git/hooks/update"), "a")
	write(t, filepath.Join(dir, "sub/.git/hooks/post-checkout"), "a")
	after, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	said := strings.Join(after.Since(before), "\n")
	require.Contains(t, said, ".git/hooks/update, sub/.git/hooks/post-checkout, .git/hooks/")
	require.Contains(t, said, ".sample")
}

// TestIncludesOfIncludes: git follows a file that an included one includes, and so on. Settings
// that are longer than what is read of them are not passed over in silence.
func TestIncludesOfIncludes(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	write(t, filepath.Join(dir, ".git/config"), "[include]\n\tpath=../cfg/0\n[difftool \"x\"] path = ../program\n")
	write(t, filepath.Join(dir, "program"), strings.Repeat("a", 2*maxHashed)) // no settings
	for i := range 8 {
		write(t, filepath.Join(dir, fmt.Sprint("cfg/", i)), fmt.Sprintf("[include]\n\tpath=%d\n", i+1))
	}
	write(t, filepath.Join(dir, "cfg/8"), "[core]\n\tfsmonitor = ./fsm\n")
	before, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	require.Empty(t, before.Since(before))
	write(t, filepath.Join(dir, "cfg/8"), "[core]\n\tfsmonitor = ./other\n")
	write(t, filepath.Join(dir, "other"), "")
	after, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	require.Equal(t, []string{"other, cfg/8 (git may run commands from it)"}, after.Since(before))

	write(t, filepath.Join(dir, "cfg/8"), strings.Repeat("#\n", maxHashed)+"[core]\n\tfsmonitor = ./last\n")
	long, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	require.Equal(t, []string{". (there is more than could be looked at: look yourself, .git first)"},
		long.Since(long))
}

// TestFilesThatGitReadsWhole: a file that takes nothing of the disk, and that git reads into
// memory, is named if it is new or grows, wherever it is, and nobody reads it here.
func TestFilesThatGitReadsWhole(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	large := []string{".gitignore", ".mailmap", "sub/.gitignore", "node_modules/x/.gitignore", ".git/MERGE_MSG"}
	for _, at := range append(large, "main.go") {
		write(t, filepath.Join(dir, at), "a")
	}
	before, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	for _, at := range append(large, "main.go") {
		require.NoError(t, os.Truncate(filepath.Join(dir, at), 3<<30))
	}
	after, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	// If they were read, the look would be over before its end, and say so.
	require.Equal(t, []string{
		".gitignore, .mailmap, .git/MERGE_MSG, sub/.gitignore, node_modules/x/.gitignore (" + tool.TooLarge + ")",
	}, after.Since(before))
	require.Empty(t, after.Since(after))
}

func write(t *testing.T, path, content string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
}

// TestSettingsOfOtherRepositories: what the settings of a bare repository, a submodule and a linked
// worktree name is named when it changes, and their branches are not.
func TestSettingsOfOtherRepositories(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	const settings = "[core]\n\thooksPath = hk\n\tfsmonitor = mon\n[branch \"main\"]\n\tmerge = refs/heads/main\n"
	for _, git := range []string{"b.git", ".git", ".git/modules/lib"} {
		for _, at := range []string{"objects/x", "refs/heads/main", "HEAD"} {
			write(t, filepath.Join(dir, git, at), "ref: refs/heads/main\n")
		}
	}
	write(t, filepath.Join(dir, "b.git/config"), settings+"[include]\n\tpath = more\n")
	write(t, filepath.Join(dir, "b.git/more"), "[filter \"x\"]\n\tclean = ../tools/clean\n")
	write(t, filepath.Join(dir, ".git/modules/lib/config"), settings+"[core]\n\tworktree = ../../../lib\n")
	write(t, filepath.Join(dir, ".git/worktrees/w/config.worktree"), "[core]\n\tfsmonitor = ../../../mine\n")
	before, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	want := []string{
		"b.git/hk/pre-receive", "b.git/mon", "b.git/more", "tools/clean", "lib/hk/pre-commit", "lib/mon", "mine",
	}
	for _, at := range append(want, "lib/other", "b.git/refs/heads/main", ".git/modules/lib/refs/heads/main") {
		content := "ref: refs/heads/other\n"
		if at == "b.git/more" {
			content = "[filter \"x\"]\n\tclean = ../tools/clean -v\n"
		}
		write(t, filepath.Join(dir, at), content)
	}
	after, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	var changed []string
	for at, f := range after {
		if before[at] != f {
			changed = append(changed, at)
		}
	}
	require.ElementsMatch(t, want, changed)
}

// TestTooLongPaths: what has no name for a program is not passed over in silence, ever.
func TestTooLongPaths(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	in, err := os.Open(dir)
	require.NoError(t, err)
	name := strings.Repeat("d", 250)
	for range 17 {
		require.NoError(t, unix.Mkdirat(int(in.Fd()), name, 0o700))
		next, err := beneath.Open(in, name, unix.O_RDONLY|unix.O_DIRECTORY)
		require.NoError(t, err)
		in.Close()
		in = next
	}
	in.Close()
	t.Cleanup(func() {
		for {
			out, err := exec.CommandContext(context.WithoutCancel(t.Context()), "rm", "-rf", dir).CombinedOutput()
			if err == nil {
				return
			}
			t.Log(string(out))
		}
	})
	found, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	require.Len(t, found.Since(found), 1)
	require.Contains(t, found.Since(found)[0], "a path in it is longer than a program can name")
}

// TestHolesInGitsFolder: a file of four terabytes that takes nothing of the disk takes no time.
func TestHolesInGitsFolder(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	before, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	want := []string{".git/index", ".git/logs/HEAD", ".git/packed-refs", ".git/shallow"}
	for _, at := range want {
		write(t, filepath.Join(dir, at), "DIRC")
		require.NoError(t, os.Truncate(filepath.Join(dir, at), 4<<40))
	}
	began := time.Now()
	after, err := HostTools(t.Context(), dir)
	require.NoError(t, err)
	require.Less(t, time.Since(began), 5*time.Second)
	said := strings.Join(after.Since(before), "\n")
	for _, at := range want {
		require.Contains(t, said, at)
	}
	require.Contains(t, after[".git/logs/HEAD"].state, "a hole")
}
