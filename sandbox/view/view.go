// Package view decides what an agent sees of a machine, and says it as data.
//
// [Make] returns a [View]: the mounts in their order, what is masked, the environment, the limits,
// and what is not shown and why. It starts nothing and changes nothing; a runtime renders the view,
// as package bubblewrap does. Everything is an allowlist: a view begins empty and has what is named
// here.
//
// Nothing of the machine but the working directory is writable, or the layer over it, git's folder
// of it, and the agent's own home, if it keeps one. Nothing is mounted or masked in these by its path. Whatever is
// there, an agent that works above can put a link in its place, which would lead the mount to any
// place of the sandbox, and its source to any place of the host. A [Layer] goes over the directory
// as a whole.
package view

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/postern/postern/hostpath/roots"
	"github.com/postern/postern/sandbox/trust"
	"github.com/postern/postern/sandbox/wire"
)

// View describes what one sandbox sees.
type View struct {
	// Agent is the agent's name, and Hostname a host name made of it.
	Agent, Hostname string
	// Workdir is the working directory. Its path is where the command starts.
	Workdir Workdir
	// Protected are paths in the working directory that are read-only though it is writable. An
	// agent may have led their paths elsewhere since they were found, so they are no Mounts: the
	// inside mounts them, or looks at what a container engine has mounted.
	Protected []string
	// GitFolders are shown outside of the working directory. The inside checks which they are.
	GitFolders []GitFolder
	// HomeLinks are links that the agent's own home should have, by their relative paths: programs
	// look in the home for what is shown of the caller's, below HostHome.
	HomeLinks map[string]string
	HostHome  string
	// Mounts are carried out in order: a mount covers earlier ones. Everything else is read-only,
	// and so are folders that must be made on the way to a target.
	Mounts []Mount
	// ReadOnly are files and folders of /proc that nobody may write, and Masked are files of /proc
	// in whose place there is an empty one. All of them exist. No file of a disk is masked: a
	// rename to its place takes the mask away.
	ReadOnly, Masked []string
	// Nodes are the folders of the nodes' sockets in the sandbox.
	Nodes []string
	// Env is the command's whole environment, as NAME=VALUE, sorted.
	Env []string
	// UID and GID are the user that the command believes to be.
	UID, GID int
	// Program is the path of [Input.Program], where no agent can write. It is "" if there is none,
	// or if an image has the programs.
	Program string
	Limits  Limits
	// Omitted lists what the caller has and the sandbox does not.
	Omitted []Omission
}

// Kind says what a [Mount] puts at its target.
type Kind string

// The kinds of mounts.
const (
	// Bind is the source of the host, with all that is below it.
	Bind Kind = "bind"
	// Tmpfs is an empty folder in memory.
	Tmpfs Kind = "tmpfs"
	// Device is a device of the host. No agent sees one: only the sandbox around a virtual machine.
	Device Kind = "device"
	// Symlink is a link that leads to the source.
	Symlink Kind = "symlink"
	// File is a new file with the content.
	File Kind = "file"
	// Cover is the content in place of a file that an earlier mount shows.
	Cover Kind = "cover"
	// Layer is an overlay over the folder that an earlier mount shows at the target. What is
	// written there goes to the folder wire.Upper of the source; wire.Work of the source is the
	// kernel's. What wire.Hidden of the source has as a device 0/0 does not exist.
	Layer Kind = "layer"
)

// Mount is one thing that a sandbox sees. The zero value of each field denies.
type Mount struct {
	Kind Kind
	// Source is a real path of the host for [Bind], [Device] and [Layer], and any path for
	// [Symlink].
	Source string
	// Target is an absolute path in the sandbox.
	Target string
	// Writable is true for the working directory, or the [Layer] over it, git's folder of it, a
	// [File] that is a copy for the agent, and the agent's own home only. A [Tmpfs] can always be
	// written.
	Writable bool
	// Mode, for chmod(2), and Size, in bytes, apply to a [Tmpfs]. NoExec means that nothing in it
	// can be executed.
	Mode   uint32
	Size   uint64
	NoExec bool
	// Content is that of a [File] or a [Cover].
	Content []byte
}

// Omission is something that is not shown.
type Omission struct {
	// What is a folder of PATH or the name of a variable, never a value.
	What string
	Why  string
}

