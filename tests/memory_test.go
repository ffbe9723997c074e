package tests

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/tests/fleet"
)

// TestEnvironmentOfNode: another process of the same user, such as an Envoy that
// was taken over, does not read the join token in its supervisor's environment.
func TestEnvironmentOfNode(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "memory")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	program, err := os.ReadFile(posternd(t))
	require.NoError(t, err)
	binary := filepath.Join(dir, "posternd")
	require.NoError(t, os.WriteFile(binary, program, 0o755))
	ca := filepath.Join(dir, "ca.pem")
	require.NoError(t, os.WriteFile(ca, fleet.NewCA(t, "fleet").PEM, 0o644))
	require.NoError(t, os.Chmod(dir, 0o777))
	attributes := &syscall.SysProcAttr{}
	if os.Getuid() == 0 { // root sees everything
		attributes.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	}
	// Nobody answers there: it tries on.
	cmd := exec.CommandContext(t.Context(), binary, "node", "--control", "127.0.0.1:1", "--stack", "test", "--id", "n", "--dir", filepath.Join(dir, "node"),
		"--fleet-ca", ca, "--join-token-file", "env://TOKEN", "--envoy", "/nowhere")
	cmd.Env, cmd.SysProcAttr = []string{"TOKEN=" + envCanary}, attributes
	out, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.Contains(lines.Text(), "no certificate from the control plane") {
		t.Log(lines.Text())
	}
	require.Contains(t, lines.Text(), "no certificate from the control plane")
	for _, file := range []string{"environ", "mem", "maps"} {
		look := exec.CommandContext(t.Context(), "head", "-c", "100", fmt.Sprintf("/proc/%d/%s", cmd.Process.Pid, file))
		look.SysProcAttr = attributes
		read, err := look.CombinedOutput()
		require.Error(t, err, file)
		require.Contains(t, string(read), "Permission denied", file)
	}
}
