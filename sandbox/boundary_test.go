package sandbox

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// hostSocket is a daemon of the host with a socket in the working directory. It
// fails the test if somebody connects.
func hostSocket(t *testing.T, b *box, name string) string {
	t.Helper()
	path := filepath.Join(b.spec.Workdir, name)
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	require.NoError(t, os.Chmod(path, 0o777))
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Errorf("the agent reached the host by %s", name)
			_, _ = io.WriteString(c, canary)
			c.Close()
		}
	}()
	return path
}

// A socket file in the working directory may be a daemon's of the host: whoever
// may write the file may connect, whatever namespace it is in.
func TestSocketsInTheWorkingFolder(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		host := hostSocket(t, b, "host.sock")
		require.NoError(t, os.Link(host, filepath.Join(b.spec.Workdir, "hard.sock")))
		require.NoError(t, os.Symlink("host.sock", filepath.Join(b.spec.Workdir, "soft.sock")))
		datagrams, err := net.ListenPacket("unixgram", filepath.Join(b.spec.Workdir, "host.dgram"))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, datagrams.Close()) })
		require.NoError(t, os.Chmod(filepath.Join(b.spec.Workdir, "host.dgram"), 0o777))
		out := b.sh(t, `for path in '`+host+`' host.sock ./host.sock hard.sock soft.sock ../work/host.sock \
			/proc/self/cwd/host.sock; do ./try dial unix "$path"; done; true`)
		require.Equal(t, 7, strings.Count(out, "permission denied\n"), out)
		out = b.sh(t, `for kind in unixgram unixpacket; do ./try dial $kind host.dgram; done; true`)
		require.Equal(t, 2, strings.Count(out, "error"), out)
		out = b.sh(t, `mv host.sock moved.sock; ./try dial unix moved.sock; mkdir d; mv moved.sock d/; cd d
			../try dial unix moved.sock; mv moved.sock ../host.sock; true`)
		require.Equal(t, 2, strings.Count(out, "permission denied"), out)
		out, status := b.run(t, "./try", "swap", "own.sock", host)
		require.Zero(t, status, out)
		require.Equal(t, "tried true true\n", out)

		// One that the host makes later.
		cmd := b.command(t, "sh", "-c", "echo ready; read x; ./try dial unix later.sock")
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		piped, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		next := lineReader(piped)
		require.Equal(t, "ready", next(t))
		hostSocket(t, b, "later.sock")
		_, err = io.WriteString(in, "\n")
		require.NoError(t, err)
		require.Contains(t, next(t), "permission denied")
		require.Error(t, cmd.Wait())

		// The agent's own stay usable, wherever they are.
		out = b.sh(t, `for path in own2.sock "$PWD/own3.sock" /tmp/own.sock @abstract /dev/shm/own.sock; do rm -f log
			./try listen $path > log & until grep -qs listening log; do sleep 0.05; done; ./try dial unix $path; done`)
		require.Equal(t, strings.Repeat("connected\n", 5), out)
	})
}

func TestSetIDBits(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		calls := []string{
			fmt.Sprint(unix.SYS_FCHMODAT, " -100 plain 04755"), fmt.Sprint(unix.SYS_FCHMODAT, " -100 plain 02755"), fmt.Sprint(unix.SYS_FCHMODAT2, " -100 plain 06755 0"), fmt.Sprint(unix.SYS_FCHMOD, " 3 04755"),
			fmt.Sprint(unix.SYS_OPENAT, " -100 made1 0101 04755"), fmt.Sprint(unix.SYS_OPENAT, " -100 made2 0102 02755"), fmt.Sprint(unix.SYS_OPENAT, " -100 . ", unix.O_TMPFILE|unix.O_RDWR, " 04755"),
			fmt.Sprint(unix.SYS_MKNODAT, " -100 made3 ", unix.S_IFREG|0o4755, " 0"), fmt.Sprint(unix.SYS_MKNODAT, " -100 made4 ", unix.S_IFREG|0o2711, " 0"),
			fmt.Sprint(unix.SYS_OPENAT2, " -100 plain 0 24"), fmt.Sprint(unix.SYS_IO_URING_SETUP, " 1 0"),
		}
		if runtime.GOARCH == "amd64" { // those that arm64 has not
			calls = append(calls, "90 plain 04755", "2 made5 0101 04755", "85 made6 04755", fmt.Sprint("133 made7 ", unix.S_IFREG|0o4755, " 0"))
		}
		b.write(t, "work/plain", "x")
		var tries strings.Builder
		for _, call := range calls {
			fmt.Fprintf(&tries, "./try syscall %s 3<plain | grep -qE 'operation not permitted|function not implemented' || echo %s\n", strings.Replace(call, "-100", "0xffffffffffffff9c", 1), call)
		}
		require.Empty(t, b.sh(t, tries.String()), "calls that are not denied")
		for _, script := range []string{"cp try s && chmod u+s s", "chmod g+s try", "install -m 4755 try s2", "setcap cap_net_admin+ep try", `python3 -c 'import os; os.setxattr("try", "security.capability", b"\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0")'`} {
			out, status := b.run(t, "sh", "-c", "PATH=/usr/bin:/usr/sbin; "+script)
			require.NotZero(t, status, "%s: %s", script, out)
			require.NotEqual(t, 127, status, "%s: %s", script, out)
		}
		require.NoError(t, filepath.WalkDir(b.spec.Workdir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			require.NoError(t, err)
			require.Zero(t, info.Mode()&(fs.ModeSetuid|fs.ModeSetgid), path)
			return nil
		}))
		// Ordinary modes work, by every call.
		b.sh(t, `chmod 755 plain; chmod +t .; chmod -t .; install -m 711 plain p2; mkfifo -m 600 f; umask 0; mkdir -m 777 d; true > p3`)
	})
}