// Input holds the inputs of a view, besides the machine itself.
type Input struct {
	// Agent is the name of the agent.
	Agent string
	// Workdir is the agent's working directory: see [Look]. [Ephemeral] and [Volume] have none.
	Workdir   Workdir
	Workspace Workspace
	// Repository, if set, is git's folder of the working directory.
	Repository *Repository
	// Home is the real path of the home that the agent keeps: nobody but the caller may write the
	// folder that it is in. If it is "", the home is in memory.
	Home string
	// Private are files and folders that no agent may see, such as the state folder and secrets.
	// Nothing that contains one of them, or is inside one, is shown.
	Private []string
	// Trusted, if set, reports whether nobody but the caller chooses where a path leads. A folder
	// of PATH is shown only if so: an agent that puts a link in the place of a folder of its own
	// would choose what the next agent sees.
	Trusted func(path string) bool `json:"-"`
	// Environ is the caller's environment, of which only an allowlist passes.
	Environ []string
	// Env are NAME=VALUE that the command gets in addition. The last of a name counts.
	Env []string
	// Sockets are folders, one for each node, that hold the agent's proxy.sock.
	Sockets []string
	// Tools, if set, is the folder with the socket of the tools that run outside.
	Tools string
	// Git is the content of /etc/gitconfig.
	Git string
	// CA is the certificate, in PEM, of the authority that the proxy signs with.
	CA []byte
	// Inside is the path of postern-sandbox, the program that serves the sandbox from the inside.
	Inside string
	// Program, if set, is the name of a program on PATH that must be of this machine: see
	// [View.Program].
	Program string
	// Image, if set, is what the sandbox sees in place of this machine's programs.
	Image  *Image
	Limits Limits
}

// systemDirs are the folders of programs in the root, which most distributions have as links into
// /usr.
var systemDirs = []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"}

// Make returns what the agent sees of this machine.
func Make(in *Input) (*View, error) {
	m, err := thisMachine()
	if err != nil {
		return nil, err
	}
	return m.view(in)
}

// builder makes a view.
type builder struct {
	*machine
	*View
	in     *Input
	caller environ
	// visible are the real paths of the host that the sandbox sees, with all that is below them, at
	// the same path.
	visible []string
	// linked are the symbolic links made so far.
	linked map[string]bool
	// home is the real path of the caller's home. inside is the command's own.
	home, inside string
	// private are the real paths of [Input.Private].
	private []string
	// venv is where uv makes its environment, or "" for the working directory's.
	venv string
	// trusted has what [Input.Trusted] said.
	trusted memo[bool]
}

func (m *machine) view(in *Input) (*View, error) {
	b := m.builder(in)
	home, homeLinks := m.callerHome(b.caller.get("HOME"))
	b.home, b.inside = m.real(home), home
	if in.Home != "" {
		b.inside = wire.Home
	}
	hosts := in.Workspace.Mode.hasFolder()
	if hosts {
		if err := m.check(in.Workdir, in.Private); err != nil {
			return nil, err
		}
	}
	if in.Image != nil {
		return b.inImage()
	}
	b.kernel()
	b.system()
	b.etc()
	if i := slices.IndexFunc(b.private, b.sees); i >= 0 {
		return nil, fmt.Errorf("set up sandbox: %s is among the programs of the system, which every agent can read: "+
			"keep it elsewhere", b.private[i])
	}
	b.add(Mount{Kind: Tmpfs, Target: "/tmp", Mode: 0o1777, Size: b.Limits.Scratch})
	b.link("/var/tmp", "/tmp")
	b.link("/var/run", "/run")
	b.add(Mount{Kind: Tmpfs, Target: b.home, Mode: 0o700, Size: b.Limits.Scratch})
	for _, l := range homeLinks {
		b.link(l.path, l.target)
	}
	// Visible before the toolchains are, so that one in the working directory is not mounted again,
	// but mounted after them: it may be below one.
	if hosts {
		b.visible = append(b.visible, in.Workdir.Path)
	}
	path := b.toolchains()
	if hosts && b.environments() {
		b.venv = "/tmp/venv"
		b.omit(filepath.Join(in.Workdir.Path, ".venv"), "its Python is not shown, so uv makes one in "+b.venv)
	}
	b.Program = b.program(path)
	if err := b.ownHome(); err != nil {
		return nil, err
	}
	if err := b.workspace(); err != nil {
		return nil, err
	}
	if err := b.repository(); err != nil {
		return nil, err
	}
	if err := b.gate(); err != nil {
		return nil, err
	}
	b.trust(path)
	b.environment(path)
	return b.View, nil
}

