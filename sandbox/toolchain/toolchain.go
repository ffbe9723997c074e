// Package toolchain is which parts of the tools that people install in their home an agent may see:
// a table, a row for each tool.
package toolchain

import (
	"path/filepath"
	"strings"
)

// Toolchain says which parts of a tool's folder are shown if one of its folders is on PATH.
// Patterns are relative to the root, and * stands for one name.
type Toolchain struct {
	Name string
	// Env names the variable that moves the root. Root is the root without it: below the home
	// unless it is absolute.
	Env, Root string
	// OnPath are the folders that are recognised on PATH. What a * stood for can be used in Show,
	// so that only the version in use is shown.
	OnPath []string
	// Show lists what is shown, read-only. A path may be elsewhere in the home: it then begins with
	// ~/.
	Show []string
	// Hide are the files that are empty although they are below what is shown.
	Hide []string
	// Why is the reason for exactly this selection.
	Why string
	// Python is true if virtual environments may be made of what is in the toolchain.
	Python bool
	// Follow is true if the links in the folder of programs are followed to what they start.
	Follow bool
}

// Table is searched from the top. The first toolchain that matches decides.
var Table = []Toolchain{
	{
		Name: "pyenv", Env: "PYENV_ROOT", Root: ".pyenv",
		OnPath: []string{"shims", "bin", "versions/*/bin", "plugins/*/bin", "plugins/*/shims"},
		Show:   []string{"bin", "libexec", "pyenv.d", "plugins", "shims", "versions", "version"},
		Hide:   []string{"versions/*/pip.conf", "versions/*/envs/*/pip.conf", "pyenv.d/exec/pip-rehash/*"},
		Why: "a shim may choose any version; a version's pip.conf may hold an index with a token; " +
			"pip fails if pyenv's hook on it cannot write shims",
		Python: true,
	},
	{
		Name: "nvm", Env: "NVM_DIR", Root: ".nvm",
		OnPath: []string{"versions/node/*/bin", "versions/io.js/*/bin"},
		Show:   []string{"versions/node/*"},
		Hide:   []string{"versions/node/*/etc/npmrc"},
		Why:    "only the version in use; nvm itself is a shell function that starts from the profile",
	},
	{
		Name: "fnm", Env: "FNM_DIR", Root: ".local/share/fnm",
		OnPath: []string{"node-versions/*/installation/bin", "aliases/*/bin"},
		Show:   []string{"node-versions"},
		Hide:   []string{"node-versions/*/installation/etc/npmrc"},
		Why:    "PATH has a link to the version in use",
	},
	{
		Name: "volta", Env: "VOLTA_HOME", Root: ".volta",
		OnPath: []string{"bin"},
		Show:   []string{"bin", "tools"},
		Hide:   []string{"tools/image/node/*/etc/npmrc"},
		Why:    "bin has shims that start what is in tools",
	},
	{
		Name: "nodenv", Env: "NODENV_ROOT", Root: ".nodenv",
		OnPath: []string{"shims", "bin", "versions/*/bin"},
		Show:   []string{"bin", "libexec", "plugins", "shims", "versions", "version"},
		Hide:   []string{"versions/*/etc/npmrc"},
		Why:    "a shim may choose any version",
	},
	{
		Name: "pnpm", Env: "PNPM_HOME", Root: ".local/share/pnpm",
		OnPath: []string{"."},
		Show:   []string{"."},
		Why:    "programs, their packages and node versions side by side; its credentials are in ~/.npmrc",
	},
	{
		Name: "npm prefix", Root: ".npm-global",
		OnPath: []string{"bin"},
		Show:   []string{"bin", "lib"},
		Why:    "bin has links into lib/node_modules; not etc, where the prefix's npmrc is",
	},
	{
		Name: "cargo", Env: "CARGO_HOME", Root: ".cargo",
		OnPath: []string{"bin"},
		Show:   []string{"bin", "~/.rustup/toolchains", "~/.rustup/settings.toml"},
		Why: "bin has rustup's shims, which start what is in its toolchains; " +
			"never credentials.toml and config.toml next to bin",
	},
	{
		Name: "rustup toolchain", Env: "RUSTUP_HOME", Root: ".rustup",
		OnPath: []string{"toolchains/*/bin"},
		Show:   []string{"toolchains/*"},
		Why:    "only the toolchain in use",
	},
	{
		Name: "go", Env: "GOROOT", Root: ".local/go",
		OnPath: []string{"bin"},
		Show:   []string{"."},
		Why:    "the compiler needs its own sources next to bin",
	},
	{
		Name: "go for everybody", Root: "/opt/go",
		OnPath: []string{"bin"},
		Show:   []string{"."},
		Why:    "as above; the one in /usr/local is visible anyway",
	},
	{
		Name: "go sdk", Root: "sdk",
		OnPath: []string{"*/bin"},
		Show:   []string{"*"},
		Why:    "what golang.org/dl installs; only the version in use",
	},
	{
		Name: "go programs", Root: "go",
		OnPath: []string{"bin"},
		Show:   []string{"bin", "~/sdk"},
		Why:    "static programs; not pkg, where private modules are cached; go1.x starts what is in sdk",
	},
	{
		Name: "goenv", Env: "GOENV_ROOT", Root: ".goenv",
		OnPath: []string{"shims", "bin", "versions/*/bin"},
		Show:   []string{"bin", "libexec", "plugins", "shims", "versions", "version"},
		Why:    "a shim may choose any version",
	},
	{
		Name: "rbenv", Env: "RBENV_ROOT", Root: ".rbenv",
		OnPath: []string{"shims", "bin", "versions/*/bin"},
		Show:   []string{"bin", "libexec", "plugins", "shims", "versions", "version"},
		Why:    "a shim may choose any version",
	},
	{
		Name: "asdf", Env: "ASDF_DATA_DIR", Root: ".asdf",
		OnPath: []string{"shims", "bin", "installs/*/*/bin"},
		Show:   []string{"bin", "lib", "libexec", "shims", "installs", "plugins", "asdf.sh"},
		Hide:   []string{"installs/nodejs/*/etc/npmrc", "installs/python/*/pip.conf"},
		Why:    "a shim may choose any version",
		Python: true,
	},
	{
		Name: "mise", Env: "MISE_DATA_DIR", Root: ".local/share/mise",
		OnPath: []string{"shims", "bin", "installs/*/*/bin", "installs/*/*"},
		Show:   []string{"bin", "shims", "installs", "plugins"},
		Hide:   []string{"installs/node/*/etc/npmrc", "installs/python/*/pip.conf"},
		Why:    "a shim may choose any version",
		Python: true,
	},
	{
		Name: "sdkman", Env: "SDKMAN_DIR", Root: ".sdkman",
		OnPath: []string{"candidates/*/current/bin", "candidates/*/*/bin"},
		Show:   []string{"candidates/*"},
		Why:    "current is a link to the version in use next to it",
	},
	{
		Name: "bun", Env: "BUN_INSTALL", Root: ".bun",
		OnPath: []string{"bin"},
		Show:   []string{"bin", "install/global/node_modules"},
		Why:    "bin has links to global packages",
	},
	{
		Name: "deno", Env: "DENO_INSTALL", Root: ".deno",
		OnPath: []string{"bin"},
		Show:   []string{"bin"},
		Why:    "one program",
	},
	{
		Name: "conda", Env: "CONDA_PREFIX", Root: "miniconda3",
		OnPath: []string{"bin", "condabin", "envs/*/bin"},
		Show:   []string{"bin", "condabin", "lib", "libexec", "share", "include", "ssl", "conda-meta", "envs"},
		Why:    "an environment's programs need its libraries; channel tokens are in ~/.condarc and ~/.conda",
		Python: true,
	},
	{
		Name: "dotnet", Env: "DOTNET_ROOT", Root: ".dotnet",
		OnPath: []string{".", "tools"},
		Show:   []string{"."},
		Why:    "the program needs its runtimes next to it; feeds with tokens are in ~/.nuget",
	},
	{
		Name: "uv", Env: "UV_PYTHON_INSTALL_DIR", Root: ".local/share/uv/python",
		OnPath: []string{"*/bin"},
		Show:   []string{"*"},
		Why:    "a Python finds the rest of itself next to bin; only the version in use",
		Python: true,
	},
	{
		Name: "Linuxbrew", Root: "/home/linuxbrew/.linuxbrew",
		OnPath: []string{"bin", "sbin", "opt/*/bin"},
		Show: []string{
			"bin", "sbin", "lib", "libexec", "share", "opt", "Cellar", "etc/ca-certificates", "etc/openssl@3",
		},
		Why:    "bin has links into Cellar",
		Python: true,
	},
	{
		Name: "Nix", Root: "/nix/store",
		OnPath: []string{"*/bin"},
		Show:   []string{"."},
		Why:    "programs need each other's paths, and the store is readable by everybody by design",
		Python: true,
	},
	{
		Name: "pipx and installers", Root: ".local/bin",
		OnPath: []string{"."},
		Show:   []string{"."},
		Why:    "links to programs elsewhere in the home are followed one by one",
		Follow: true,
	},
	{
		Name: "own programs", Root: "bin",
		OnPath: []string{"."},
		Show:   []string{"."},
		Why:    "as above",
		Follow: true,
	},
}