// A setuid program that is there, such as one of the caller's, gives nothing; a
// device that is there is none.
func TestMountsGiveNothing(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		out := b.sh(t, "cat /proc/self/mountinfo")
		for mount := range strings.Lines(out) {
			fields := strings.Fields(mount)
			require.Contains(t, fields[5], "nosuid", mount)
			if !strings.HasPrefix(fields[4], "/dev") {
				require.Contains(t, fields[5], "nodev", mount)
			}
		}
		if os.Getuid() == 0 {
			device := filepath.Join(b.spec.Workdir, "null")
			require.NoError(t, unix.Mknod(device, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
			require.NoError(t, os.Chmod(device, 0o666))
			out, status := b.run(t, "sh", "-c", "echo x > null")
			require.NotZero(t, status)
			require.Contains(t, out, "ermission denied")
		}
	})
}

func TestNoNamespaces(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		var script strings.Builder
		for _, flag := range []string{"-U", "-Ur", "-n", "-m", "-p", "-i", "-u", "-C", "-T", "-Urmpf"} {
			fmt.Fprintf(&script, "unshare %s true 2>&1 | grep -q 'Operation not permitted' || echo unshare %s\n", flag, flag)
		}
		for _, flag := range []uint64{unix.CLONE_NEWUSER, unix.CLONE_NEWNS, unix.CLONE_NEWNET, unix.CLONE_NEWPID, unix.CLONE_NEWCGROUP, unix.CLONE_NEWIPC, unix.CLONE_NEWUTS} {
			fmt.Fprintf(&script, "./try syscall %d %d 0 | grep -q 'not permitted' || echo clone %x\n", unix.SYS_CLONE, flag|uint64(unix.SIGCHLD), flag)
		}
		fmt.Fprintf(&script, "./try syscall %d 0 88 | grep -q 'not implemented' || echo clone3\n", unix.SYS_CLONE3)
		require.Empty(t, b.sh(t, script.String()))
	})
}

func TestSocketFamilies(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		var script strings.Builder
		var wanted []string
		for socket, want := range map[string]string{
			"1 1": "opened", "1 5": "opened", "2 1": "opened", "2 2": "opened", "2 1 6": "opened", "10 2 17": "opened", "10 1": "opened", "16 3 0": "opened",
			"1 2": "protocol not supported", "1 3": "protocol not supported", // datagrams can name a socket of the host's
			"2 1 262": "protocol not supported", "2 1 132": "protocol not supported", "2 5 132": "protocol not supported", "2 3 1": "protocol not supported", "2 2 136": "protocol not supported",
			"16 3 4": "not supported", "16 3 9": "not supported", "16 3 12": "not supported", "16 3 15": "not supported", "16 3 16": "not supported",
			"17 3": "not supported", "38 5": "not supported", "40 1": "not supported", "44 3": "not supported", "31 1": "not supported", "29 3": "not supported", "21 5": "not supported", "45 2": "not supported", "43 1": "not supported",
		} {
			fmt.Fprintf(&script, "./try socket %s\n", socket)
			wanted = append(wanted, want)
		}
		for pair, want := range map[string]string{"1 1": "opened", "1 5": "opened", "1 2": "protocol not supported", "1 3": "protocol not supported"} {
			fmt.Fprintf(&script, "./try socketpair %s\n", pair)
			wanted = append(wanted, want)
		}
		lines := strings.Split(strings.TrimSpace(b.sh(t, script.String()+"true")), "\n")
		require.Len(t, lines, len(wanted))
		for i, want := range wanted {
			require.Contains(t, lines[i], want, strings.Split(script.String(), "\n")[i])
		}
	})
}