// ownHome shows the home that the agent keeps. It has a place of its own: the toolchains of the
// caller's home are mounted in that one, and nothing can be in a folder that an agent writes.
func (b *builder) ownHome() error {
	if b.in.Home == "" {
		return nil
	}
	inWorkdir := b.in.Workspace.Mode.hasFolder() && overlap(b.in.Workdir.Path, wire.Home)
	if b.seesPartOf(wire.Home) || inWorkdir || overlap(b.home, wire.Home) {
		return fmt.Errorf("set up sandbox: this machine has something at %s, where a home that persists would be: "+
			"use another working directory, or no such home", wire.Home)
	}
	b.HomeLinks, b.HostHome = map[string]string{}, b.home
	for _, m := range b.Mounts {
		if at, ok := strings.CutPrefix(m.Target, b.home+"/"); ok {
			b.HomeLinks[at] = m.Target
		}
	}
	for at := range b.HomeLinks {
		for in := filepath.Dir(at); in != "."; in = filepath.Dir(in) {
			if b.HomeLinks[in] != "" {
				delete(b.HomeLinks, at) // it is there by the link above
			}
		}
	}
	b.add(Mount{Kind: Bind, Source: b.in.Home, Target: wire.Home, Writable: true})
	return nil
}

func (m *machine) builder(in *Input) *builder {
	b := &builder{machine: m, in: in, caller: newEnviron(in.Environ), linked: map[string]bool{}, View: &View{
		Agent: in.Agent, Hostname: hostname(in.Agent), Workdir: in.Workdir, UID: m.uid, GID: m.gid,
		Limits: in.Limits.or(m.defaults),
	}}
	// Never root, so that programs do not try what they cannot do.
	if b.UID == 0 {
		b.UID = 1000
	}
	if b.GID == 0 {
		b.GID = 1000
	}
	for _, p := range in.Private {
		if real, _, err := m.resolve(p); err == nil {
			b.private = append(b.private, real)
		}
	}
	return b
}

func (b *builder) add(m Mount) { b.Mounts = append(b.Mounts, m) }

// readOnly shows the real path, and all below it.
func (b *builder) readOnly(path string) {
	if b.sees(path) {
		return
	}
	b.add(Mount{Kind: Bind, Source: path, Target: path})
	b.visible = append(b.visible, path)
}

// link makes a symbolic link at path, once.
func (b *builder) link(path, target string) {
	if b.linked[path] || b.sees(filepath.Dir(path)) {
		return
	}
	b.linked[path] = true
	b.add(Mount{Kind: Symlink, Source: target, Target: path})
}

// links makes the links that do not exist yet.
func (b *builder) links(all []symlink) {
	for _, l := range all {
		if !b.sees(l.path) {
			b.link(l.path, l.target)
		}
	}
}

// file puts content at path.
func (b *builder) file(path string, content []byte) {
	b.add(Mount{Kind: File, Target: path, Content: content})
}

func (b *builder) omit(what, why string) { b.Omitted = append(b.Omitted, Omission{what, why}) }

// sees reports whether the real path is visible.
func (b *builder) sees(path string) bool {
	return slices.ContainsFunc(b.visible, func(dir string) bool { return within(path, dir) })
}

// seesPartOf reports whether the real path, or something below it, is visible.
func (b *builder) seesPartOf(path string) bool {
	return b.sees(path) || slices.ContainsFunc(b.visible, func(dir string) bool { return within(dir, path) })
}

// kernel covers files of /proc. An owner of an IPC namespace may change its limits in /proc/sys,
// for example. Root's command has no capabilities, but owns files of the kernel: what their owner
// may do is taken from it. What is not listed takes a capability too, or is covered by each
// runtime.
func (b *builder) kernel() {
	b.ReadOnly = b.existing("/proc/sys", "/proc/pressure")
	if b.machine.uid == 0 {
		owned := b.existing("/proc/sysrq-trigger", "/proc/fs", "/proc/acpi", "/proc/scsi", "/proc/mtrr")
		b.ReadOnly = append(b.ReadOnly, owned...)
		b.Masked = b.existing("/proc/kcore", "/proc/keys", "/proc/key-users", "/proc/timer_list", "/proc/sched_debug",
			"/proc/kpagecount", "/proc/kpageflags", "/proc/kpagecgroup")
	}
}

// existing returns the existing ones of the paths.
func (m *machine) existing(paths ...string) []string {
	return slices.DeleteFunc(paths, func(path string) bool {
		_, err := m.lstat(path)
		return err != nil
	})
}

