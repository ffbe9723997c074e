package stacks

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// An agent that holds the lock of a stack file keeps nobody from revoking: the command says so, and ends.
func TestLockThatIsHeldForEver(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "local.yaml")
	require.NoError(t, os.WriteFile(path, []byte("version: 1\n"), 0o600))
	f, err := Open(path)
	require.NoError(t, err)
	agent, err := os.Open(path)
	require.NoError(t, err)
	defer agent.Close()
	require.NoError(t, unix.Flock(int(agent.Fd()), unix.LOCK_SH))
	require.ErrorContains(t, f.Replace([]byte("version: 1\n"), []byte("version: 2\n")), "another process holds its lock (flock), `lslocks` names it")
	require.NoError(t, unix.Flock(int(agent.Fd()), unix.LOCK_UN))
	require.NoError(t, f.Replace([]byte("version: 1\n"), []byte("version: 2\n")))
}
