package workspace

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // git's names
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/workspace/since"
	"github.com/postern/postern/visible"
)

// What is said of what git's folder must not have.
const (
	staysState  = "git, or a prompt, goes on from there: make it yourself if you want it"
	stagedAgain = "git takes its word for what is in the files: `git reset` makes yours from the last commit"
	gitActs     = "git, or a shell's prompt, acts on it"
	gitOutside  = "git reads or writes files elsewhere because of it"
	gitLink     = "git writes where this link leads"
	gitHides    = "git does not show some files, or what changes in them, because of it"
)

// handEntry is an entry of an index that somebody wrote by hand.
type handEntry struct {
	path, mode, id string
}

// handIndex writes an index with the repository's entries and others, of which git adds none.
func handIndex(t *testing.T, dir, at string, others ...handEntry) {
	t.Helper()
	for line := range strings.SplitSeq(must(t, dir, "git ls-files -s"), "\n") {
		meta, path, ok := strings.Cut(line, "\t")
		if f := strings.Fields(meta); ok {
			others = append(others, handEntry{path, f[0], f[1]})
		}
	}
	slices.SortFunc(others, func(a, b handEntry) int { return strings.Compare(a.path, b.path) })
	index := binary.BigEndian.AppendUint32([]byte("DIRC\x00\x00\x00\x02"), uint32(len(others)))
	for _, e := range others {
		var mode uint32
		_, err := fmt.Sscanf(e.mode, "%o", &mode)
		require.NoError(t, err)
		id, err := hex.DecodeString(e.id)
		require.NoError(t, err)
		entry := binary.BigEndian.AppendUint32(make([]byte, 24), mode)
		entry = append(append(entry, make([]byte, 12)...), id...)
		entry = append(binary.BigEndian.AppendUint16(entry, uint16(len(e.path))), e.path...)
		index = append(index, append(entry, make([]byte, 8-len(entry)%8)...)...)
	}
	sum := sha1.Sum(index) //nolint:gosec // git's
	write(t, filepath.Join(dir, at), string(append(index, sum[:]...)))
}

// plantedTree has the index say that the folder sub is a tree with another content: git commits
// that.
func plantedTree(t *testing.T, dir string) {
	t.Helper()
	must(t, dir, "touch -d '1 hour ago' $(git ls-files); git update-index --index-version 2 --refresh")
	index := []byte(read(t, filepath.Join(dir, ".git/index")))
	end := 12
	for range strings.Split(must(t, dir, "git ls-files"), "\n") {
		entry := 62 + int(binary.BigEndian.Uint16(index[end+60:])&0xfff)
		end += entry + 8 - entry%8
	}
	tree := must(t, dir, "printf '100644 blob %s\\tf\\n' $(echo EVIL | git hash-object -w --stdin) | git mktree")
	id, err := hex.DecodeString(tree)
	require.NoError(t, err)
	part := append([]byte("\x00-1 1\nsub\x001 0\n"), id...)
	index = append(index[:end], "TREE"...)
	index = append(binary.BigEndian.AppendUint32(index, uint32(len(part))), part...)
	sum := sha1.Sum(index) //nolint:gosec // git's
	write(t, filepath.Join(dir, ".git/index"), string(append(index, sum[:]...)))
}

// plant is what an agent writes into the repository of upstream, which has sub/f too, and a
// worktree in ../w. works shows that git acts on it: it is a script that succeeds then.
type plant struct {
	agent func(t *testing.T, dir string)
	works string
	// named is what is said of it, by path.
	named map[string]string
}

const rerereID = "0123456789012345678901234567890123456789"

func planted(script string) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) { t.Helper(); must(t, dir, script) }
}

func indexed(at string, entries ...handEntry) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		id := must(t, dir, "echo evil | git hash-object -w --stdin")
		for i := range entries {
			if entries[i].id == "" {
				entries[i].id = id
			}
		}
		handIndex(t, dir, at, entries...)
	}
}

