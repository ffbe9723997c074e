package usage

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/exit"
)

// commandVariable makes this test a command that waits in a way.
const commandVariable = "POSTERN_TEST_COMMAND"

func TestMain(m *testing.M) {
	way := os.Getenv(commandVariable)
	if way == "" {
		os.Exit(m.Run())
	}
	ctx, stop := Signals(func(sig SignalError) { fmt.Println(sig) })
	fmt.Println("ready")
	var err error
	switch way {
	case "cleans up":
		<-ctx.Done()
		err = fmt.Errorf("ask: %w", ctx.Err())
	case "says the cause":
		<-ctx.Done()
		err = fmt.Errorf("ask: %w", context.Cause(ctx))
	case "has its own status":
		<-ctx.Done()
		err = exit.With(exit.Partial, ctx.Err())
	case "hangs":
		select {}
	case "passes":
		Pass(ctx, func() {
			fmt.Println("passing")
			_, err = os.Stdin.Read(make([]byte, 1))
		})
		err = errors.Join(err, ctx.Err())
		fmt.Println("passed")
		<-ctx.Done()
	}
	err = Ended(ctx, err)
	stop()
	fmt.Println(err)
	os.Exit(exit.Status(err))
}

// TestSignals: the first signal lets a command clean up, with a word; the second one ends it,
// whatever it does.
func TestSignals(t *testing.T) {
	t.Parallel()
	const interrupt, terminate = syscall.SIGINT, syscall.SIGTERM
	const interrupted, terminated = "interrupted", "ended by a signal: terminated"
	type of []syscall.Signal
	for _, c := range []struct {
		way    string
		sent   of
		status int
		says   []string
	}{
		{"cleans up", of{interrupt}, 130, []string{interrupted, interrupted + ", and so: ask: context canceled"}},
		{"cleans up", of{terminate}, 143, []string{terminated, terminated + ", and so: ask: context canceled"}},
		{"says the cause", of{interrupt}, 130, []string{interrupted, interrupted + ", and so: ask: interrupted"}},
		{"has its own status", of{interrupt}, exit.Partial, []string{interrupted, "context canceled"}},
		{"hangs", of{interrupt, interrupt}, 130, []string{interrupted}},
		{"hangs", of{interrupt, terminate}, 143, []string{interrupted}},
		{"hangs", of{terminate, terminate}, 143, []string{terminated}},
	} {
		t.Run(fmt.Sprint(c.way, c.sent), func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), commandVariable+"="+c.way)
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			lines := bufio.NewScanner(out)
			line := func(want string) {
				require.True(t, lines.Scan(), want)
				require.Equal(t, want, lines.Text())
			}
			line("ready")
			for i, sig := range c.sent {
				require.NoError(t, cmd.Process.Signal(sig))
				if i < len(c.says) {
					line(c.says[i])
				}
			}
			for i := len(c.sent); i < len(c.says); i++ {
				line(c.says[i])
			}
			require.False(t, lines.Scan())
			require.Error(t, cmd.Wait())
			require.Equal(t, c.status, cmd.ProcessState.ExitCode())
		})
	}
}

// TestPass: while somebody else takes signals, they end nothing here; afterwards they do.
func TestPass(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), commandVariable+"=passes")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan())
	require.True(t, lines.Scan())
	require.Equal(t, "passing", lines.Text())
	for range 3 {
		require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	}
	require.Eventually(t, func() bool { // the kernel has delivered them
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
		return err == nil && strings.Contains(string(status), "ShdPnd:\t0000000000000000")
	}, time.Minute, time.Millisecond)
	_, err = in.Write([]byte("x"))
	require.NoError(t, err)
	require.True(t, lines.Scan())
	require.Equal(t, "passed", lines.Text())
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	require.True(t, lines.Scan())
	require.Equal(t, "interrupted", lines.Text())
	require.True(t, lines.Scan())
	require.Equal(t, "<nil>", lines.Text())
	require.NoError(t, cmd.Wait())
}
