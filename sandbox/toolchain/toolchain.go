// Package toolchain is which parts of the tools that people install in their home an agent may see:
// a table, a row for each tool, and the parts of every tool's folder.
//
// Everything is an allowlist of what installers put there: programs, libraries, headers. Settings,
// keys and the metadata of version control lie next to them, may hold tokens, and are in no list.
// What a tool's own search for settings reads from among the libraries is in [Settings], and what
// else may lie in a folder of programs is told by [IsProgram].
package toolchain

import (
	"path/filepath"
	"slices"
	"strings"
)

// Toolchain says which parts of a tool's folder are shown if one of its folders is on PATH.
// Patterns are relative to the root. A * stands for one name. A + stands for every name.
type Toolchain struct {
	Name string
	// Env names the variable that moves the root. Root is the root without it: below the home
	// unless it is absolute.
	Env, Root string
	// OnPath are the folders that are recognised on PATH. What a * stood for can be used in Show,
	// Prefixes and Go, so that only the version in use is shown.
	OnPath []string
	// Show lists what is shown, read-only, with all that is below it besides Hide and [Settings]. A
	// path may be elsewhere in the home: it then begins with ~/.
	Show []string
	// Prefixes are the folders of installations, of which only the [Parts] are shown. A ~/ is as in
	// Show.
	Prefixes []string
	// Go are the folders of Go distributions, of which only the [GoParts] are shown. A ~/ is as in
	// Show.
	Go []string
	// Hide are files and folders that are not shown although they are below what is in Show.
	Hide []string
	// Why is the reason for exactly this selection.
	Why string
	// Python is true if virtual environments may be made of what is in the toolchain.
	Python bool
	// Follow is true if the links in the folder of programs are followed to what they start.
	Follow bool
}

// Parts are what is shown of an installation. They hold what installers put there: programs,
// libraries, and data of programs.
var Parts = []string{
	"bin", "sbin", "shims", "lib", "lib32", "lib64", "libexec", "share", "include", "pyvenv.cfg",
	"boot",                                 // Maven
	"node_modules", "package.json", "dist", // a package of npm that is unpacked there
}

// JavaParts are what a Java runtime needs besides: see [IsJava]. The conf folder of other programs
// may hold passwords, and so may the rest of this one: conf/management has those of its managers.
var JavaParts = []string{
	"jmods", "release", "conf/security", "conf/net.properties", "conf/logging.properties", "conf/sound.properties",
	"jre/bin", "jre/lib",
}

// IsJava are paths of which a Java runtime has one.
var IsJava = []string{"lib/modules", "lib/rt.jar", "jre/lib/rt.jar"}

// GoParts are what is shown of a Go distribution. The compiler needs its own sources. Its go.env is
// shown as a copy, with what is harmless.
var GoParts = []string{"bin", "pkg", "src", "lib", "misc", "test", "VERSION"}

// Settings are the files below an installation's [Parts] in which a tool looks for its settings.
var Settings = []string{
	"lib/node_modules/npm/npmrc", "lib/node_modules/npm/.npmrc", "node_modules/npm/npmrc", "node_modules/npm/.npmrc",
	"lib/python*/distutils/distutils.cfg", "lib/python*/site-packages/setuptools/_distutils/distutils.cfg",
	"lib/management/jmxremote.password", "jre/lib/management/jmxremote.password", "conf/management/jmxremote.password",
	"conf/settings.xml", "conf/settings-security.xml", "conf/tomcat-users.xml", // of programs in a libexec
	"init.d", ".git", "gradle.properties", "pip.conf", "etc/npmrc", "etc/gemrc", "etc/gitconfig", ".condarc", "condarc",
}

// folders of programs, in which each file is judged: see [IsProgram].
var programFolders = []string{"bin", "sbin", "shims", "condabin"}

// HasPrograms reports whether the folder at the path is one of programs, by its name.
func HasPrograms(path string) bool { return slices.Contains(programFolders, filepath.Base(path)) }

