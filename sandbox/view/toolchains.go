package sandbox

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// toolchain says what of one tool's folder is shown when one of its folders
// is on PATH. Patterns are relative to the root, and * stands for one name.
type toolchain struct {
	name string
	// env names the variable that moves the root; root is where it is
	// otherwise, below the home unless absolute.
	env, root string
	// onPath are the folders that are recognised on PATH. What * stood for can
	// be used in show, so that only the version in use is shown.
	onPath []string
	// show is what is mounted, read-only. It may be elsewhere, starting with ~/.
	show []string
	// hide is what is empty although it is below what is shown.
	hide []string
	// why is the reason for exactly this selection.
	why string
	// python is set if virtual environments may be made of what is in it.
	python bool
}

// toolchains is searched from the top; the first that matches decides.
var toolchains = []toolchain{
	{
		name: "pyenv", env: "PYENV_ROOT", root: ".pyenv",
		onPath: []string{"shims", "bin", "versions/*/bin", "plugins/*/bin", "plugins/*/shims"},
		show:   []string{"bin", "libexec", "pyenv.d", "plugins", "shims", "versions", "version"},
		hide:   []string{"versions/*/pip.conf", "versions/*/envs/*/pip.conf", "pyenv.d/exec/pip-rehash/*"},
		why:    "a shim may choose any version; a version's pip.conf may hold an index with a token; pip fails if pyenv's hook on it cannot write shims",
		python: true,
	},
	{
		name: "nvm", env: "NVM_DIR", root: ".nvm",
		onPath: []string{"versions/node/*/bin", "versions/io.js/*/bin"},
		show:   []string{"versions/node/*"},
		hide:   []string{"versions/node/*/etc/npmrc"},
		why:    "only the version in use; nvm itself is a shell function that starts from the profile",
	},
	{
		name: "fnm", env: "FNM_DIR", root: ".local/share/fnm",
		onPath: []string{"node-versions/*/installation/bin", "aliases/*/bin"},
		show:   []string{"node-versions"},
		hide:   []string{"node-versions/*/installation/etc/npmrc"},
		why:    "PATH has a link to the version in use",
	},
	{
		name: "volta", env: "VOLTA_HOME", root: ".volta",
		onPath: []string{"bin"},
		show:   []string{"bin", "tools"},
		hide:   []string{"tools/image/node/*/etc/npmrc"},
		why:    "bin has shims that start what is in tools",
	},
	{
		name: "nodenv", env: "NODENV_ROOT", root: ".nodenv",
		onPath: []string{"shims", "bin", "versions/*/bin"},
		show:   []string{"bin", "libexec", "plugins", "shims", "versions", "version"},
		hide:   []string{"versions/*/etc/npmrc"},
		why:    "a shim may choose any version",
	},
	{
		name: "pnpm", env: "PNPM_HOME", root: ".local/share/pnpm",
		onPath: []string{"."},
		show:   []string{"."},
		why:    "programs, their packages and node versions side by side; its credentials are in ~/.npmrc",
	},
	{
		name: "npm prefix", root: ".npm-global",
		onPath: []string{"bin"},
		show:   []string{"bin", "lib"},
		why:    "bin has links into lib/node_modules; not etc, where the prefix's npmrc is",
	},
	{
		name: "cargo", env: "CARGO_HOME", root: ".cargo",
		onPath: []string{"bin"},
		show:   []string{"bin", "~/.rustup/toolchains", "~/.rustup/settings.toml"},
		why:    "bin has rustup's shims, which start what is in its toolchains; never credentials.toml and config.toml beside bin",
	},
	{
		name: "rustup toolchain", env: "RUSTUP_HOME", root: ".rustup",
		onPath: []string{"toolchains/*/bin"},
		show:   []string{"toolchains/*"},
		why:    "only the toolchain in use",
	},
	{
		name: "go", env: "GOROOT", root: ".local/go",
		onPath: []string{"bin"},
		show:   []string{"."},
		why:    "the compiler needs its own sources beside bin",
	},
	{
		name: "go for everybody", root: "/opt/go",
		onPath: []string{"bin"},
		show:   []string{"."},
		why:    "as above; the one in /usr/local is visible anyway",
	},
	{
		name: "go sdk", root: "sdk",
		onPath: []string{"*/bin"},
		show:   []string{"*"},
		why:    "what golang.org/dl installs; only the version in use",
	},
	{
		name: "go programs", root: "go",
		onPath: []string{"bin"},
		show:   []string{"bin", "~/sdk"},
		why:    "static programs; not pkg, where private modules are cached; go1.x starts what is in sdk",
	},
	{
		name: "goenv", env: "GOENV_ROOT", root: ".goenv",
		onPath: []string{"shims", "bin", "versions/*/bin"},
		show:   []string{"bin", "libexec", "plugins", "shims", "versions", "version"},
		why:    "a shim may choose any version",
	},
	{
		name: "rbenv", env: "RBENV_ROOT", root: ".rbenv",
		onPath: []string{"shims", "bin", "versions/*/bin"},
		show:   []string{"bin", "libexec", "plugins", "shims", "versions", "version"},
		why:    "a shim may choose any version",
	},
	{
		name: "asdf", env: "ASDF_DATA_DIR", root: ".asdf",
		onPath: []string{"shims", "bin", "installs/*/*/bin"},
		show:   []string{"bin", "lib", "libexec", "shims", "installs", "plugins", "asdf.sh"},
		hide:   []string{"installs/nodejs/*/etc/npmrc", "installs/python/*/pip.conf"},
		why:    "a shim may choose any version",
		python: true,
	},
	{
		name: "mise", env: "MISE_DATA_DIR", root: ".local/share/mise",
		onPath: []string{"shims", "bin", "installs/*/*/bin", "installs/*/*"},
		show:   []string{"bin", "shims", "installs", "plugins"},
		hide:   []string{"installs/node/*/etc/npmrc", "installs/python/*/pip.conf"},
		why:    "a shim may choose any version",
		python: true,
	},
	{
		name: "sdkman", env: "SDKMAN_DIR", root: ".sdkman",
		onPath: []string{"candidates/*/current/bin", "candidates/*/*/bin"},
		show:   []string{"candidates/*"},
		why:    "current is a link to the version in use beside it",
	},
	{
		name: "bun", env: "BUN_INSTALL", root: ".bun",
		onPath: []string{"bin"},
		show:   []string{"bin", "install/global/node_modules"},
		why:    "bin has links to global packages",
	},
	{
		name: "deno", env: "DENO_INSTALL", root: ".deno",
		onPath: []string{"bin"},
		show:   []string{"bin"},
		why:    "one program",
	},
	{
		name: "conda", env: "CONDA_PREFIX", root: "miniconda3",
		onPath: []string{"bin", "condabin", "envs/*/bin"},
		show:   []string{"bin", "condabin", "lib", "libexec", "share", "include", "ssl", "conda-meta", "envs"},
		why:    "an environment's programs need its libraries; channel tokens are in ~/.condarc and ~/.conda",
		python: true,
	},
	{
		name: "dotnet", env: "DOTNET_ROOT", root: ".dotnet",
		onPath: []string{".", "tools"},
		show:   []string{"."},
		why:    "the program needs its runtimes beside it; feeds with tokens are in ~/.nuget",
	},
	{
		name: "uv", env: "UV_PYTHON_INSTALL_DIR", root: ".local/share/uv/python",
		onPath: []string{"*/bin"},
		show:   []string{"*"},
		why:    "a Python finds the rest of itself beside bin; only the version in use",
		python: true,
	},
	{
		name: "Linuxbrew", root: "/home/linuxbrew/.linuxbrew",
		onPath: []string{"bin", "sbin", "opt/*/bin"},
		show:   []string{"bin", "sbin", "lib", "libexec", "share", "opt", "Cellar", "etc/ca-certificates", "etc/openssl@3"},
		why:    "bin has links into Cellar",
		python: true,
	},
	{
		name: "Nix", root: "/nix/store",
		onPath: []string{"*/bin"},
		show:   []string{"."},
		why:    "programs need each other's paths, and the store is readable by everybody by design",
		python: true,
	},
	{
		name: "pipx and installers", root: ".local/bin",
		onPath: []string{"."},
		show:   []string{"."},
		why:    "links to programs elsewhere in the home are followed one by one, see follow",
	},
	{
		name: "own programs", root: "bin",
		onPath: []string{"."},
		show:   []string{"."},
		why:    "as above",
	},
}

