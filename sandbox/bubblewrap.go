package sandbox

import (
	"fmt"
	"os"
	"strings"
)

// userNamespaceSwitches are the kernel settings that can forbid user
// namespaces, and what they are set to then.
var userNamespaceSwitches = []struct{ file, forbids, allow string }{
	{"/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"},
	{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "sysctl kernel.apparmor_restrict_unprivileged_userns=0 (or an AppArmor profile for bwrap with the permission userns)"},
	{"/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=15000"},
}

// explain makes an error of what bubblewrap wrote when it did not get as far
// as starting posternd, and says what to do where that is known.
func explain(complaint string, err error) error {
	complaint = strings.TrimSpace(complaint)
	if complaint == "" {
		complaint = "bwrap ended without a word"
	}
	var hints []string
	for _, s := range userNamespaceSwitches {
		if content, rerr := os.ReadFile(s.file); rerr == nil && strings.TrimSpace(string(content)) == s.forbids {
			hints = append(hints, s.allow)
		}
	}
	if len(hints) > 0 {
		return fmt.Errorf("set up sandbox: %s; this kernel forbids user namespaces to ordinary users, an administrator can allow them: %s", complaint, strings.Join(hints, "; "))
	}
	if strings.Contains(complaint, "namespace") || strings.Contains(complaint, "Operation not permitted") {
		return fmt.Errorf("set up sandbox: %s; user namespaces seem to be forbidden here (in a container: its seccomp profile must allow unshare and mount, its /proc must not be masked): %w", complaint, err)
	}
	return fmt.Errorf("set up sandbox: %s: %w", complaint, err)
}