// IsProgram reports whether a file in a folder of programs may be shown. executable says whether
// anybody may execute it. Whatever is neither executable nor loaded by programs may hold settings
// or keys.
func IsProgram(name string, executable bool) bool {
	if IsSettings(name) {
		return false
	}
	return executable || slices.Contains(companions, name) || strings.Contains(name, ".so.") ||
		slices.ContainsFunc(loaded, func(end string) bool { return strings.HasSuffix(name, end) })
}

// IsHarmless reports whether the file at the path has no name of settings or keys. Unlike
// [IsProgram] it takes hidden files that programs load: package managers leave scripts.
func IsHarmless(path string) bool {
	name := filepath.Base(path)
	return !IsSettings(name) ||
		strings.HasPrefix(name, ".") && slices.ContainsFunc(loaded, func(end string) bool { return strings.HasSuffix(name, end) })
}

// companions are read by the programs next to them, and are not executable.
var companions = []string{
	"activate", "activate.csh", "activate.fish", "activate.nu", "activate.bat", "deactivate.bat", "activate_this.py",
	"m2.conf", "VERSION", "LICENSE",
}

// loaded are the ends of the names of what programs load from the folder that they are in.
var loaded = []string{
	".so", ".dll", ".jar", ".jsa", ".class", ".py", ".pyc", ".js", ".mjs", ".cjs", ".rb", ".pl", ".pm", ".sh", ".bash",
	".zsh", ".fish", ".csh", ".ps1", ".cmd", ".bat", ".exe", ".wasm", ".node", ".runtimeconfig.json", ".deps.json",
}

// IsSettings reports whether a file or folder of that name is never shown in a folder of programs
// or of packages: it is hidden, as version control's are, or a tool's settings or somebody's key.
func IsSettings(name string) bool {
	lower := strings.ToLower(name)
	return strings.HasPrefix(name, ".") && !slices.Contains(hiddenPrograms, name) || slices.Contains(settings, lower) ||
		slices.ContainsFunc(keys, func(end string) bool { return strings.HasSuffix(lower, end) })
}

// hiddenPrograms are hidden folders with programs and packages, to which links lead, and lists of
// packages.
var hiddenPrograms = []string{".bin", ".pnpm", ".store", ".libs", ".package-lock.json", ".yarn-integrity"}

var settings = []string{
	"npmrc", "yarnrc", "pip.conf", "pip.ini", "pydistutils.cfg", "condarc", "gemrc", "gitconfig", "_netrc", "netrc",
	"settings.xml", "settings-security.xml", "gradle.properties", "auth.json", "credentials", "credentials.json",
	"credentials.toml", "config.json", "config.toml", "bunfig.toml", "nuget.config", "id_rsa", "id_ecdsa", "id_ed25519",
}

var keys = []string{".pem", ".key", ".p12", ".pfx", ".jks", ".keystore", ".kdbx", ".env", ".token", ".password"}

