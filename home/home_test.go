package home

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSameFolder(t *testing.T) {
	t.Parallel()
	const disk, none = 0x801, 0x2a // 8:1; 0:42, which is another number after a restart
	for name, c := range map[string]struct {
		a, b Identity
		same bool
	}{
		"same":                         {Identity{disk, 5}, Identity{disk, 5}, true},
		"another folder":               {Identity{disk, 5}, Identity{disk, 6}, false},
		"another disk":                 {Identity{disk, 5}, Identity{0x802, 5}, false},
		"no device of its own":         {Identity{none, 5}, Identity{0x2b, 5}, true},
		"no device, another folder":    {Identity{none, 5}, Identity{none, 6}, false},
		"moved to a device of its own": {Identity{none, 5}, Identity{disk, 5}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.same, c.a.same(c.b))
		})
	}
}

func TestAll(t *testing.T) {
	base := t.TempDir()
	t.Setenv("POSTERN_HOME", base)
	homes, err := All("")
	require.NoError(t, err)
	require.Empty(t, homes)
	for _, name := range []string{"local", "dev"} {
		h, err := Claim(Owner{Name: name, File: filepath.Join(t.TempDir(), name+".yaml")})
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll(h.OperatorDir(), 0o700))
		require.NoError(t, os.WriteFile(h.OperatorKey(), []byte("a key"), 0o600))
	}
	require.NoError(t, os.Mkdir(filepath.Join(base, "agents"), 0o700)) // not a stack's
	homes, err = All("")
	require.NoError(t, err)
	require.Len(t, homes, 2)
	homes, err = All("dev")
	require.NoError(t, err)
	require.Len(t, homes, 1)
	require.Equal(t, "dev", homes[0].Stack())
}

// The default state folder of a user with a long name has room for a socket.
func TestSocketsFit(t *testing.T) {
	// As below a home folder, also for root, who has another default.
	const below = "/.local/state/postern"
	t.Setenv("POSTERN_HOME", "/home/"+strings.Repeat("u", 26)+below)
	h, err := Of(Owner{Name: "local", File: "/stacks/local.yaml"})
	require.NoError(t, err)
	require.NoError(t, h.CheckSockets())
	require.Len(t, h.ControlSocket(), maxSocketPath)
	t.Setenv("POSTERN_HOME", "/home/"+strings.Repeat("u", 27)+below)
	h, err = Of(Owner{Name: "local", File: "/stacks/local.yaml"})
	require.NoError(t, err)
	require.ErrorContains(t, h.CheckSockets(), "set POSTERN_HOME to a shorter folder")
}
