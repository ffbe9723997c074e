package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
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
	{"/var/lib", false, "it holds the data of other programs"},
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
	for _, s := range secretDirs {
		if secret := filepath.Join(home, s); home != "" && within(real, secret) {
			return refuse("it is in " + secret + ", which holds secrets")
		}
	}
	for _, n := range notWorkdirs {
		if within(n.path, real) || n.below && within(real, n.path) {
			return refuse("it is, contains, or is inside " + n.path + ": " + n.why)
		}
	}
	return real, nil
}