// follows are the toolchains whose links are followed to what they start.
var follows = []string{"pipx and installers", "own programs"}

// siblings are shown beside a bin folder outside of all homes, where a program
// commonly finds the rest of itself.
var siblings = []string{"bin", "sbin", "lib", "lib32", "lib64", "libexec", "share", "include", "conf", "jmods", "release", "pyvenv.cfg"}

// homes hold the homes of users other than the caller, as when sudo keeps PATH.
var homes = []string{"/home", "/root", "/Users"}

// hasSiblings reports whether the real path is a folder of programs that may
// need what is beside it.
func (v *view) hasSiblings(real string) bool {
	return strings.Count(real, "/") >= 3 && slices.Contains([]string{"bin", "sbin"}, filepath.Base(real)) &&
		!within(real, v.home) && !slices.ContainsFunc(homes, func(h string) bool { return within(real, h) })
}

// toolchains shows what the entries of the caller's PATH need, and returns
// the PATH of what is visible then. An entry that cannot be shown is dropped.
func (v *view) toolchains(caller environ) string {
	var path []string
	for _, entry := range filepath.SplitList(caller.get("PATH")) {
		if !filepath.IsAbs(entry) {
			continue // "." and "": a program of the working directory by accident
		}
		entry = filepath.Clean(entry)
		if !slices.Contains(path, entry) && v.entry(caller, entry) {
			path = append(path, entry)
		}
	}
	for _, entry := range []string{"/usr/local/bin", "/usr/bin", "/bin"} {
		if !slices.Contains(path, entry) {
			path = append(path, entry)
		}
	}
	return strings.Join(path, ":")
}

