package faults

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestSignalsEndCommands: a command that waits ends with the first signal, and says why; a daemon
// that hangs on its way ends with the second one, and takes along what it has started.
func TestSignalsEndCommands(t *testing.T) {
	t.Parallel()
	f := newOfFile(t, twoAgents)
	control := f.programs["control"].PID()
	require.NoError(t, syscall.Kill(control, syscall.SIGSTOP))
	t.Cleanup(func() { _ = syscall.Kill(control, syscall.SIGCONT) })
	for sig, status := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143} {
		cmd := f.command("status", "--verbose")
		out, err := cmd.StderrPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		said := bufio.NewReader(out)
		first, err := said.ReadString('\n')
		require.NoError(t, err)
		require.NoError(t, cmd.Process.Signal(sig))
		rest, err := io.ReadAll(said)
		require.NoError(t, err)
		require.Error(t, cmd.Wait())
		t.Logf("%s%s", first, rest)
		require.Equal(t, status, cmd.ProcessState.ExitCode())
		require.Contains(t, string(rest), "once more ends it at once")
	}

	node := f.programs["n1"].PID()
	envoy := children(node)
	require.Len(t, envoy, 1)
	require.NoError(t, syscall.Kill(envoy[0], syscall.SIGSTOP))
	require.NoError(t, syscall.Kill(node, syscall.SIGTERM))
	ends := func() bool { return strings.Contains(f.said(), "once more ends it at once") }
	require.Eventually(t, ends, patience, time.Millisecond)
	at := time.Now()
	f.programs["n1"].Stop() // once more
	require.Less(t, time.Since(at), 2*time.Second, "it waits for an Envoy that hangs")
	require.Eventually(t, func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", envoy[0]))
		return err != nil || strings.Contains(string(stat), ") Z ")
	}, patience, 10*time.Millisecond, "Envoy is left behind")
}
