package hostpath

import (
	"fmt"
	"os"
	"path/filepath"
)

// StateFolder returns the absolute path of the folder that holds the state folders of all of the
// user's stacks: $POSTERN_HOME, or $XDG_STATE_HOME/postern, or ~/.local/state/postern. For root the
// last one is /var/lib/postern, because the daemons' users may not enter /root.
func StateFolder() (string, error) {
	base := os.Getenv("POSTERN_HOME")
	if base == "" {
		if xdg := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(xdg) {
			base = filepath.Join(xdg, "postern")
		} else if os.Geteuid() == 0 {
			base = "/var/lib/postern"
		} else {
			home, err := os.UserHomeDir()
			if err != nil {
				return "", fmt.Errorf("find the state folder: %w; set POSTERN_HOME", err)
			}
			base = filepath.Join(home, ".local", "state", "postern")
		}
	}
	base, err := filepath.Abs(base)
	if err != nil {
		return "", fmt.Errorf("find the state folder: %w", err)
	}
	return base, nil
}

// AgentFolders returns what agents may write on this machine: the registry is in [StateFolder].
func AgentFolders() (*Folders, error) {
	base, err := StateFolder()
	if err != nil {
		return nil, err
	}
	return In(base).Folders()
}

// NoFolders returns no agent's folder at all. It is for `postern kill` alone, which goes on with what
// its user owns if the list of agents' folders is damaged.
func NoFolders() (*Folders, error) {
	mounts, err := readMounts()
	return &Folders{mounts: mounts, variable: os.LookupEnv, user: os.Geteuid()}, err
}
