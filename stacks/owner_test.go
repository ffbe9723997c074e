package stacks

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/home"
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

	claimed, err := home.Claim(f.Owner())
	require.NoError(t, err)
	require.Equal(t, h.Root, claimed.Root)
	again, err := f.Home()
	require.NoError(t, err)
	require.Equal(t, claimed, again)
	require.Equal(t, "local", home.Folder{Root: h.Root}.Stack(), "written down, whatever the folder is called")

	// By a link, it is the file that counts.
	link := filepath.Join(dir, "prod.yaml")
	require.NoError(t, os.Symlink(f.Real, link))
	byLink, err := opened(t, link).Home()
	require.NoError(t, err)
	require.Equal(t, claimed, byLink)

	// Of a file that is gone, and of a folder that is gone, it stays where it is.
	require.NoError(t, os.Remove(f.Real))
	gone, err := opened(t, f.Real).Home()
	require.NoError(t, err)
	require.Equal(t, claimed, gone)
	require.NoError(t, os.RemoveAll(filepath.Dir(f.Real)))
	gone, err = opened(t, f.Real).Home()
	require.NoError(t, err)
	require.Equal(t, claimed, gone)
	_, err = opened(t, f.Real).Load()
	require.ErrorContains(t, err, "no such file or directory")
}

// A state folder at the right place that belongs to another file, as after a
// second preimage of the hash, is refused by whoever opens it.
func TestHomeOfAnotherFile(t *testing.T) {
	base := t.TempDir()
	t.Setenv("POSTERN_HOME", base)
	mine, theirs := opened(t, stackIn(t, t.TempDir(), "local")), opened(t, stackIn(t, t.TempDir(), "local"))
	h, err := mine.Home()
	require.NoError(t, err)
	require.NoError(t, h.Claim(theirs.Owner()))

	want := "the state folder " + h.Root + " belongs to the stack local of " + theirs.Real + ", not to " + mine.Real + ": move the folder away"
	_, err = mine.Home()
	require.EqualError(t, err, want)
	_, err = home.Claim(mine.Owner())
	require.EqualError(t, err, want)
	_, err = theirs.Home()
	require.NoError(t, err, "a refusal changes nothing")
}

func TestHomeWithoutRecord(t *testing.T) {
	for _, content := range []string{"", "{", `{"name":"local"}`, "null"} {
		t.Run(content, func(t *testing.T) {
			t.Setenv("POSTERN_HOME", t.TempDir())
			f := opened(t, stackIn(t, t.TempDir(), "local"))
			h, err := home.Claim(f.Owner())
			require.NoError(t, err)
			if content == "" {
				require.NoError(t, os.Remove(h.RecordFile()))
			} else {
				write(t, h.RecordFile(), content)
			}
			_, err = f.Home()
			require.ErrorIs(t, err, home.ErrUnclaimed)
			require.ErrorContains(t, err, "the state folder "+h.Root+" does not say to which stack file it belongs")
			_, err = home.Claim(f.Owner())
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
		is, err := h.Replaced(f.Owner())
		require.NoError(t, err)
		return is
	}
	require.False(t, replaced(), "there is no state yet")
	_, err := home.Claim(f.Owner())
	require.NoError(t, err)
	require.False(t, replaced())

	// An editor that replaces the file by another one.
	write(t, path+"~", minimal+"# edited\n")
	require.NoError(t, os.Rename(path+"~", path))
	require.False(t, replaced())

	require.NoError(t, os.Rename(filepath.Dir(path), filepath.Join(dir, "old")))
	stackIn(t, dir, "local")
	require.True(t, replaced())
	_, err = home.Claim(opened(t, path).Owner())
	require.NoError(t, err)
	require.False(t, replaced())
}

// TestClaimIsOfWhatWasSeen: between the look at whose a state folder is, and the claim, another
// command may claim it for another folder of stack files. Of several at once, one claims it.
func TestClaimIsOfWhatWasSeen(t *testing.T) {
	t.Setenv("POSTERN_HOME", t.TempDir())
	mine := opened(t, stackIn(t, t.TempDir(), "local")).Owner()
	other := func(n uint64) home.Owner {
		o := mine
		o.Folder.Inode += n
		return o
	}
	seen, err := home.Of(mine)
	require.NoError(t, err)
	_, err = home.Claim(mine)
	require.NoError(t, err)
	require.ErrorIs(t, seen.Claim(other(1)), home.ErrClaimed, "nobody had claimed it, when it was looked at")
	require.NoError(t, seen.Claim(mine), "for whom it is")

	seen, err = home.Of(other(1))
	require.NoError(t, err)
	require.NoError(t, seen.Claim(other(1)), "it is as it was seen")
	require.ErrorIs(t, seen.Claim(other(2)), home.ErrClaimed)

	seen, err = home.Of(mine)
	require.NoError(t, err)
	const many = 20
	claimed := make(chan error, many)
	for n := range many {
		go func() { claimed <- seen.Claim(other(uint64(n) + 10)) }()
	}
	won := 0
	for range many {
		if err := <-claimed; err == nil {
			won++
		} else {
			require.ErrorIs(t, err, home.ErrClaimed)
		}
	}
	require.Equal(t, 1, won)
}
