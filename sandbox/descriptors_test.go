package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// What a caller leaves open must not become the agent's: a descriptor of a
// folder is a way to everything below and above it.
func TestInheritedDescriptors(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		folder, err := os.Open("/")
		require.NoError(t, err)
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		require.NoError(t, err)
		memory, err := unix.MemfdCreate("inherited", 0)
		require.NoError(t, err)
		master, slave, err := pty.Open()
		require.NoError(t, err)
		inherited := []*os.File{folder, os.NewFile(uintptr(pair[0]), "socket"), os.NewFile(uintptr(memory), "memory"), slave, master}
		for at, name := range map[int]string{0: "low", 700: "high"} {
			t.Run(name, func(t *testing.T) {
				cmd := b.command(t, "./try", "descriptors")
				cmd.ExtraFiles = make([]*os.File, at, at+len(inherited))
				cmd.ExtraFiles = append(cmd.ExtraFiles, inherited...)
				out, err := cmd.CombinedOutput()
				require.NoError(t, err, "%s", out)
				require.Equal(t, "0 1 2\n", string(out))
			})
		}
		// Nor by way of the first process, which holds descriptors of its own.
		b.refuses(t,
			"ls -l /proc/1/fd/ | grep -- '->'", "ls -l /proc/1/task/1/fd/ | grep -- '->'", "for f in /proc/1/fd/*; do readlink $f && exit; : < $f && exit; done; exit 1", "ls /proc/1/cwd/", "ls /proc/1/map_files/", "cat /proc/1/auxv", "cat /proc/1/fdinfo/*",
		)
		for _, f := range append(inherited, os.NewFile(uintptr(pair[1]), "socket")) {
			f.Close()
		}
	})
}

// TestFirstProcessHoldsNothingOfTheCaller looks from outside at what the sandbox's processes have
// open.
func TestFirstProcessHoldsNothingOfTheCaller(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		folder, err := os.Open("/")
		require.NoError(t, err)
		defer folder.Close()
		cmd := b.command(t, "sh", "-c", "echo ready; read x")
		cmd.ExtraFiles = make([]*os.File, 300)
		cmd.ExtraFiles[299] = folder
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		require.Equal(t, "ready", lineReader(out)(t))
		pid := cmd.Process.Pid
		for range 2 { // bwrap, then postern-sandbox
			pid = child(t, pid)
			links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
			require.NoError(t, err)
			require.NotEmpty(t, links)
			for _, l := range links {
				target, err := os.Readlink(l)
				if err == nil {
					require.False(t, target == "/" || strings.HasPrefix(target, b.root), "%s holds %s", l, target)
				}
			}
		}
		_, err = in.Write([]byte("\n"))
		require.NoError(t, err)
		require.NoError(t, cmd.Wait())
	})
}
