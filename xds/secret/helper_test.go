package secret

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
)

// helper writes a shell script and returns how it is asked.
func helper(t *testing.T, script string, args ...string) fetch {
	t.Helper()
	path := filepath.Join(t.TempDir(), "helper")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o700))
	s := NewStore(salt, hostpath.In(t.TempDir()), func() {})
	return s.fetchHelper(plan.Reference{Source: plan.SourceExec, Name: path, Args: args, Digest: digestOf(t, path)})
}

// digestOf returns what the file at path is published with.
func digestOf(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return fmt.Sprintf("%x", sha256.Sum256(content))
}

// TestHelperSeesNothing: the control plane's environment has secrets in it.
func TestHelperSeesNothing(t *testing.T) {
	t.Setenv("POSTERN_TEST_CANARY", canary)
	t.Setenv("AWS_SECRET_ACCESS_KEY", canary)
	value, _, tr := helper(t, `env; echo "args: $#: $1, $2"; cat; pwd; ls /proc/$$/fd | wc -l`, "a b", "$(id)")(t.Context())
	require.Nil(t, tr)
	out := string(value)
	require.NotContains(t, out, canary)
	require.Contains(t, out, "args: 2: a b, $(id)\n/\n")
	for line := range strings.Lines(out) {
		if name, _, ok := strings.Cut(line, "="); ok {
			require.Contains(t, []string{"PATH", "HOME", "USER", "LANG", "PWD", "_", "SHLVL", "OLDPWD"}, name)
		}
	}
}

// TestHelperFailures: what it wrote is in no message.
func TestHelperFailures(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script, want string
		down         bool
	}{
		"fails":        {"echo s3cr3t-canary; echo s3cr3t-canary >&2; exit 7", "failed (exit status 7)", true},
		"killed":       {"kill -9 $$", "failed (signal: killed)", true},
		"too much":     {"yes s3cr3t-canary", "wrote more than 1048576 bytes", false},
		"holds a pipe": {"(trap '' HUP; sleep 1000) & echo s3cr3t-canary", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			value, version, tr := helper(t, c.script)(t.Context())
			require.Empty(t, version)
			if c.want == "" {
				// What is left of it is killed, and its output was whole.
				require.True(t, tr == nil && string(value) == canary+"\n" || tr != nil && tr.down)
				return
			}
			require.Contains(t, tr.text, c.want)
			require.Equal(t, c.down, tr.down)
			require.NotContains(t, tr.text, canary)
			require.Empty(t, value)
		})
	}
}

// TestHelperIsKilled: with everything in its process group, when nobody waits for
// it any more.
func TestHelperIsKilled(t *testing.T) {
	t.Parallel()
	pids := filepath.Join(t.TempDir(), "pids")
	ask := helper(t, `sleep 1000 & echo $$ $! > "$1.new"; mv "$1.new" "$1"; wait`, pids)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _, _ = ask(ctx)
	}()
	var both []string
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(pids)
		both = strings.Fields(string(b))
		return err == nil
	}, time.Minute, 5*time.Millisecond, "it starts")
	require.Len(t, both, 2)
	cancel()
	<-done
	for _, p := range both {
		pid, err := strconv.Atoi(p)
		require.NoError(t, err)
		require.Eventually(t, func() bool { return ended(pid) }, time.Minute, 5*time.Millisecond, "process %d ends", pid)
	}
}

// ended reports whether the process is gone, or waits for its parent to notice.
func ended(pid int) bool {
	if unix.Kill(pid, 0) != nil {
		return true
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(b), ") Z ")
}

// TestHelperOfOthers: a program that somebody else may change is not run.
func TestHelperOfOthers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "helper")
	s := NewStore(salt, hostpath.In(t.TempDir()), func() {})
	ref := plan.Reference{Name: path, Digest: strings.Repeat("0", 64)}
	refused := func(want string) {
		t.Helper()
		_, _, tr := s.fetchHelper(ref)(t.Context())
		require.NotNil(t, tr)
		require.Contains(t, tr.text, want)
		require.False(t, tr.down)
	}
	refused("there is no helper")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\necho x\n"), 0o600))
	refused("is not a program")
	require.NoError(t, os.Chown(path, -1, 1234))
	require.NoError(t, os.Chmod(path, 0o720))
	refused("others may write")
	require.NoError(t, os.Chmod(path, 0o702))
	refused("others may write")
	require.NoError(t, os.Chmod(path, 0o700))
	refused("is not the one that was published, so it is not run: look at the change, then run `postern push`")
	ref.Digest = digestOf(t, path)
	_, _, tr := s.fetchHelper(ref)(t.Context())
	require.Nil(t, tr)
	require.NoError(t, os.Chmod(dir, 0o777))
	refused("others may write")
	ref.Digest = ""
	refused("was published without a digest")
}

// TestHelperInAnAgentsFolder: neither a helper nor a secret is taken from where an agent works.
func TestHelperInAnAgentsFolder(t *testing.T) {
	t.Parallel()
	work, agents := t.TempDir(), hostpath.In(t.TempDir())
	path := filepath.Join(work, "helper")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\ntouch "+filepath.Join(work, "ran")+"\n"), 0o700))
	require.NoError(t, agents.Record(work))
	s := NewStore(salt, agents, func() {})
	_, _, tr := s.fetchHelper(plan.Reference{Name: path, Digest: digestOf(t, path)})(t.Context())
	require.Contains(t, tr.text, "where an agent may write")
	require.NoFileExists(t, filepath.Join(work, "ran"))
}

// TestHelperIsWhatWasPublished swaps the helper for another program, as fast as it can, while it is run.
func TestHelperIsWhatWasPublished(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, other, canaryFile := filepath.Join(dir, "helper"), filepath.Join(dir, "other"), filepath.Join(dir, "ran")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\necho \"secret $1\"\n"), 0o700))
	require.NoError(t, os.WriteFile(other, []byte("#!/bin/sh\ntouch "+canaryFile+"\n"), 0o700))
	s := NewStore(salt, hostpath.In(t.TempDir()), func() {})
	ask := s.fetchHelper(plan.Reference{Name: path, Args: []string{"argument"}, Digest: digestOf(t, path)})
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE)
			}
		}
	}()
	ran, refused := 0, 0
	for until := time.Now().Add(time.Minute); ran < 20 || refused < 20; {
		require.True(t, time.Now().Before(until), "%d ran and %d were refused: the two are not exchanged", ran, refused)
		value, _, tr := ask(t.Context())
		if tr != nil {
			require.Contains(t, tr.text, "is not the one that was published")
			refused++
			continue
		}
		require.Equal(t, "secret argument\n", string(value))
		ran++
	}
	close(stop)
	<-done
	require.NoFileExists(t, canaryFile)
}