var plants = map[string]plant{
	"prompt of a rebase": {
		agent: planted(`mkdir -p .git/rebase-merge; cd .git/rebase-merge; echo refs/heads/main > head-name
			echo '$(touch ../pwn)' > msgnum; echo 1 > end`),
		named: map[string]string{
			".git/rebase-merge/head-name": gitActs, ".git/rebase-merge/msgnum": gitActs,
			".git/rebase-merge/end": gitActs,
		},
		works: `sh=$(git --exec-path)/git-sh-prompt; [ -e $sh ] || sh=/usr/lib/git-core/git-sh-prompt
			bash --norc -c '. '$sh'; __git_ps1 "u " "$ "; echo "${PS1@P}"' && test -e ../pwn`,
	},
	"prompt of am": {
		agent: planted(`mkdir -p .git/rebase-apply; cd .git/rebase-apply; touch applying
			echo '$(touch ../pwn)' > next; echo 1 > last`),
		named: map[string]string{
			".git/rebase-apply/applying": gitActs, ".git/rebase-apply/next": gitActs, ".git/rebase-apply/last": gitActs,
		},
		works: `sh=$(git --exec-path)/git-sh-prompt; [ -e $sh ] || sh=/usr/lib/git-core/git-sh-prompt
			bash --norc -c '. '$sh'; __git_ps1 "u " "$ "; echo "${PS1@P}"' && test -e ../pwn`,
	},
	"terminal": {
		agent: planted(`mkdir -p .git/rebase-merge; cd .git/rebase-merge; touch interactive done; echo 1 > onto
			printf '\033[2J' > head-name`),
		named: map[string]string{
			".git/rebase-merge/interactive": gitActs, ".git/rebase-merge/done": gitActs,
			".git/rebase-merge/onto": gitActs, ".git/rebase-merge/head-name": gitActs,
		},
		works: `git status | grep -q $(printf '\033')`,
	},
	"commands of a rebase": {
		agent: planted(`mkdir -p .git/rebase-merge; cd .git/rebase-merge; git rev-parse HEAD | tee onto > orig-head
			echo refs/heads/main > head-name; echo 'exec touch ../pwn' > git-rebase-todo; touch interactive`),
		works: "GIT_EDITOR=true git rebase --continue; test -e ../pwn",
		named: map[string]string{
			".git/rebase-merge/onto": gitActs, ".git/rebase-merge/orig-head": gitActs,
			".git/rebase-merge/head-name": gitActs, ".git/rebase-merge/interactive": gitActs,
			".git/rebase-merge/git-rebase-todo": "git may run commands from it",
		},
	},
	"sequencer": {
		agent: planted("mkdir .git/sequencer; echo pick HEAD > .git/sequencer/todo"),
		works: "git status | grep Cherry-pick", named: map[string]string{
			".git/sequencer/todo": "git may run commands from it",
		},
	},
	"terminal of a search": {
		agent: planted(`printf '\033[2J' > .git/BISECT_START; touch .git/BISECT_LOG`),
		named: map[string]string{".git/BISECT_START": gitActs, ".git/BISECT_LOG": gitActs},
		works: `git status | grep -q $(printf '\033')`,
	},
	"rerere": {
		agent: planted(`h=` + rerereID + `; mkdir -p .git/rr-cache/$h; echo x > .git/rr-cache/$h/preimage
			printf '%s\t../canary\0' $h > .git/MERGE_RR`),
		named: map[string]string{".git/MERGE_RR": gitOutside, ".git/rr-cache/" + rerereID + "/preimage": gitOutside},
		works: `echo secret > ../canary; echo 2 > app.c; git commit -qam x
			grep secret .git/rr-cache/` + rerereID + `/postimage`,
	},
	"index above": {
		agent: indexed(".git/index", handEntry{path: "../pwn", mode: "100644"}),
		works: "git checkout . && test -e ../pwn",
		named: map[string]string{".git/index": gitOutside},
	},
	"index in .git": {
		agent: indexed(".git/index", handEntry{path: ".git/hooks/x", mode: "100755"}),
		works: "git checkout . && test -e .git/hooks/x",
		named: map[string]string{".git/index": gitOutside},
	},
	"index in .GIT": {
		agent: indexed(".git/index", handEntry{path: "a/.GIT/hooks/x", mode: "100755"}),
		works: "git checkout . && test -e a/.GIT/hooks/x",
		named: map[string]string{".git/index": gitOutside},
	},
	"index absolute": {
		agent: indexed(".git/index", handEntry{path: "/tmp/postern-no", mode: "100644"}),
		works: "git ls-files | grep postern-no",
		named: map[string]string{".git/index": gitOutside},
	},
	"index of a worktree": {
		agent: indexed(".git/worktrees/w/index", handEntry{path: "../pwn", mode: "100644"}),
		works: "cd ../w; git checkout . && test -e ../pwn",
		named: map[string]string{".git/worktrees/w/index": gitOutside},
	},
	"tree of the index": {
		agent: plantedTree, works: "echo 2 > app.c; git commit -qam x; git show HEAD:sub/f | grep EVIL",
		named: map[string]string{".git/index": gitHides},
	},
	"repository among the objects": {
		agent: func(t *testing.T, dir string) {
			t.Helper()
			must(t, dir, `mkdir -p .git/objects/aa; cd .git/objects/aa; git init -qb main .
				git commit -q --allow-empty -m x; rm -rf .git/hooks .git/logs
				git config core.fsmonitor 'touch ../../../../pwn; false'`)
			head := must(t, dir, "git -C .git/objects/aa rev-parse HEAD")
			handIndex(t, dir, ".git/index", handEntry{".git/objects/aa", "160000", head})
		},
		works: "git status -s; test -e ../pwn",
		named: map[string]string{
			".git/index": gitOutside, ".git/objects/aa/.git/config": "git may run commands from it",
			".git/objects/aa/.git/HEAD": gitActs, ".git/objects/aa/.git/refs/heads/main": gitActs,
			".git/objects/aa/.git/info/exclude": gitActs, ".git/objects/aa/.git/description": gitActs,
			".git/objects/aa/.git/COMMIT_EDITMSG": gitActs, ".git/objects/aa/.git/index": gitActs,
		},
	},
	"link to other objects": {
		agent: planted("rm -r .git/objects/pack; ln -s /nowhere .git/objects/pack"), works: "test -L .git/objects/pack",
		named: map[string]string{".git/objects/pack": gitLink},
	},
	"link to an object": {
		agent: planted("mkdir -p .git/objects/01; ln -s /etc/passwd .git/objects/01/" + strings.Repeat("a", 38)),
		works: "true", named: map[string]string{".git/objects/01/" + strings.Repeat("a", 38): gitLink},
	},
	"branch for a shell": {
		agent: planted(`b='x;$(touch${IFS}pwn)'; git branch "$b"; printf 'ref: refs/heads/%s\n' "$b" > .git/HEAD`),
		works: "git branch --show-current | grep touch",
		named: map[string]string{
			".git/HEAD": gitActs, ".git/refs/heads/x;$(touch${IFS}pwn)": gitActs,
			".git/logs/refs/heads/x;$(touch${IFS}pwn)": gitActs,
		},
	},
	"another file": {
		agent: planted("mkdir .git/new; echo x > .git/new/FILE"), works: "true",
		named: map[string]string{".git/new/FILE": gitActs},
	},
}

