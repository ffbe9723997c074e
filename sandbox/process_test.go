package sandbox

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestExitStatus(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		for script, want := range map[string]int{"exit 0": 0, "exit 7": 7, "exit 255": 255, "kill -9 $$": 137, "kill -TERM $$": 143, "sleep 60 & exit 3": 3} {
			out, status := b.run(t, "sh", "-c", script)
			require.Equal(t, want, status, "%s: %s", script, out)
		}
		out, status := b.run(t, "no-such-command")
		require.Equal(t, 127, status)
		require.Contains(t, out, "no-such-command: command not found")
		b.write(t, "work/plain", "x")
		out, status = b.run(t, "./plain")
		require.Equal(t, 126, status)
		require.Contains(t, out, "not executable")
		b.write(t, "work/script", "#!/no/such/interpreter\n")
		require.NoError(t, os.Chmod(filepath.Join(b.spec.Workdir, "script"), 0o755))
		out, status = b.run(t, "./script")
		require.Equal(t, 126, status)
		require.Contains(t, out, "interpreter")
	})
}

func TestStreams(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		cmd := b.command(t, "sh", "-c", "cat; echo err >&2")
		cmd.Stdin = strings.NewReader("in\n")
		var out, errs strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &errs
		require.NoError(t, cmd.Run())
		require.Equal(t, "in\n", out.String())
		require.Equal(t, "err\n", errs.String())
	})
}

// TestHangUp: a command that ignores SIGHUP does not outlive its terminal, but for nohup(1).
func TestHangUp(t *testing.T) {
	t.Parallel()
	b := newBox(t, 0)
	cmd := b.command(t, "sh", "-c", "trap '' HUP; echo ready; sleep 600")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	var errs strings.Builder
	cmd.Stderr = &errs
	terminal, err := pty.StartWithAttrs(cmd, nil, &syscall.SysProcAttr{Setsid: true, Setctty: true})
	require.NoError(t, err)
	_, err = io.ReadFull(out, make([]byte, len("ready\n")))
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Signal(unix.SIGHUP)) // the terminal is still there
	require.NoError(t, terminal.Close())
	_, _ = io.Copy(io.Discard, out)
	require.Error(t, cmd.Wait())
	require.Contains(t, errs.String(), "the terminal is gone")
}

// TestAskedTwice: a command that ignores SIGTERM and SIGINT ends when it is asked again.
func TestAskedTwice(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGINT} {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			t.Parallel()
			b := newBox(t, 0)
			cmd := b.command(t, "sh", "-c", "trap '' TERM INT; trap 'echo got' USR1; echo ready; while :; do sleep 0.1; done")
			var errs strings.Builder
			cmd.Stderr = &errs
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			next := lineReader(out)
			require.Equal(t, "ready", next(t))
			for _, s := range []syscall.Signal{sig, unix.SIGUSR1} { // it has both
				require.NoError(t, cmd.Process.Signal(s))
			}
			require.Equal(t, "got", next(t))
			require.NoError(t, cmd.Process.Signal(sig))
			require.Error(t, cmd.Wait())
			require.Contains(t, errs.String(), "the command was asked twice, and did not end within 5s")
		})
	}
}

func TestSignals(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		signals := []syscall.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2}
		cmd := b.command(t, "./try", "signals", fmt.Sprint(len(signals)))
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		next := lineReader(out)
		require.Equal(t, "ready", next(t))
		for _, s := range signals {
			require.NoError(t, cmd.Process.Signal(s))
			require.Equal(t, unix.SignalName(s), next(t))
		}
		require.NoError(t, cmd.Wait())
	})
}

func TestInterruptEndsTheCommand(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		cmd := b.command(t, "sh", "-c", "echo ready; exec sleep 1000")
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		require.Equal(t, "ready", lineReader(out)(t))
		require.NoError(t, cmd.Process.Signal(unix.SIGINT))
		require.Error(t, cmd.Wait())
		require.Equal(t, 130, cmd.ProcessState.ExitCode())
	})
}

