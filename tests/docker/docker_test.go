package docker

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// victim makes this binary start an engine in the folder, with a container, and wait to be killed.
const victim = "POSTERN_TEST_VICTIM"

// TestKilled: tests that are killed, or an engine, leave no process and no mount.
func TestKilled(t *testing.T) {
	if dir := os.Getenv(victim); dir != "" {
		d, err := withContainer(dir)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println("started", d.cmd.Process.Pid)
		<-t.Context().Done() // killed, or out of time
		return
	}
	t.Parallel()
	if os.Getuid() != 0 {
		return // only root can start a container engine
	}
	for _, what := range []string{"tests", "engine"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			dir, err := os.MkdirTemp("", "dkr")
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestKilled$", "-test.timeout=2m")
			cmd.Env = append(os.Environ(), victim+"="+dir)
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			line, err := bufio.NewReader(out).ReadString('\n')
			require.NoError(t, err)
			var engine int
			_, err = fmt.Sscanf(line, "started %d", &engine)
			require.NoError(t, err, line)
			require.Contains(t, strings.Join(running(t, dir), "\n"), "containerd-shim")
			if what == "engine" {
				require.NoError(t, syscall.Kill(engine, syscall.SIGKILL))
			}
			require.NoError(t, cmd.Process.Kill())
			require.Error(t, cmd.Wait())
			require.Eventually(t, func() bool { return len(running(t, dir)) == 0 }, time.Minute, 20*time.Millisecond)
			mounts, err := os.ReadFile("/proc/self/mounts")
			require.NoError(t, err)
			require.NotContains(t, string(mounts), dir)
		})
	}
}

// withContainer starts an engine in which a container runs.
func withContainer(dir string) (*Daemon, error) {
	ctx := context.Background()
	d, err := Start(ctx, dir)
	if err != nil {
		return nil, err
	}
	archive, err := Root(ctx, nil)
	if err != nil {
		return nil, err
	}
	if err := d.Import(ctx, "root", archive); err != nil {
		return nil, err
	}
	var made struct{ ID string }
	asked := `{"Image": "root", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}}`
	err = d.call(ctx, http.MethodPost, "/containers/create", strings.NewReader(asked), &made)
	if err != nil {
		return nil, err
	}
	return d, d.call(ctx, http.MethodPost, "/containers/"+made.ID+"/start", nil, nil)
}

// running are the command lines of processes that name the folder.
func running(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	var found []string
	for _, f := range files {
		if line, err := os.ReadFile(f); err == nil && strings.Contains(string(line), dir) {
			found = append(found, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}
