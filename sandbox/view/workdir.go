package view

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/hostpath/places"
	"github.com/postern/postern/sandbox/toolchain"
)

// notWorkdirs may not be working directories, nor anything that contains one.
var notWorkdirs = []struct {
	path string
	// below is true if nothing inside may be one either.
	below bool
	why   string
}{
	{"/etc", true, "it holds the configuration and secrets of the system"},
	{"/proc", true, "it is the kernel's"},
	{"/sys", true, "it is the kernel's"},
	{"/dev", true, "it holds the devices of the system"},
	{"/run", true, "it holds the sockets of the system"},
	{"/boot", true, "it holds the kernel"},
	{"/usr", true, "it holds the programs of the system"},
	{"/bin", true, "it holds the programs of the system"},
	{"/sbin", true, "it holds the programs of the system"},
	{"/lib", true, "it holds the programs of the system"},
	{"/lib64", true, "it holds the programs of the system"},
	{"/home", false, "it holds the homes of this machine's people"},
	{"/root", false, "it is the administrator's home"},
	{"/opt", false, "it holds the programs of the system"},
	{"/srv", false, "it holds the data of other programs"},
	{"/mnt", false, "it holds other file systems"},
	{"/media", false, "it holds other file systems"},
	{"/var/lib", false, "it holds the data of other programs"},
	{"/var/lib/apt", true, "it holds the programs of the system"},
	{"/var/lib/dpkg", true, "it holds the programs of the system"},
	{"/var/lib/rpm", true, "it holds the programs of the system"},
	{"/var/lib/systemd", true, "it holds the configuration and secrets of the system"},
	{"/var/backups", true, "it holds the configuration and secrets of the system"},
	{"/var/mail", true, "it holds the records of the system"},
	{"/var/log", true, "it holds the records of the system"},
	{"/var/spool", true, "other programs act on what is there"},
	{"/var/cache", true, "other programs act on what is there"},
	{"/var/tmp", false, "other programs keep files and sockets there"},
	{"/tmp", false, "other programs keep files and sockets there"},
}

// sources are below what is the system's, and are for people's own projects.
var sources = []string{"/usr/src", "/usr/local/src"}

// programDirs, below a home, hold programs and libraries that the home's owner runs or compiles. So
// do the toolchains of [toolchain.Table].
var programDirs = []string{
	".local/bin", ".local/lib", ".cache", "go/bin", "go/pkg", "sdk/go*", ".npm", ".m2", ".gradle", ".local/share/uv",
	".local/share/pipx", ".local/pipx", ".local/share/virtualenvs", ".local/share/gem", ".gem", ".bundle", ".nuget",
	".ivy2", ".sbt", ".conda", "anaconda3", "miniforge3", "mambaforge", "micromamba", ".opam", ".ghcup", ".cabal",
	".stack", ".pub-cache", ".krew", ".vscode-server", ".yarn", ".local/share/cargo", ".local/share/rustup",
}

// whyKeys says why such a folder is refused.
const whyKeys = ", where Postern keeps keys and sockets"

// ownPrograms says why such a folder is refused.
const ownPrograms = ", from which the owner's programs are run or compiled"

// projects are toolchains' folders that people also use for projects: what is run of them is in
// programDirs.
var projects = []string{"go", "sdk"}

// secretDirs, below the home, hold keys and tokens: never shown, not even if
// one is on PATH.
var secretDirs = []string{
	".ssh", ".gnupg", ".aws", ".azure", ".config/gcloud", ".config/gh", ".config/hub", ".docker", ".kube",
	".password-store",
	".local/share/keyrings", ".mozilla", ".config/google-chrome", ".config/chromium", ".netrc", ".git-credentials",
	".pulumi", ".terraform.d", ".vault-token",
}

// Never returns the paths that no agent may see, by whatever name or mount: of the person with the
// home, of root, and the sockets of container engines. They need not exist.
func Never(home, runtime string) []string {
	paths := []string{
		"/root", "/run/docker.sock", "/run/podman/podman.sock", "/run/containerd/containerd.sock",
		filepath.Join(home, ".config"),
	}
	for _, dir := range secretDirs {
		paths = append(paths, filepath.Join(home, dir))
		if home != "/root" {
			paths = append(paths, filepath.Join("/root", dir))
		}
	}
	if filepath.IsAbs(runtime) {
		paths = append(paths, filepath.Join(runtime, "docker.sock"), filepath.Join(runtime, "podman/podman.sock"))
	}
	return paths
}