// TestGitsFolder: what an agent wrote into git's folder, and git acts on, is named: each plant
// works.
func TestGitsFolder(t *testing.T) {
	t.Parallel()
	for what, p := range plants {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			top, err := filepath.EvalSymlinks(t.TempDir())
			require.NoError(t, err)
			dir := filepath.Join(top, "d")
			must(t, top, "mkdir d; cd d; "+upstream+"; mkdir sub; echo x > sub/f; git add .; git commit -qm sub; "+
				"git worktree add -q ../w")
			before, err := since.HostTools(t.Context(), dir)
			require.NoError(t, err)
			p.agent(t, dir)
			require.Equal(t, p.named, others(t, dir, before))
			must(t, dir, p.works)
		})
	}
}

// others returns what is said of the files that are other ones than before, by path. Objects are
// not compared by their random names.
func others(t *testing.T, dir string, before since.Tools) map[string]string {
	t.Helper()
	after, err := since.HostTools(t.Context(), dir)
	require.NoError(t, err)
	found := map[string]string{}
	for at, f := range after {
		if before[at] != f && !strings.Contains(at, "/.git/objects/") {
			found[at] = f.Who
		}
	}
	return found
}

// TestGitsFolderKinds: a FIFO in git's folder is named, and a bare repository's is as another one.
func TestGitsFolderKinds(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	must(t, dir, upstream+"; git clone -q --bare . b.git; "+
		"git -C b.git remote rm origin; git -C b.git worktree add -q ../w; cp b.git/HEAD b.git/no")
	before, err := since.HostTools(t.Context(), dir)
	require.NoError(t, err)
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, ".git/objects/info/packs"), 0o600))
	must(t, dir, `mkdir -p b.git/rebase-merge b.git/modules/node_modules/rebase-apply .git/modules/target/rebase-apply
		echo 1 > b.git/rebase-merge/msgnum; echo 1 > .git/modules/target/rebase-apply/next; echo x > b.git/refs/heads/x
		cp b.git/HEAD b.git/refs/heads/y; cp b.git/HEAD b.git/FETCH_HEAD; cp .git/index b.git/index; echo 2 > b.git/no
		git -C b.git update-ref refs/heads/z main; cd w; git commit -qm x --allow-empty`)
	id := must(t, dir, "echo evil | git hash-object -w --stdin")
	handIndex(t, dir, "b.git/worktrees/w/index", handEntry{"../pwn", "100644", id})
	require.Equal(t, map[string]string{
		".git/objects/info/packs": gitActs, "b.git/rebase-merge/msgnum": gitActs,
		".git/modules/target/rebase-apply/next": gitActs, "b.git/refs/heads/x": gitActs, "b.git/FETCH_HEAD": gitActs,
		"b.git/worktrees/w/index": gitOutside,
	}, others(t, dir, before))
}

