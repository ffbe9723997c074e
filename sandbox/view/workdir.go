package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
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
	{"/usr", false, "it holds the programs of the system"},
	{"/usr/bin", true, "it holds the programs of the system"},
	{"/usr/sbin", true, "it holds the programs of the system"},
	{"/usr/lib", true, "it holds the programs of the system"},
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
	{"/var/log", true, "it holds the records of the system"},
	{"/var/spool", true, "other programs act on what is there"},
	{"/var/cache", true, "other programs act on what is there"},
	{"/var/tmp", false, "other programs keep files and sockets there"},
	{"/tmp", false, "other programs keep files and sockets there"},
}

// secretDirs, below the home, hold keys and tokens: never shown, not even if
// one is on PATH.
var secretDirs = []string{
	".ssh", ".gnupg", ".aws", ".azure", ".config/gcloud", ".config/gh", ".config/hub", ".docker", ".kube", ".password-store",
	".local/share/keyrings", ".mozilla", ".config/google-chrome", ".config/chromium", ".netrc", ".git-credentials", ".pulumi", ".terraform.d", ".vault-token",
}

// Workdir returns the real path of dir, or says why it cannot be the working
// directory of an agent, who may write everywhere in it. home and private
// must be neither in it nor, for private, around it.
func Workdir(dir, home string, private []string) (string, error) {
	refuse := func(why string) (string, error) {
		return "", fmt.Errorf("use %s as working directory: %s; go to the folder of one project", dir, why)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", fmt.Errorf("use %s as working directory: %w", dir, err)
	}
	if real, err = filepath.Abs(real); err != nil {
		return "", fmt.Errorf("use %s as working directory: %w", dir, err)
	}
	if info, err := os.Stat(real); err != nil || !info.IsDir() {
		return refuse("it is not a folder")
	}
	if real == "/" {
		return refuse("it is the whole file system, and an agent can write to its working directory")
	}
	if home != "" && within(home, real) {
		return refuse("it is or contains your home (" + home + "), which agents must not see")
	}
	for _, p := range private {
		if r, err := filepath.EvalSymlinks(p); err == nil {
			p = r
		}
		if overlap(p, real) {
			return refuse("it is, contains, or is inside " + p + ", where Postern keeps keys and sockets")
		}
	}
	for _, h := range append(peopleHomes(), home) {
		if h == "" || h == "/" {
			continue
		}
		if within(h, real) {
			return refuse("it is or contains " + h + ", which is somebody's home")
		}
		for _, s := range secretDirs {
			if secret := filepath.Join(h, s); overlap(real, secret) {
				return refuse("it is, contains, or is inside " + secret + ", which is for secrets")
			}
		}
		if settings := filepath.Join(h, ".config"); within(real, settings) {
			return refuse("it is in " + settings + ", which is for settings that the owner's programs act on")
		}
	}
	if whole, err := isWholeFileSystem(real); err != nil {
		return "", fmt.Errorf("use %s as working directory: %w", dir, err)
	} else if whole {
		return refuse("a whole file system is mounted there")
	}
	for _, n := range notWorkdirs {
		if within(n.path, real) || n.below && within(real, n.path) {
			return refuse("it is, contains, or is inside " + n.path + ": " + n.why)
		}
	}
	return real, nil
}

// peopleHomes are the real homes of the users in /etc/passwd. Those of a directory service are not known; what is
// directly in /home is taken for one.
func peopleHomes() []string {
	var homes []string
	if users, err := os.ReadFile("/etc/passwd"); err == nil {
		for line := range strings.Lines(string(users)) {
			if fields := strings.Split(strings.TrimSpace(line), ":"); len(fields) >= 6 && filepath.IsAbs(fields[5]) {
				homes = append(homes, fields[5])
			}
		}
	}
	if matches, err := filepath.Glob("/home/*"); err == nil {
		homes = append(homes, matches...)
	}
	real := make([]string, 0, len(homes))
	for _, h := range homes {
		if r, err := filepath.EvalSymlinks(h); err == nil {
			real = append(real, r)
		}
	}
	return real
}

// isWholeFileSystem reports whether the folder is where a file system, and not
// only a folder of one, is mounted.
func isWholeFileSystem(real string) (bool, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false, fmt.Errorf("read mounts: %w", err)
	}
	for line := range strings.Lines(string(mounts)) {
		// The kernel writes space, tab, newline and backslash in octal.
		if fields := strings.Fields(line); len(fields) > 4 && fields[3] == "/" && octal.Replace(fields[4]) == real {
			return true, nil
		}
	}
	return false, nil
}

// mountsBelow returns what is mounted below the folder, as [wire.Setup] has it.
func mountsBelow(real string) ([]string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	var below []string
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 4 && within(octal.Replace(fields[4]), real) {
			below = append(below, fields[2]+" "+fields[3])
		}
	}
	return below, nil
}

var octal = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
