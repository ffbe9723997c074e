// Package tool knows by their names the files that programs of the host run or take commands from.
package tool

import (
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
)

// tools are the files that programs of the host run, or take commands from, without being asked
// for that: what starts them is opening the folder, a commit, a build or a push. A pattern without
// a slash is a name in any folder. Patterns are those of path.Match, and end in a slash for a
// folder with all that is in it. The order is that of the danger: on the first [ByThemselves] git
// and shells act without being asked.
var tools = []struct {
	patterns []string
	who      string
}{
	{[]string{
		".git/hooks/", ".git/config", ".git/config.worktree", ".git/info/attributes", ".githooks/", ".husky/",
		".git/commondir", ".git/gitdir", ".git/worktrees/*/config.worktree", ".git/worktrees/*/commondir",
		".git/worktrees/*/gitdir", ".git/rebase-merge/git-rebase-todo",
		".git/worktrees/*/rebase-merge/git-rebase-todo", ".git/objects/info/alternates", ".git/sequencer/",
		".git/remotes/", ".git/branches/", ".git/rebase-merge/strategy*",
		".git/worktrees/*/rebase-merge/strategy*", ".git/worktrees/*/sequencer/", ".gitattributes",
		".gitmodules", ".lfsconfig",
		".pre-commit-config.yaml", ".pre-commit-config.yml", ".overcommit.yml", "lefthook.*",
		".lefthook.*", "lefthook-local.*", ".lefthook-local.*", ".lefthook/", ".lefthook-local/",
		".config/lefthook.*", ".config/lefthook-local.*", "prek.toml",
	}, "git may run commands from it"},
	{[]string{
		".git/MERGE_RR", ".git/worktrees/*/MERGE_RR", ".git/rr-cache/",
	}, outside},
	{[]string{
		".git/rebase-merge/", ".git/rebase-apply/", ".git/BISECT_*", ".git/worktrees/*/rebase-merge/",
		".git/worktrees/*/rebase-apply/", ".git/worktrees/*/BISECT_*", ".git/NOTES_*",
	}, acted},
	{[]string{".git"}, "git takes its folder from it"},
	{[]string{
		".sl/config", "_darcs/prefs/", ".pijul/config",
		".hg/hgrc", ".hg/hgrc-not-shared", ".hg/sharedpath", ".jj/repo", ".jj/repo/config.toml",
	}, "version control may run commands from it"},
	{[]string{
		".envrc", ".envrc.local", ".env", ".env.local", ".direnv/", ".autoenv", ".autoenv.zsh", ".mise.toml",
		"mise.toml", "mise.*.toml", ".mise.*.toml", "mise/config.toml", ".mise/", ".config/mise.toml",
		".config/mise/", ".tool-versions", ".rtx.toml", "flake.nix", "shell.nix", "default.nix", "devenv.nix",
		".devenv.flake.nix", "devenv.yaml", "devbox.json", ".rvmrc", ".sdkmanrc",
	}, "a shell may load it"},
	{[]string{
		".mcp.json", ".claude/", ".claude.json", ".cursor/", ".codex/", ".gemini/", "CLAUDE.md",
		"CLAUDE.local.md", "AGENTS.md", "AGENT.md", "GEMINI.md", "QWEN.md", ".cursorrules", ".aider.conf.yml",
		".agents/", ".amazonq/", ".augment/", ".clinerules", ".clinerules/", ".continue/", ".crush.json",
		"crush.json", ".factory/", ".goosehints", ".github/copilot-instructions.md", ".github/instructions/",
		".junie/", ".kiro/", ".opencode/", "opencode.json", "opencode.jsonc", ".qwen/", ".roo/", ".roorules",
		".trae/", ".windsurf/", ".windsurfrules",
	}, "an agent outside follows it"},
	{
		[]string{
			".vscode/", ".idea/", ".devcontainer/", ".devcontainer.json", ".vim/", ".vimrc", ".nvimrc",
			".exrc", ".nvim.lua", ".lvimrc", ".lazy.lua", ".ycm_extra_conf.py", ".vimspector.json",
			".dir-locals.el", ".dir-locals-2.el", "*.sublime-project", "*.code-workspace", ".zed/", ".helix/",
			".fleet/", ".nova/", ".gdbinit", ".lldbinit",
		},
		"an editor may run commands from it",
	},
	{[]string{
		".irbrc", ".pryrc", ".iex.exs", ".Rprofile", ".ocamlinit", ".octaverc", ".pdbrc", ".ghci", ".psqlrc",
		".sqliterc",
	}, "an interpreter may run it when it starts there"},
	{[]string{
		".github/workflows/", ".github/actions/", ".gitlab-ci.yml", ".gitlab/ci/", "Jenkinsfile", ".circleci/",
		".travis.yml", "azure-pipelines.yml", ".azure-pipelines/", "bitbucket-pipelines.yml", ".buildkite/",
		".drone.yml", ".woodpecker.yml", ".woodpecker/", ".forgejo/workflows/", ".gitea/workflows/",
		".cirrus.yml", "appveyor.yml", ".appveyor.yml", "buildspec.yml", "cloudbuild.yaml", ".gitpod.yml",
		".gitpod.Dockerfile", ".teamcity/", ".semaphore/", "dagger.json",
	}, "CI runs it"},
	{
		[]string{
			"Makefile", "makefile", "GNUmakefile", "*.mk", "Justfile", ".justfile", "Taskfile.yml",
			"Taskfile.yaml", "Taskfile.dist.yml", "Rakefile", "build.rs", "build.gradle", "build.gradle.kts",
			"settings.gradle", "settings.gradle.kts", "gradle.properties", "gradle/wrapper/", "pom.xml",
			"gradlew", "mvnw", ".mvn/", "build.sbt", "project/plugins.sbt", "project/build.properties",
			"CMakeLists.txt", "CMakePresets.json", "configure", "setup.py", "setup.cfg", "conftest.py",
			"pytest.ini", "noxfile.py", "tox.ini", "fabfile.py", "tasks.py", "dodo.py", "Snakefile",
			"pyproject.toml", "package.json", ".npmrc", ".yarnrc", ".yarnrc.yml", ".yarn/", ".pnp.cjs",
			".pnpmfile.cjs", "eslint.config.*", ".eslintrc.*", "*.config.js", "*.config.cjs", "*.config.mjs",
			"*.config.ts", "*.config.mts", ".babelrc.js", ".mocharc.*", "gulpfile.*",
			"Gruntfile.*", "nx.json", "turbo.json", "lerna.json", "composer.json", ".bazelrc", "tools/bazel",
			"WORKSPACE", "MODULE.bazel", "BUILD", "BUILD.bazel", "meson.build", "mix.exs", "rebar.config",
			"SConstruct", "Cargo.toml", ".cargo/", "rust-toolchain", "rust-toolchain.toml", "go.mod",
			"go.work", "deno.json", "deno.jsonc", "bunfig.toml", "Gemfile", "*.gemspec", ".bundle/", ".rspec",
			".rubocop.yml", "Directory.Build.props", "Directory.Build.targets", "nuget.config",
			"Package.swift", "dune-project", "Dockerfile", "Containerfile", "docker-compose.yml",
			"docker-compose.yaml", "docker-compose.override.yml", "compose.yml", "compose.yaml",
			"compose.override.yaml", "Tiltfile", "Vagrantfile", "Earthfile", "Procfile", "skaffold.yaml",
			"Pulumi.yaml", "*.tf", "ansible.cfg", "Brewfile", ".lintstagedrc", ".lintstagedrc.*", "pylintrc",
			".pylintrc", ".latexmkrc", "latexmkrc", ".formatter.exs", ".credo.exs", ".prettierrc", ".prettierrc.*",
			".babelrc", ".stylelintrc", ".stylelintrc.*", "mypy.ini", ".flake8", ".gitlint", "build.xml",
			"*.csproj", "*.fsproj", "*.vbproj",
		},
		"a build runs commands from it",
	},
	{[]string{"*.pth", "sitecustomize.py", "usercustomize.py"}, "Python runs it at every start"},
	{nil, shadows},
	{nil, Waits},
	{nil, TooLarge},
}

