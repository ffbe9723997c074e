package sandbox

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/wire"
)

// view is what a sandbox sees of the file system, as arguments of bubblewrap.
// Arguments are carried out in order, so what comes later covers what came
// before it.
type view struct {
	args   []string
	passed *descriptors
	// visible are the real paths of the host that the sandbox sees, with all
	// that is below them, at the same path.
	visible []string
	// linked are the symbolic links made so far.
	linked map[string]bool
	// home is the real path of the caller's home; "" if there is none.
	home string
	// private are real paths that must not be seen, nor anything that contains
	// one or is inside one.
	private []string
	// trusted is [Spec.Trusted], or nil.
	trusted func(path string) bool
}

func (v *view) add(args ...string) { v.args = append(v.args, args...) }

// readOnly shows the real path, and all below it.
func (v *view) readOnly(path string) {
	if v.sees(path) {
		return
	}
	v.add("--ro-bind", path, path)
	v.visible = append(v.visible, path)
}

// link makes a symbolic link at path, once.
func (v *view) link(path, target string) {
	if v.linked[path] || v.sees(filepath.Dir(path)) {
		return
	}
	v.linked[path] = true
	v.add("--symlink", target, path)
}

// file puts content at path.
func (v *view) file(path string, content []byte) error {
	fd, err := v.passed.data(content)
	if err != nil {
		return err
	}
	v.add("--perms", "0444", "--file", strconv.Itoa(fd), path)
	return nil
}

// sees reports whether the real path is visible.
func (v *view) sees(path string) bool {
	return slices.ContainsFunc(v.visible, func(dir string) bool { return within(path, dir) })
}

// seesPartOf reports whether the real path, or something below it, is visible.
func (v *view) seesPartOf(path string) bool {
	return v.sees(path) || slices.ContainsFunc(v.visible, func(dir string) bool { return within(dir, path) })
}

// within reports whether path is dir or below it. Both are clean and absolute.
func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// overlap reports whether one of the two contains the other.
func overlap(a, b string) bool { return within(a, b) || within(b, a) }

// copy puts what a small file holds at the same path, which costs less than
// showing the file itself. A file that cannot be read is left out.
func (v *view) copy(path string) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	v.add("--perms", "0444", "--file", strconv.Itoa(v.passed.own(f)), path)
}

// symlink is one step in resolving a path.
type symlink struct{ path, target string }

// resolve returns the real path of path and the symbolic links on the way.
func resolve(path string) (real string, links []symlink, err error) {
	rest := strings.Split(strings.Trim(filepath.Clean(path), "/"), "/")
	real = "/"
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			real = filepath.Dir(real)
			continue
		}
		next := filepath.Join(real, name)
		info, err := os.Lstat(next)
		if err != nil {
			return "", nil, fmt.Errorf("resolve %s: %w", path, err)
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			real = next
			continue
		}
		target, err := os.Readlink(next)
		if err != nil {
			return "", nil, fmt.Errorf("resolve %s: %w", path, err)
		}
		if len(links) == 40 { // as the kernel does
			return "", nil, fmt.Errorf("resolve %s: too many symbolic links", path)
		}
		links = append(links, symlink{path: next, target: target})
		if filepath.IsAbs(target) {
			real = "/"
		}
		rest = append(strings.Split(strings.Trim(target, "/"), "/"), rest...)
	}
	return real, links, nil
}

// systemDirs are the program folders of the root, which are links into /usr
// on most distributions today.
var systemDirs = []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"}

// arguments builds bubblewrap's command line and the command's environment.
func arguments(s *Spec, passed *descriptors) (args, env []string, err error) {
	caller := newEnviron(s.Environ)
	v := &view{passed: passed, linked: map[string]bool{}, trusted: s.Trusted}
	home, homeLinks := v.callerHome(caller)
	workdir, err := v.workdir(s)
	if err != nil {
		return nil, nil, err
	}

	v.isolate(s)
	v.system()
	if err := v.etc(s); err != nil {
		return nil, nil, err
	}
	if i := slices.IndexFunc(v.private, v.sees); i >= 0 {
		return nil, nil, fmt.Errorf("set up sandbox: %s is among the programs of the system, which every agent can read: keep it elsewhere", v.private[i])
	}
	scratch := strconv.FormatUint(s.Limits.Scratch, 10)
	v.add("--size", scratch, "--perms", "1777", "--tmpfs", "/tmp", "--symlink", "/tmp", "/var/tmp", "--symlink", "/run", "/var/run",
		"--size", scratch, "--perms", "0700", "--tmpfs", v.home)
	for _, l := range homeLinks {
		v.link(l.path, l.target)
	}
	// Known before the toolchains, so that one inside of it is not mounted
	// again, but mounted after them.
	v.visible = append(v.visible, workdir)
	path := v.toolchains(caller)
	// Nothing is mounted below: whatever is there, an agent can put a link in its place meanwhile, which would lead the
	// mount to any place of the sandbox, and its source to any place of the host.
	v.add("--bind", workdir, workdir)
	if err := v.gate(s); err != nil {
		return nil, nil, err
	}
	if err := v.trust(s.CA, path, caller.get("JAVA_HOME"), workdir); err != nil {
		return nil, nil, err
	}
	// What was made on the way, such as /etc, is not the agent's to change.
	v.add("--remount-ro", "/", "--chdir", "/", wire.Inside)
	env = environment(s, caller, v, home, path, workdir)
	s.Workdir = workdir
	return v.args, env, nil
}

