package run

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/docker"
)

// TestExamine: each runtime is usable, or what is missing is said with what to type.
func TestExamine(t *testing.T) {
	dir, err := os.MkdirTemp("", "dkr")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	folders, err := hostpath.In(dir).Folders()
	require.NoError(t, err)

	require.Contains(t, Examine(t.Context(), folders)[3].Why, "find postern-sandbox")
	self, err := os.Executable()
	require.NoError(t, err)
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Dir(self), "../../cmd/postern-sandbox")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)

	none := filepath.Join(dir, "docker.sock")
	t.Setenv("DOCKER_HOST", "unix://"+none)
	missing := "there is no container engine on this machine (no socket " + none + ")"
	found := Examine(t.Context(), folders)
	require.Len(t, found, len(plan.Runtimes()))
	require.True(t, found[0].Usable, found[0])
	require.Contains(t, found[0].Detail, "bwrap")
	for i, runtime := range []plan.Runtime{plan.RuntimeContainer, plan.RuntimeGVisor} {
		require.Equal(t, Finding{Runtime: runtime, Why: missing, Remedy: "apt install docker.io"}, found[i+1])
	}
	require.True(t, found[3].Usable, found[3])
	require.Regexp(t, "qemu-system.*, kernel /boot/vmlinuz-.*, (KVM|TCG)", found[3].Detail)
	t.Setenv("DOCKER_HOST", "tcp://127.0.0.1:2375")
	require.Contains(t, Examine(t.Context(), folders)[1].Why, "export DOCKER_HOST=unix:///PATH")

	if os.Getuid() != 0 {
		return // only root can start a container engine
	}
	t.Setenv("DOCKER_HOST", "unix://"+none)
	d, err := docker.Start(context.WithoutCancel(t.Context()), dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Stop()) })
	for _, f := range Examine(t.Context(), folders) {
		require.True(t, f.Usable, f)
		require.NotEmpty(t, f.Detail)
	}
}
