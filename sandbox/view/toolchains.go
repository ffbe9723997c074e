package view

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/postern/postern/sandbox/toolchain"
)

// siblings are shown next to a bin folder outside of all homes, where a program commonly finds the
// rest of itself.
var siblings = []string{"bin", "sbin", "lib", "lib32", "lib64", "libexec", "share", "include", "pyvenv.cfg"}

// javas are what a Java runtime, which has lib/modules, needs besides. The conf folder of other programs may hold passwords.
var javas = []string{"jmods", "release", "conf"}

// kernelAndSettings hold more than programs.
var kernelAndSettings = []string{"/etc", "/proc", "/sys", "/dev", "/boot"}

// homes hold the homes of users other than the caller, as when sudo keeps PATH.
var homes = []string{"/home", "/root", "/Users"}

// Why a folder of PATH is not shown.
const (
	whyRelative = "it is not an absolute path"
	whyNoFolder = "it is not a folder"
	whyAgents   = "an agent can write on the way to it"
	whyHome     = "it is or contains your home, or is a folder of the root"
	whySystem   = "it is the system's, with more in it than programs"
	whyPrivate  = "it is, contains, or is inside what no agent may see"
	whySecrets  = "it is, contains, or is inside a folder for secrets"
)

// hasSiblings reports whether the real path is a folder of programs that may need what is next to
// it.
func (b *builder) hasSiblings(real string) bool {
	return strings.Count(real, "/") >= 3 && slices.Contains([]string{"bin", "sbin"}, filepath.Base(real)) &&
		!within(real, b.home) && !slices.ContainsFunc(homes, func(h string) bool { return within(real, h) })
}

// siblings returns what may be shown in the folder of a toolchain.
func (b *builder) siblings(dir string) []string {
	if _, _, err := b.resolve(filepath.Join(dir, "lib", "modules")); err != nil {
		return siblings
	}
	return slices.Concat(siblings, javas)
}

// toolchains shows what the entries of the caller's PATH need, and returns the PATH of what is
// visible then. An entry that cannot be shown is omitted.
func (b *builder) toolchains() string {
	var path []string
	for _, entry := range filepath.SplitList(b.caller.get("PATH")) {
		if !filepath.IsAbs(entry) { // "." and "": a program of the working directory by accident
			b.omit("PATH: "+entry, whyRelative)
			continue
		}
		entry = filepath.Clean(entry)
		if slices.Contains(path, entry) {
			continue
		}
		if why := b.entry(entry); why != "" {
			b.omit("PATH: "+entry, why)
			continue
		}
		path = append(path, entry)
	}
	for _, entry := range []string{"/usr/local/bin", "/usr/bin", "/bin"} {
		if !slices.Contains(path, entry) {
			path = append(path, entry)
		}
	}
	return strings.Join(path, ":")
}

// entry shows one entry of PATH, or says why it is not shown.
func (b *builder) entry(entry string) (why string) {
	real, links, err := b.resolve(entry)
	if err != nil || !b.isDir(real) {
		return whyNoFolder
	}
	switch {
	case b.sees(real):
		b.interpreter(real)
	case !b.leads(entry):
		return whyAgents
	default:
		if why := b.forbidden(real); why != "" {
			return why
		}
		b.toolchain(real)
	}
	if !b.sees(real) {
		return whyAgents // a link of its toolchain is an agent's
	}
	b.links(links)
	return ""
}

// toolchain shows a folder of PATH, and what its programs need next to it.
func (b *builder) toolchain(real string) {
	if !b.known(real) && !b.sees(real) {
		if b.hasSiblings(real) {
			for _, name := range b.siblings(filepath.Dir(real)) {
				b.show(filepath.Join(filepath.Dir(real), name))
			}
		}
		b.show(real)
	}
	b.interpreter(real)
}

// forbidden says why the real path must not be shown: it has in it, or is in, something that no
// agent may see.
func (b *builder) forbidden(real string) (why string) {
	switch {
	case within(b.home, real) || strings.Count(real, "/") < 2 && real != "/nix":
		return whyHome
	case slices.ContainsFunc(kernelAndSettings, func(dir string) bool { return within(real, dir) }):
		return whySystem
	case slices.ContainsFunc(b.private, func(p string) bool { return overlap(p, real) }):
		return whyPrivate
	case slices.ContainsFunc(secretDirs, func(s string) bool { return overlap(filepath.Join(b.home, s), real) }):
		return whySecrets
	}
	return ""
}

// leads reports whether nobody but the caller chooses where the path leads.
func (b *builder) leads(path string) bool { return b.in.Trusted == nil || b.in.Trusted(path) }

