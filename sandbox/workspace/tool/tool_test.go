package tool

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestEveryTool: each name from which a program of the host takes commands, below a folder, and
// what is in those that are folders.
func TestEveryTool(t *testing.T) {
	t.Parallel()
	for who, names := range map[string]string{
		"git may run commands from it": `.git/hooks/x .git/config .git/config.worktree .git/info/attributes .githooks/x
			.git/commondir .git/gitdir .husky/x .gitattributes .gitmodules .git/modules/a/hooks/x
			.git/modules/a/config .git/modules/a/b/hooks/x .git/modules/a/b/config
			.git/modules/a/b/c/hooks/x .git/modules/a/b/c/config .pre-commit-config.yaml lefthook.yml
			.lefthook.yml .git/worktrees/a/config.worktree .git/worktrees/a/commondir .git/worktrees/a/gitdir
			.git/rebase-merge/git-rebase-todo .git/worktrees/a/rebase-merge/git-rebase-todo
			.git/objects/info/alternates .git/modules/a/commondir
			.git/remotes/x .git/branches/x .git/modules/a/remotes/x .git/modules/a/branches/x .git/sequencer/x
			.git/worktrees/a/sequencer/x .git/rebase-merge/strategy .git/rebase-merge/strategy_opts
			.pre-commit-config.yml .overcommit.yml lefthook.toml .lefthook.json lefthook-local.yml .lefthook-local.toml
			.config/lefthook.yml prek.toml`,
		"version control may run commands from it": `.hg/hgrc .hg/hgrc-not-shared .hg/sharedpath .jj/repo
			.jj/repo/config.toml`,
		"an interpreter may run it when it starts there": `.irbrc .pryrc .iex.exs .Rprofile .ocamlinit .octaverc .pdbrc
			.ghci .psqlrc .sqliterc`,
		"git takes its folder from it": ".git",
		"a shell may load it": `.envrc .env .mise.toml mise.toml .tool-versions flake.nix shell.nix
			default.nix .envrc.local .env.local .direnv/x mise.local.toml .mise.local.toml mise/config.toml
			.config/mise.toml .config/mise/x .mise/tasks/x devenv.nix devbox.json .rvmrc .sdkmanrc`,
		"an agent outside follows it": `.mcp.json .claude/x .claude.json .cursor/x .codex/x .gemini/x CLAUDE.md
			AGENTS.md GEMINI.md .cursorrules .aider.conf.yml opencode.json
			.opencode/x .kiro/x .amazonq/x .roo/x .windsurf/x .junie/x .qwen/x crush.json opencode.jsonc .factory/x
			.continue/x .github/copilot-instructions.md`,
		"an editor may run commands from it": `.vscode/x .idea/x .devcontainer/x .devcontainer.json .vim/x .nvimrc .exrc
			.dir-locals.el my.sublime-project .dir-locals-2.el .helix/x .vimrc .lazy.lua .gdbinit
			my.code-workspace .zed/x .nvim.lua .lvimrc`,
		"CI runs it": `.github/workflows/x .github/actions/x .gitlab-ci.yml .gitlab/ci/x Jenkinsfile .circleci/x
			.travis.yml azure-pipelines.yml bitbucket-pipelines.yml .buildkite/x .drone.yml
			.woodpecker/x .forgejo/workflows/x
			.gitpod.yml buildspec.yml`,
		"a build runs commands from it": `Makefile makefile GNUmakefile my.mk Justfile justfile Taskfile.yml Rakefile
			build.rs build.gradle build.gradle.kts settings.gradle pom.xml gradlew mvnw .mvn/x CMakeLists.txt configure
			setup.py conftest.py noxfile.py tox.ini pyproject.toml package.json .npmrc .yarnrc .yarnrc.yml
			.pnpmfile.cjs Cargo.toml .cargo/x deno.json bunfig.toml Gemfile Dockerfile docker-compose.yml compose.yaml
			Tiltfile Vagrantfile .yarn/x .pnp.cjs eslint.config.mjs .eslintrc.cjs composer.json .bazelrc meson.build
			mix.exs SConstruct Taskfile.yaml .justfile compose.yml docker-compose.yaml deno.jsonc Containerfile
			jest.config.js vite.config.ts babel.config.cjs gulpfile.js go.mod go.work rust-toolchain.toml tools/bazel
			Pulumi.yaml main.tf ansible.cfg .bundle/x fabfile.py tasks.py dodo.py Snakefile CMakePresets.json .rspec
			.rubocop.yml`,
		"Python runs it at every start": "x.pth sitecustomize.py usercustomize.py",
	} {
		for _, name := range strings.Fields(names) {
			require.Equal(t, who, Who(name), name)
			require.Equal(t, who, Who("sub/"+strings.ToUpper(name)), name)
			if dir, file := filepath.Split(name); file == "x" {
				require.Equal(t, who, Who(dir+"y/z"), dir)
			} else if name != ".git" {
				require.NotEqual(t, who, Who(name+"x/y"), name)
			}
		}
	}
	for _, name := range []string{"main.go", "git/config", "x.gitx", "packages.json", "my.mk/x", "hooks/x"} {
		require.Empty(t, Who(name), name)
	}
}

