package sandbox

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMachine: in a virtual machine the command has the same user, folders and streams as without
// one. It has no interface but loopback, and its overlay and its hidden files are those of any
// sandbox.
func TestMachine(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		p := b.proxy(t)
		b.spec.Machine = true
		b.write(t, "work/edit", "one\n")
		b.write(t, "work/.env", "KEY=secret\n")
		kept := b.persist(t, "demo")
		run := b.overlay(t, ".env")
		input := bytes.Repeat([]byte("0123456789abcde\n"), 100_000) // more than all pipes hold
		cmd := b.command(t, "sh", "-c", `cat > in; wc -c < in; umask; echo kept > ~/kept
			test $(stat -c %u edit) = $(id -u) && echo two >> edit; cat edit .env; chmod u+s edit; cat /proc/cmdline
			tail -n +3 /proc/net/dev | cut -d: -f1; ls /dev; ls /dev/shm /run/postern/layers | wc -l
			curl -s -m 60 https://allowed.test/; echo; curl -s -m 60 http://127.0.0.1:3128/nothing >&2
			sleep 1000 & cat in; echo over >&2; exit 7`)
		cmd.Stdin = bytes.NewReader(input)
		var said, complained bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &complained
		require.Error(t, cmd.Run())
		require.Equal(t, 7, cmd.ProcessState.ExitCode(), complained.String())
		require.Contains(t, complained.String(), "chmod: changing permissions of 'edit': Operation not permitted")
		require.Contains(t, complained.String(), ".env: No such file or directory")
		require.Contains(t, complained.String(), "over")
		head, found := strings.CutSuffix(said.String(), string(input))
		require.True(t, found, "not all of the output arrived: %d bytes", said.Len())
		seen, _, _ := strings.Cut(head, "zero\n")
		require.Equal(t, "1600000\n0022\none\ntwo\nconsole=ttyS0 quiet loglevel=3 panic=-1\n    lo\n"+
			"fd\nfull\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\n", seen)
		require.NotEmpty(t, p.requests())
		require.Contains(t, changes(t, run), "modified edit \n")
		require.EqualValues(t, b.uid, tree(t, kept.Files())["kept"].uid)
		edit, err := os.ReadFile(filepath.Join(b.spec.Workdir, "edit"))
		require.NoError(t, err)
		require.Equal(t, "one\n", string(edit))
	})
}

// TestMachineIsConfined: QEMU has no more than the command would have outside of the machine: no
// capability, no network of the host, and the filter of system calls. The machine sees what the
// host writes in the working directory. It ends with its command, though another one still writes.
func TestMachineIsConfined(t *testing.T) {
	t.Parallel()
	b := newBox(t, os.Getuid())
	b.spec.Machine = true
	cmd := b.command(t, "sh", "-c", "echo ready; read line; cat new; cat; yes >&2 & exit 3")
	input, err := cmd.StdinPipe()
	require.NoError(t, err)
	output, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(output)
	require.True(t, lines.Scan())
	require.Equal(t, "ready", lines.Text())

	pid := descendant(t, cmd.Process.Pid, "qemu-system")
	status, err := os.ReadFile(filepath.Join("/proc", pid, "status"))
	require.NoError(t, err)
	for _, want := range []string{
		"CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2",
	} {
		require.Contains(t, string(status), want+"\n")
	}
	if os.Getuid() == 0 {
		require.NotContains(t, string(status), "Uid:\t0")
	}
	for _, kind := range []string{"net", "mnt", "pid", "ipc", "user"} {
		ours, err := os.Readlink("/proc/self/ns/" + kind)
		require.NoError(t, err)
		its, err := os.Readlink(filepath.Join("/proc", pid, "ns", kind))
		require.NoError(t, err)
		require.NotEqual(t, ours, its, kind)
	}

	b.write(t, "work/new", "of the host\n")
	_, err = io.WriteString(input, "go\nlast\n")
	require.NoError(t, err)
	require.NoError(t, input.Close())
	require.True(t, lines.Scan())
	require.Equal(t, "of the host", lines.Text())
	require.True(t, lines.Scan())
	require.Equal(t, "last", lines.Text())
	require.Error(t, cmd.Wait())
	require.Equal(t, 3, cmd.ProcessState.ExitCode())
	require.NoDirExists(t, filepath.Join("/proc", pid))
}

// descendant returns the number of the process below another one that runs the program.
func descendant(t *testing.T, root int, program string) string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, path := range all {
		line, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(line), program) {
			continue
		}
		found := filepath.Base(filepath.Dir(path))
		for pid := found; pid != "0" && pid != ""; {
			if pid == strconv.Itoa(root) {
				return found
			}
			status, _ := os.ReadFile(filepath.Join("/proc", pid, "status"))
			_, rest, _ := strings.Cut(string(status), "\nPPid:\t")
			pid, _, _ = strings.Cut(rest, "\n")
		}
	}
	require.Fail(t, "no process runs "+program)
	return ""
}
