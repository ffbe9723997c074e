package since

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// script runs a shell's commands in the folder, with a git that has no settings of ours.
func script(t *testing.T, dir, commands string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-ec", commands)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a",
		"GIT_AUTHOR_EMAIL=a@b.test", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b.test")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s: %s", commands, out)
}

// hook is an agent's command that leaves a mark next to the folder.
const hook = `p() { mkdir -p "$(dirname "$1")"; printf '#!/bin/sh\ntouch "$MARK"\nfalse\n' > "$1"; chmod +x "$1"; }
`

// commit makes a repository with a commit.
const commit = "git init -q; git commit -q --allow-empty -m a; "

// attacks are how an agent has a person's program run its own, by a way that is not in the names.
// in is the folder of the agent. A person does person before, agent is what the agent does, and
// runs is what leaves the mark then.
var attacks = map[string]struct {
	in, person, agent, runs string
	named                   []string
}{
	"hooks through a new link": {
		".", commit + "git config core.hooksPath ops/hooks", "p data/hooks/post-checkout; ln -s data ops",
		"git checkout -qb x || :",
		[]string{"data/hooks/post-checkout", "ops"},
	},
	"hooks through a person's link": {
		".", commit + "git config core.hooksPath ops/hooks; mkdir -p tooling/hooks; ln -s tooling ops",
		"p tooling/hooks/post-checkout", "git checkout -qb x || :",
		[]string{"tooling/hooks/post-checkout"},
	},
	"hooks through a link to packages": {
		".", commit + "git config core.hooksPath ops/hooks; mkdir -p ops/hooks",
		"mkdir node_modules; mv ops node_modules/o; ln -s node_modules/o ops; p ops/hooks/post-checkout",
		"git checkout -qb x || :",
		[]string{"node_modules/o/hooks/post-checkout", "ops"},
	},
	"hooks above a link": {
		".", commit + "git config core.hooksPath a/b/../hooks; mkdir -p a/b a/hooks",
		"rmdir a/b; mkdir -p x/y; ln -s ../x/y a/b; p x/hooks/post-checkout", "git checkout -qb x || :",
		[]string{"a/b", "x/hooks/post-checkout"},
	},
	"an alias through a person's link": {
		".", "git init -q; git config alias.rel '!sh ops/rel.sh'; mkdir tooling; " +
			"touch tooling/rel.sh; ln -s tooling ops",
		"p tooling/rel.sh", "git rel || :",
		[]string{"tooling/rel.sh"},
	},
	"an include through a new link": {
		".", "git init -q; git config include.path ../cfg/team/gc; mkdir -p cfg/team; touch cfg/team/gc",
		`rm -r cfg; ln -s d cfg; p fs; mkdir -p d/team; git config -f d/team/gc core.fsmonitor ./fs`,
		"git status -s",
		[]string{"cfg", "d/team/gc", "fs"},
	},
	"a linked worktree": {
		"wt", "git init -q main; cd main; git commit -q --allow-empty -m a; git config core.hooksPath hk; " +
			"git config core.fsmonitor ./fsm; git worktree add -q ../wt 2> ../err",
		"p hk/post-checkout; p fsm", "git status -s; git checkout -qb y || :",
		[]string{"fsm", "hk/post-checkout"},
	},
	"a subfolder": {
		"r/src", "git init -q r; cd r; mkdir src; git config core.fsmonitor src/fsm; git config core.hooksPath src/hk",
		"p fsm; p hk/post-checkout", "cd ..; git status -s; git checkout -qb y || :",
		[]string{"fsm", "hk/post-checkout"},
	},
	"a submodule": {
		"super/lib", "git init -q lib; git -C lib commit -q --allow-empty -m a; git init -q super; cd super; " +
			"git -c protocol.file.allow=always submodule --quiet add ../lib lib; git -C lib config core.hooksPath hk",
		"p hk/post-checkout", "git checkout -qb y || :",
		[]string{"hk/post-checkout"},
	},
	"a submodule in the folder": {
		"super", "git init -q lib; git -C lib commit -q --allow-empty -m a; git init -q super; cd super; " +
			"git -c protocol.file.allow=always submodule --quiet add ../lib lib; git -C lib config core.hooksPath hk",
		"p lib/hk/post-checkout", "cd lib; git checkout -qb y || :",
		[]string{"lib/hk/post-checkout"},
	},
	"a linked worktree in the folder": {
		"r", "git init -q r; cd r; git commit -q --allow-empty -m a; git config core.fsmonitor ./fs9; " +
			"git worktree add -q wtin 2> ../err",
		"p wtin/fs9", "cd wtin; git status -s",
		[]string{"wtin/fs9"},
	},
	"a linked worktree below the folder": {
		"proj", "git init -q main; cd main; git commit -q --allow-empty -m a; git config core.fsmonitor ./fsm; " +
			"git worktree add -q ../proj/wt 2> ../err",
		"p wt/fsm", "cd wt; git status -s",
		[]string{"wt/fsm"},
	},
	"a file that the settings above include": {
		"r/src", "git init -q r; cd r; mkdir src; git config include.path ../more; " +
			"git config -f more core.fsmonitor src/fsm",
		"p fsm", "cd ..; git status -s",
		[]string{"fsm"},
	},
	"a Makefile of packages in view": {
		".", ":", "mkdir -p node_modules/evil; printf 'all:\n\ttouch $(MARK)\n' > node_modules/evil/Makefile; " +
			"ln -s node_modules/evil api", "cd api; make -s", []string{"node_modules/evil/Makefile"},
	},
	// Nobody has these programs here: who has them runs what is in the files.
	"Mercurial's folder is a link": {
		".", ":", "mkdir store; touch store/hgrc; ln -s store .hg", "", []string{"store/hgrc"},
	},
	"Mercurial's folder is a link to the folder": {
		".", ":", "touch hgrc; mkdir a; ln -s ../. a/.hg", "", []string{"hgrc"},
	},
	"jj's folder is a link": {
		".", ":", "mkdir -p store/jj/repo; touch store/jj/repo/config.toml; ln -s store/jj .jj", "",
		[]string{"store/jj/repo/config.toml"},
	},
	"CI's folder is a link": {
		".", "mkdir gh; ln -s gh .github", "mkdir gh/workflows; touch gh/workflows/x.yml", "",
		[]string{"gh/workflows/x.yml"},
	},
	"an editor's folder is a link through a link": {
		".", ":", "mkdir -p a/b; touch a/b/tasks.json; ln -s a c; ln -s c/b .vscode", "",
		[]string{".vscode", "a/b/tasks.json", "c"},
	},
}

// TestWaysToPrograms: whatever way a tool takes to what it runs, the file at its end is named.
func TestWaysToPrograms(t *testing.T) {
	t.Parallel()
	for name, a := range attacks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			top, err := filepath.EvalSymlinks(t.TempDir())
			require.NoError(t, err)
			dir, mark := filepath.Join(top, a.in), filepath.Join(top, "mark")
			script(t, top, a.person)
			require.NoError(t, os.MkdirAll(dir, 0o700))
			before, err := HostTools(t.Context(), dir)
			require.NoError(t, err)
			require.Empty(t, before.Since(before))
			script(t, dir, hook+a.agent)
			after, err := HostTools(t.Context(), dir)
			require.NoError(t, err)
			var named []string
			for at, f := range after {
				if f != before[at] {
					named = append(named, at)
				}
			}
			require.ElementsMatch(t, a.named, named)
			if a.runs != "" { // so the attack works
				script(t, dir, "export MARK="+mark+"; "+a.runs)
				require.FileExists(t, mark)
			}
		})
	}
}
