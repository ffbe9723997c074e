package stacks

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// stackIn writes a stack file into the folder dir/stacks.
func stackIn(t *testing.T, dir, name string) string {
	t.Helper()
	path := filepath.Join(dir, "stacks", name+".yaml")
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	write(t, path, minimal)
	return path
}

func TestHome(t *testing.T) {
	base := t.TempDir()
	t.Setenv("POSTERN_HOME", base)
	dir := t.TempDir()
	f := opened(t, stackIn(t, dir, "local"))

	// Nobody's yet: it creates nothing.
	h, err := f.Home()
	require.NoError(t, err)
	require.NoDirExists(t, h.Root)
	require.Regexp(t, `^local-[a-z2-7]{26}$`, filepath.Base(h.Root), "128 bits")

	claimed, err := f.Claim()
	require.NoError(t, err)
	require.Equal(t, h, claimed)
	again, err := f.Home()
	require.NoError(t, err)
	require.Equal(t, h, again)
	require.Equal(t, "local", Home{Root: h.Root}.Stack(), "written down, whatever the folder is called")

	// By a link, it is the file that counts.
	link := filepath.Join(dir, "prod.yaml")
	require.NoError(t, os.Symlink(f.Real, link))
	byLink, err := opened(t, link).Home()
	require.NoError(t, err)
	require.Equal(t, h, byLink)

	// Of a file that is gone, and of a folder that is gone, it stays where it is.
	require.NoError(t, os.Remove(f.Real))
	gone, err := opened(t, f.Real).Home()
	require.NoError(t, err)
	require.Equal(t, h, gone)
	require.NoError(t, os.RemoveAll(filepath.Dir(f.Real)))
	gone, err = opened(t, f.Real).Home()
	require.NoError(t, err)
	require.Equal(t, h, gone)
	_, err = opened(t, f.Real).Load()
	require.ErrorContains(t, err, "no such file or directory")
}

// A state folder at the right place that belongs to another file, as after a
// second preimage of the hash, is refused by whoever opens it.
func TestHomeOfAnotherFile(t *testing.T) {
	base := t.TempDir()
	t.Setenv("POSTERN_HOME", base)
	mine, theirs := opened(t, stackIn(t, t.TempDir(), "local")), opened(t, stackIn(t, t.TempDir(), "local"))
	h, err := mine.home()
	require.NoError(t, err)
	require.NoError(t, h.Claim(theirs))

	want := "the state folder " + h.Root + " belongs to the stack local of " + theirs.Real + ", not to " + mine.Real + ": move the folder away"
	_, err = mine.Home()
	require.EqualError(t, err, want)
	_, err = mine.Claim()
	require.EqualError(t, err, want)
	r, err := h.record()
	require.NoError(t, err)
	require.Equal(t, theirs.Real, r.File, "a refusal changes nothing")
}

func TestHomeWithoutRecord(t *testing.T) {
	for _, content := range []string{"", "{", `{"name":"local"}`, "null"} {
		t.Run(content, func(t *testing.T) {
			t.Setenv("POSTERN_HOME", t.TempDir())
			f := opened(t, stackIn(t, t.TempDir(), "local"))
			h, err := f.Claim()
			require.NoError(t, err)
			if content == "" {
				require.NoError(t, os.Remove(h.RecordFile()))
			} else {
				write(t, h.RecordFile(), content)
			}
			_, err = f.Home()
			require.ErrorIs(t, err, ErrUnclaimed)
			require.ErrorContains(t, err, "the state folder "+h.Root+" does not say to which stack file it belongs")
			_, err = f.Claim()
			require.NoError(t, err, "it says so again")
			_, err = f.Home()
			require.NoError(t, err)
		})
	}
}

func TestReplaced(t *testing.T) {
	t.Setenv("POSTERN_HOME", t.TempDir())
	dir := t.TempDir()
	path := stackIn(t, dir, "local")
	f := opened(t, path)
	replaced := func() bool {
		t.Helper()
		f := opened(t, path)
		h, err := f.Home()
		require.NoError(t, err, "found by its path all the same")
		is, err := f.Replaced(h)
		require.NoError(t, err)
		return is
	}
	require.False(t, replaced(), "there is no state yet")
	_, err := f.Claim()
	require.NoError(t, err)
	require.False(t, replaced())

	// An editor that replaces the file by another one.
	write(t, path+"~", minimal+"# edited\n")
	require.NoError(t, os.Rename(path+"~", path))
	require.False(t, replaced())

	require.NoError(t, os.Rename(filepath.Dir(path), filepath.Join(dir, "old")))
	stackIn(t, dir, "local")
	require.True(t, replaced())
	_, err = opened(t, path).Claim()
	require.NoError(t, err)
	require.False(t, replaced())
}

func TestSameFolder(t *testing.T) {
	t.Parallel()
	const disk, none = 0x801, 0x2a // 8:1; 0:42, which is another number after a restart
	for name, c := range map[string]struct {
		a, b identity
		same bool
	}{
		"same":                         {identity{disk, 5}, identity{disk, 5}, true},
		"another folder":               {identity{disk, 5}, identity{disk, 6}, false},
		"another disk":                 {identity{disk, 5}, identity{0x802, 5}, false},
		"no device of its own":         {identity{none, 5}, identity{0x2b, 5}, true},
		"no device, another folder":    {identity{none, 5}, identity{none, 6}, false},
		"moved to a device of its own": {identity{none, 5}, identity{disk, 5}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.same, c.a.same(c.b))
		})
	}
}

func TestHomes(t *testing.T) {
	base := t.TempDir()
	t.Setenv("POSTERN_HOME", base)
	homes, err := Homes("")
	require.NoError(t, err)
	require.Empty(t, homes)
	for _, name := range []string{"local", "dev"} {
		h, err := opened(t, stackIn(t, t.TempDir(), name)).Claim()
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll(h.OperatorDir(), 0o700))
		write(t, h.OperatorKey(), "a key")
	}
	require.NoError(t, os.Mkdir(filepath.Join(base, "agents"), 0o700)) // not a stack's
	homes, err = Homes("")
	require.NoError(t, err)
	require.Len(t, homes, 2)
	homes, err = Homes("dev")
	require.NoError(t, err)
	require.Len(t, homes, 1)
	require.Equal(t, "dev", homes[0].Stack())
}

// The default state folder of a user with a long name has room for a socket.
func TestSocketsFit(t *testing.T) {
	// As below a home folder, also for root, who has another default.
	const below = "/.local/state/postern"
	t.Setenv("POSTERN_HOME", "/home/"+strings.Repeat("u", 26)+below)
	h, err := opened(t, stackIn(t, t.TempDir(), "local")).Home()
	require.NoError(t, err)
	require.NoError(t, h.CheckSockets())
	require.Len(t, h.ControlSocket(), maxSocketPath)
	t.Setenv("POSTERN_HOME", "/home/"+strings.Repeat("u", 27)+below)
	h, err = opened(t, stackIn(t, t.TempDir(), "local")).Home()
	require.NoError(t, err)
	require.ErrorContains(t, h.CheckSockets(), "set POSTERN_HOME to a shorter folder")
}