// show shows the real path if it exists and may be shown.
func (b *builder) show(path string) {
	real, _, err := b.resolve(path)
	if err != nil || !b.leads(path) || b.forbidden(real) != "" {
		return
	}
	b.readOnly(real)
	if real == path {
		return
	}
	// A link: the way there, too.
	if target, err := b.readlink(path); err == nil {
		b.link(path, target)
	}
}

// known shows what the table says of the folder, if it says something.
func (b *builder) known(real string) bool {
	t, root, names := b.row(real)
	if t == nil {
		return false
	}
	for _, path := range t.Shown(b.home, root, names) {
		b.show(path)
	}
	for _, h := range t.Hide {
		b.hide(root, h)
	}
	if t.Follow {
		b.follow(real)
	}
	return true
}

// row returns the table's entry for the folder: the toolchain, its place, and what each * stood
// for; or nil.
func (b *builder) row(real string) (t *toolchain.Toolchain, root string, names []string) {
	for i := range toolchain.Table {
		t := &toolchain.Table[i]
		root := b.rootOf(t)
		if root == "" || !within(real, root) {
			continue
		}
		if names, ok := t.Match(root, real); ok {
			return t, root, names
		}
	}
	return nil, "", nil
}

// rootOf is the real path of the toolchain's root, or "" if it is not there.
func (b *builder) rootOf(t *toolchain.Toolchain) string {
	root := t.Root
	if value := b.caller.get(t.Env); t.Env != "" && filepath.IsAbs(value) {
		root = value
	}
	if !filepath.IsAbs(root) {
		root = filepath.Join(b.home, root)
	}
	real, _, err := b.resolve(root)
	if err != nil || !b.leads(root) || within(b.home, real) {
		return ""
	}
	return real
}

// hide masks the files below root that match the pattern. What is in the working directory is not
// masked, as nothing is mounted there: the agent can read it anyway.
func (b *builder) hide(root, pattern string) {
	for _, path := range b.match(root, pattern) {
		real, _, err := b.resolve(path)
		if err == nil && b.sees(real) && !within(real, b.Workdir.Path) && !slices.Contains(b.Masked, real) {
			b.Masked = append(b.Masked, real)
		}
	}
}

// follow shows what the links in a folder of programs start: the folder of a Python environment or
// a Node package, or else the one program. Whatever is not an executable file, a key for example,
// stays invisible.
func (b *builder) follow(dir string) {
	entries, err := os.ReadDir(b.at(dir))
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink == 0 {
			continue
		}
		link := filepath.Join(dir, e.Name())
		real, links, err := b.resolve(link)
		if err != nil || b.sees(real) || !b.leads(link) {
			continue
		}
		info, err := b.lstat(real)
		if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			continue
		}
		modules, _, inPackage := strings.Cut(real, "/node_modules/")
		switch prefix := filepath.Dir(filepath.Dir(real)); {
		case b.isVenv(prefix):
			b.show(prefix)
			b.interpreter(filepath.Dir(real))
		case inPackage:
			b.show(modules + "/node_modules")
		default:
			b.show(real)
		}
		b.links(links)
	}
}

func (m *machine) isVenv(dir string) bool { return m.exists(filepath.Join(dir, "pyvenv.cfg")) }

// interpreter shows the Python that a virtual environment with this folder of programs is made of.
func (b *builder) interpreter(bin string) {
	config, err := b.readSmall(filepath.Join(filepath.Dir(bin), "pyvenv.cfg"))
	if err != nil {
		return
	}
	for line := range strings.SplitSeq(string(config), "\n") {
		name, value, ok := strings.Cut(line, "=")
		home := strings.TrimSpace(value)
		if !ok || strings.TrimSpace(name) != "home" || !filepath.IsAbs(home) {
			continue
		}
		// Written by whoever made the environment, which may be an agent: it chooses among the
		// Pythons that the operator has installed, and nothing else.
		real, _, err := b.resolve(home)
		if err == nil && filepath.Base(real) == "bin" && !b.sees(real) && b.isPython(filepath.Dir(real)) {
			b.show(real)
			b.show(filepath.Join(filepath.Dir(real), "lib"))
		}
		return
	}
}

// isPython reports whether the real path is a Python's installation: in a home only what the table
// knows, elsewhere what nobody but root and the caller can have put there. An environment made of
// another Python is not an installation.
func (b *builder) isPython(prefix string) bool {
	if !slices.ContainsFunc(b.match(prefix, "lib/python3*/os.py"), b.isRegular) || b.isVenv(prefix) {
		return false
	}
	bin := filepath.Join(prefix, "bin")
	if t, _, _ := b.row(bin); t != nil {
		return t.Python
	}
	return b.hasSiblings(bin) && !slices.ContainsFunc([]string{prefix, bin, filepath.Join(prefix, "lib")}, b.isOthers)
}

// owner is the user that a file belongs to.
func owner(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }
