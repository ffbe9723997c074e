package view

import (
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/postern/postern/sandbox/toolchain"
)

// kernelAndSettings hold more than programs.
var kernelAndSettings = []string{"/etc", "/proc", "/sys", "/dev", "/boot"}

// homes hold the homes of users other than the caller, as when sudo keeps PATH.
var homes = []string{"/home", "/root", "/Users"}

// Why a folder of PATH is not shown.
const (
	whyRelative = "it is not an absolute path"
	whyNoFolder = "it is not a folder"
	whyAgents   = "an agent can write on the way to it"
	whyUnfit    = "it is not known to be a program: it may hold settings or keys"
	whyNothing  = "nothing in it is known to be a program"
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

// program returns the path of the program that must be of this machine, in the first folder of path
// that shows one.
func (b *builder) program(path string) string {
	for _, dir := range filepath.SplitList(path) {
		at := filepath.Join(dir, b.in.Program)
		real, _, err := b.resolve(at)
		if err == nil && b.in.Program != "" && b.leads(at) && b.sees(real) && !within(real, b.Workdir.Path) {
			return at
		}
	}
	return ""
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
	switch {
	case b.seesPartOf(real):
		b.links(links)
		return ""
	case b.leads(real):
		return whyNothing
	}
	return whyAgents // a link of its toolchain is an agent's
}

// toolchain shows a folder of PATH, and what its programs need next to it.
func (b *builder) toolchain(real string) {
	if !b.known(real) && !b.sees(real) {
		if b.hasSiblings(real) {
			b.prefix(filepath.Dir(real))
		}
		b.programs(real, deep)
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
func (b *builder) leads(path string) bool {
	trusted, _ := b.trusted.ask(path, func(path string) (bool, error) {
		return b.in.Trusted == nil || b.in.Trusted(path), nil
	})
	return trusted
}

// place returns where the path leads, if that exists and may be shown.
func (b *builder) place(path string) (real string, ok bool) {
	real, _, err := b.resolve(path)
	return real, err == nil && b.leads(path) && b.forbidden(real) == ""
}

// show shows the real path if it exists and may be shown, without what is in hidden. Of a folder of
// programs, only programs are shown.
func (b *builder) show(path string, hidden ...string) {
	real, ok := b.place(path)
	if !ok {
		return
	}
	if toolchain.HasPrograms(real) && b.isDir(real) {
		b.programs(real, deep, hidden...)
	} else {
		b.without(real, hidden)
	}
	b.way(path)
}

// way makes a link at the path if there is one on the host.
func (b *builder) way(path string) {
	if target, err := b.readlink(path); err == nil {
		b.link(path, target)
	}
}

// without shows the real path besides what is in hidden. A folder with something hidden in it is
// not mounted: what else is in it is mounted in a new folder. A mask would be gone as soon as the
// host renames another file to the masked one.
func (b *builder) without(path string, hidden []string) {
	below := slices.DeleteFunc(slices.Clone(hidden), func(h string) bool { return !within(h, path) })
	switch {
	case slices.Contains(below, path) || b.sees(path):
		return
	case len(below) == 0:
		b.readOnly(path)
		return
	}
	entries, err := b.readDir(path)
	if err != nil {
		return
	}
	for _, e := range entries {
		at := filepath.Join(path, e.Name())
		if e.Type()&fs.ModeSymlink == 0 {
			b.without(at, below)
		} else if target, err := b.readlink(at); err == nil && !slices.Contains(below, at) {
			b.link(at, target)
		}
	}
}

// installation returns the real folder of one installation, if it may be shown. A link out of the
// folder that it is in stays a link.
func (b *builder) installation(path string) (real string, ok bool) {
	real, ok = b.place(path)
	if !ok || real == path {
		return real, ok
	}
	b.way(path)
	return real, within(real, filepath.Dir(path))
}

// prefix shows what installers have put into the folder of one installation.
func (b *builder) prefix(path string) {
	real, ok := b.installation(path)
	if !ok {
		return
	}
	parts := toolchain.Parts
	if slices.ContainsFunc(toolchain.IsJava, func(f string) bool { return b.exists(filepath.Join(real, f)) }) {
		parts = slices.Concat(parts, toolchain.JavaParts)
	}
	hidden := b.hidden(real, toolchain.Settings)
	for _, part := range parts {
		at := filepath.Join(real, part)
		b.show(at, append(hidden, b.packages(at)...)...)
	}
}

// one shows one of many installations side by side. A mount costs a millisecond, so a folder that
// has nothing but parts is one mount.
func (b *builder) one(path string) {
	real, ok := b.place(path)
	entries, err := b.readDir(real)
	if !ok || err != nil || real != path || len(b.hidden(real, toolchain.Settings)) > 0 ||
		slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return !b.isPart(filepath.Join(real, e.Name())) }) {
		b.prefix(path)
		return
	}
	b.readOnly(real)
}

// isPart reports whether all at the path is shown of an installation.
func (b *builder) isPart(path string) bool {
	return b.isDir(path) && slices.Contains(toolchain.Parts, filepath.Base(path)) && b.forbidden(path) == "" &&
		len(b.packages(path)) == 0 && (!toolchain.HasPrograms(path) || len(b.unfit(path, new(int), deep)) == 0)
}

// golang shows a Go distribution.
func (b *builder) golang(path string) {
	root, ok := b.installation(path)
	if !ok || !b.exists(filepath.Join(root, "bin", "go")) {
		return
	}
	for _, part := range toolchain.GoParts {
		b.show(filepath.Join(root, part))
	}
	settings := filepath.Join(root, "go.env")
	content, err := b.readSmall(settings)
	if err != nil || b.sees(settings) {
		return
	}
	var harmless []byte
	for line := range strings.Lines(string(content)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if isHarmless := passedVariables[name]; ok && isHarmless != nil && isHarmless(value) {
			harmless = append(harmless, line...)
		}
	}
	b.file(settings, harmless)
}

// depth is how far programs looks.
type depth bool

const (
	// flat shows files only.
	flat depth = false
	// deep shows folders too.
	deep depth = true
	// maxBelow bounds the files and folders below a folder of programs that are looked at.
	maxBelow = 4096
)

// programs shows the programs of a real folder, without what is in hidden.
func (b *builder) programs(real string, d depth, hidden ...string) {
	if _, ok := b.place(real); !ok || b.sees(real) {
		return
	}
	unfit := b.unfit(real, new(int), d)
	if len(unfit) > 0 && b.isLarge(real) {
		// Thousands of mounts take seconds. Whoever fills such a folder is a package manager.
		harmless := func(path string) bool { return b.isRegular(path) && toolchain.IsHarmless(path) }
		if unfit = slices.DeleteFunc(unfit, harmless); len(unfit) > 0 {
			b.omit(unfit[0], whyUnfit)
			return
		}
	}
	for _, path := range unfit {
		if why := (Omission{path, whyUnfit}); d == deep && !slices.Contains(b.Omitted, why) {
			b.Omitted = append(b.Omitted, why)
		}
	}
	b.without(real, slices.Concat(hidden, unfit))
}

// maxOneByOne bounds the files of a folder of programs that are mounted one by one.
const maxOneByOne = 200

func (b *builder) isLarge(dir string) bool {
	entries, err := b.readDir(dir)
	return err == nil && len(entries) > maxOneByOne
}

// unfit returns what is in the folder and not shown of it: what is not known to be a program, or to
// be loaded by one. Files in deeper folders count in seen. What is not looked at is not shown.
func (b *builder) unfit(dir string, seen *int, d depth) []string {
	entries, err := b.readDir(dir)
	if err != nil {
		return []string{dir}
	}
	var found []string
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		fit := false
		switch kind := e.Type(); {
		case toolchain.IsSettings(e.Name()):
		case kind.IsDir() && d == deep:
			below, err := b.readDir(path)
			if *seen += len(below); err == nil && *seen <= maxBelow {
				found = append(found, b.unfit(path, seen, deep)...)
				fit = true
			}
		case kind&fs.ModeSymlink != 0:
			fit = true
		case kind.IsRegular():
			info, err := e.Info()
			fit = err == nil && toolchain.IsProgram(e.Name(), info.Mode()&0o111 != 0)
		}
		if !fit {
			found = append(found, path)
		}
	}
	return found
}

// hidden returns what exists below the real folder and matches one of the patterns, and where it is
// if there are links on the way.
func (b *builder) hidden(folder string, patterns []string) []string {
	var found []string
	entries, err := b.readDir(folder)
	for _, pattern := range patterns {
		pattern = strings.ReplaceAll(pattern, "+", "*")
		first, _, _ := strings.Cut(pattern, "/")
		there := func(e fs.DirEntry) bool { return e.Name() == first }
		if err == nil && !strings.Contains(first, "*") && !slices.ContainsFunc(entries, there) {
			continue
		}
		for _, path := range b.match(folder, pattern) {
			found = append(found, path, filepath.Join(b.real(filepath.Dir(path)), filepath.Base(path)), b.real(path))
		}
	}
	return found
}

// every returns what exists at the path.
func (m *machine) every(p toolchain.Path) []string {
	paths := []string{p.Folder}
	for name := range strings.SplitSeq(p.Pattern, "/") {
		var next []string
		for _, at := range paths {
			if name == "+" {
				next = append(next, m.match(at, "*")...)
			} else {
				next = append(next, m.existing(filepath.Join(at, name))...)
			}
		}
		paths = next
	}
	return paths
}

// known shows what the table says of the folder, if it says something.
func (b *builder) known(real string) bool {
	t, root, names := b.row(real)
	if t == nil {
		return false
	}
	hidden := b.hidden(root, slices.Concat(t.Hide, toolchain.Settings))
	var side, alone []string
	for _, pattern := range t.Prefixes {
		if strings.HasSuffix(pattern, "+") {
			side = append(side, pattern)
		} else {
			alone = append(alone, pattern)
		}
	}
	for _, show := range []struct {
		patterns []string
		one      func(path string)
	}{
		{t.Show, func(path string) { b.show(path, append(hidden, b.packages(path)...)...) }},
		{side, b.one},
		{alone, b.prefix},
		{t.Go, b.golang},
	} {
		for _, p := range t.Paths(show.patterns, b.home, root, names) {
			for _, path := range b.every(p) {
				show.one(path)
			}
		}
	}
	switch {
	case t.Follow:
		b.programs(real, deep)
		b.follow(real)
	case !b.sees(real):
		b.programs(real, flat)
	}
	return true
}

// packages returns what is not shown of a folder of npm's packages.
func (b *builder) packages(dir string) []string {
	if filepath.Base(dir) != "node_modules" {
		return nil
	}
	var found []string
	for _, path := range b.match(dir, ".*") {
		if toolchain.IsSettings(filepath.Base(path)) {
			found = append(found, path)
		}
	}
	return found
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

// follow shows what the links in a folder of programs start: the folder of a Python environment or
// a Node package, or else the one program. Whatever is not an executable file, a key for example,
// stays invisible.
func (b *builder) follow(dir string) {
	entries, err := b.readDir(dir)
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
			b.prefix(prefix)
			b.interpreter(filepath.Dir(real))
		case inPackage:
			b.show(modules+"/node_modules", b.packages(modules+"/node_modules")...)
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
		real, links, err := b.resolve(home)
		if err == nil && filepath.Base(real) == "bin" && !b.sees(real) && b.isPython(filepath.Dir(real)) {
			b.show(real)
			b.show(filepath.Join(filepath.Dir(real), "lib"), b.hidden(filepath.Dir(real), toolchain.Settings)...)
			b.links(links) // uv's lead to the version in use
		}
		return
	}
}

// environments shows the Pythons of the virtual environments in the working directory, and reports
// whether uv's stays one without a Python: uv would remove it, and make another.
func (b *builder) environments() (broken bool) {
	for _, name := range []string{"venv", ".venv"} {
		bin := filepath.Join(b.Workdir.Path, name, "bin")
		b.interpreter(bin)
		real, _, err := b.resolve(filepath.Join(bin, "python"))
		broken = b.isVenv(filepath.Dir(bin)) && (err != nil || !b.sees(real))
	}
	return broken
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

func group(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Gid) }