// Workdir is a folder that may be an agent's working directory: where it is, who it is, and what
// the host has mounted in it.
type Workdir struct {
	// Path is real.
	Path string
	// Device and Inode identify the folder. A path may lead to another folder a moment later.
	Device, Inode uint64
	// Mounts are the mounts that the host has made at and below Path, each as "DEVICE ROOT" of
	// proc_pid_mountinfo(5).
	Mounts []string
	// Judged is set by [Look] only: judging takes longer than all else that a view is made of.
	Judged bool
}

// Look returns the working directory at the path dir, or says why that cannot be an agent's, who
// may write everywhere in it. environ is the caller's environment: HOME must not be in the
// directory. private must be neither in it nor around it.
func Look(dir string, environ, private []string) (Workdir, error) {
	m := &machine{}
	home, _ := m.callerHome(newEnviron(environ).get("HOME"))
	abs, err := filepath.Abs(dir)
	if err != nil {
		return Workdir{}, fmt.Errorf("use %s as working directory: %w", dir, err)
	}
	return m.look(abs, m.real(home), private, newEnviron(environ))
}

// Judge says why the folder at the absolute path dir, which does not exist yet, cannot be an
// agent's working directory: see [Look].
func Judge(dir string, environ, private []string) error {
	m := &machine{}
	home, _ := m.callerHome(newEnviron(environ).get("HOME"))
	_, err := m.judge(dir, m.eventually(filepath.Clean(dir)), m.real(home), private, newEnviron(environ))
	return err
}

// check makes sure that the folder is still the one that was judged, and that nothing private is in
// it or around it.
func (m *machine) check(w Workdir, private []string) error {
	if !w.Judged {
		return fmt.Errorf("use %s as working directory: nobody has judged it", w.Path)
	}
	device, inode, err := m.identity(w.Path)
	if err != nil || device != w.Device || inode != w.Inode {
		return fmt.Errorf("use %s as working directory: it is no longer the folder that was checked: run this again",
			w.Path)
	}
	for _, p := range private {
		if p = m.real(p); overlap(p, w.Path) {
			return fmt.Errorf("use %s as working directory: it is, contains, or is inside %s%s", w.Path, p, whyKeys)
		}
	}
	return nil
}

// look is [Look] for an absolute path, a real home and the caller's environment.
func (m *machine) look(dir, home string, private []string, caller environ) (Workdir, error) {
	real, _, err := m.resolve(dir)
	if err != nil {
		return Workdir{}, fmt.Errorf("use %s as working directory: %w", dir, err)
	}
	if !m.isDir(real) {
		return Workdir{}, fmt.Errorf("use %s as working directory: it is not a folder", dir)
	}
	below, err := m.judge(dir, real, home, private, caller)
	if err != nil {
		return Workdir{}, err
	}
	device, inode, err := m.identity(real)
	if err != nil {
		return Workdir{}, fmt.Errorf("use %s as working directory: %w", real, err)
	}
	return Workdir{Path: real, Device: device, Inode: inode, Mounts: below, Judged: true}, nil
}