// TestGitsWork: what git's usual commands leave is not named.
func TestGitsWork(t *testing.T) {
	t.Parallel()
	const conflict = `git checkout -qb t; echo t > app.c; git commit -qam t; git checkout -q main; echo m > app.c
		git commit -qam m; `
	for what, script := range map[string]string{
		"commit": `echo 2 > app.c; mkdir -p d/e; echo x > d/e/f; git add .
			git commit -qm 'two ⚡️ ü'; git status`,
		"amend": `git commit -q --amend -m other; git reset -q --hard HEAD
			git reflog expire --expire=now --all`,
		"branches": `git checkout -qb feature/a-1_b.c; git branch dependabot/npm/@x/y-1.2
			git branch 'fix#1'; git branch ü`,
		"switching": "git branch x; git switch -q x; git switch -q -; git branch -m x y; git branch -D y",
		"tags":      "git tag v1; git tag -am msg v2; git push -q ../up --tags HEAD:refs/heads/new",
		"merge":     conflict + "git merge -q -X ours -m merged t",
		"squash":    conflict + "git merge -q --squash -X theirs t; git commit -qm squashed",
		"conflict":  conflict + "! git merge -q t; git status; git diff",
		"solved":    conflict + "! git merge -q t; echo s > app.c; git add app.c; git commit -qm solved",
		"aborted":   conflict + "! git merge -q t; git merge --abort",
		"rebase":    conflict + "git checkout -q t; git rebase -q -X ours main",
		"solved again": conflict + `git checkout -q t; ! git rebase -q main; echo s > app.c
			git add .; GIT_EDITOR=true git rebase --continue`,
		"cherry-pick": conflict + `! git cherry-pick t; git checkout t app.c; git add .
			git commit -qm picked; git revert --no-edit HEAD`,
		"stash": `echo 3 > app.c; git stash -q; git stash apply -q; git stash drop -q
			git stash -q; git stash list`,
		"fetch": `git fetch -q ../up; git fetch -q ../up 'refs/heads/*:refs/remotes/origin/*'
			git log FETCH_HEAD`,
		"pull": "git -C ../up commit -q --allow-empty -m up; git pull -q --no-rebase ../up main",
		"gc":   "git gc -q; git commit -q --allow-empty -m x; git gc -q --prune=now; git pack-refs --all",
		"maintenance": `git -c gc.writeCommitGraph=true gc -q; git commit-graph write --reachable --split
			git multi-pack-index write --bitmap; git repack -adbq; git update-server-info; git fsck; git prune`,
		"intent to add": "echo x > new; mkdir n; echo x > n/new; git add -N new n; git diff; git commit -qam x",
		"versions": `git update-index --index-version 4; echo 2 > app.c
			git commit -qam x; git rm -q --cached app.c`,
		"threads": "git -c index.threads=4 update-index --force-write-index; git -c index.threads=4 add .",
		"clean":   "git clean -qfdx; git checkout -q HEAD~0; git checkout -q main; git restore -q .",
		"apply": `git format-patch -q -1 --stdout > ../p; git rm -q app.c
			git commit -qm x; git revert --no-edit HEAD`,
		"am":     conflict + "git format-patch -q -1 --stdout t > ../p; git checkout -q t~1; git am -q ../p",
		"notes":  "git notes add -m note; git log",
		"search": conflict + "git bisect start; git bisect bad; git bisect good trusted; git bisect reset",
		"bundle": `git bundle create ../b --all; git ls-remote ../b
			git archive HEAD > ../a.tar; git describe --tags`,
		"worktrees": `git -C ../w commit -q --allow-empty -m x; git -C ../w checkout -qb q; echo 2 > ../w/app.c
			git -C ../w commit -qam y; git worktree lock --reason 'busy now' ../w; git worktree list`,
		"a large log": "for i in $(seq 50); do git commit -q --allow-empty -m \"a $i\tb\"; done; git log -g",
	} {
		for _, format := range []string{"sha1", "sha256"} {
			t.Run(what+" "+format, func(t *testing.T) {
				t.Parallel()
				top, err := filepath.EvalSymlinks(t.TempDir())
				require.NoError(t, err)
				dir := filepath.Join(top, "d")
				must(t, top, "mkdir d; cd d; export GIT_DEFAULT_HASH="+format+"; "+upstream+
					"; git clone -q --bare . ../up0; git clone -q ../up0 ../up; git worktree add -q ../w")
				before, err := since.HostTools(t.Context(), dir)
				require.NoError(t, err)
				must(t, dir, script)
				after, err := since.HostTools(t.Context(), dir)
				require.NoError(t, err)
				if what == "conflict" { // the next commit goes on from there
					require.Equal(t, []string{".git/MERGE_HEAD (git, or a shell's prompt, acts on it)"},
						after.Since(before))
					return
				}
				require.Empty(t, after.Since(before))
			})
		}
	}
}