// Match reports whether t recognises the folder dir, which is on PATH, if t's root is at root. It
// returns what each * stood for.
func (t *Toolchain) Match(root, dir string) (names []string, ok bool) {
	for _, pattern := range t.OnPath {
		if names, ok := match(pattern, root, dir); ok {
			return names, true
		}
	}
	return nil, false
}

func match(pattern, root, path string) (names []string, ok bool) {
	rel, err := filepath.Rel(root, path)
	if err != nil {
		return nil, false
	}
	want, have := strings.Split(pattern, "/"), strings.Split(rel, "/")
	if len(want) != len(have) {
		return nil, false
	}
	for i, w := range want {
		switch w {
		case "*":
			names = append(names, have[i])
		case have[i]:
		default:
			return nil, false
		}
	}
	return names, true
}

// Shown returns the paths that t shows, if its root is at root in that home, and each * stood for
// these names.
func (t *Toolchain) Shown(home, root string, names []string) []string {
	var paths []string
	for _, pattern := range t.Show {
		if rest, ok := strings.CutPrefix(pattern, "~/"); ok {
			paths = append(paths, filepath.Join(home, rest))
			continue
		}
		for _, name := range names {
			pattern = strings.Replace(pattern, "*", name, 1)
		}
		paths = append(paths, filepath.Join(root, pattern))
	}
	return paths
}
