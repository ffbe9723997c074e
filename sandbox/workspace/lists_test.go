package workspace

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestEverySecret: each name that a secret usually has, in any folder and in any case.
func TestEverySecret(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	content := map[string]string{
		"a.pem": "x\n-----BEGIN PRIVATE KEY-----", "a/.npmrc": "//r/:_auth=x", "b/.npmrc": "//r/:_password=x",
		".yarnrc.yml": "npmAuthToken: x",
	}
	for _, name := range strings.Fields(`.env .git-credentials application_default_credentials.json .azure .pypirc
		.netrc _netrc .vault-token .pgpass .htpasswd id_rsa id_dsa id_ecdsa id_ed25519 .ssh .gnupg
		.aws/credentials .docker/config.json .kube/config .config/gcloud .cargo/credentials.toml
		x-service-account.json x.key x.p12 x.pfx x.jks x.keystore x.kdbx .env.production`) {
		content[name] = ""
	}
	var want []string
	for name, text := range content {
		for _, at := range []string{filepath.Join("low", name), filepath.Join("UP", strings.ToUpper(name))} {
			write(t, filepath.Join(dir, at), text)
			want = append(want, at)
		}
	}
	for name, text := range map[string]string{
		".env.example": "", ".env.sample": "", ".env.template": "", ".env.dist": "", "public.pem": "CERTIFICATE",
		".yarnrc.yml": "nodeLinker: x", ".npmrc": "registry=x", "folder.key/file": "", "xaws/credentials": "",
		"x.aws/credentials": "",
	} {
		write(t, filepath.Join(dir, "none", name), text)
	}
	found, err := Search{}.Secrets(t.Context(), dir)
	require.NoError(t, err)
	require.ElementsMatch(t, want, found.Paths())
}

// TestEveryHostTool: each name from which a program of the host takes commands, below a folder, and
// what is in those that are folders.
func TestEveryHostTool(t *testing.T) {
	t.Parallel()
	for who, names := range map[string]string{
		"git may run commands from it": `.git/hooks/x .git/config .git/config.worktree .git/info/attributes .githooks/x
			.git/commondir .git/gitdir .husky/x .gitattributes .gitmodules .git/modules/a/hooks/x
			.git/modules/a/config .git/modules/a/b/hooks/x .git/modules/a/b/config
			.git/modules/a/b/c/hooks/x .git/modules/a/b/c/config .pre-commit-config.yaml lefthook.yml
			.lefthook.yml`,
		"git takes its folder from it": ".git",
		"a shell may load it":          ".envrc .env .mise.toml mise.toml .tool-versions",
		"an agent outside follows it": `.mcp.json .claude/x .claude.json .cursor/x .codex/x .gemini/x CLAUDE.md
			AGENTS.md GEMINI.md .cursorrules .aider.conf.yml opencode.json`,
		"an editor may run commands from it": `.vscode/x .idea/x .devcontainer/x .devcontainer.json .vim/x .nvimrc .exrc
			.dir-locals.el .sublime-project my.code-workspace`,
		"CI runs it": `.github/workflows/x .github/actions/x .gitlab-ci.yml .gitlab/ci/x Jenkinsfile .circleci/x
			.travis.yml azure-pipelines.yml bitbucket-pipelines.yml .buildkite/x .drone.yml`,
		"a build runs commands from it": `Makefile makefile GNUmakefile my.mk Justfile justfile Taskfile.yml Rakefile
			build.rs build.gradle build.gradle.kts settings.gradle pom.xml gradlew mvnw .mvn/x CMakeLists.txt configure
			setup.py conftest.py noxfile.py tox.ini pyproject.toml package.json .npmrc .yarnrc .yarnrc.yml
			.pnpmfile.cjs Cargo.toml .cargo/x deno.json bunfig.toml Gemfile Dockerfile docker-compose.yml compose.yaml
			Tiltfile Vagrantfile`,
		"Python runs it at every start": "x.pth sitecustomize.py usercustomize.py",
	} {
		for _, name := range strings.Fields(names) {
			require.Equal(t, who, hostTool(name), name)
			require.Equal(t, who, hostTool("sub/"+strings.ToUpper(name)), name)
			if dir, file := filepath.Split(name); file == "x" {
				require.Equal(t, who, hostTool(dir+"y/z"), dir)
			} else if name != ".git" {
				require.NotEqual(t, who, hostTool(name+"x/y"), name)
			}
		}
	}
	for _, name := range []string{"main.go", "git/config", "x.gitx", "packages.json", "my.mk/x", "hooks/x"} {
		require.Empty(t, hostTool(name), name)
	}
}
