package bubblewrap

import (
	"fmt"
	"os"
	"strings"
)

// userNamespaceSwitches are the kernel settings that can forbid user namespaces, with the values
// that do so.
var userNamespaceSwitches = []struct{ file, forbids, allow string }{
	{"/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"},
	{
		"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1",
		"sysctl kernel.apparmor_restrict_unprivileged_userns=0 " +
			"(or an AppArmor profile for bwrap with the permission userns)",
	},
	{"/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=15000"},
}

// inContainer says what a container needs, as tried with Docker 20.10: its seccomp profile forbids
// namespaces, and its masked /proc forbids a new one.
const inContainer = "in a container, start it with `docker run --security-opt seccomp=unconfined " +
	"--security-opt systempaths=unconfined`, where AppArmor is on with `--security-opt apparmor=unconfined` too"

// Explain makes an error of what bubblewrap wrote when it did not get as far as starting
// postern-sandbox, and says what to do where that is known.
func Explain(complaint string, err error) error {
	complaint = strings.TrimSpace(complaint)
	if complaint == "" {
		return fmt.Errorf("set up sandbox: bwrap ended without a word: %w", err)
	}
	advice := advise(complaint, func(file string) string {
		content, err := os.ReadFile(file)
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(content))
	})
	if advice == "" {
		return fmt.Errorf("set up sandbox: %s: %w", complaint, err)
	}
	return fmt.Errorf("set up sandbox: %s; %s", complaint, advice)
}

// advise says what to do about bubblewrap's complaint, or returns "". setting reads a file of the
// kernel.
func advise(complaint string, setting func(file string) string) string {
	var switches []string
	for _, s := range userNamespaceSwitches {
		if setting(s.file) == s.forbids {
			switches = append(switches, s.allow)
		}
	}
	switch {
	case len(switches) > 0:
		return "this kernel forbids user namespaces to ordinary users, an administrator can allow them: " +
			strings.Join(switches, "; ")
	case strings.Contains(complaint, "No space left on device"), strings.Contains(complaint, "ENOSPC"):
		return "it is not the disk: the kernel's limit of namespaces is reached; an administrator can raise " +
			"/proc/sys/user/max_*_namespaces: sysctl user.max_user_namespaces=15000"
	case strings.Contains(complaint, "namespace"),
		strings.Contains(complaint, "Operation not permitted"), strings.Contains(complaint, "Permission denied"):
		return "namespaces seem to be forbidden here: " + inContainer
	}
	return ""
}
