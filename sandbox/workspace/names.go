package workspace

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// hostTools are the files that programs of the host run, or take commands from, without being asked
// for that: what starts them is opening the folder, a commit, a build or a push. A pattern without
// a slash is a name in any folder. Patterns are those of path.Match, and end in a slash for a
// folder with all that is in it. The order is that of the danger: on the first [byThemselves] git
// and shells act without being asked.
var hostTools = []struct {
	patterns []string
	who      string
}{
	{[]string{
		".git/hooks/", ".git/config", ".git/config.worktree", ".git/info/attributes", ".githooks/", ".husky/",
		".git/commondir", ".git/gitdir", ".git/worktrees/*/config.worktree", ".git/worktrees/*/commondir",
		".git/worktrees/*/gitdir", ".git/rebase-merge/git-rebase-todo", ".git/worktrees/*/rebase-merge/git-rebase-todo",
		".git/objects/info/alternates", ".git/modules/*/commondir", ".gitattributes", ".gitmodules",
		".git/modules/*/hooks/", ".git/modules/*/config", ".git/modules/*/*/hooks/", ".git/modules/*/*/config",
		".git/modules/*/*/*/hooks/", ".git/modules/*/*/*/config",
		".pre-commit-config.yaml", "lefthook.yml", ".lefthook.yml",
	}, "git may run commands from it"},
	{[]string{".git"}, "git takes its folder from it"},
	{[]string{
		".envrc", ".env", ".mise.toml", "mise.toml", ".tool-versions", "flake.nix", "shell.nix", "default.nix",
	}, "a shell may load it"},
	{[]string{
		".mcp.json", ".claude/", ".claude.json", ".cursor/", ".codex/", ".gemini/", "CLAUDE.md", "AGENTS.md",
		"GEMINI.md", ".cursorrules", ".aider.conf.yml",
		"opencode.json",
	}, "an agent outside follows it"},
	{
		[]string{
			".vscode/", ".idea/", ".devcontainer/", ".devcontainer.json", ".vim/", ".nvimrc", ".exrc",
			".dir-locals.el", ".sublime-project", "*.code-workspace", ".zed/", ".nvim.lua", ".lvimrc",
		},
		"an editor may run commands from it",
	},
	{[]string{
		".github/workflows/", ".github/actions/", ".gitlab-ci.yml", ".gitlab/ci/", "Jenkinsfile", ".circleci/",
		".travis.yml", "azure-pipelines.yml",
		"bitbucket-pipelines.yml", ".buildkite/", ".drone.yml",
	}, "CI runs it"},
	{
		[]string{
			"Makefile", "makefile", "GNUmakefile", "*.mk", "Justfile", "justfile", "Taskfile.yml", "Rakefile",
			"build.rs", "build.gradle", "build.gradle.kts",
			"settings.gradle", "pom.xml", "gradlew", "mvnw", ".mvn/", "CMakeLists.txt", "configure", "setup.py",
			"conftest.py", "noxfile.py", "tox.ini",
			"pyproject.toml", "package.json", ".npmrc", ".yarnrc", ".yarnrc.yml", ".yarn/", ".pnp.cjs", ".pnpmfile.cjs",
			"eslint.config.*", ".eslintrc.*", "composer.json", ".bazelrc", "meson.build", "mix.exs", "SConstruct",
			"Cargo.toml", ".cargo/",
			"deno.json", "bunfig.toml", "Gemfile",
			"Dockerfile", "docker-compose.yml", "compose.yaml", "Tiltfile", "Vagrantfile",
		},
		"a build runs commands from it",
	},
	{[]string{"*.pth", "sitecustomize.py", "usercustomize.py"}, "Python runs it at every start"},
}

// byThemselves is how many of [hostTools] git and shells act on.
const byThemselves = 3

// hostTool says who may act on the file at the path, or "". Case does not count: on some file
// systems it does not count for the program either.
func hostTool(at string) string {
	names := strings.Split(strings.ToLower(at), "/")
	// A folder with this file needs no name of its own, and has settings by which git runs
	// commands.
	if names[len(names)-1] == "head" && !slices.Contains(names[:len(names)-1], ".git") {
		return "git takes its folder for a repository"
	}
	worst := len(hostTools)
	for i, name := range names {
		for _, first := range []string{name, "*"} {
			for _, p := range toolPatterns()[first] {
				if p.rank < worst && p.matches(names[i:]) {
					worst = p.rank
				}
			}
		}
	}
	if worst == len(hostTools) {
		return ""
	}
	return hostTools[worst].who
}

// toolPattern is a pattern of [hostTools], in lower case.
type toolPattern struct {
	names  []string
	folder bool
	rank   int
}

// toolPatterns are the patterns by their first names, "*" if that has a wildcard: a folder of a
// hundred thousand files is compared before a command starts.
var toolPatterns = sync.OnceValue(func() map[string][]toolPattern {
	all := map[string][]toolPattern{}
	for rank, t := range hostTools {
		for _, pattern := range t.patterns {
			pattern, folder := strings.CutSuffix(strings.ToLower(pattern), "/")
			p := toolPattern{strings.Split(pattern, "/"), folder, rank}
			first := p.names[0]
			if strings.Contains(first, "*") {
				first = "*"
			}
			all[first] = append(all[first], p)
		}
	}
	return all
})

// matches reports whether the path, from this folder on, is or leads through what the pattern names.
func (p *toolPattern) matches(names []string) bool {
	if len(names) < len(p.names) || !p.folder && len(names) > len(p.names) {
		return false
	}
	for i, pattern := range p.names {
		if ok, err := path.Match(pattern, names[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

// matches reports whether the path, or a folder that it is in, matches the pattern at any depth.
func matches(pattern, at string) bool {
	folder := strings.HasSuffix(pattern, "/")
	pattern = strings.TrimSuffix(pattern, "/")
	depth := strings.Count(pattern, "/") + 1
	names := strings.Split(at, "/")
	for i := 0; i+depth <= len(names); i++ {
		if !folder && i+depth != len(names) {
			continue
		}
		if ok, err := path.Match(pattern, strings.Join(names[i:i+depth], "/")); err == nil && ok {
			return true
		}
	}
	return false
}

// Quote returns a path so that it is one word on one line, and nothing in it acts on a terminal: as
// it is if it is plain, or else as git quotes it.
func Quote(at string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
			strings.ContainsRune("._-+/@=,:%~#()[] ", r)
	}
	if strings.IndexFunc(at, func(r rune) bool { return !plain(r) }) < 0 && strings.TrimSpace(at) == at {
		return at
	}
	return strconv.QuoteToASCII(at)
}

// visible returns a line of a file without what acts on a terminal or hides in it.
func visible(line string) string {
	harmless := func(r rune) bool { return r == '\t' || strconv.IsPrint(r) && r != '\uFFFD' }
	if strings.IndexFunc(line, func(r rune) bool { return !harmless(r) }) < 0 {
		return line
	}
	var b strings.Builder
	for i, r := range line {
		if harmless(r) {
			b.WriteRune(r)
			continue
		}
		if _, size := utf8.DecodeRuneInString(line[i:]); size == 1 && r == utf8.RuneError {
			fmt.Fprintf(&b, `\x%02x`, line[i])
			continue
		}
		quoted := strconv.QuoteRuneToASCII(r)
		b.WriteString(quoted[1 : len(quoted)-1])
	}
	return b.String()
}