// TestShadows: Python itself runs a module of the top folder that [Who] knows, in place of its own,
// and none that it does not know.
func TestShadows(t *testing.T) {
	t.Parallel()
	for at, want := range map[string]bool{
		"pip.py": true, "json.py": true, "json/__init__.py": true, "PIP.PY": true,
		"pip.cpython-311-x86_64-linux-gnu.so": true, "pip.abi3.so": true, "pip.pyc": true,
		"sub/pip.py": false, "main.py": false, "json/x.py": false,
		"a/json/__init__.py": false, "json": false, "json.txt": false, "test/__init__.py": false,
	} {
		require.Equal(t, want, Who(at) == shadows, at)
	}
	python, err := exec.LookPath("python3")
	require.NoError(t, err)
	for _, at := range []string{"json.py", "json/__init__.py"} {
		dir := t.TempDir()
		file := filepath.Join(dir, at)
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o700))
		require.NoError(t, os.WriteFile(file, []byte("print('the agent was here')\nraise SystemExit"), 0o600))
		cmd := exec.CommandContext(t.Context(), python, "-m", "json.tool", "--help")
		cmd.Dir = dir
		out, _ := cmd.CombinedOutput()
		require.Contains(t, string(out), "the agent was here", at)
	}
}

// TestNamesWithBlanks: a path that git's settings name may have blanks and quotes.
func TestNamesWithBlanks(t *testing.T) {
	t.Parallel()
	var named []string
	all := Repository{Top: "/w", Settings: []string{"/w/.git/config"}}.Named("/home/me", func(at string) string {
		if at != "/w/.git/config" {
			return ""
		}
		return "[core]\n\thooksPath = my hooks\n[x]\n\ty = ho\"ok\"s2\n[filter \"a\"]\n\tclean = tools/x.sh\n" +
			"[include]\n\tpath = \"a\\\"b\"\n"
	}, func(at string, _ bool) { named = append(named, at) })
	require.True(t, all)
	for _, at := range []string{"/w/my hooks", "/w/hooks2", "/w/tools/x.sh", `/w/a"b`} {
		require.Contains(t, named, at)
	}
	require.NotContains(t, named, "/w/another")
}

// TestNamedBehindMarks: git passes over a byte order mark at the beginning of settings, and a
// setting may follow the name of its section on the line, whatever that has in it.
func TestNamedBehindMarks(t *testing.T) {
	t.Parallel()
	var named []string
	all := Repository{Top: "/w", Settings: []string{"/w/.git/config"}}.Named("/home/me", func(at string) string {
		return map[string]string{
			"/w/.git/config": "\ufeff[include] path = more\n[includeIf \"gitdir:a]b\"] path = other\n" +
				"[core] worktree = ../../sub\n[core]\n\tfsmonitor = fsm\n",
			"/w/.git/more":  "\ufeff[core]\n\thooksPath = hk\n",
			"/w/.git/other": "[core]\n\tpager = pg\n",
		}[at]
	}, func(at string, _ bool) { named = append(named, at) })
	require.True(t, all)
	for _, at := range []string{"/w/hk", "/w/pg", "/w/.git/../../sub/fsm"} {
		require.Contains(t, named, at)
	}
}