// hostname makes a host name of an agent's name.
func hostname(agent string) string {
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, strings.ToLower(agent))
	if clean = strings.Trim(clean[:min(len(clean), 63)], "-"); clean == "" {
		return "agent"
	}
	return clean
}

// system shows the distribution's programs.
func (b *builder) system() {
	b.readOnly("/usr")
	for _, dir := range systemDirs {
		info, err := b.lstat(dir)
		if err != nil {
			continue
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			b.readOnly(dir)
			continue
		}
		if target, err := b.readlink(dir); err == nil {
			b.link(dir, target)
		}
	}
}

// gate shows what the inside needs: itself, the nodes' leases, and the agent's sockets, of which
// only the folders are mounted because a node that restarts makes new ones.
func (b *builder) gate() error {
	inside, _, err := b.resolve(b.in.Inside)
	if err != nil {
		return fmt.Errorf("find postern-sandbox: %w", err)
	}
	b.add(Mount{Kind: Bind, Source: inside, Target: wire.Inside})
	if b.in.Tools != "" {
		b.add(Mount{Kind: Bind, Source: b.in.Tools, Target: wire.ToolsDir})
	}
	for i, dir := range b.in.Sockets {
		at := filepath.Join(wire.NodesDir, strconv.Itoa(i))
		b.Nodes = append(b.Nodes, at)
		b.add(Mount{Kind: Bind, Source: dir, Target: at})
		// The file that package guard calls LeasePath, in the node's folder; it stays when the node
		// starts again.
		lease := filepath.Join(dir, "..", "..", "lease")
		if info, err := b.lstat(lease); err == nil && info.Mode().IsRegular() {
			b.add(Mount{Kind: Bind, Source: lease, Target: at + wire.Lease})
		}
	}
	return nil
}

// trust puts the authority into every trust store that clients read. path is the PATH of the
// sandbox.
func (b *builder) trust(path string) {
	_, system := roots.Find(b.at("/"))
	bundle := trust.Bundle(system, b.in.CA)
	b.file(wire.Bundle, bundle)
	b.file(wire.CA, b.in.CA)
	for _, path := range roots.Files {
		b.link(path, wire.Bundle)
	}
	for _, store := range b.certifiStores() {
		b.add(Mount{Kind: Cover, Target: store, Content: bundle})
	}
	own := b.jdkStores(path)
	shared := slices.ContainsFunc(trust.JavaStores, func(path string) bool { return b.exists(path) })
	if !shared && len(own) == 0 {
		return
	}
	store := trust.KeyStore(bundle)
	b.file(wire.Java, store)
	for _, path := range trust.JavaStores {
		b.link(path, wire.Java)
	}
	for _, path := range own {
		b.add(Mount{Kind: Cover, Target: path, Content: store})
	}
}

// certifiStores are the roots of certifi, which Python's clients take for the system's, in the
// installations and environments in view. One in the working directory is not among them: an agent
// can have a link in its place.
func (b *builder) certifiStores() []string {
	var stores []string
	for _, dir := range b.visible {
		if within(dir, b.Workdir.Path) {
			continue
		}
		for _, pattern := range trust.CertifiStores {
			for _, found := range b.match(dir, pattern) {
				store, _, err := b.resolve(found)
				if err == nil && b.sees(store) && !within(store, b.Workdir.Path) && !slices.Contains(stores, store) {
					stores = append(stores, store)
				}
			}
		}
	}
	return stores
}

// jdkStores are the key stores of those JDKs in view that have their own, as every JDK has that is
// not a distribution's. One in the working directory is not among them: an agent can have a link in
// its place.
func (b *builder) jdkStores(path string) []string {
	homes := []string{b.caller.get("JAVA_HOME")}
	for _, dir := range filepath.SplitList(path) {
		if java, _, err := b.resolve(filepath.Join(dir, "java")); err == nil {
			homes = append(homes, filepath.Dir(filepath.Dir(java)))
		}
	}
	var stores []string
	for _, home := range homes {
		if !filepath.IsAbs(home) {
			continue
		}
		for _, name := range trust.JDKStores {
			store, _, err := b.resolve(filepath.Join(home, name))
			if err == nil && b.sees(store) && !within(store, b.Workdir.Path) && !slices.Contains(stores, store) {
				stores = append(stores, store)
			}
		}
	}
	return stores
}
