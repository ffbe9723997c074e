package secret

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
)

// starvedVariable makes the test binary the one that has nothing to watch files with.
const starvedVariable = "POSTERN_TEST_STARVED"

// TestNoInotify: a credential in a file is served, and follows its file, for a user who
// has no inotify instance left.
func TestNoInotify(t *testing.T) {
	t.Parallel()
	if os.Getenv(starvedVariable) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run", "^TestNoInotify$", "-test.v")
		cmd.Env = append(os.Environ(), starvedVariable+"=1")
		// In a user namespace of its own the limit is the test's to set.
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), "--- PASS: TestNoInotify")
		return
	}
	require.NoError(t, os.WriteFile("/proc/sys/user/max_inotify_instances", []byte("0"), 0))
	_, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	require.ErrorIs(t, err, unix.EMFILE)
	path := filepath.Join(t.TempDir(), "secret")
	s := NewStore(salt, hostpath.In(t.TempDir()), func() {})
	t.Cleanup(s.Close)
	file(t, path, "first")
	require.NoError(t, s.Watch(t.Context(), []plan.Credential{{Name: "c", Kind: plan.KindBearer, Secret: "file://" + path}}))
	holds := func(want string) {
		t.Helper()
		require.Eventually(t, func() bool { return strings.HasSuffix(string(s.value("c")), want) }, time.Minute, 5*time.Millisecond, "%s: %v", want, s.problems())
	}
	holds("first")
	file(t, path, "second") // renamed over
	holds("second")
	require.NoError(t, os.WriteFile(path, []byte("the third"), 0o600)) // in place
	holds("the third")
	require.NoError(t, os.WriteFile(path, []byte("the forth"), 0o600)) // of the same size
	holds("the forth")
	require.NoError(t, os.Remove(path))
	requireProblem(t, s, "c", "there is no file "+path)
	file(t, path, "fifth")
	holds("fifth")
}

// TestFileTrouble: what is said of a file that cannot be read is true, and whether the
// secret that is known stays is right.
func TestFileTrouble(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	require.NoError(t, unix.Mkfifo(pipe, 0o600))
	large := filepath.Join(dir, "large")
	require.NoError(t, os.WriteFile(large, make([]byte, maxSource+1), 0o600))
	for _, c := range []struct {
		err  error
		says string
		down bool
	}{
		{&os.PathError{Op: "open", Path: "/k", Err: syscall.ENOENT}, "there is no file /k", false},
		{&os.PathError{Op: "open", Path: "/k", Err: syscall.EACCES}, "cannot read /k: permission denied: let the control plane's user read it", false},
		{&os.PathError{Op: "open", Path: "/k", Err: syscall.EMFILE}, "cannot read /k: too many open files", true},
		{&os.PathError{Op: "read", Path: "/k", Err: syscall.EIO}, "cannot read /k: input/output error", true},
	} {
		require.Equal(t, &trouble{text: c.says, down: c.down}, fileTrouble("/k", c.err))
	}
	s := NewStore(salt, hostpath.In(t.TempDir()), func() {})
	t.Cleanup(s.Close)
	require.NoError(t, s.Watch(t.Context(), []plan.Credential{
		{Name: "pipe", Kind: plan.KindBearer, Secret: "file://" + pipe},
		{Name: "device", Kind: plan.KindBearer, Secret: "file:///dev/zero"},
		{Name: "large", Kind: plan.KindBearer, Secret: "file://" + large},
	}))
	requireProblem(t, s, "pipe", "is a pipe, not a regular file")
	requireProblem(t, s, "device", "is a device, not a regular file")
	requireProblem(t, s, "large", "is larger than 64 KiB")
}
