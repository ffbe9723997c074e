package sandbox

import (
	"bufio"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/view"
)

// TestFoldersInMemory: what is in memory is bounded, and neither a device nor a setuid program is
// made there. A workspace in memory starts no program under any runtime.
func TestFoldersInMemory(t *testing.T) {
	t.Parallel()
	eachRuntime(t, func(t *testing.T, b *box) {
		b.spec.Limits = view.Limits{Scratch: 8 << 20, Processes: 200, Memory: 512 << 20}
		b.spec.Input.Workspace = view.Workspace{Mode: view.Ephemeral, Size: 4 << 20}
		out := b.sh(t, `pwd
for place in /workspace /tmp $HOME /dev/shm; do
  case $place in $HOME) echo home;; *) echo $place;; esac
  head -c 20000000 /dev/zero > $place/full 2>/dev/null && echo unbounded
  echo $(($(wc -c < $place/full) >> 20)); rm $place/full
  cp /bin/true $place/true && $place/true 2>/dev/null && echo starts
  chmod u+s $place/true 2>/dev/null && echo setuid
  mknod $place/null c 1 3 2>/dev/null && echo device
done; true`)
		starts := map[bool]string{true: "starts\n"}[b.spec.Container == nil]
		require.Equal(t, "/workspace\n/workspace\n4\n/tmp\n8\n"+starts+"home\n8\n"+starts+"/dev/shm\n8\n"+starts, out)
	})
}

// TestStrangeNames: names in the working directory are bytes, whatever they are.
func TestStrangeNames(t *testing.T) {
	t.Parallel()
	eachRuntime(t, func(t *testing.T, b *box) {
		names := []string{"new\nline", "not \xff UTF-8", " ", "-rf", "ü"}
		for _, name := range names {
			b.write(t, "work/"+name, "content of "+name+"\n")
		}
		b.own(t)
		if b.spec.Container != nil {
			b.give(t)
		}
		out := b.sh(t, `for f in *; do test "$f" = try || cat "./$f"; done; mv "./new
line" "./other
line" && touch "./$(printf '\376')" && ls | wc -l`)
		for _, name := range names {
			require.Contains(t, out, "content of "+name+"\n")
		}
		require.FileExists(t, filepath.Join(b.spec.Workdir, "other\nline"))
		require.FileExists(t, filepath.Join(b.spec.Workdir, "\xfe"))
	})
}

// TestUnreadableFolder: a folder that its owner cannot read is one for the command too, which runs.
func TestUnreadableFolder(t *testing.T) {
	t.Parallel()
	eachRuntime(t, func(t *testing.T, b *box) {
		b.write(t, "work/file", canary)
		if b.spec.Container != nil {
			b.give(t)
		}
		require.NoError(t, os.Chmod(b.spec.Workdir, 0))
		defer func() { require.NoError(t, os.Chmod(b.spec.Workdir, 0o700)) }()
		cmd := b.command(t, "sh", "-c", "cat file || exit 3")
		cmd.Dir = b.root
		out, _ := cmd.CombinedOutput()
		require.Equal(t, 3, cmd.ProcessState.ExitCode(), string(out))
		require.Contains(t, string(out), "ermission denied")
	})
}

// TestFullDisk: the command learns that the disk is full, and so does whoever starts it where the
// state folder is on that disk.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		return // only root can mount
	}
	eachRuntime(t, func(t *testing.T, b *box) {
		small := filepath.Join(b.home, "small")
		require.NoError(t, os.Mkdir(small, 0o755))
		require.NoError(t, unix.Mount("tmpfs", small, "tmpfs", 0, "size=64k"))
		defer func() { require.NoError(t, unix.Unmount(small, unix.MNT_DETACH)) }()
		if b.spec.Container == nil { // an engine that runs already does not see the mount
			b.spec.Workdir = filepath.Join(small, "work")
			require.NoError(t, os.Mkdir(b.spec.Workdir, 0o755))
			b.own(t)
			out, status := b.run(t, "sh", "-c", "head -c 1000000 /dev/zero > file; echo status $?; rm file; exit 3")
			require.Equal(t, 3, status, out)
			require.Contains(t, out, "No space left on device")
			require.Contains(t, out, "status 1")
			return
		}
		require.Error(t, os.WriteFile(filepath.Join(small, "rest"), make([]byte, 1<<20), 0o600))
		b.spec.Container.Folder = filepath.Join(small, "containers")
		out, status := b.run(t, "true")
		require.Equal(t, 99, status, out)
		require.Contains(t, out, "no space left on device")
		require.Contains(t, out, b.spec.Container.Folder)
	})
}

// TestLaterMounts: what the host mounts in the working directory while a command runs is not in the
// sandbox, also where the host shares its mounts, as systemd does.
func TestLaterMounts(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		return // only root can mount
	}
	eachCaller(t, func(t *testing.T, b *box) {
		outside := filepath.Join(b.home, "outside")
		b.write(t, "work/sub/file", "inside")
		require.NoError(t, os.Mkdir(outside, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(outside, "file"), []byte(canary), 0o644))
		b.own(t)
		work := b.spec.Workdir
		require.NoError(t, unix.Mount(work, work, "", unix.MS_BIND, ""))
		defer func() { require.NoError(t, unix.Unmount(work, unix.MNT_DETACH)) }()
		require.NoError(t, unix.Mount("", work, "", unix.MS_SHARED, ""))
		cmd := b.command(t, "sh", "-c", "echo ready; read -r go; cat sub/file")
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewReader(out)
		line, err := lines.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "ready\n", line)
		require.NoError(t, unix.Mount(outside, filepath.Join(work, "sub"), "", unix.MS_BIND, ""))
		_, err = io.WriteString(in, "go\n")
		require.NoError(t, err)
		rest, err := io.ReadAll(lines)
		require.NoError(t, err)
		require.NoError(t, cmd.Wait())
		require.Equal(t, "inside", string(rest))
	})
}