// Waits says what a FIFO or a device does: git opens a file such as .gitignore in any folder, and
// others open each file. To connect to a socket is something else.
const Waits = "a program that opens it, as git or a search does, may wait for ever"

// ByThemselves is how many of [tools] git and shells act on.
const ByThemselves = 6

// Who says who may act on the file at the path, or "". Case does not count: on some file systems
// it does not count for the program either.
func Who(at string) string {
	names := strings.Split(strings.ToLower(at), "/")
	if isHead(names) {
		return "git takes its folder for a repository"
	}
	if p := known(names); p != nil {
		return tools[p.rank].who
	}
	if shadowing(names) {
		return shadows
	}
	return ""
}

// Kind returns the pattern by which [Who] knows the path, or "". An agent can make any number of
// files of one kind.
func Kind(at string) string {
	names := strings.Split(strings.ToLower(at), "/")
	if p := known(names); p != nil && !isHead(names) {
		return p.text
	}
	return ""
}

// isHead reports whether git takes the folder of the file for a repository, by whose settings git
// runs commands. Such a folder needs no name of its own.
func isHead(names []string) bool {
	return names[len(names)-1] == "head" && !slices.Contains(names[:len(names)-1], ".git")
}

// known returns the most dangerous pattern that the path matches, or nil.
func known(names []string) *pattern {
	if p := first(names); p != nil {
		return p
	}
	// A submodule's git folder is as the repository's own. Its name may have slashes.
	i := slices.Index(names, ".git")
	if i < 0 || i+1 >= len(names) || names[i+1] != "modules" {
		return nil
	}
	for j := i + 2; j+1 < len(names); j++ {
		names[j] = ".git" // the end of that name, in its place: an agent's path may be long
		if p := worst(names[j:]); p != nil {
			return p
		}
	}
	return nil
}

