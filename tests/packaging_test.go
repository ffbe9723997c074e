package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// command runs a program and returns what it said.
func said(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
	return string(out)
}

// TestPackaging has systemd itself judge the units, and make the users and folders
// in a root of its own.
func TestPackaging(t *testing.T) {
	t.Parallel()
	packaging, err := filepath.Abs(filepath.Join("..", "packaging"))
	require.NoError(t, err)
	t.Run("units", func(t *testing.T) {
		t.Parallel()
		// systemd-analyze wants the programs to be there.
		program, err := exec.LookPath("true")
		require.NoError(t, err)
		dir := t.TempDir()
		for _, name := range []string{"postern-control.service", "postern-node@.service"} {
			content, err := os.ReadFile(filepath.Join(packaging, "systemd", name))
			require.NoError(t, err)
			unit := filepath.Join(dir, strings.Replace(name, "@", "@n1", 1))
			ready := strings.ReplaceAll(string(content), "/usr/lib/postern/posternd", program)
			require.NoError(t, os.WriteFile(unit, []byte(ready), 0o600))
			require.Empty(t, said(t, "systemd-analyze", "verify", "--man=no", unit), "warnings")
			// Of 100, where 100 is as exposed as can be; the number is a bit more than what it says.
			said(t, "systemd-analyze", "security", "--offline=true", "--threshold=25", "--no-pager", unit)
		}
	})
	t.Run("users and folders", func(t *testing.T) {
		t.Parallel()
		root := t.TempDir()
		require.NoError(t, os.MkdirAll(filepath.Join(root, "etc"), 0o755))
		said(t, "systemd-sysusers", "--root="+root, filepath.Join(packaging, "sysusers.d", "postern.conf"))
		groups, err := os.ReadFile(filepath.Join(root, "etc", "group"))
		require.NoError(t, err)
		require.Regexp(t, `(?m)^postern-node:[^:]*:\d+:postern-control$`, string(groups))
		require.Regexp(t, `(?m)^postern-control:[^:]*:\d+:$`, string(groups))
		if os.Geteuid() == 0 {
			said(t, "systemd-tmpfiles", "--create", "--root="+root, filepath.Join(packaging, "tmpfiles.d", "postern.conf"))
			info, err := os.Stat(filepath.Join(root, "var", "lib", "postern"))
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o711), info.Mode().Perm())
		}
	})
}

// TestPackagingRestarts: each daemon restarts alone. One that is upgraded takes no other one along,
// and a node finishes its requests: Envoy ends at once if it gets the signal, too.
func TestPackagingRestarts(t *testing.T) {
	t.Parallel()
	unit := func(name string) map[string]string {
		content, err := os.ReadFile(filepath.Join("..", "packaging", "systemd", name))
		require.NoError(t, err)
		said := map[string]string{}
		for line := range strings.Lines(string(content)) {
			if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
				said[key] += value + " "
			}
		}
		return said
	}
	control, node := unit("postern-control.service"), unit("postern-node@.service")
	require.Contains(t, node["After"], "postern-control.service")
	require.NotContains(t, control["After"], "postern-node")
	for _, said := range []map[string]string{control, node} {
		ties := []string{"Requires", "Requisite", "BindsTo", "PartOf", "Upholds", "Conflicts", "PropagatesStopTo"}
		for _, tie := range ties {
			require.Empty(t, said[tie], tie)
		}
		require.Equal(t, "always ", said["Restart"])
	}
	require.Equal(t, "mixed ", node["KillMode"])
}