// callerHome sets v.home and returns the path by which the caller calls it, and the links on the way.
func (v *view) callerHome(caller environ) (home string, links []symlink) {
	home = filepath.Clean(caller.get("HOME"))
	if !filepath.IsAbs(home) || home == "/" {
		home = "/home/agent"
	}
	v.home = home
	real, links, err := resolve(home)
	if err == nil {
		v.home = real
	}
	return home, links
}

// workdir sets v.private and returns the real path of the working directory.
func (v *view) workdir(s *Spec) (string, error) {
	for _, p := range s.Private {
		if real, _, err := resolve(p); err == nil {
			v.private = append(v.private, real)
		}
	}
	real, err := Workdir(s.Workdir, v.home, s.Private)
	if err != nil {
		return "", err
	}
	now, err := lookAt(real)
	if err != nil {
		return "", fmt.Errorf("use %s as working directory: %w", real, err)
	}
	if s.folder == nil {
		s.folder = now
	}
	if now.Dev != s.folder.Dev || now.Ino != s.folder.Ino {
		return "", fmt.Errorf("use %s as working directory: it is no longer the folder that was checked: run this again", real)
	}
	return real, nil
}

// lookAt returns who the folder at the real path is. A link on the way is an error: an agent that works above has put it
// there since.
func lookAt(real string) (*unix.Stat_t, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, real, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	now := new(unix.Stat_t)
	return now, unix.Fstat(fd, now)
}

// RealWorkdir returns the real path of the working directory, or says why it cannot be an agent's. See [Workdir].
func (s *Spec) RealWorkdir() (string, error) {
	v := &view{}
	v.callerHome(newEnviron(s.Environ))
	return v.workdir(s)
}

// isolate makes the namespaces and what a process needs of the kernel.
func (v *view) isolate(s *Spec) {
	v.add("--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1", "--clearenv",
		"--hostname", hostname(s.Agent),
		// 0 only for posternd, in a namespace whose 0 is the caller. For root
		// bubblewrap keeps every capability unless told otherwise.
		"--uid", "0", "--gid", "0", "--cap-drop", "ALL",
		"--cap-add", "CAP_NET_ADMIN", "--cap-add", "CAP_NET_BIND_SERVICE", "--cap-add", "CAP_SETFCAP")
	v.add("--proc", "/proc")
	// An IPC namespace's owner may change its limits, for example.
	v.coverWith("", "/proc/sys", "/proc/pressure")
	if os.Getuid() == 0 {
		v.coverProc()
	}
	// Only what is meant for it holds data.
	v.add("--dev", "/dev", "--size", strconv.FormatUint(s.Limits.Scratch, 10), "--perms", "1777", "--tmpfs", "/dev/shm", "--remount-ro", "/dev")
}

// coverProc takes from root's command, which has no capabilities but owns
// these files, what the kernel would let their owner do. What is not listed
// takes a capability too, or is covered by bubblewrap.
func (v *view) coverProc() {
	v.coverWith("", "/proc/sysrq-trigger", "/proc/fs", "/proc/acpi", "/proc/scsi", "/proc/mtrr")
	v.coverWith(os.DevNull, "/proc/kcore", "/proc/keys", "/proc/key-users", "/proc/timer_list", "/proc/sched_debug",
		"/proc/kpagecount", "/proc/kpageflags", "/proc/kpagecgroup")
}

// coverWith covers those of the paths that exist, read-only, with source, or
// with themselves.
func (v *view) coverWith(source string, paths ...string) {
	for _, path := range paths {
		if _, err := os.Lstat(path); err != nil {
			continue
		}
		if source == "" {
			v.add("--ro-bind", path, path)
		} else {
			v.add("--ro-bind", source, path)
		}
	}
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
func (v *view) system() {
	v.readOnly("/usr")
	for _, dir := range systemDirs {
		info, err := os.Lstat(dir)
		if err != nil {
			continue
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			v.readOnly(dir)
			continue
		}
		if target, err := os.Readlink(dir); err == nil {
			v.link(dir, target)
		}
	}
}

// gate shows what the inside needs: itself, the nodes' leases, and the agent's sockets, of which
// only the folders are mounted because a node that restarts makes new ones.
func (v *view) gate(s *Spec) error {
	inside, _, err := resolve(s.Inside)
	if err != nil {
		return fmt.Errorf("find postern-sandbox: %w", err)
	}
	v.add("--ro-bind", inside, wire.Inside)
	for i, dir := range s.Sockets {
		at := filepath.Join(wire.NodesDir, strconv.Itoa(i))
		v.add("--ro-bind", dir, at)
		// The file that package guard calls LeasePath, in the node's folder; it stays when the node starts again.
		lease := filepath.Join(dir, "..", "..", "lease")
		if info, err := os.Lstat(lease); err == nil && info.Mode().IsRegular() {
			v.add("--ro-bind", lease, at+wire.Lease)
		}
	}
	return nil
}
