package sandbox

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// file opens a file of the caller's outside of the working directory.
func (b *box) file(t *testing.T, name, content string, flags int) *os.File {
	t.Helper()
	path := b.write(t, name, content)
	f, err := os.OpenFile(path, flags, 0)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// A descriptor can be opened once more, with other rights, through
// /proc/self/fd: what the caller redirects must not be a way to the file.
func TestStreamsCannotBeReopened(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		in := b.file(t, "in.txt", "input "+canary, os.O_RDONLY)
		out := b.file(t, "out.txt", canary+" before\n", os.O_WRONLY|os.O_APPEND)
		errs := b.file(t, "err.txt", canary+" before\n", os.O_WRONLY|os.O_APPEND)
		cmd := b.command(t, "sh", "-c", `
			(echo forged > /proc/self/fd/0) 2>/dev/null
			(echo forged > /dev/stdin) 2>/dev/null
			timeout 1 cat /proc/self/fd/1 2>/dev/null
			timeout 1 cat < /dev/stderr 2>/dev/null
			: > /proc/self/fd/1; truncate -s 0 /proc/self/fd/2 2>/dev/null
			ls -l /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 | grep -c pipe:
			echo last >&2`)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, errs
		require.NoError(t, cmd.Run())
		for name, want := range map[string]string{"in.txt": "input " + canary, "out.txt": canary + " before\n3\n", "err.txt": canary + " before\nlast\n"} {
			content, err := os.ReadFile(filepath.Join(b.home, name))
			require.NoError(t, err)
			require.Equal(t, want, string(content), name)
		}
	})
}

// What others write into the pipe or socket that is the command's output, or read from its input,
// is not the command's.
func TestStreamsAreNotShared(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		r, w, err := os.Pipe()
		require.NoError(t, err)
		_, err = io.WriteString(w, canary+"\n") // of another program in the same pipeline
		require.NoError(t, err)
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		require.NoError(t, err)
		ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
		cmd := b.command(t, "sh", "-c", `timeout 1 cat /proc/self/fd/1 >&2; test -S /dev/stdin && echo socket >&2; read x; echo "got $x"`)
		var errs bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, w, &errs
		require.NoError(t, cmd.Start())
		theirs.Close()
		w.Close()
		_, err = io.WriteString(ours, "line\n")
		require.NoError(t, err)
		require.NoError(t, ours.Close())
		all, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, cmd.Wait())
		require.Equal(t, canary+"\ngot line\n", string(all))
		require.Empty(t, errs.String())
	})
}

func TestStreamsEnd(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		t.Run("everything arrives, in both directions", func(t *testing.T) {
			data := make([]byte, 5<<20+17)
			_, err := rand.Read(data)
			require.NoError(t, err)
			cmd := b.command(t, "cat")
			var out bytes.Buffer
			cmd.Stdin, cmd.Stdout = bytes.NewReader(data), &out
			require.NoError(t, cmd.Run())
			require.True(t, bytes.Equal(data, out.Bytes()))
		})
		t.Run("nobody reads the output", func(t *testing.T) {
			cmd := b.command(t, "sh", "-c", `trap '' PIPE; while echo x; do :; done 2>/dev/null; echo ended >&2`)
			r, w, err := os.Pipe()
			require.NoError(t, err)
			errs := b.file(t, "errs", "", os.O_WRONLY)
			cmd.Stdout, cmd.Stderr = w, errs
			require.NoError(t, cmd.Start())
			w.Close()
			require.Equal(t, "x", lineReader(r)(t))
			r.Close()
			require.NoError(t, cmd.Wait())
			content, err := os.ReadFile(errs.Name())
			require.NoError(t, err)
			require.Equal(t, "ended\n", string(content))
			out, status := b.run(t, "sh", "-c", "yes | head -n 1")
			require.Equal(t, "y\n", out)
			require.Zero(t, status)
		})
		t.Run("a descendant holds the output", func(t *testing.T) {
			out, status := b.run(t, "sh", "-c", "echo last; sleep 1000 & setsid sleep 1000 & exit 3")
			require.Equal(t, "last\n", out)
			require.Equal(t, 3, status)
		})
		t.Run("the input never ends", func(t *testing.T) {
			r, w, err := os.Pipe()
			require.NoError(t, err)
			defer w.Close()
			cmd := b.command(t, "sh", "-c", "read x; echo got $x")
			cmd.Stdin = r
			_, err = io.WriteString(w, "line\nunread\n")
			require.NoError(t, err)
			out, err := cmd.Output()
			require.NoError(t, err)
			require.Equal(t, "got line\n", string(out))
		})
		t.Run("one file for both keeps the order", func(t *testing.T) {
			both := b.file(t, "both", "", os.O_WRONLY|os.O_APPEND)
			cmd := b.command(t, "sh", "-c", "i=0; while [ $i -lt 300 ]; do echo $i; echo $i >&2; i=$((i+1)); done")
			cmd.Stdout, cmd.Stderr = both, both
			require.NoError(t, cmd.Run())
			var want bytes.Buffer
			for i := range 300 {
				fmt.Fprintf(&want, "%d\n%d\n", i, i)
			}
			content, err := os.ReadFile(both.Name())
			require.NoError(t, err)
			require.Equal(t, want.String(), string(content))
		})
		t.Run("a full disk is said", func(t *testing.T) {
			full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
			require.NoError(t, err)
			defer full.Close()
			cmd := b.command(t, "echo", "lost")
			var errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = full, &errs
			require.Error(t, cmd.Run())
			require.Contains(t, errs.String(), "standard output")
			require.Contains(t, errs.String(), "no space left on device")
		})
		t.Run("nothing is nothing", func(t *testing.T) {
			cmd := b.command(t, "sh", "-c", "test -c /dev/stdin && test -c /dev/stdout && read x")
			require.Error(t, cmd.Run())
			require.Equal(t, 1, cmd.ProcessState.ExitCode())
		})
	})
}

// BenchmarkOutput is what copying costs: 256 MiB through a pipe, against the same without a
// sandbox.
func BenchmarkOutput(b *testing.B) {
	dir := b.TempDir()
	args := []string{"sh", "-c", "head -c 268435456 /dev/zero"}
	r := newRequest(dir, args...)
	drain := func(b *testing.B, run func(out *os.File) error) {
		b.SetBytes(256 << 20)
		for b.Loop() {
			r, w, err := os.Pipe()
			require.NoError(b, err)
			done := make(chan error, 1)
			go func() { _, err := io.Copy(io.Discard, r); done <- err }()
			require.NoError(b, run(w))
			w.Close()
			require.NoError(b, <-done)
			r.Close()
		}
	}
	b.Run("plain", func(b *testing.B) {
		drain(b, func(out *os.File) error {
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Stdout = out
			return cmd.Run()
		})
	})
	b.Run("postern", func(b *testing.B) {
		drain(b, func(out *os.File) error {
			r.Stdout = out
			_, err := r.run(b.Context())
			return err
		})
	})
}

// TestBeginning: whatever is complained of, a bounded part is kept, and whoever complains does not
// wait.
func TestBeginning(t *testing.T) {
	t.Parallel()
	var b beginning
	for range 3 {
		n, err := io.Copy(&b, bytes.NewReader(make([]byte, enough/2+1)))
		require.NoError(t, err)
		require.EqualValues(t, enough/2+1, n)
	}
	require.Len(t, b.text, enough)
}