// packages hold what package managers put there: thousands of such files, which are no project's
// own. Only what makes a folder a repository of git counts there.
var packages = []string{"node_modules", ".venv", "venv", "__pycache__", "target", ".tox"}

// Among reports whether the folder of that name is among packages, if the folder that it is in is,
// or not.
func Among(name string, in bool) bool {
	return !strings.EqualFold(name, ".git") && (in || slices.Contains(packages, name))
}

// Within reports whether what is at the path is among packages.
func Within(at string) (among bool) {
	for name := range strings.SplitSeq(at, "/") {
		among = Among(name, among)
	}
	return among
}

// Begins returns the end of the path, a folder's, that is the beginning of a known path, as ".hg"
// is of ".hg/hgrc", and who acts on what is in there. Otherwise the end is "".
func Begins(at string) (end, who string) {
	names := strings.Split(at, "/")
	for i := range names {
		lower := strings.Split(strings.ToLower(strings.Join(names[i:], "/")), "/")
		rank := len(tools)
		for _, p := range patterns()[lower[0]] {
			if len(p.names) > len(lower) && p.rank < rank && (&pattern{names: p.names[:len(lower)]}).matches(lower) {
				rank = p.rank
			}
		}
		if rank < len(tools) {
			return strings.Join(names[i:], "/"), tools[rank].who
		}
	}
	return "", ""
}

// Commands reports whether git takes commands from what a repository has under the name.
func Commands(name string) bool { return Who(".git/"+name) != "" || Who(".git/"+name+"/x") != "" }

// AsGit returns the path as git has it of what is under the name in a folder of such a path, which
// may be a bare one. Its HEAD is named by another path.
func AsGit(in, name string, bare bool) string {
	if bare && name != "HEAD" && (Commands(name) || formOf(name) != nil || slices.Contains(gits, name)) {
		in = ".git"
	}
	return path.Join(in, name)
}

// gits are the folders in git's.
var gits = []string{"objects", "refs", "logs", "info", "worktrees", "modules", "lfs"}

// Acts says who may act on the file of the type at the path, or "". It may be among packages, or be
// named by the settings of git.
func Acts(at string, kind fs.FileMode, among, named bool) string {
	who, in, name := Who(at), inGit(at), strings.ToLower(path.Base(at))
	switch {
	case in != "" && Rank(who) > Rank(acted): // by a name that a reference can have, too
		who = ""
	case in == "" && among && name != ".git" && name != "head":
		who = ""
	}
	switch {
	case who != "":
	case named:
		who = tools[0].who
	case in != "":
		who = unknown(in, kind)
	case kind&(fs.ModeNamedPipe|fs.ModeDevice) != 0:
		who = Waits
	}
	return who
}

// first returns the pattern of the file that is the most dangerous one, or nil.
func first(names []string) (found *pattern) {
	for i := range names {
		if p := worst(names[i:]); p != nil && (found == nil || p.rank < found.rank) {
			found = p
		}
	}
	return found
}

// worst returns the most dangerous pattern that begins with the first of the names, or nil.
func worst(names []string) (found *pattern) {
	for _, first := range []string{names[0], "*", "*" + path.Ext(names[0])} {
		for _, p := range patterns()[first] {
			if (found == nil || p.rank < found.rank) && p.matches(names) {
				found = p
			}
		}
	}
	return found
}

// pattern is a pattern of [tools], in lower case. text is all of it.
type pattern struct {
	text   string
	names  []string
	folder bool
	rank   int
}

// patterns are the patterns by their first names, or "*" if that has a wildcard, with its extension
// if that has none: a folder of a hundred thousand files is compared before a command starts.
var patterns = sync.OnceValue(func() map[string][]*pattern {
	all := map[string][]*pattern{}
	for rank, t := range tools {
		for _, text := range t.patterns {
			text = strings.ToLower(text)
			at, folder := strings.CutSuffix(text, "/")
			p := &pattern{text, strings.Split(at, "/"), folder, rank}
			first := p.names[0]
			if strings.Contains(first, "*") {
				first = "*" + path.Ext(first)
				first = strings.TrimSuffix(first, ".*")
			}
			all[first] = append(all[first], p)
		}
	}
	return all
})

// matches reports whether the path, from this folder on, is or leads through what the pattern
// names.
func (p *pattern) matches(names []string) bool {
	if len(names) < len(p.names) || !p.folder && len(names) > len(p.names) {
		return false
	}
	for i, name := range p.names {
		if ok, err := path.Match(name, names[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

// Rank returns the place of who, as [Who] says it, in the order of the danger. Whatever else is
// said is as dangerous as can be.
func Rank(who string) int {
	for rank, t := range tools {
		if t.who == who {
			return rank
		}
	}
	return 0
}
