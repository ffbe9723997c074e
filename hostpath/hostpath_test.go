package hostpath

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// world is a folder with an agent's working directory "work" that is registered, and "safe", which is not an agent's.
type world struct {
	t        *testing.T
	dir      string
	registry Registry
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	w := &world{t, dir, In(filepath.Join(dir, "state"))}
	for _, d := range []string{"work/sub", "safe/keys"} {
		require.NoError(t, os.MkdirAll(w.path(d), 0o700))
	}
	w.file("work/sub/file")
	w.file("safe/keys/file")
	require.NoError(t, w.registry.Record(w.path("work")))
	return w
}

func (w *world) path(p string) string { return filepath.Join(w.dir, p) }

func (w *world) file(p string) {
	w.t.Helper()
	require.NoError(w.t, os.WriteFile(w.path(p), []byte("content"), 0o600))
}

func (w *world) link(target, at string) {
	w.t.Helper()
	require.NoError(w.t, os.Symlink(target, w.path(at)))
}

func (w *world) rename(from, to string) {
	w.t.Helper()
	require.NoError(w.t, os.Rename(w.path(from), w.path(to)))
}

func (w *world) mount(from, at string, flags uintptr) {
	w.t.Helper()
	if os.Geteuid() != 0 {
		w.t.Skip("only root mounts")
	}
	require.NoError(w.t, unix.Mount(w.path(from), w.path(at), "", unix.MS_BIND|flags, ""))
	w.t.Cleanup(func() { require.NoError(w.t, unix.Unmount(w.path(at), unix.MNT_DETACH)) })
}

func (w *world) folders(more ...string) *Folders {
	w.t.Helper()
	f, err := w.registry.Folders(more...)
	require.NoError(w.t, err)
	return f
}