// Table is searched from the top. The first toolchain that matches decides.
var Table = []Toolchain{
	{
		Name: "pyenv", Env: "PYENV_ROOT", Root: ".pyenv",
		OnPath:   []string{"shims", "bin", "versions/*/bin", "plugins/*/bin", "plugins/*/shims"},
		Show:     []string{"bin", "libexec", "pyenv.d", "plugins/+/etc/pyenv.d", "shims", "version"},
		Prefixes: []string{"versions/+", "versions/+/envs/+", "plugins/+"},
		Hide:     []string{"pyenv.d/exec/pip-rehash"},
		Why: "a shim may choose any version; a version's pip.conf and a plugin's .git may hold tokens; " +
			"pip fails if pyenv's hook on it cannot write shims",
		Python: true,
	},
	{
		Name: "nvm", Env: "NVM_DIR", Root: ".nvm",
		OnPath:   []string{"versions/node/*/bin", "versions/io.js/*/bin"},
		Prefixes: []string{"versions/node/*", "versions/io.js/*"},
		Why:      "only the version in use; nvm itself is a shell function that starts from the profile",
	},
	{
		Name: "fnm", Env: "FNM_DIR", Root: ".local/share/fnm",
		OnPath:   []string{"node-versions/*/installation/bin", "aliases/*/bin"},
		Prefixes: []string{"node-versions/*/installation"},
		Why:      "PATH has a link to the version in use",
	},
	{
		Name: "volta", Env: "VOLTA_HOME", Root: ".volta",
		OnPath:   []string{"bin"},
		Show:     []string{"bin", "tools/user"},
		Prefixes: []string{"tools/image/+/+"},
		Why:      "bin has shims that start what is in tools",
	},
	{
		Name: "nodenv", Env: "NODENV_ROOT", Root: ".nodenv",
		OnPath:   []string{"shims", "bin", "versions/*/bin"},
		Show:     []string{"bin", "libexec", "nodenv.d", "plugins/+/etc/nodenv.d", "shims", "version"},
		Prefixes: []string{"versions/+", "plugins/+"},
		Why:      "a shim may choose any version",
	},
	{
		Name: "pnpm", Env: "PNPM_HOME", Root: ".local/share/pnpm",
		OnPath:   []string{"."},
		Show:     []string{"global/+/node_modules", "global/+/.pnpm"},
		Prefixes: []string{"nodejs/+", ".tools/+/+"},
		Why: "programs, their packages and node versions side by side; not the store, where private packages are; " +
			"its credentials are in ~/.npmrc",
	},
	{
		Name: "npm prefix", Root: ".npm-global",
		OnPath:   []string{"bin"},
		Prefixes: []string{"."},
		Why:      "bin has links into lib/node_modules; not etc, where the prefix's npmrc is",
	},
	{
		Name: "cargo", Env: "CARGO_HOME", Root: ".cargo",
		OnPath:   []string{"bin"},
		Show:     []string{"bin", "~/.rustup/settings.toml"},
		Prefixes: []string{"~/.rustup/toolchains/+"},
		Why: "bin has rustup's shims, which start what is in its toolchains; " +
			"never credentials.toml and config.toml next to bin",
	},
	{
		Name: "rustup toolchain", Env: "RUSTUP_HOME", Root: ".rustup",
		OnPath:   []string{"toolchains/*/bin"},
		Prefixes: []string{"toolchains/*"},
		Why:      "only the toolchain in use",
	},
	{
		Name: "go", Env: "GOROOT", Root: ".local/go",
		OnPath: []string{"bin"},
		Go:     []string{"."},
		Why:    "the compiler needs its own sources next to bin; not .git, nor what go.env says of a proxy's password",
	},
	{
		Name: "go for everybody", Root: "/opt/go",
		OnPath: []string{"bin"},
		Go:     []string{"."},
		Why:    "as above; the one in /usr/local is visible anyway",
	},
	{
		Name: "go sdk", Root: "sdk",
		OnPath: []string{"*/bin"},
		Go:     []string{"*"},
		Why:    "what golang.org/dl installs; only the version in use",
	},
	{
		Name: "go programs", Root: "go",
		OnPath: []string{"bin"},
		Show:   []string{"bin"},
		Go:     []string{"~/sdk/+"},
		Why:    "static programs; not pkg, where private modules are cached; go1.x starts what is in sdk",
	},
	{
		Name: "goenv", Env: "GOENV_ROOT", Root: ".goenv",
		OnPath:   []string{"shims", "bin", "versions/*/bin"},
		Show:     []string{"bin", "libexec", "goenv.d", "plugins/+/etc/goenv.d", "shims", "version"},
		Prefixes: []string{"plugins/+"},
		Go:       []string{"versions/+"},
		Why:      "a shim may choose any version",
	},
	{
		Name: "rbenv", Env: "RBENV_ROOT", Root: ".rbenv",
		OnPath:   []string{"shims", "bin", "versions/*/bin"},
		Show:     []string{"bin", "libexec", "rbenv.d", "plugins/+/etc/rbenv.d", "shims", "version"},
		Prefixes: []string{"versions/+", "plugins/+"},
		Why:      "a shim may choose any version",
	},
	{
		Name: "asdf", Env: "ASDF_DATA_DIR", Root: ".asdf",
		OnPath: []string{"shims", "bin", "installs/*/*/bin"},
		Show: []string{
			"bin", "lib", "libexec", "shims", "asdf.sh", "plugins/+/data", "plugins/+/utils.sh",
			"installs/groovy/+/conf/groovy-starter.conf",
		},
		Prefixes: []string{"installs/+/+", "plugins/+"},
		Go:       []string{"installs/golang/+/go"},
		Why:      "a shim may choose any version; not an installation's settings, nor a plugin's .git",
		Python:   true,
	},
	{
		Name: "mise", Env: "MISE_DATA_DIR", Root: ".local/share/mise",
		OnPath: []string{"shims", "bin", "installs/*/*/bin", "installs/*/*"},
		Show: []string{
			"bin", "shims", "plugins/+/data", "plugins/+/utils.sh", "installs/groovy/+/conf/groovy-starter.conf",
		},
		Prefixes: []string{"installs/+/+", "plugins/+"},
		Go:       []string{"installs/go/+"},
		Why:      "a shim may choose any version; not an installation's settings, nor a plugin's .git",
		Python:   true,
	},
	{
		Name: "sdkman", Env: "SDKMAN_DIR", Root: ".sdkman",
		OnPath:   []string{"candidates/*/current/bin", "candidates/*/*/bin"},
		Show:     []string{"candidates/groovy/+/conf/groovy-starter.conf"},
		Prefixes: []string{"candidates/*/+"},
		Why:      "current is a link to the version in use next to it; Maven's conf may hold passwords",
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
		Show: []string{
			"condabin", "ssl/cacert.pem", "ssl/cert.pem", "ssl/openssl.cnf",
			"envs/+/ssl/cacert.pem", "envs/+/ssl/cert.pem", "envs/+/ssl/openssl.cnf",
		},
		Prefixes: []string{".", "envs/+"},
		Why: "an environment's programs need its libraries; tokens are in ~/.condarc and ~/.conda, and may be " +
			"in conda-meta, which has variables and command lines",
		Python: true,
	},
	{
		Name: "dotnet", Env: "DOTNET_ROOT", Root: ".dotnet",
		OnPath: []string{".", "tools"},
		Show: []string{
			"host", "shared", "sdk", "sdk-manifests", "packs", "templates", "library-packs", "metadata",
		},
		Why: "the program needs its runtimes next to it; not corefx, where private keys are, nor what tools keep; " +
			"feeds with tokens are in ~/.nuget",
	},
	{
		Name: "uv", Env: "UV_PYTHON_INSTALL_DIR", Root: ".local/share/uv/python",
		OnPath:   []string{"*/bin"},
		Prefixes: []string{"*"},
		Why:      "a Python finds the rest of itself next to bin; only the version in use",
		Python:   true,
	},
	{
		Name: "Linuxbrew", Root: "/home/linuxbrew/.linuxbrew",
		OnPath: []string{"bin", "sbin", "opt/*/bin"},
		Show: []string{
			"bin", "sbin", "lib", "libexec", "share", "opt", "Cellar", "etc/ca-certificates", "etc/openssl@3/cert.pem",
			"etc/openssl@3/certs", "etc/openssl@3/openssl.cnf",
		},
		Hide:   slices.Concat(in("Cellar/+/+", Settings), in("Cellar/+/+/libexec", Settings)),
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
		Why:    "links to programs elsewhere in the home are followed one by one",
		Follow: true,
	},
	{
		Name: "own programs", Root: "bin",
		OnPath: []string{"."},
		Why:    "as above",
		Follow: true,
	},
}

// in returns the paths in the folder.
func in(folder string, paths []string) []string {
	all := make([]string, len(paths))
	for i, p := range paths {
		all[i] = folder + "/" + p
	}
	return all
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

// Path is a pattern below a folder. Elements of the pattern that are + stand for every name.
type Path struct{ Folder, Pattern string }

// Paths returns the patterns, of Show, Prefixes or Go, if t's root is at root in that home, and
// each * stood for these names.
func (t *Toolchain) Paths(patterns []string, home, root string, names []string) []Path {
	var paths []Path
	for _, pattern := range patterns {
		if rest, ok := strings.CutPrefix(pattern, "~/"); ok {
			paths = append(paths, Path{home, rest})
			continue
		}
		for _, name := range names {
			pattern = strings.Replace(pattern, "*", name, 1)
		}
		paths = append(paths, Path{root, pattern})
	}
	return paths
}