// Every name is one, and is decided once.
func TestSystemCallTables(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, goarch := range []string{"amd64", "arm64"} {
		machine, err := arch.GetInfo(goarch)
		require.NoError(t, err)
		for name := range machine.SyscallNames {
			known[name] = true
		}
	}
	seen := map[string]bool{"connect": true}
	all := append(append([]string{}, allowedCalls...), forbiddenCalls...)
	for _, c := range checkedCalls {
		all = append(all, c.names...)
		require.NotEmpty(t, c.why)
		require.Less(t, len(c.body()), 256)
	}
	for _, name := range all {
		require.True(t, known[name], "%s is not a system call", name)
		require.False(t, seen[name], "%s is decided twice", name)
		seen[name] = true
	}
	for _, name := range []string{"io_uring_setup", "io_uring_enter", "io_uring_register", "clone3", "openat2", "pidfd_getfd"} {
		require.False(t, seen[name], name)
	}
}

func TestUnknownCallsAreDenied(t *testing.T) {
	t.Parallel()
	machine, err := arch.GetInfo(runtime.GOARCH)
	require.NoError(t, err)
	b := newBox(t, os.Getuid())
	var script strings.Builder
	for _, name := range forbiddenCalls {
		if n, ok := machine.SyscallNames[name]; ok {
			fmt.Fprintf(&script, "./try syscall %d 0 0 0 | grep -q 'not permitted' || echo %s\n", n, name)
		}
	}
	for _, name := range []string{"io_uring_setup", "io_uring_enter", "io_uring_register", "clone3", "openat2", "modify_ldt", "uselib", "sysfs", "ustat", "mbind", "move_pages", "migrate_pages", "memfd_secret", "set_mempolicy", "listmount", "statmount"} {
		if n, ok := machine.SyscallNames[name]; ok {
			fmt.Fprintf(&script, "./try syscall %d 0 0 0 | grep -q 'not implemented' || echo %s\n", n, name)
		}
	}
	fmt.Fprintf(&script, "./try syscall 0x40000027 | grep -q 'not implemented' || echo x32; for n in 470 500 600 1000 4095; do ./try syscall $n | grep -q 'not implemented' || echo $n; done")
	require.Empty(t, b.sh(t, script.String()), "calls that are not denied as they should be")
}

// The kernel lists a listening socket's file by 32 bits of the inode number and the device of the
// whole file system. In another subvolume of btrfs both can be those of the host's socket.
func TestSocketWithTheSameInodeNumber(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		return // mounting a file system takes root
	}
	eachCaller(t, func(t *testing.T, b *box) {
		image, mounted := filepath.Join(b.root, "image"), filepath.Join(b.root, "btrfs")
		shell(t, `truncate -s 128M "$1" && mkfs.btrfs -q "$1" && mkdir "$2" && mount -o loop "$1" "$2"`, image, mounted)
		t.Cleanup(func() { shell(t, `umount "$1"`, mounted) })
		// The agent may not make a subvolume; who calls may have one there.
		b.spec.Workdir = filepath.Join(mounted, "work")
		shell(t, `mkdir "$1" && cp "$2" "$1" && btrfs -q subvolume create "$1/sub"`, b.spec.Workdir, filepath.Join(b.home, "work", "try"))
		for i := range 20 {
			require.NoError(t, os.WriteFile(filepath.Join(b.spec.Workdir, fmt.Sprint("pad", i)), nil, 0o600))
		}
		host := hostSocket(t, b, "host.sock")
		b.own(t)
		shell(t, `chown -R "$1" "$2"`, fmt.Sprint(b.uid), mounted)
		out := b.sh(t, `/usr/bin/python3 -c '
import os, socket
want = os.stat("host.sock").st_ino
os.chdir("sub")
while True:
    open("x", "w").close(); last = os.stat("x").st_ino; os.unlink("x")
    if last >= want - 1: break
s = socket.socket(socket.AF_UNIX); s.bind("own.sock"); s.listen()
print("same number:", os.stat("own.sock").st_ino == want, flush=True)
os.chdir("..")
def dial(path):
    c = socket.socket(socket.AF_UNIX)
    try: c.connect(path); return "connected"
    except OSError as e: return e.strerror
print("host:", dial("host.sock")); print("own:", dial("sub/own.sock"))
'`)
		require.Equal(t, "same number: True\nhost: Permission denied\nown: connected\n", out)
		// Nor may the agent make a subvolume, or a snapshot of what its folder is in.
		out = b.sh(t, fmt.Sprintf(`exec 3<.; for create in 0x5000940e 0x50009417 0x50009401
			do ./try syscall %d 3 $create sub2; done; true`, unix.SYS_IOCTL))
		require.Equal(t, 3, strings.Count(out, "operation not permitted\n"), out)
		b.sh(t, "cp --reflink=always try try2 && cmp try try2")
		require.FileExists(t, host)
	})
}

// shell runs a script of the host, with arguments.
func shell(t *testing.T, script string, args ...string) {
	t.Helper()
	out, err := exec.CommandContext(context.WithoutCancel(t.Context()), "sh", append([]string{"-ec", script, "sh"}, args...)...).CombinedOutput()
	require.NoError(t, err, "%s: %s", script, out)
}