// TestCheck tries the ways to have a file that an agent writes taken for one it does not.
func TestCheck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		do   func(*world)
		path string
		want string // what the error says, with the world's folder cut out; "" for none
	}{
		{"a file elsewhere", nil, "safe/keys/file", ""},
		{"a file that is not there, elsewhere", nil, "safe/none/file", ""},
		{"a file in the folder", nil, "work/sub/file", "/work/sub/file is in /work, where an agent may write"},
		{"the folder", nil, "work", "/work is in /work, where an agent may write"},
		{"a file that is not there, in the folder", nil, "work/none", "/work/none is in /work, where an agent may write"},
		{"a folder whose name begins the same", func(w *world) { require.NoError(w.t, os.Mkdir(w.path("work2"), 0o700)) }, "work2/file", ""},
		{"dots", nil, "safe/../work/sub/file", "/safe/../work/sub/file is in /work, where an agent may write"},
		{"through the folder and out again", nil, "work/../safe/keys/file", "/work/../safe/keys/file leads through /work, which is in /work, where an agent may write"},
		{"a link into the folder", func(w *world) { w.link(w.path("work/sub"), "safe/link") }, "safe/link/file", "/safe/link/file leads through /work, which is in /work, where an agent may write"},
		{"a relative link into the folder", func(w *world) { w.link("../work/sub", "safe/link") }, "safe/link/file", "/safe/link/file leads through /work, which is in /work, where an agent may write"},
		{"a link in the folder to a file elsewhere", func(w *world) { w.link(w.path("safe/keys"), "work/link") }, "work/link/file", "/work/link/file is in /work, where an agent may write"},
		{
			"a link to a link in the folder to a file elsewhere",
			func(w *world) { w.link(w.path("safe/keys"), "work/link"); w.link(w.path("work/link"), "safe/link") },
			"safe/link/file", "/safe/link/file leads through /work, which is in /work, where an agent may write",
		},
		{"a link in a circle", func(w *world) { w.link("link", "safe/link") }, "safe/link/file", "look at /safe/link/file: too many levels of symbolic links"},
		{"the folder moved", func(w *world) { w.rename("work", "moved") }, "moved/sub/file", "/moved/sub/file leads through /moved, which is also in /work, where an agent may write"},
		{
			"the folder moved and another in its place",
			func(w *world) { w.rename("work", "moved"); require.NoError(w.t, os.Mkdir(w.path("work"), 0o700)) },
			"work/file", "/work/file is in /work, where an agent may write",
		},
		{
			"the folder moved and a link in its place",
			func(w *world) { w.rename("work", "moved"); w.link("moved", "work") },
			"work/sub/file", "/work/sub/file is in /work, where an agent may write",
		},
		{
			"a folder above the folder moved",
			func(w *world) { require.NoError(w.t, os.Mkdir(w.path("up"), 0o700)); w.rename("work", "up/work") },
			"up/work/sub/file", "/up/work/sub/file leads through /up/work, which is also in /work, where an agent may write",
		},
		{
			"a hard link in the folder", func(w *world) { require.NoError(w.t, os.Link(w.path("safe/keys/file"), w.path("work/file"))) }, "safe/keys/file",
			"/safe/keys/file has 2 names (hard links), and one may be in /work, where an agent may write",
		},
		{"a hard link by the file", func(w *world) { require.NoError(w.t, os.Link(w.path("safe/keys/file"), w.path("safe/keys/file2"))) }, "safe/keys/file", ""},
		{
			"the folder mounted elsewhere", func(w *world) { w.mount("work", "safe/keys", 0) }, "safe/keys/sub/file",
			"/safe/keys/sub/file leads through /safe/keys, which is also in /work, where an agent may write",
		},
		{
			"a part of the folder mounted elsewhere", func(w *world) { w.mount("work/sub", "safe/keys", 0) }, "safe/keys/file",
			"/safe/keys/file leads through /safe/keys, which is also in /work, where an agent may write",
		},
		{
			"a file of the folder mounted elsewhere", func(w *world) { w.mount("work/sub/file", "safe/keys/file", 0) }, "safe/keys/file",
			"/safe/keys/file leads through /safe/keys/file, which is also in /work, where an agent may write",
		},
		{
			"a folder elsewhere mounted in the folder", func(w *world) { w.mount("safe/keys", "work/sub", 0) }, "safe/keys/file",
			"/safe/keys/file leads through /safe/keys, which is also in /work, where an agent may write",
		},
		{
			"a folder around it mounted in the folder", func(w *world) { w.mount("safe", "work/sub", 0) }, "safe/keys/file",
			"/safe/keys/file leads through /safe, which is also in /work, where an agent may write",
		},
		{
			"a file elsewhere mounted in the folder", func(w *world) { w.mount("safe/keys/file", "work/sub/file", 0) }, "safe/keys/file",
			"/safe/keys/file leads through /safe/keys/file, which is also in /work, where an agent may write",
		},
		{"by the process's working folder", nil, "/proc/self/cwd/file", "/proc/self leads elsewhere for each process that asks: name the file itself"},
		{"a name with a trailing slash and dots", nil, "safe//keys/./file", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if c.do != nil {
				c.do(w)
			}
			path := c.path
			if !filepath.IsAbs(path) {
				path = w.dir + "/" + path // not cleaned
			}
			check := func(err error, what string) {
				got := ""
				if err != nil {
					got = strings.ReplaceAll(err.Error(), w.dir, "")
				}
				require.Equal(t, c.want, got, what)
			}
			check(w.folders().Check(path), "Check")
			if _, err := os.Stat(path); err == nil {
				file, err := w.folders().Open(path)
				if info, serr := os.Stat(path); serr == nil && info.IsDir() && c.want == "" {
					return
				}
				check(err, "Open")
				if err == nil {
					file.Close()
				}
			}
		})
	}
}

// TestCheckFolder: nothing of a state folder may be an agent's, from above or from below.
func TestCheckFolder(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		do   func(*world)
		path string
		want string
	}{
		{"elsewhere", nil, "safe", ""},
		{"not there", nil, "none", ""},
		{"in the folder", nil, "work/sub", "/work/sub is in /work, where an agent may write"},
		{"the folder", nil, "work", "/work is in /work, where an agent may write"},
		{"around the folder", nil, "", " contains /work, where an agent may write"},
		{"a part of it mounted in the folder", func(w *world) { w.mount("safe/keys", "work/sub", 0) }, "safe", "/safe leads through /safe, which is also in /work, where an agent may write"},
		{"around the folder by a link", func(w *world) { w.link("..", "safe/link") }, "safe/link", "/safe/link contains /work, where an agent may write"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if c.do != nil {
				c.do(w)
			}
			got := ""
			if err := w.folders().CheckFolder(w.path(c.path)); err != nil {
				got = strings.ReplaceAll(err.Error(), w.dir, "")
			}
			require.Equal(t, c.want, got)
		})
	}
}

// TestFoldersTakesMore: the folder of a command that is about to start counts before it is recorded.
func TestFoldersTakesMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.NoError(t, w.folders().Check(w.path("safe/keys/file")))
	var writable *WritableError
	require.ErrorAs(t, w.folders(w.path("safe")).Check(w.path("safe/keys/file")), &writable)
	require.Equal(t, WritableError{Path: w.path("safe/keys/file"), Step: w.path("safe"), Folder: w.path("safe")}, *writable)
	_, err := w.registry.Folders(w.path("none"))
	require.ErrorContains(t, err, "no such file")
}

