// Package nobody has a part of a test run as a user who is not root: root may read everything.
package nobody

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Do calls f as a user who is not root, and who owns the folder dir and all that is in it.
func Do(t *testing.T, dir string, f func()) {
	t.Helper()
	if os.Getuid() != 0 {
		f()
		return
	}
	const user = 65534
	for at := dir; at != "/tmp" && at != "/"; at = filepath.Dir(at) {
		require.NoError(t, os.Chmod(at, 0o755))
	}
	require.NoError(t, filepath.Walk(dir, func(at string, _ os.FileInfo, err error) error {
		return errors.Join(err, os.Lchown(at, user, user))
	}))
	done := make(chan error)
	go func() {
		defer close(done)
		runtime.LockOSThread() // the thread ends with the goroutine
		if err := unix.Setfsuid(user); err != nil {
			done <- err
			return
		}
		f()
	}()
	require.NoError(t, <-done)
}
