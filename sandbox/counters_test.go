package sandbox

import (
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestUserIsUsedUp: an agent takes the last of what the kernel counts for its user, without whom no
// command of the operator's would start. Its sandbox ends.
func TestUserIsUsedUp(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("it would use up what the tests of this user need; CI runs it as root")
	}
	b := newBox(t, 64987) // a user of its own
	b.proxy(t)
	cmd := b.command(t, "./try", "pass")
	limited, err := exec.LookPath("prlimit")
	require.NoError(t, err)
	cmd.Args = slices.Concat([]string{limited, "--nofile=256"}, cmd.Args)
	cmd.Path, cmd.Args[2] = limited, cmd.Path
	out, err := cmd.CombinedOutput()
	require.Error(t, err, string(out))
	assert.Contains(t, string(out), "all are on their way")
	assert.Contains(t, string(out), "the sandbox was ended: ")
	assert.Contains(t, string(out), "has used up the descriptors")
}

// TestCanNotify: both counts of inotify are seen to be used up, each in a user namespace where the
// kernel gives so little.
func TestCanNotify(t *testing.T) {
	if said := os.Getenv("CAN_NOTIFY"); said != "" {
		require.ErrorContains(t, canNotify(), said)
		return
	}
	t.Parallel()
	require.NoError(t, canNotify())
	for limit, said := range map[string]string{"instances": "max_user_instances", "watches": "max_user_watches"} {
		cmd := exec.CommandContext(t.Context(), "unshare", "--user", "--map-root-user", "sh", "-c",
			"echo 0 > /proc/sys/user/max_inotify_"+limit+" && exec \"$0\" -test.run='^TestCanNotify$'", os.Args[0])
		cmd.Env = append(os.Environ(), "CAN_NOTIFY="+said)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
	}
}