// TestOpenOpensWhatWasChecked swaps the file for a link into the agent's folder, as fast as it can, while it is opened.
func TestOpenOpensWhatWasChecked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.NoError(t, os.WriteFile(w.path("work/file"), []byte("the agent's"), 0o600))
	require.NoError(t, os.WriteFile(w.path("safe/ours"), []byte("content"), 0o600))
	w.link(w.path("work/file"), "safe/link")
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default: // exchanges both, so that there is always one
				_ = unix.Renameat2(unix.AT_FDCWD, w.path("safe/ours"), unix.AT_FDCWD, w.path("safe/link"), unix.RENAME_EXCHANGE)
			}
		}
	}()
	folders := w.folders()
	opened, refused := 0, 0
	for until := time.Now().Add(time.Minute); opened < 200 || refused < 200; {
		require.True(t, time.Now().Before(until), "%d were opened, %d refused: they are not exchanged", opened, refused)
		file, err := folders.Open(w.path("safe/ours"))
		var writable *WritableError
		if errors.As(err, &writable) {
			refused++
			continue
		}
		require.NoError(t, err)
		content, err := io.ReadAll(file)
		file.Close()
		require.NoError(t, err)
		require.Equal(t, "content", string(content))
		opened++
	}
	close(stop)
	<-done
}

func TestOpenWantsARegularFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.NoError(t, unix.Mkfifo(w.path("safe/fifo"), 0o600))
	for _, path := range []string{w.path("safe/fifo"), w.path("safe"), "/dev/zero"} {
		_, err := w.folders().Open(path)
		require.ErrorContains(t, err, "it is not a regular file", path)
	}
	_, err := w.folders().Open(w.path("none"))
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = w.folders().Open("none")
	require.ErrorContains(t, err, "not an absolute path")
}

func TestRegistry(t *testing.T) {
	t.Parallel()

	t.Run("is kept", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		odd := w.path("a b\n\"\xff")
		require.NoError(t, os.Mkdir(odd, 0o700))
		require.NoError(t, w.registry.Record(odd))
		w.link("safe", "link")
		require.ErrorContains(t, w.registry.Record(w.path("link")), "it leads to "+w.path("safe"))
		require.NoError(t, w.registry.Record(w.path("safe")))
		before, err := os.ReadFile(w.registry.file)
		require.NoError(t, err)
		require.Equal(t, 3, strings.Count(string(before), "\n"))
		for _, dir := range []string{odd, w.path("safe"), w.path("work")} {
			require.NoError(t, w.registry.Record(dir))
			var writable *WritableError
			require.ErrorAs(t, w.folders().Check(filepath.Join(dir, "file")), &writable)
		}
		after, err := os.ReadFile(w.registry.file)
		require.NoError(t, err)
		require.Equal(t, string(before), string(after), "nothing is recorded twice")
		info, err := os.Stat(w.registry.file)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o644), info.Mode(), "the control plane may be another user")
	})

	t.Run("takes several at once", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		var all sync.WaitGroup
		for i := range 50 {
			dir := w.path(fmt.Sprint("agent", i))
			require.NoError(t, os.Mkdir(dir, 0o700))
			all.Go(func() {
				if err := w.registry.Record(dir); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		require.Len(t, w.folders().list, 51)
	})

	t.Run("a line cut short counts for nothing", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		content, err := os.ReadFile(w.registry.file)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(w.registry.file, append(content, "12 34 5"...), 0o600))
		require.Len(t, w.folders().list, 1)
		require.NoError(t, w.registry.Record(w.path("safe")))
		require.Len(t, w.folders().list, 2)
	})

	t.Run("a folder that has the number of one that is gone", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		f := w.folders().list[0].folder
		if f.id.born == 0 {
			t.Fatal("this file system knows no times of birth")
		}
		f.path, f.id.born = w.path("gone"), f.id.born+1
		require.NoError(t, os.WriteFile(w.registry.file, []byte(f.line()), 0o600))
		require.NoError(t, w.folders().Check(w.path("work/sub/file")))
		f.id.born = 0 // of a file system that knows none
		require.NoError(t, os.WriteFile(w.registry.file, []byte(f.line()), 0o600))
		require.Error(t, w.folders().Check(w.path("work/sub/file")))
	})

	t.Run("a device has another number after a restart", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		f := w.folders().list[0].folder
		f.path, f.id.device = w.path("gone"), f.id.device+1
		require.NoError(t, os.WriteFile(w.registry.file, []byte(f.line()), 0o600))
		require.Error(t, w.folders().Check(w.path("work/sub/file")))
	})

	for name, content := range map[string]string{
		"another form":       "hello\n",
		"no path":            "1 2 3\n",
		"a relative path":    "1 2 3 \"work\"\n",
		"a path not clean":   "1 2 3 \"/work/../x\"\n",
		"a number that is 0": "01 2 3 \"/work\"\n",
		"a NUL hole":         "\x00\x00\x00\x00\n",
		"an empty line":      "\n",
		"more behind":        "1 2 3 \"/work\" x\n",
	} {
		t.Run("damaged: "+name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			whole, err := os.ReadFile(w.registry.file)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(w.registry.file, append(whole, content...), 0o600))
			_, err = w.registry.Folders()
			require.ErrorContains(t, err, w.registry.file+":2: this line of the list of agents' working directories is damaged")
			require.ErrorContains(t, w.registry.Record(w.path("safe")), "damaged")
		})
	}

	t.Run("is not a link", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		require.NoError(t, os.Rename(w.registry.file, w.path("elsewhere")))
		require.NoError(t, os.Symlink(w.path("elsewhere"), w.registry.file))
		_, err := w.registry.Folders()
		require.ErrorIs(t, err, unix.ELOOP)
		require.ErrorIs(t, w.registry.Record(w.path("safe")), unix.ELOOP)
	})

	t.Run("wants a folder", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		require.ErrorContains(t, w.registry.Record(w.path("safe/keys/file")), "it is not a folder")
		require.ErrorIs(t, w.registry.Record(w.path("none")), os.ErrNotExist)
	})
}

