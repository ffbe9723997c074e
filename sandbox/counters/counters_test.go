package counters

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

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