// judge says why the folder called dir, which is or would be at the real path, cannot be an agent's.
// It returns what is mounted there and below.
func (m *machine) judge(dir, real, home string, private []string, caller environ) (mounts []string, err error) {
	refuse := func(why string) ([]string, error) {
		return nil, fmt.Errorf("use %s as working directory: %s; go to the folder of one project, "+
			"name one with --workdir, or use none: --workspace tmpfs", dir, why)
	}
	if real == "/" {
		return refuse("it is the whole file system, and an agent can write to its working directory")
	}
	if within(home, real) {
		return refuse("it is or contains your home (" + home + "), which agents must not see")
	}
	for _, p := range private {
		if p = m.real(p); overlap(p, real) {
			return refuse("it is, contains, or is inside " + p + whyKeys)
		}
	}
	people, services := m.homes()
	if !slices.Contains(people, home) {
		people = append(people, home)
	}
	for _, h := range append(people, services...) {
		if h == "/" {
			continue
		}
		person := slices.Contains(people, h)
		if person && within(h, real) {
			return refuse("it is or contains " + h + ", which is somebody's home")
		}
		for _, s := range secretDirs {
			secret := filepath.Join(h, s)
			// Services mostly have nothing of their own in their home: /usr/games, /bin.
			if _, _, err := m.resolve(secret); err != nil && !person {
				continue
			}
			if overlap(real, secret) {
				return refuse("it is, contains, or is inside " + secret + ", which is for secrets")
			}
		}
		for _, dir := range m.programDirs(h) {
			// A service's home mostly has none of them.
			if within(real, dir) || overlap(real, dir) && (person || m.exists(dir)) {
				return refuse("it is, contains, or is inside " + dir + ownPrograms)
			}
		}
		if person {
			set := map[string]string{}
			if h == home {
				set = caller.values
			}
			for _, p := range places.Of(h, set, m.readSmall) {
				way := m.way(p.Path)
				inside := slices.ContainsFunc(way, func(step string) bool {
					return within(step, real) && (step != real || !p.Program)
				})
				if inside || within(real, way[0]) && !p.Shared {
					return refuse("it is, contains, or is inside " + p.Path + ownPrograms + " (" + p.Name +
						"): set that to another folder")
				}
			}
			for link, target := range m.dotfiles(h) {
				if within(target, real) {
					return refuse(link + " leads into it, which the owner's programs read or run")
				}
			}
		}
		if settings := filepath.Join(h, ".config"); within(real, settings) {
			return refuse("it is in " + settings + ", which is for settings that the owner's programs act on")
		}
	}
	whole, below, err := m.mounts(real)
	if err != nil {
		return nil, fmt.Errorf("use %s as working directory: %w", dir, err)
	}
	if whole {
		return refuse("a whole file system is mounted there")
	}
	for _, n := range notWorkdirs {
		inside := n.below && within(real, n.path) &&
			!slices.ContainsFunc(sources, func(s string) bool { return real != s && within(real, s) })
		if within(n.path, real) || inside {
			return refuse("it is, contains, or is inside " + n.path + ": " + n.why)
		}
	}
	return below, nil
}

// dotfiles returns the links among the files and folders that a home's owner has for programs, and
// where they lead: many people keep these in a folder of their own, such as ~/dotfiles. A link may
// lead nowhere yet.
func (m *machine) dotfiles(home string) map[string]string {
	links := map[string]string{}
	settings := filepath.Join(home, ".config")
	for _, dir := range append(m.match(settings, "*"), home, settings, filepath.Join(home, ".ssh")) {
		entries, err := m.readDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if e.Type()&fs.ModeSymlink == 0 || dir == home && !strings.HasPrefix(e.Name(), ".") {
				continue
			}
			link := filepath.Join(dir, e.Name())
			links[link] = m.eventually(link)
		}
	}
	return links
}

// programDirs returns the folders below the home from which its owner's programs are run or
// compiled, as they are called and where they lead. They need not exist.
func (m *machine) programDirs(home string) []string {
	var dirs []string
	add := func(path string) {
		dirs = append(dirs, path)
		name, _, _ := strings.Cut(strings.TrimPrefix(path, home+"/"), "/")
		if _, err := m.lstat(filepath.Join(home, name)); errors.Is(err, fs.ErrNotExist) {
			return // as most of them
		}
		if real := m.eventually(path); real != path {
			dirs = append(dirs, real)
		}
	}
	for _, p := range programDirs {
		if strings.Contains(p, "*") {
			for _, path := range m.match(home, p) {
				add(path)
			}
		} else {
			add(filepath.Join(home, p))
		}
	}
	for _, t := range toolchain.Table {
		if !filepath.IsAbs(t.Root) && !slices.Contains(projects, t.Root) {
			add(filepath.Join(home, t.Root))
		}
	}
	return dirs
}

