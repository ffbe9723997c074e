package sandbox

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestKilledWhileItStarts: if `postern run` is killed, nothing of a sandbox that bwrap is still
// making is left. In between, bwrap has a process that waits for bwrap for ever, whatever becomes
// of the others.
func TestKilledWhileItStarts(t *testing.T) {
	t.Parallel()
	for when, script := range map[string]string{
		"before bwrap says anything": `echo >%[1]s/at; read x <%[1]s/go; exec %[2]s "$@"`,
		// The pipe is full, so bwrap waits while it says which process is the first.
		"while bwrap says something": `[ "$1" != --info-fd ] || shift 2
			exec 9<>%[1]s/go; head -c 65536 /dev/zero >&9; exec %[2]s --info-fd 9 "$@"`,
	} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			eachCaller(t, func(t *testing.T, b *box) {
				dir, err := os.MkdirTemp("", "starts")
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
				require.NoError(t, os.Chmod(dir, 0o755))
				b.spec.Bubblewrap = filepath.Join(dir, "bwrap")
				program := fmt.Appendf(nil, "#!/bin/sh\n"+script+"\n", dir, bwrap)
				require.NoError(t, os.WriteFile(b.spec.Bubblewrap, program, 0o755))
				pipes := map[string]*os.File{}
				for _, name := range []string{"at", "go"} {
					path := filepath.Join(dir, name)
					require.NoError(t, unix.Mkfifo(path, 0o666))
					require.NoError(t, os.Chmod(path, 0o666))
					pipes[name], err = os.OpenFile(path, os.O_RDWR, 0)
					require.NoError(t, err)
					defer pipes[name].Close()
				}
				cmd := b.command(t, "true")
				require.NoError(t, cmd.Start())
				if strings.HasPrefix(when, "before") {
					_, err := pipes["at"].Read(make([]byte, 1))
					require.NoError(t, err)
				} else {
					waiting := fmt.Sprintf("%d 0x9 ", unix.SYS_WRITE)
					require.Eventually(t, func() bool {
						for _, pid := range sandboxes(t, b.root) {
							call, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
							if err == nil && strings.HasPrefix(string(call), waiting) && len(sandboxes(t, b.root)) > 1 {
								return true
							}
						}
						return false
					}, time.Minute, 10*time.Millisecond)
				}
				require.NoError(t, cmd.Process.Kill())
				require.Error(t, cmd.Wait())
				if strings.HasPrefix(when, "before") {
					_, err = pipes["go"].WriteString("\n")
				} else {
					go func() { _, _ = io.Copy(io.Discard, pipes["go"]) }() // until it is closed
				}
				require.NoError(t, err)
				none := 0 // a process that becomes another has no command line for a moment
				require.Eventually(t, func() bool {
					if none++; len(sandboxes(t, b.root)) > 0 {
						none = 0
					}
					return none > 10
				}, time.Minute, 10*time.Millisecond)
			})
		})
	}
}