func TestAdvice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.rename("work/sub/file", "work/sub/it's a key")
	err := w.folders().Check(w.path("work/sub/it's a key"))
	var writable *WritableError
	require.ErrorAs(t, err, &writable)
	require.Regexp(t, `^install -D -m (600|640 -g postern-control) '.*/work/sub/it'\\''s a key' '?/.*postern/it'\\''s a key'$`, writable.Advice())
}

// Who has not said where the list is trusts nothing.
func TestNoRegistry(t *testing.T) {
	t.Parallel()
	_, err := Registry{}.Folders()
	require.ErrorContains(t, err, "nobody has said where it is")
}

// TestForget: a folder is trusted again only by its own path, and not while an agent runs there.
func TestForget(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.NoError(t, os.Mkdir(w.path("other"), 0o700))
	done, err := w.registry.Use(w.path("other"), "stack/agent")
	require.NoError(t, err)
	w.link(w.path("other"), "work/link")
	paths, err := w.registry.Paths()
	require.NoError(t, err)
	require.Equal(t, []string{w.path("work"), w.path("other")}, paths)
	busy, err := w.registry.Busy()
	require.NoError(t, err)
	require.Equal(t, []string{w.path("other")}, busy)
	for path, want := range map[string]error{
		w.path("other"): ErrRuns, w.path("work/link"): ErrUnknown, w.dir + "/work/../other": ErrUnknown, w.path("work") + "/": ErrUnknown, w.path("none"): ErrUnknown,
	} {
		require.ErrorIs(t, w.registry.Forget(path), want, path)
	}
	var writable *WritableError
	require.ErrorAs(t, w.folders().Check(w.path("other/file")), &writable)
	again, err := w.registry.Use(w.path("other"), "stack/agent")
	require.NoError(t, err)
	var ended []string
	done(func() { ended = append(ended, "first") })
	require.ErrorIs(t, w.registry.Forget(w.path("other")), ErrRuns, "the second one")
	again(func() { ended = append(ended, "second") })
	require.Equal(t, []string{"second"}, ended, "the last one knows that it is")
	busy, err = w.registry.Busy()
	require.NoError(t, err)
	require.Empty(t, busy)
	require.NoError(t, w.registry.Forget(w.path("other")))
	require.NoError(t, w.folders().Check(w.path("other/file")))
	require.ErrorAs(t, w.folders().Check(w.path("work/file")), &writable)

	// The folder that was recorded is another one by now, and has gone elsewhere.
	w.rename("work", "moved")
	require.NoError(t, os.Mkdir(w.path("work"), 0o700))
	require.NoError(t, w.registry.Record(w.path("work")))
	require.NoError(t, w.registry.Forget(w.path("work")))
	require.NoError(t, w.folders().Check(w.path("moved/sub/file")))
	paths, err = w.registry.Paths()
	require.NoError(t, err)
	require.Empty(t, paths)
	require.ErrorIs(t, In(w.path("nowhere")).Forget(w.path("work")), ErrUnknown)
}

