package view

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
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

// programDirs, below a home, hold programs and libraries that the home's owner runs or compiles.
var programDirs = []string{
	"bin", ".local/bin", ".local/lib", ".cache", "go/bin", "go/pkg", ".cargo", ".rustup", ".pyenv", ".rbenv", ".nvm",
	".asdf", ".sdkman", ".npm", ".m2", ".gradle",
}

// secretDirs, below the home, hold keys and tokens: never shown, not even if
// one is on PATH.
var secretDirs = []string{
	".ssh", ".gnupg", ".aws", ".azure", ".config/gcloud", ".config/gh", ".config/hub", ".docker", ".kube",
	".password-store",
	".local/share/keyrings", ".mozilla", ".config/google-chrome", ".config/chromium", ".netrc", ".git-credentials",
	".pulumi", ".terraform.d", ".vault-token",
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
	return m.look(abs, m.real(home), private)
}

// check looks again, and makes sure that it is the same folder.
func (m *machine) check(w Workdir, home string, private []string) error {
	now, err := m.look(w.Path, home, private)
	if err == nil && (now.Path != w.Path || now.Device != w.Device || now.Inode != w.Inode) {
		err = fmt.Errorf("use %s as working directory: it is no longer the folder that was checked: run this again",
			w.Path)
	}
	return err
}

// look is [Look] for an absolute path and a real home.
func (m *machine) look(dir, home string, private []string) (Workdir, error) {
	refuse := func(why string) (Workdir, error) {
		return Workdir{}, fmt.Errorf("use %s as working directory: %s; go to the folder of one project", dir, why)
	}
	real, _, err := m.resolve(dir)
	if err != nil {
		return Workdir{}, fmt.Errorf("use %s as working directory: %w", dir, err)
	}
	if !m.isDir(real) {
		return refuse("it is not a folder")
	}
	if real == "/" {
		return refuse("it is the whole file system, and an agent can write to its working directory")
	}
	if within(home, real) {
		return refuse("it is or contains your home (" + home + "), which agents must not see")
	}
	for _, p := range private {
		if p = m.real(p); overlap(p, real) {
			return refuse("it is, contains, or is inside " + p + ", where Postern keeps keys and sockets")
		}
	}
	people, services := m.homes()
	people = append(people, home)
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
		for _, p := range programDirs {
			if dir := filepath.Join(h, p); overlap(real, dir) {
				if _, _, err := m.resolve(dir); err == nil || within(real, dir) {
					return refuse("it is, contains, or is inside " + dir + ", from which the owner's programs are run or compiled")
				}
			}
		}
		if settings := filepath.Join(h, ".config"); within(real, settings) {
			return refuse("it is in " + settings + ", which is for settings that the owner's programs act on")
		}
	}
	whole, below, err := m.mounts(real)
	if err != nil {
		return Workdir{}, fmt.Errorf("use %s as working directory: %w", dir, err)
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
	device, inode, err := m.identity(real)
	if err != nil {
		return Workdir{}, fmt.Errorf("use %s as working directory: %w", real, err)
	}
	return Workdir{Path: real, Device: device, Inode: inode, Mounts: below}, nil
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
			if r, _, err := m.resolve(h); err == nil {
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
		uid, err := strconv.ParseUint(fields[2], 10, 32)
		service := err == nil && uid > 0 && uid < least && len(fields) > 6 &&
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