// entry shows one entry of PATH and reports whether it is visible.
func (v *view) entry(caller environ, entry string) bool {
	real, links, err := resolve(entry)
	if err != nil || !isDir(real) {
		return false
	}
	if v.sees(real) {
		v.interpreter(caller, real)
	} else if v.leads(entry) && !v.forbidden(real) {
		v.toolchain(caller, real)
	}
	if !v.sees(real) {
		return false
	}
	for _, l := range links {
		if !v.sees(l.path) {
			v.link(l.path, l.target)
		}
	}
	return true
}

// toolchain shows a folder of PATH, and what its programs need beside it.
func (v *view) toolchain(caller environ, real string) {
	if !v.known(caller, real) && !v.sees(real) {
		if v.hasSiblings(real) {
			for _, name := range siblings {
				v.show(filepath.Join(filepath.Dir(real), name))
			}
		}
		v.show(real)
	}
	v.interpreter(caller, real)
}

// forbidden reports whether the real path must not be shown: it has in it,
// or is in, something that no agent may see.
func (v *view) forbidden(real string) bool {
	if within(v.home, real) || strings.Count(real, "/") < 2 && real != "/nix" {
		return true
	}
	for _, dir := range []string{"/etc", "/proc", "/sys", "/dev", "/boot"} {
		if within(real, dir) {
			return true
		}
	}
	for _, p := range v.private {
		if overlap(p, real) {
			return true
		}
	}
	return slices.ContainsFunc(secretDirs, func(s string) bool { return overlap(filepath.Join(v.home, s), real) })
}

// leads reports whether nobody but the caller chooses where the path leads.
func (v *view) leads(path string) bool { return v.trusted == nil || v.trusted(path) }

// show shows the real path if it exists and may be shown.
func (v *view) show(path string) {
	if real, _, err := resolve(path); err != nil || !v.leads(path) || v.forbidden(real) {
		return
	} else if real != path {
		// A link: what it leads to, and the way there.
		if !v.sees(real) {
			v.readOnly(real)
		}
		if target, err := os.Readlink(path); err == nil {
			v.link(path, target)
		}
		return
	}
	v.readOnly(path)
}

// known shows what the table says of the folder, if it says something.
func (v *view) known(caller environ, real string) bool {
	t, root, names := v.row(caller, real)
	if t == nil {
		return false
	}
	for _, s := range t.show {
		v.show(v.expand(s, root, names))
	}
	for _, h := range t.hide {
		v.hide(filepath.Join(root, h))
	}
	if slices.Contains(follows, t.name) {
		v.follow(caller, real)
	}
	return true
}

// row is what the table says of the folder: the toolchain, where it is, and what each * stood for; or nil.
func (v *view) row(caller environ, real string) (t *toolchain, root string, names []string) {
	for i := range toolchains {
		t := &toolchains[i]
		root := t.at(caller, v)
		if root == "" || !within(real, root) {
			continue
		}
		for _, pattern := range t.onPath {
			if names, ok := match(pattern, root, real); ok {
				return t, root, names
			}
		}
	}
	return nil, "", nil
}