// TestBegins: a folder that is the beginning of what a program takes commands from is known.
func TestBegins(t *testing.T) {
	t.Parallel()
	for at, want := range map[string]string{
		".hg": ".hg", "a/.JJ": ".JJ", "x/.github": ".github", "sub/.config/mise": "mise", "sub/.config": ".config",
		"tools": "tools", ".vscode": "", "src": "", "a/b": "", "Makefile": "",
	} {
		begins, who := Begins(at)
		require.Equal(t, want, begins, at)
		require.Equal(t, want != "", who != "", at)
	}
	require.True(t, Within("a/node_modules/x"))
	require.False(t, Within("a/node_modules/x/.git"))
	require.False(t, Within("a/x"))
}

func TestWho(t *testing.T) {
	t.Parallel()
	for _, path := range []string{
		".git/hooks/pre-commit", ".git/config", "sub/.git/hooks/post-checkout", ".GIT/Config", "sub/.git", ".envrc",
		".mcp.json", ".claude/settings.json",
		"doc/HEAD", "HEAD", "flake.nix", ".yarn/releases/yarn.cjs", "web/eslint.config.mjs",
		".vscode/tasks.json", ".idea/workspace.xml", ".github/workflows/ci.yml", "pkg/package.json", "Makefile",
		"x/y.mk", ".husky/pre-push", "a.pth",
		".git/" + strings.Repeat("modules/", 500) + "hooks/x", // an agent's, and as quickly as others
		".git/modules/lib/hooks/pre-commit", ".git/modules/lib/config", ".git/modules/a/modules/b/config",
	} {
		require.NotEmpty(t, Who(path), path)
	}
	for _, path := range []string{
		"main.go", ".git/objects/ab/cd", ".github/ISSUE_TEMPLATE.md", "Makefile.md",
		"git/hooks/x", "hooks/x", ".git/" + strings.Repeat("modules/", 500) + "x",
	} {
		require.Empty(t, Who(path), path)
	}
}

// TestWhoOfLongPaths: each name of a path is looked at as often as that of another one, however
// deep an agent makes its folders.
func TestWhoOfLongPaths(t *testing.T) {
	long := ".git/modules/" + strings.Repeat("a/", 2000) + "x"
	require.Less(t, testing.AllocsPerRun(1, func() { require.Empty(t, Who(long)) }), 100.)
}

// TestUnsearched: in which files only the names decide, and in no other.
func TestUnsearched(t *testing.T) {
	t.Parallel()
	for _, name := range strings.Fields(`go.sum package-lock.json npm-shrinkwrap.json yarn.lock pnpm-lock.yaml deno.lock
		bun.lock poetry.lock Pipfile.lock uv.lock Cargo.lock composer.lock Gemfile.lock flake.lock`) {
		require.True(t, Unsearched(name), name)
		require.True(t, Unsearched("a/"+name), name)
		require.False(t, Unsearched(name+"/a"), name)
	}
	for _, name := range strings.Fields(`node_modules .venv venv __pycache__ target .tox vendor bower_components
		site-packages dist-packages`) {
		require.True(t, Unsearched(name+"/a"), name)
		require.True(t, Unsearched("a/"+name+"/b/c"), name)
		require.False(t, Unsearched("a/"+name), name)
		require.False(t, Unsearched("x"+name+"/a"), name)
	}
}

// TestWorktreesAreBounded: settings of an agent may name any number of folders in which git works.
func TestWorktreesAreBounded(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&text, "worktree = a%d\nx%d\n", i, i)
	}
	paths := 0
	all := Repository{Top: "/w", Settings: []string{"/w/x/.git/config"}}.Named("/home/me",
		func(string) string { return text.String() }, func(string, bool) { paths++ })
	require.False(t, all)
	require.Zero(t, paths)
}