// TestOverlayOfGitsFolder: the diff marks what an agent wrote into git's folder and git acts on,
// and none of it is applied.
func TestOverlayOfGitsFolder(t *testing.T) {
	t.Parallel()
	for what, p := range plants {
		if strings.Contains(what, "link") || strings.Contains(what, "worktree") {
			continue // the first are git's objects
		}
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			l := worked(t, "mkdir sub; echo x > sub/f; git add .; git commit -qm sub", "true")
			agent := filepath.Join(t.TempDir(), "agent")
			must(t, l.host, "cp -a . "+agent)
			p.agent(t, agent)
			write(t, filepath.Join(agent, "new"), "x")
			l.become(t, agent)
			var out bytes.Buffer
			require.NoError(t, l.Diff(t.Context(), &out, Selected(nil)))
			refused := l.apply(t)
			for at, who := range p.named {
				require.Contains(t, out.String(), visible.Quote("b/"+at)+"\n")
				_, said, _ := strings.Cut(out.String(), visible.Quote("b/"+at)+"\n")
				said, _, _ = strings.Cut(said, "diff --git")
				said = "\n" + said
				require.Contains(t, said, "\n! "+who+"\n", at)
				require.Contains(t, said, "\n! not applied: ", at)
				require.Contains(t, refused, at)
			}
			require.FileExists(t, filepath.Join(l.host, "new"))
			must(t, l.host, "git reset -q; git fsck --strict; git checkout -q .")
			require.NotContains(t, must(t, l.host, "git status --porcelain"), " M")
			require.NoFileExists(t, filepath.Join(filepath.Dir(l.host), "pwn"))
		})
	}
}

// TestOverlayOfBare: a bare repository's files are as those of another one.
func TestOverlayOfBare(t *testing.T) {
	t.Parallel()
	l := worked(t, "git clone -q --bare . b.git", `mkdir b.git/rebase-merge; echo 1 > b.git/rebase-merge/msgnum
		echo x > b.git/MERGE_RR; cp .git/index b.git/index; git -C b.git update-ref refs/heads/x main
		mkdir src; echo x > src/index`)
	require.Equal(t, map[string]string{
		"b.git/rebase-merge/msgnum": staysState, "b.git/MERGE_RR": staysState, "b.git/index": stagedAgain,
	}, l.apply(t))
	require.FileExists(t, filepath.Join(l.host, "b.git/refs/heads/x"))
	require.FileExists(t, filepath.Join(l.host, "src/index"))
}
