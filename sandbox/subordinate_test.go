package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAgentOfRootIsNotRoot: whoever the working folder belongs to when root starts a sandbox.
func TestAgentOfRootIsNotRoot(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		return // an ordinary user's agent is that user
	}
	for _, owner := range []int{0, 12345} {
		t.Run(fmt.Sprint(owner), func(t *testing.T) {
			t.Parallel()
			b := newBox(t, 0)
			// As root's often are.
			require.NoError(t, os.Chmod(b.home, 0o700))
			b.write(t, ".pyenv/shims/tool", "#!/bin/sh\necho tool\n")
			b.write(t, ".ssh/id_rsa", canary)
			require.NoError(t, os.Chmod(filepath.Join(b.home, ".pyenv/shims/tool"), 0o700))
			require.NoError(t, os.Chmod(filepath.Join(b.home, ".pyenv"), 0o700))
			b.env = append(b.env, "PATH="+b.home+"/.pyenv/shims:/usr/bin:/bin", "PYENV_ROOT="+b.home+"/.pyenv")
			other := b.write(t, "work/other", "not the owner's\n")
			old := b.write(t, "work/old", "old\n")
			require.NoError(t, filepath.Walk(b.spec.Workdir, func(path string, _ os.FileInfo, err error) error {
				if err != nil {
					return err
				}
				return os.Lchown(path, owner, owner)
			}))
			require.NoError(t, os.Chmod(old, 0o600))
			require.NoError(t, os.Chown(other, 4321, 4321))
			require.NoError(t, os.Chmod(other, 0o666))

			cmd := b.command(t, "sh", "-c", `tool; id -u; stat -c %u . old; cat old other; echo more >> old; echo x > new; ln new link; mkdir dir; echo y > dir/y
				(echo z >> other) 2>/dev/null || echo refused; ls ~/.ssh 2>/dev/null; : > /dev/stderr; echo $$ > pid; echo out > /dev/stdout; echo ready; read x; echo x > late`)
			in, err := cmd.StdinPipe()
			require.NoError(t, err)
			piped, err := cmd.StdoutPipe()
			require.NoError(t, err)
			var errs strings.Builder
			cmd.Stderr = &errs
			require.NoError(t, cmd.Start())
			next := lineReader(piped)
			for _, want := range []string{"tool", "1000", "1000", "1000", "old", "not the owner's", "refused", "out", "ready"} {
				require.Equal(t, want, next(t), errs.String())
			}
			// What it is on the host, and everybody in there.
			pid := cmd.Process.Pid
			for _, what := range []string{"bwrap", "postern-sandbox", "command"} {
				pid = child(t, pid)
				status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
				require.NoError(t, err)
				for _, line := range []string{"Uid:", "Gid:"} {
					_, rest, ok := strings.Cut(string(status), line)
					require.True(t, ok)
					var ids [4]int
					_, err := fmt.Sscan(rest, &ids[0], &ids[1], &ids[2], &ids[3])
					require.NoError(t, err)
					for _, id := range ids {
						require.GreaterOrEqual(t, id, 1990000000, "%s: %s", what, status)
					}
				}
				require.Contains(t, string(status), "Groups:\t \n", what)
			}
			_, err = in.Write([]byte("\n"))
			require.NoError(t, err)
			require.NoError(t, cmd.Wait())
			require.Empty(t, errs.String())
			for _, name := range []string{"new", "link", "dir", "dir/y", "old", "late", "pid"} {
				info, err := os.Lstat(filepath.Join(b.spec.Workdir, name))
				require.NoError(t, err)
				st := info.Sys().(*syscall.Stat_t)
				require.EqualValues(t, owner, st.Uid, name)
				require.EqualValues(t, owner, st.Gid, name)
			}
			// The host's own mounts are what they were.
			info, err := os.Stat(b.home)
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
			require.FileExists(t, filepath.Join(b.home, ".ssh", "id_rsa"))
		})
	}
}

// TestSocketsOfOtherUsers: the nodes and the control plane are users of their own, in folders that
// the agent's user may not search.
func TestSocketsOfOtherUsers(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		return // only root has nodes of another user
	}
	b := newBox(t, 0)
	p := b.proxy(t)
	folder := b.spec.Sockets[0]
	require.NoError(t, os.Chown(folder, 4321, 4322))
	require.NoError(t, os.Chmod(folder, 0o771))
	require.NoError(t, os.Lchown(filepath.Join(folder, "proxy.sock"), 4322, 4322))
	require.NoError(t, os.Chmod(filepath.Join(folder, "proxy.sock"), 0o666))
	require.NoError(t, os.Chmod(filepath.Dir(folder), 0o770))
	require.Equal(t, "node decrypted allowed.test\n", b.sh(t, "curl -sS https://allowed.test/"))
	require.Equal(t, []string{"CONNECT allowed.test:443"}, p.requests())
}
