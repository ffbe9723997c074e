package sandbox

import (
	"os"
	"os/exec"
	"path/filepath"
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

// TestContainersUserIsUsedUp: the same of the user who owns a container's working directory,
// whoever runs it.
func TestContainersUserIsUsedUp(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		return // only root can start a container engine
	}
	b := newContainer(t, "", "root")
	for _, path := range []string{b.spec.Workdir, filepath.Join(b.spec.Workdir, "try")} {
		require.NoError(t, os.Chown(path, 64986, 64986)) // a user of its own
	}
	out, status := b.run(t, "timeout", "60", "./try", "pass")
	require.Equal(t, 99, status, out)
	require.Contains(t, out, "all are on their way")
	require.Contains(t, out, "the sandbox was ended: ")
	require.Contains(t, out, "has used up the descriptors")
}