// at is the real path of the toolchain's root, or "" if it is not there.
func (t *toolchain) at(caller environ, v *view) string {
	root := t.root
	if value := caller.get(t.env); t.env != "" && filepath.IsAbs(value) {
		root = value
	}
	if !filepath.IsAbs(root) {
		root = filepath.Join(v.home, root)
	}
	real, _, err := resolve(root)
	if err != nil || !v.leads(root) || within(v.home, real) {
		return ""
	}
	return real
}

// match reports whether path is pattern below root, and what each * stood for.
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

// expand makes a path of an entry of show.
func (v *view) expand(pattern, root string, names []string) string {
	if rest, ok := strings.CutPrefix(pattern, "~/"); ok {
		return filepath.Join(v.home, rest)
	}
	for _, name := range names {
		pattern = strings.Replace(pattern, "*", name, 1)
	}
	return filepath.Join(root, pattern)
}

// hide empties the files that match the pattern.
func (v *view) hide(pattern string) {
	matches, err := filepath.Glob(pattern)
	if err != nil {
		return
	}
	for _, m := range matches {
		if real, _, err := resolve(m); err == nil && v.sees(real) {
			v.add("--ro-bind", os.DevNull, real)
		}
	}
}

// follow shows what the links in a folder of programs start: the folder of a
// Python environment or a Node package, or else the one program. Whatever is
// not an executable file, a key for example, stays invisible.
func (v *view) follow(caller environ, dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink == 0 {
			continue
		}
		link := filepath.Join(dir, e.Name())
		real, links, err := resolve(link)
		if err != nil || v.sees(real) || !v.leads(link) {
			continue
		}
		info, err := os.Lstat(real)
		if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			continue
		}
		switch prefix := filepath.Dir(filepath.Dir(real)); {
		case isVenv(prefix):
			v.show(prefix)
			v.interpreter(caller, filepath.Dir(real))
		case strings.Contains(real, "/node_modules/"):
			modules := real[:strings.Index(real, "/node_modules/")] + "/node_modules"
			v.show(modules)
		default:
			v.show(real)
		}
		for _, l := range links {
			if !v.sees(l.path) {
				v.link(l.path, l.target)
			}
		}
	}
}

func isVenv(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "pyvenv.cfg"))
	return err == nil
}

// interpreter shows the Python that a virtual environment with this folder of
// programs is made of.
func (v *view) interpreter(caller environ, bin string) {
	config, err := readSmall(filepath.Join(filepath.Dir(bin), "pyvenv.cfg"))
	if err != nil {
		return
	}
	for line := range strings.SplitSeq(string(config), "\n") {
		name, value, ok := strings.Cut(line, "=")
		home := strings.TrimSpace(value)
		if !ok || strings.TrimSpace(name) != "home" || !filepath.IsAbs(home) {
			continue
		}
		// Written by whoever made the environment, which may be an agent: it chooses among the Pythons that the
		// operator has installed, and nothing else.
		real, _, err := resolve(home)
		if err == nil && filepath.Base(real) == "bin" && !v.sees(real) && v.isPython(caller, filepath.Dir(real)) {
			v.show(real)
			v.show(filepath.Join(filepath.Dir(real), "lib"))
		}
		return
	}
}

// isPython reports whether the real path is a Python's installation: in a home only what the table knows, elsewhere
// what nobody but root and the caller can have put there. An environment made of another Python is none.
func (v *view) isPython(caller environ, prefix string) bool {
	sources, err := filepath.Glob(filepath.Join(prefix, "lib", "python3*", "os.py"))
	if err != nil || !slices.ContainsFunc(sources, isFile) || isVenv(prefix) {
		return false
	}
	bin := filepath.Join(prefix, "bin")
	if t, _, _ := v.row(caller, bin); t != nil {
		return t.python
	}
	return v.hasSiblings(bin) && !slices.ContainsFunc([]string{prefix, bin, filepath.Join(prefix, "lib")}, isOthers)
}

// isFile reports whether the path is a regular file, and no link.
func isFile(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular()
}

// isOthers reports whether somebody besides root and the caller owns the path or may write it.
func isOthers(path string) bool {
	info, err := os.Lstat(path)
	if err != nil {
		return true
	}
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	return owner != 0 && owner != os.Geteuid() || info.Mode().Perm()&0o022 != 0
}

// readSmall reads what an agent may have put there: neither a device nor a pipe is waited for, and of a large file
// only the beginning counts.
func readSmall(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, fs.ErrInvalid)
	}
	return io.ReadAll(io.LimitReader(f, 64<<10))
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
