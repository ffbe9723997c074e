package hostpath

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestOtherNames: a program with a name elsewhere, as perf's cache makes one, is refused only if
// that name may be in an agent's folder.
func TestOtherNames(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		do func(*world)
		// after is done once nothing has changed for a while.
		after   func(*world)
		refused bool
	}{
		"elsewhere":           {},
		"in the folder":       {do: func(w *world) { w.hard("safe/keys/file", "work/name") }, refused: true},
		"below the folder":    {do: func(w *world) { w.hard("safe/keys/file", "work/sub/name") }, refused: true},
		"it has just changed": {after: func(w *world) { w.file("work/sub/new") }, refused: true},
		"the folder has gone": {
			do: func(w *world) { require.NoError(w.t, os.RemoveAll(w.path("work"))) }, refused: true,
		},
		"the folder was moved": {do: func(w *world) {
			w.rename("work", "moved")
			require.NoError(w.t, os.Mkdir(w.path("work"), 0o700))
		}, refused: true},
		"something is mounted": {
			do: func(w *world) { w.deep("other", 1); w.mount("other", "work/sub", 0) }, refused: true,
		},
		"too deep":              {do: func(w *world) { w.deep("work", namesDepth+2) }, refused: true},
		"deep":                  {do: func(w *world) { w.deep("work", namesDepth-2) }},
		"its other file":        {do: func(w *world) { w.hard("work/sub/file", "work/name") }},
		"a link to the program": {do: func(w *world) { w.link(w.path("safe/keys/file"), "work/name") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.hard("safe/keys/file", "safe/cache")
			if c.do != nil {
				c.do(w)
			}
			time.Sleep(2 * tick) //nolint:forbidigo // the clock of a file system is coarse
			check := func() error { return w.folders().Check(w.path("safe/keys/file")) }
			err := check()
			// On a busy machine, what has just changed may be old when it is looked at.
			for begun := time.Now(); c.after != nil && err == nil && time.Since(begun) < time.Minute; err = check() {
				c.after(w)
			}
			if !c.refused {
				require.NoError(t, err)
				return
			}
			writable := (*WritableError)(nil)
			require.ErrorAs(t, err, &writable)
			require.GreaterOrEqual(t, writable.Names, 2)
			out, err := exec.CommandContext(t.Context(), "sh", "-c", writable.Alone()).CombinedOutput()
			require.NoError(t, err, string(out))
			require.NoError(t, check())
		})
	}
}

// TestNamesThatMove: an agent that renames all the time hides no name.
func TestNamesThatMove(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, dir := range []string{"work/a", "work/z"} {
		require.NoError(t, os.MkdirAll(w.path(dir), 0o700))
	}
	w.hard("safe/keys/file", "work/a/name")
	time.Sleep(2 * tick) //nolint:forbidigo // the clock of a file system is coarse
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			_ = unix.Rename(w.path("work/a/name"), w.path("work/z/name"))
			_ = unix.Renameat2(unix.AT_FDCWD, w.path("work/a"), unix.AT_FDCWD, w.path("work/z"), unix.RENAME_EXCHANGE)
		}
	}()
	for range 500 {
		require.Error(t, w.folders().Check(w.path("safe/keys/file")))
	}
	close(stop)
	<-stopped
}

// deep makes folders in one another.
func (w *world) deep(at string, n int) {
	w.t.Helper()
	for range n {
		at = filepath.Join(at, "d")
	}
	require.NoError(w.t, os.MkdirAll(w.path(at), 0o700))
}