// sandboxes are the processes of this machine whose command line has the text.
func sandboxes(t *testing.T, text string) []int {
	t.Helper()
	var pids []int
	dirs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, d := range dirs {
		if content, err := os.ReadFile(d); err == nil && strings.Contains(string(content), text) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(d)))
			require.NoError(t, err)
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	for _, kill := range []string{"run", "bwrap", "postern-sandbox", "command"} {
		t.Run(kill, func(t *testing.T) {
			t.Parallel()
			eachCaller(t, func(t *testing.T, b *box) {
				mark := "mark-" + filepath.Base(b.root)
				cmd := b.command(t, "sh", "-c", `setsid sh -c 'sleep 1000; : $0' "$0" & echo ready; sleep 1000; : $0`, mark)
				out, err := cmd.StdoutPipe()
				require.NoError(t, err)
				require.NoError(t, cmd.Start())
				require.Equal(t, "ready", lineReader(out)(t))
				commands := sandboxes(t, mark)
				require.NotEmpty(t, commands)
				// Up from the command: postern-sandbox, then bwrap.
				chain := map[string]int{"run": cmd.Process.Pid}
				chain["bwrap"] = child(t, chain["run"])
				chain["postern-sandbox"] = child(t, chain["bwrap"])
				chain["command"] = child(t, chain["postern-sandbox"])
				require.NoError(t, unix.Kill(chain[kill], unix.SIGKILL))
				_, err = io.Copy(io.Discard, out) // until nobody holds it
				require.NoError(t, err)
				require.Error(t, cmd.Wait())
				require.Eventually(t, func() bool {
					return len(sandboxes(t, mark)) == 0 && unix.Kill(chain["postern-sandbox"], 0) != nil
				}, time.Minute, 10*time.Millisecond)
				if kill == "command" {
					require.Equal(t, 137, cmd.ProcessState.ExitCode())
				}
			})
		})
	}
}

// child is the first child of a process.
func child(t *testing.T, pid int) int {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	require.NoError(t, err)
	for _, f := range tasks {
		content, err := os.ReadFile(f)
		require.NoError(t, err)
		if fields := strings.Fields(string(content)); len(fields) > 0 {
			n, err := strconv.Atoi(fields[0])
			require.NoError(t, err)
			return n
		}
	}
	require.Fail(t, "no child", "of %d", pid)
	return 0
}

func TestTerminal(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		cmd := b.command(t, "sh", "-c", `stty size; test -t 0 && test -t 1 && test -t 2 && echo terminal; read x; echo "got $x"
			trap 'stty size > /dev/tty; resized=1' WINCH; echo trapped; while [ -z "$resized" ]; do sleep 0.05; done; exec sleep 1000`)
		cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = true, true
		master, slave, err := pty.Open()
		require.NoError(t, err)
		defer master.Close()
		require.NoError(t, slave.Chown(b.uid, b.uid))
		require.NoError(t, pty.Setsize(master, &pty.Winsize{Rows: 33, Cols: 77}))
		before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
		require.NoError(t, err)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
		require.NoError(t, cmd.Start())
		next := lineReader(master)
		require.Equal(t, "33 77", next(t))
		require.Equal(t, "terminal", next(t))
		_, err = master.WriteString("hello\n")
		require.NoError(t, err)
		require.Equal(t, "hello", next(t)) // the echo
		require.Equal(t, "got hello", next(t))
		require.Equal(t, "trapped", next(t))
		require.NoError(t, pty.Setsize(master, &pty.Winsize{Rows: 44, Cols: 55}))
		require.Equal(t, "44 55", next(t))
		_, err = master.WriteString("\x03") // Ctrl-C
		require.NoError(t, err)
		require.Error(t, cmd.Wait())
		require.Equal(t, 130, cmd.ProcessState.ExitCode())
		after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
		require.NoError(t, err)
		require.Equal(t, before, after, "the terminal is as it was")
		slave.Close()
	})
}

func BenchmarkRunTrue(b *testing.B) {
	b.Run("plain", func(b *testing.B) {
		for b.Loop() {
			require.NoError(b, exec.Command(bwrap, "--unshare-all", "--ro-bind", "/", "/", "true").Run())
		}
	})
	b.Run("postern", func(b *testing.B) {
		dir := b.TempDir()
		r := newRequest(dir, "true")
		for b.Loop() {
			result, err := r.run(b.Context())
			require.NoError(b, err)
			require.Zero(b, result.Status)
		}
	})
}