// eventually returns where the path leads, or will lead when what is missing of it is made.
func (m *machine) eventually(path string) string {
	links := 0
	for at := path; ; at = filepath.Dir(at) {
		rest, _ := filepath.Rel(at, path)
		if real, _, err := m.resolve(at); err == nil {
			return filepath.Join(real, rest)
		}
		if target, err := m.readlink(at); err == nil && links < 40 { // it leads nowhere yet
			links++
			if !filepath.IsAbs(target) {
				target = filepath.Join(m.real(filepath.Dir(at)), target)
			}
			path = filepath.Join(target, rest)
			at = path + "/." // the next is the path itself
		}
		if at == "/" {
			return path
		}
	}
}

// way returns where the path leads, the path itself, and the links on the way: whoever may write
// one of these chooses what is found.
func (m *machine) way(path string) []string {
	all := []string{m.eventually(path), path}
	_, links, _ := m.resolve(path)
	for _, l := range links {
		all = append(all, l.path)
	}
	return all
}

// identity returns who the folder at the real path is. A link on the way is an error: an agent that
// works above has put it there since.
func (m *machine) identity(real string) (device, inode uint64, err error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, m.at(real), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return 0, 0, err
	}
	defer unix.Close(fd)
	var now unix.Stat_t
	err = unix.Fstat(fd, &now)
	return now.Dev, now.Ino, err
}

// homes returns the real homes of the accounts in /etc/passwd: of people, and of services.
// The homes of a directory service are not known; what is directly in /home is taken for a
// person's.
func (m *machine) homes() (people, services []string) {
	text := func(path string) string {
		b, err := m.read(path)
		if err != nil {
			return "" // without it, more accounts are taken for a person's
		}
		return string(b)
	}
	people, services = homesOf(text("/etc/passwd"), text("/etc/login.defs"), text("/etc/shells"))
	people = append(people, m.match("/home", "*")...)
	real := func(homes []string) (found []string) {
		for _, h := range homes {
			if r, _, err := m.resolve(h); err == nil && !slices.Contains(found, r) {
				found = append(found, r)
			}
		}
		return found
	}
	return real(people), real(services)
}

// noShells let nobody in.
var noShells = []string{
	"/usr/sbin/nologin", "/sbin/nologin", "/usr/bin/nologin", "/bin/nologin",
	"/bin/false", "/usr/bin/false", "/bin/sync", "/usr/bin/sync",
}

// homesOf returns the homes of passwd(5). An account is a service's if its number is below
// UID_MIN of login.defs(5), and below 1000, and not 0, and its shell lets nobody in and is not in
// shells(5). Every other account is taken for a person's: somebody may log in.
func homesOf(passwd, defs, shells string) (people, services []string) {
	least := uint64(1000)
	for line := range strings.Lines(defs) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == "UID_MIN" {
			if n, err := strconv.ParseUint(fields[1], 10, 32); err == nil {
				least = min(least, n)
			}
		}
	}
	login := strings.Fields(shells)
	for line := range strings.Lines(passwd) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) < 6 || !filepath.IsAbs(fields[5]) {
			continue
		}
		uid, _ := strconv.ParseUint(fields[2], 10, 32) // 0 if it is not a number
		service := uid > 0 && uid < least && len(fields) > 6 &&
			slices.Contains(noShells, fields[6]) && !slices.Contains(login, fields[6])
		if service {
			services = append(services, fields[5])
		} else {
			people = append(people, fields[5])
		}
	}
	return people, services
}

// mounts reports whether a file system, and not only a folder of one, is mounted at the real path.
// It returns what is mounted there and below, as [Workdir.Mounts] has it.
func (m *machine) mounts(real string) (whole bool, below []string, err error) {
	mounts, err := m.read("/proc/self/mountinfo")
	if err != nil {
		return false, nil, fmt.Errorf("read mounts: %w", err)
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		at := octal.Replace(fields[4])
		if within(at, real) {
			below = append(below, fields[2]+" "+fields[3])
		}
		whole = whole || at == real && fields[3] == "/"
	}
	return whole, below, nil
}

// octal reads how the kernel writes space, tab, newline and backslash in mountinfo.
var octal = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