// TestUseAlone: while a command uses a folder, no other one gets a folder in it or around it, by
// whatever path. Others, and the same folder, are free.
func TestUseAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, dir := range []string{"upper/lower/lowest", "upper2", "upper/lower2"} {
		require.NoError(t, os.MkdirAll(w.path(dir), 0o700))
	}
	done, err := w.registry.Use(w.path("upper/lower"), "a")
	require.NoError(t, err)
	for _, dir := range []string{"upper", "upper/lower/lowest"} {
		_, err := w.registry.Use(w.path(dir), "a")
		require.ErrorContains(t, err, "another command works in "+w.path("upper/lower"), dir)
	}
	paths, err := w.registry.Paths()
	require.NoError(t, err)
	require.NotContains(t, paths, w.path("upper"), "no agent has worked there")
	w.rename("upper/lower", "upper/moved") // a folder with the old path is another one
	require.NoError(t, os.Mkdir(w.path("upper/lower"), 0o700))
	_, err = w.registry.Use(w.path("upper/moved/lowest"), "a")
	require.ErrorContains(t, err, "another command works in")
	require.NoError(t, os.Remove(w.path("upper/lower")))
	w.rename("upper/moved", "upper/lower")
	for _, dir := range []string{"upper/lower", "upper2", "upper/lower2"} {
		again, err := w.registry.Use(w.path(dir), "a")
		require.NoError(t, err, dir)
		again()
	}
	done()
	upper, err := w.registry.Use(w.path("upper"), "a")
	require.NoError(t, err)
	_, err = w.registry.Use(w.path("upper/lower"), "a")
	require.ErrorContains(t, err, "another command works in "+w.path("upper"))
	upper()
	again, err := w.registry.Use(w.path("upper/lower"), "a")
	require.NoError(t, err)
	again()
}

// TestUseMadeAgain: a folder that took the place, and the inode, of one that was removed is another
// one, and nobody works in the removed one.
func TestUseMadeAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := w.path("again")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	removed, err := identify(dir)
	require.NoError(t, err)
	removed.id.born-- // it was there before
	require.NoError(t, w.registry.add(removed))
	done, err := w.registry.Use(dir, "a")
	require.NoError(t, err)
	done()
}

// TestHomesAreAgents: what an agent keeps in its home is trusted as little as its folder is. The
// state folder around it is still ours.
func TestHomesAreAgents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.NoError(t, os.MkdirAll(w.path("state/local-1/kept/demo/files"), 0o700))
	require.NoError(t, os.MkdirAll(w.path("state/local-1/kept/gone"), 0o700))
	w.file("state/local-1/kept/demo/files/secret")
	w.file("state/local-1/key")
	w.link(w.path("state/local-1/kept/demo/files"), "safe/link")
	folders := w.folders()
	require.NoError(t, folders.Check(w.path("state/local-1/key")))
	require.NoError(t, folders.CheckFolder(w.path("state")))
	for _, path := range []string{"state/local-1/kept/demo/files/secret", "safe/link/secret"} {
		require.ErrorContains(t, folders.Check(w.path(path)), "where an agent may write", path)
	}
	// What cannot be looked for may be there: nothing is trusted.
	w.file("state/file")
	require.NoError(t, os.Mkdir(w.path("state/local-2"), 0o700))
	require.NoError(t, os.Symlink("kept", w.path("state/local-2/kept")))
	_, err := w.registry.Folders()
	require.ErrorContains(t, err, "look for what agents keep")
}

// TestStraight: an agent chooses where a link of its own leads, and no other link.
func TestStraight(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.NoError(t, os.MkdirAll(w.path("elsewhere/deep"), 0o700))
	w.link(w.path("elsewhere"), "work/out")
	w.link("sub", "work/in")
	w.link(w.path("work"), "safe/to-work")
	folders := w.folders()
	for path, want := range map[string]string{
		"safe/to-work/sub": "work/sub", "work/../elsewhere": "elsewhere", "work/gone/file": "work/gone",
	} {
		real, err := folders.Straight(w.dir + "/" + path)
		require.NoError(t, err, path)
		require.Equal(t, w.path(want), real)
	}
	for path, step := range map[string]string{
		"work/out/deep": "work/out", "work/in/file": "work/in", "work/out/../safe": "work/out", "safe/to-work/out": "work/out",
	} {
		_, err := folders.Straight(w.dir + "/" + path)
		var link *WritableError
		require.ErrorAs(t, err, &link, path)
		require.Equal(t, w.path(step), link.Step)
	}
}
