package container

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestEnded: a container's owner has ended only if there is no such process, or a later one.
func TestEnded(t *testing.T) {
	t.Parallel()
	require.False(t, ended(Owner()))
	require.True(t, ended(fmt.Sprintf("%s-%d-1", pidNamespace(), os.Getpid())))
	gone := exec.Command("true")
	require.NoError(t, gone.Run())
	require.True(t, ended(fmt.Sprintf("%s-%d-1", pidNamespace(), gone.Process.Pid)))
	for _, other := range []string{"", "1-1-1", pidNamespace() + "-0-1", pidNamespace() + "-x-1"} {
		require.False(t, ended(other), other)
	}
}
