package bubblewrap

import (
	"errors"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAdvice has what bubblewrap 0.8.0 says on real machines.
func TestAdvice(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		complaint string
		settings  map[string]string
		want      string
	}{
		"Docker's seccomp profile": {"bwrap: No permissions to create new namespace, likely because the kernel does not allow non-privileged user namespaces. See <https://deb.li/bubblewrap>.", nil, inContainer},
		"Docker's masked /proc":    {"bwrap: Can't mount proc on /newroot/proc: Operation not permitted", nil, inContainer},
		"Docker with SYS_ADMIN":    {"bwrap: pivot_root: Operation not permitted", nil, inContainer},
		"no user namespaces": {
			"bwrap: Creating new namespace failed: nesting depth or /proc/sys/user/max_*_namespaces exceeded (ENOSPC)",
			map[string]string{"/proc/sys/user/max_user_namespaces": "0"},
			"sysctl user.max_user_namespaces=15000",
		},
		"no namespaces left": {"bwrap: Creating new namespace failed: No space left on device", map[string]string{"/proc/sys/user/max_user_namespaces": "7"}, "it is not the disk"},
		"Ubuntu":             {"bwrap: setting up uid map: Permission denied", map[string]string{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1"}, "an AppArmor profile for bwrap"},
		"Debian":             {"bwrap: No permissions to create new namespace", map[string]string{"/proc/sys/kernel/unprivileged_userns_clone": "0"}, "sysctl kernel.unprivileged_userns_clone=1"},
		"something else":     {"bwrap: execvp true: No such file or directory", nil, ""},
	} {
		got := advise(tc.complaint, func(file string) string { return tc.settings[file] })
		if tc.want == "" {
			require.Empty(t, got, name)
			continue
		}
		require.Contains(t, got, tc.want, name)
	}
}

// TestNoNamespacesLeft has the real bubblewrap complain, where none may be made. C16.
func TestNoNamespacesLeft(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "unshare", "--user", "--map-root-user", "sh", "-c",
		"echo 0 >/proc/sys/user/max_net_namespaces && exec bwrap --unshare-all --ro-bind / / true").CombinedOutput()
	require.Error(t, err)
	got := Explain(string(out), errors.New("exit status 1"))
	require.ErrorContains(t, got, "set up sandbox: bwrap: ")
	require.ErrorContains(t, got, "it is not the disk")
	require.ErrorContains(t, got, "sysctl user.max_user_namespaces=15000")
}
