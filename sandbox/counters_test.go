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
