package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/daemon"
)

// TestMain lets the test binary be the daemon: DAEMON_TEST says how it behaves.
func TestMain(m *testing.M) {
	how := os.Getenv("DAEMON_TEST")
	if how == "" {
		os.Exit(m.Run())
	}
	if how == "broken" {
		fmt.Println("one")
		fmt.Fprintln(os.Stderr, "two: no such thing")
		os.Exit(3)
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	if how != "never" {
		release, err := daemon.Lock(os.Args[1])
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		defer release()
		fmt.Println("locked")
	}
	if how == "stubborn" || how == "never" {
		select {}
	}
	<-term
}

func command(t *testing.T, how string) daemon.Command {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	dir := t.TempDir()
	c := daemon.Command{
		Path: self, Args: []string{filepath.Join(dir, "pid")},
		PIDFile: filepath.Join(dir, "pid"), LogFile: filepath.Join(dir, "log", "daemon.log"),
		Env: append(os.Environ(), "DAEMON_TEST="+how),
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		require.NoError(t, daemon.Stop(ctx, c.PIDFile))
	})
	return c
}

func TestLifecycle(t *testing.T) {
	t.Parallel()
	c := command(t, "good")
	ctx, cancel := context.WithCancel(t.Context())
	pid, err := daemon.Start(ctx, c)
	require.NoError(t, err)
	cancel() // it outlives the context that it was started with

	got, ok, err := daemon.Running(c.PIDFile)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, pid, got)
	require.NoError(t, syscall.Kill(pid, 0))
	sid, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(t, err)
	require.Contains(t, string(sid), fmt.Sprintf(" %d %d ", pid, pid), "a session of its own")

	_, err = daemon.Start(t.Context(), c)
	var held *daemon.HeldError
	require.ErrorAs(t, err, &held)
	require.Equal(t, pid, held.PID)
	_, err = daemon.Lock(c.PIDFile)
	require.ErrorContains(t, err, fmt.Sprintf("held by process %d", pid))

	require.NoError(t, daemon.Stop(t.Context(), c.PIDFile))
	_, ok, err = daemon.Running(c.PIDFile)
	require.NoError(t, err)
	require.False(t, ok)
	require.NoError(t, daemon.Stop(t.Context(), c.PIDFile), "again")
	require.Equal(t, "locked", daemon.Tail(c.LogFile, 5))

	release, err := daemon.Lock(c.PIDFile)
	require.NoError(t, err)
	release()
}

func TestStopKillsAtTheDeadline(t *testing.T) {
	t.Parallel()
	c := command(t, "stubborn")
	_, err := daemon.Start(t.Context(), c)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.NoError(t, daemon.Stop(ctx, c.PIDFile))
	_, ok, err := daemon.Running(c.PIDFile)
	require.NoError(t, err)
	require.False(t, ok)
}

func TestStartTellsWhyItEnded(t *testing.T) {
	t.Parallel()
	c := command(t, "broken")
	require.NoError(t, os.MkdirAll(filepath.Dir(c.LogFile), 0o700))
	require.NoError(t, os.WriteFile(c.LogFile, []byte("of an earlier run\n"), 0o600))
	_, err := daemon.Start(t.Context(), c)
	require.ErrorContains(t, err, "exit status 3")
	require.ErrorContains(t, err, "one\ntwo: no such thing")
	require.NotContains(t, err.Error(), "earlier run")
}

func TestStartCancelled(t *testing.T) {
	t.Parallel()
	c := command(t, "never")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(errors.New("enough")) })
	_, err := daemon.Start(ctx, c)
	require.ErrorContains(t, err, "enough")
}

func TestStaleNumber(t *testing.T) {
	t.Parallel()
	pidfile := filepath.Join(t.TempDir(), "pid")
	_, ok, err := daemon.Running(pidfile)
	require.NoError(t, err)
	require.False(t, ok, "no file")
	// The number of a live process that has nothing to do with it.
	require.NoError(t, os.WriteFile(pidfile, fmt.Appendf(nil, "%d\n", os.Getppid()), 0o600))
	_, ok, err = daemon.Running(pidfile)
	require.NoError(t, err)
	require.False(t, ok)
	require.NoError(t, daemon.Stop(t.Context(), pidfile))
}

// A daemon that was taken over writes into its pid file what it likes: root ends
// no process of another user for it.
func TestStopEndsNoProcessOfAnotherUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can end processes of other users")
	}
	// A helper of another user holds the file, which has the number of a process of root's.
	victim := exec.CommandContext(t.Context(), "sleep", "60")
	require.NoError(t, victim.Start())
	t.Cleanup(func() { victim.Process.Kill(); victim.Wait() }) //nolint:errcheck // it may have ended
	pidfile := filepath.Join(t.TempDir(), "pid")
	require.NoError(t, os.WriteFile(pidfile, fmt.Appendf(nil, "%d\n", victim.Process.Pid), 0o600))
	require.NoError(t, os.Chown(pidfile, 65534, 65534))
	f, err := os.Open(filepath.Dir(pidfile))
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, syscall.Flock(int(f.Fd()), syscall.LOCK_EX))

	err = daemon.Stop(t.Context(), pidfile)
	require.ErrorContains(t, err, "it is of user 0, but "+pidfile+" is user 65534's")
	require.NoError(t, victim.Process.Signal(syscall.Signal(0)), "it still runs")
	state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", victim.Process.Pid))
	require.NoError(t, err)
	require.NotContains(t, string(state), " Z ")
}

// TestFoundWithoutItsFile: C7. What runs is found by its lock, whatever became of the
// file with its number.
func TestFoundWithoutItsFile(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(t *testing.T, pidfile string){
		"removed":          func(t *testing.T, f string) { require.NoError(t, os.Remove(f)) },
		"empty":            func(t *testing.T, f string) { require.NoError(t, os.Truncate(f, 0)) },
		"garbage":          func(t *testing.T, f string) { require.NoError(t, os.WriteFile(f, []byte("\x00\xff"), 0o600)) },
		"another's number": func(t *testing.T, f string) { require.NoError(t, os.WriteFile(f, []byte("1\n"), 0o600)) },
		"another file": func(t *testing.T, f string) {
			require.NoError(t, os.Remove(f))
			require.NoError(t, os.WriteFile(f, nil, 0o600))
		},
		"a link to nowhere": func(t *testing.T, f string) {
			require.NoError(t, os.Remove(f))
			require.NoError(t, os.Symlink("gone", f))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := command(t, "good")
			pid, err := daemon.Start(t.Context(), c)
			require.NoError(t, err)
			damage(t, c.PIDFile)
			got, ok, err := daemon.Running(c.PIDFile)
			require.NoError(t, err)
			require.True(t, ok, "it runs")
			require.Equal(t, pid, got)
			_, err = daemon.Start(t.Context(), c)
			var held *daemon.HeldError
			require.ErrorAs(t, err, &held, "there are not two")
			require.NoError(t, daemon.Stop(t.Context(), c.PIDFile))
			_, ok, err = daemon.Running(c.PIDFile)
			require.NoError(t, err)
			require.False(t, ok)
		})
	}
}
