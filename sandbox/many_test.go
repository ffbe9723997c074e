package sandbox

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestManyAtOnce: fifty sandboxes run at the same time, and none sees processes, folders or files in
// memory of another. Nothing of them is left, whether their commands end or `postern run` is killed,
// but empty control groups, which the next sandbox removes.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	const many = 50
	b := newBox(t, os.Getuid())
	mark := "many-" + filepath.Base(b.root)
	const script = `: > /tmp/$0; echo ready; read x
		echo $(cd /tmp && echo many*) $(ls ..) $(cat /proc/[0-9]*/cmdline | tr '\0' '\n' | grep -o "^many-box.*" | sort -u); read x`
	type running struct {
		cmd  *exec.Cmd
		in   io.Writer
		says func(*testing.T) string
	}
	all := make([]running, many)
	for i := range all {
		name := fmt.Sprint("work", i)
		b.spec.Workdir = filepath.Join(b.home, name)
		require.NoError(t, mkdir(b.spec.Workdir))
		cmd := b.command(t, "sh", "-c", script, fmt.Sprint(mark, "-", i))
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		all[i] = running{cmd, in, lineReader(out)}
	}
	for _, r := range all {
		require.Equal(t, "ready", r.says(t))
	}
	for i, r := range all {
		_, err := io.WriteString(r.in, "\n")
		require.NoError(t, err)
		own := fmt.Sprint(mark, "-", i)
		require.Equal(t, own+fmt.Sprint(" work", i, " ")+own, r.says(t))
	}
	pids := map[string]bool{}
	for i, r := range all {
		pids[fmt.Sprint(r.cmd.Process.Pid)] = true
		if i%2 == 0 {
			_, err := io.WriteString(r.in, "\n")
			require.NoError(t, err)
			require.NoError(t, r.cmd.Wait())
		} else {
			require.NoError(t, r.cmd.Process.Kill())
			require.Error(t, r.cmd.Wait())
		}
	}
	none := 0 // a process that becomes another has no command line for a moment
	require.Eventually(t, func() bool {
		if none++; len(sandboxes(t, b.root)) > 0 {
			none = 0
		}
		return none > 10
	}, time.Minute, 10*time.Millisecond)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.NotContains(t, string(mounts), b.root)
	b.sh(t, "true")
	err = filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil //nolint:nilerr // another test's group has ended
		}
		if pid, ok := strings.CutPrefix(e.Name(), groupPrefix); ok {
			pid, _, _ = strings.Cut(pid, "-")
			require.False(t, pids[pid], path)
		}
		return nil
	})
	require.NoError(t, err)
}
