package home

import (
	"encoding/base32"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSameFolder(t *testing.T) {
	t.Parallel()
	const disk, none = 0x801, 0x2a // 8:1; 0:42, which is another number after a restart
	for name, c := range map[string]struct {
		a, b Identity
		same bool
	}{
		"same":                         {Identity{Device: disk, Inode: 5}, Identity{Device: disk, Inode: 5}, true},
		"another folder":               {Identity{Device: disk, Inode: 5}, Identity{Device: disk, Inode: 6}, false},
		"another disk":                 {Identity{Device: disk, Inode: 5}, Identity{Device: 0x802, Inode: 5}, false},
		"no device of its own":         {Identity{Device: none, Inode: 5}, Identity{Device: 0x2b, Inode: 5}, true},
		"no device, another folder":    {Identity{Device: none, Inode: 5}, Identity{Device: none, Inode: 6}, false},
		"the same inode, used again":   {Identity{disk, 5, 1}, Identity{disk, 5, 2}, false},
		"made at the same time":        {Identity{disk, 5, 1}, Identity{disk, 6, 1}, false},
		"a disk that tells no time":    {Identity{disk, 5, 1}, Identity{disk, 5, 0}, true},
		"moved to a device of its own": {Identity{Device: none, Inode: 5}, Identity{Device: disk, Inode: 5}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.same, c.a.Same(c.b))
		})
	}
}

func TestIdentityOf(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f, err := os.Open(dir)
	require.NoError(t, err)
	defer f.Close()
	i, err := IdentityOf(f)
	require.NoError(t, err)
	info, err := f.Stat()
	require.NoError(t, err)
	s := info.Sys().(*syscall.Stat_t)
	require.Equal(t, []uint64{s.Dev, s.Ino}, []uint64{i.Device, i.Inode})
	require.NotZero(t, i.Born)
	require.WithinDuration(t, time.Now(), time.Unix(0, i.Born), time.Minute)
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

	// A stack whose key is lost is found by its nodes; one that was taken down is not there.
	require.NoError(t, os.RemoveAll(homes[0].OperatorDir()))
	require.NoError(t, os.MkdirAll(homes[0].NodesDir(), 0o700))
	homes, err = All("dev")
	require.NoError(t, err)
	require.Len(t, homes, 1)
	require.NoError(t, os.RemoveAll(homes[0].NodesDir()))
	homes, err = All("dev")
	require.NoError(t, err)
	require.Empty(t, homes)
}

// TestPipes: a pipe in the place of a file is no file, and nobody waits for its writer.
func TestPipes(t *testing.T) {
	t.Setenv("POSTERN_HOME", t.TempDir())
	o := Owner{Name: "local", File: "/stacks/local.yaml"}
	h, err := Claim(o)
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(h.OperatorDir(), 0o700))
	for _, path := range []string{h.RecordFile(), h.StoreFile(), h.programsFile()} {
		require.NoError(t, os.RemoveAll(path))
		require.NoError(t, syscall.Mkfifo(path, 0o600))
	}
	_, err = Of(o)
	require.ErrorIs(t, err, ErrUnclaimed)
	require.ErrorContains(t, err, "is a pipe, not a regular file")
	require.Contains(t, h.BundleURL(), "file://")
	_, err = h.Programs()
	require.ErrorContains(t, err, "is a pipe")
}

// TestNames: the name of a state folder has 128 bits of a hash of the stack file's path, so that
// nobody finds a path with the name of another's.
func TestNames(t *testing.T) {
	t.Setenv("POSTERN_HOME", "/state")
	names := map[string]bool{}
	for i := range 100 {
		h, err := Of(Owner{Name: "local", File: fmt.Sprintf("/stacks/%d/local.yaml", i)})
		require.NoError(t, err)
		hash, ok := strings.CutPrefix(h.Root, "/state/local-")
		require.True(t, ok)
		bits, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(strings.ToUpper(hash))
		require.NoError(t, err)
		require.Len(t, bits, 128/8)
		names[hash] = true
	}
	require.Len(t, names, 100)
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
