package links

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func write(t *testing.T, at, content string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(at), 0o755))
	require.NoError(t, os.WriteFile(at, []byte(content), 0o644))
}

func read(t *testing.T, at string) string {
	t.Helper()
	content, err := os.ReadFile(at)
	require.NoError(t, err)
	return string(content)
}

func stat(t *testing.T, at string) (st unix.Stat_t) {
	t.Helper()
	require.NoError(t, unix.Lstat(at, &st))
	return st
}

func nobody(string) bool { return false }

// places returns a folder of an agent's and another one.
func places(t *testing.T) (agents, other string) {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	agents, other = filepath.Join(root, "agents"), filepath.Join(root, "other")
	require.NoError(t, os.Mkdir(agents, 0o755))
	require.NoError(t, os.Mkdir(other, 0o755))
	return agents, other
}

func own(t *testing.T, folder string, alone func(string) bool) Copied {
	t.Helper()
	copied, err := Own(t.Context(), folder, alone, func(Copied) {})
	require.NoError(t, err)
	return copied
}

// TestOwn: after Own nothing that is written in the folder is written elsewhere. Files whose names
// are all in the folder stay as they are.
func TestOwn(t *testing.T) {
	t.Parallel()
	agents, other := places(t)
	for _, at := range []string{"a", "b", "closed/c", "unreadable/d"} {
		write(t, filepath.Join(other, at), "theirs "+at)
		require.NoError(t, os.MkdirAll(filepath.Join(agents, filepath.Dir(at)), 0o755))
		require.NoError(t, os.Link(filepath.Join(other, at), filepath.Join(agents, at)))
	}
	require.NoError(t, os.Link(filepath.Join(other, "a"), filepath.Join(agents, "again")))
	require.NoError(t, os.Chmod(filepath.Join(other, "b"), 0o040))
	require.NoError(t, os.Chmod(filepath.Join(agents, "closed"), 0o555))
	require.NoError(t, os.Chmod(filepath.Join(agents, "unreadable"), 0))
	t.Cleanup(func() { // who is not root cannot remove them otherwise
		for _, at := range []string{"closed", "unreadable"} {
			require.NoError(t, os.Chmod(filepath.Join(agents, at), 0o755))
		}
	})
	write(t, filepath.Join(agents, "x"), "mine")
	require.NoError(t, os.Link(filepath.Join(agents, "x"), filepath.Join(agents, "closed/../y")))
	require.NoError(t, os.Symlink(filepath.Join(other, "a"), filepath.Join(agents, "link")))
	require.NoError(t, os.Symlink(other, filepath.Join(agents, "folder")))
	inside := stat(t, filepath.Join(agents, "x")).Ino

	copied := own(t, agents, nobody)
	require.Equal(t, 5, copied.Files)
	require.Equal(t, int64(len("theirs a")*3+len("theirs closed/c")+len("theirs unreadable/d")), copied.Bytes)
	require.EqualValues(t, 0o555, stat(t, filepath.Join(agents, "closed")).Mode&0o7777)
	require.EqualValues(t, 0, stat(t, filepath.Join(agents, "unreadable")).Mode&0o7777)
	require.EqualValues(t, 0o040, stat(t, filepath.Join(agents, "b")).Mode&0o7777)
	require.EqualValues(t, 0o040, stat(t, filepath.Join(other, "b")).Mode&0o7777)
	require.NoError(t, os.Chmod(filepath.Join(agents, "unreadable"), 0o755))
	require.NoError(t, os.Chmod(filepath.Join(agents, "b"), 0o600))
	require.NoError(t, os.Chmod(filepath.Join(other, "b"), 0o600))
	for _, at := range []string{"a", "again", "b", "closed/c", "unreadable/d"} {
		require.EqualValues(t, 1, stat(t, filepath.Join(agents, at)).Nlink, at)
		content := read(t, filepath.Join(agents, at))
		write(t, filepath.Join(agents, at), "agent's")
		if at != "again" {
			require.Equal(t, "theirs "+at, content)
			require.Equal(t, "theirs "+at, read(t, filepath.Join(other, at)))
		}
	}
	require.Equal(t, inside, stat(t, filepath.Join(agents, "x")).Ino)
	require.Equal(t, inside, stat(t, filepath.Join(agents, "y")).Ino)
	require.Zero(t, own(t, agents, nobody))
}

// TestOwnOfProtected: a protected file has no name that is not protected.
func TestOwnOfProtected(t *testing.T) {
	t.Parallel()
	agents, _ := places(t)
	write(t, filepath.Join(agents, ".husky/pre-commit"), "mine")
	require.NoError(t, os.Link(filepath.Join(agents, ".husky/pre-commit"), filepath.Join(agents, "y")))
	copied := own(t, agents, func(at string) bool { return filepath.Dir(at) == ".husky" })
	require.Equal(t, 1, copied.Files)
	write(t, filepath.Join(agents, "y"), "agent's")
	require.Equal(t, "mine", read(t, filepath.Join(agents, ".husky/pre-commit")))
}

// TestOwnKeeps: a copy is like its file.
func TestOwnKeeps(t *testing.T) {
	t.Parallel()
	agents, other := places(t)
	there, here := filepath.Join(other, "f"), filepath.Join(agents, "f")
	write(t, there, "theirs")
	require.NoError(t, unix.Setxattr(there, "user.note", []byte("\x00kept"), 0))
	require.NoError(t, os.Chmod(there, 0o751|os.ModeSetuid))
	then := time.Unix(1_600_000_000, 123456789)
	require.NoError(t, os.Chtimes(there, then, then))
	require.NoError(t, os.Link(there, here))
	was := stat(t, there)
	own(t, agents, nobody)
	now := stat(t, here)
	require.NotEqual(t, was.Ino, now.Ino)
	require.EqualValues(t, 0o751, now.Mode&0o7777, "setuid is for the file that was there")
	require.Equal(t, was.Mtim, now.Mtim)
	require.Equal(t, []uint32{was.Uid, was.Gid}, []uint32{now.Uid, now.Gid})
	value := make([]byte, 10)
	n, err := unix.Getxattr(here, "user.note", value)
	require.NoError(t, err)
	require.Equal(t, "\x00kept", string(value[:n]))
	require.Equal(t, was.Mode, stat(t, there).Mode)
	entries, err := os.ReadDir(agents)
	require.NoError(t, err)
	require.Len(t, entries, 1)
}

// TestOwnRefuses: what cannot be copied is said, with what to type.
func TestOwnRefuses(t *testing.T) {
	t.Parallel()
	agents, other := places(t)
	write(t, filepath.Join(other, "f"), "theirs")
	require.NoError(t, os.Link(filepath.Join(other, "f"), filepath.Join(agents, "f")))
	ended, end := context.WithCancelCause(t.Context())
	end(errors.New("it takes more than a minute"))
	_, err := Own(ended, agents, nobody, nil)
	refused := (*RefusedError)(nil)
	require.ErrorAs(t, err, &refused)
	require.ErrorContains(t, err, "it takes more than a minute")

	// More than the disk has, by a hole.
	require.NoError(t, os.Truncate(filepath.Join(other, "f"), 1<<43))
	_, err = Own(t.Context(), agents, nobody, nil)
	require.ErrorContains(t, err, "these take 8388608 MiB, and ")
	require.EqualValues(t, 2, stat(t, filepath.Join(agents, "f")).Nlink)

	_, err = Own(t.Context(), filepath.Join(agents, "nothing"), nobody, nil)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestOwnOfHoles: an agent's files may have any size, and their sum is no small number. Nor does a
// file get bytes for which nobody looked for room.
func TestOwnOfHoles(t *testing.T) {
	t.Parallel()
	require.EqualValues(t, 7, total([]name{{size: 3}, {size: 4}}))
	for _, names := range [][]name{
		{{size: 1 << 62}, {size: 1 << 62}},
		{{size: math.MaxInt64}, {size: math.MaxInt64}, {size: 3}},
	} {
		require.EqualValues(t, math.MaxInt64, total(names))
	}
	agents, other := places(t)
	write(t, filepath.Join(other, "f"), "theirs")
	require.NoError(t, os.Link(filepath.Join(other, "f"), filepath.Join(agents, "f")))
	root, err := openRoot(agents)
	require.NoError(t, err)
	defer root.Close()
	n := name{path: "f", file: is(t, filepath.Join(agents, "f")), size: int64(len("theirs") - 1)}
	_, err = copyName(t.Context(), root, n)
	require.ErrorIs(t, err, errChanged)
	require.EqualValues(t, 2, stat(t, filepath.Join(agents, "f")).Nlink)
	n.size++
	copied, err := copyName(t.Context(), root, n)
	require.NoError(t, err)
	require.True(t, copied)
}

func is(t *testing.T, path string) file {
	t.Helper()
	st := stat(t, path)
	return file{st.Dev, st.Ino}
}

// TestOwnSubvolumes: names of two files with one number, on two devices, are not all the names of
// one.
func TestOwnSubvolumes(t *testing.T) {
	t.Parallel()
	agents, other := places(t)
	write(t, filepath.Join(other, "f"), "theirs")
	require.NoError(t, os.Link(filepath.Join(other, "f"), filepath.Join(agents, "f")))
	root, err := openRoot(agents)
	require.NoError(t, err)
	defer root.Close()
	w := walk{ctx: t.Context(), alone: nobody, names: map[file][]name{}}
	here := is(t, filepath.Join(agents, "f"))
	elsewhere := file{here.device + 1, here.inode}
	w.names[elsewhere] = []name{{path: "sub/f", file: elsewhere, links: 2}}
	require.NoError(t, w.below(root, "."))
	require.Len(t, w.names[here], 1)
	require.EqualValues(t, 2, w.names[here][0].links)
}

// TestOwnOfLongPaths: however long the paths are that an agent makes, they fit into memory.
func TestOwnOfLongPaths(t *testing.T) {
	t.Parallel()
	agents, other := places(t)
	write(t, filepath.Join(other, "f"), "theirs")
	require.NoError(t, os.Link(filepath.Join(other, "f"), filepath.Join(agents, "f")))
	root, err := openRoot(agents)
	require.NoError(t, err)
	defer root.Close()
	for bytes, fits := range map[int]bool{mostBytes - 1: true, mostBytes: false} {
		_, err := root.Seek(0, io.SeekStart)
		require.NoError(t, err)
		w := walk{ctx: t.Context(), alone: nobody, names: map[file][]name{}, bytes: bytes}
		if err = w.below(root, "."); fits {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, "or 256 MiB of paths")
		}
	}
}

// TestOwnByDescriptors: nothing is copied through a link that came since the folder was looked at.
func TestOwnByDescriptors(t *testing.T) {
	t.Parallel()
	agents, other := places(t)
	write(t, filepath.Join(other, "d/f"), "theirs")
	require.NoError(t, os.Symlink(filepath.Join(other, "d"), filepath.Join(agents, "d")))
	require.NoError(t, os.Link(filepath.Join(other, "d/f"), filepath.Join(other, "g")))
	st := stat(t, filepath.Join(other, "d/f"))
	root, err := openRoot(agents)
	require.NoError(t, err)
	defer root.Close()
	_, err = copyName(t.Context(), root, name{path: "d/f", file: is(t, filepath.Join(other, "d/f"))})
	require.Error(t, err)
	require.Equal(t, st.Ino, stat(t, filepath.Join(other, "d/f")).Ino)
}

// BenchmarkOwn is what a folder costs in which no file has several names.
func BenchmarkOwn(b *testing.B) {
	for _, files := range []int{2_000, 50_000} {
		b.Run(fmt.Sprint(files), func(b *testing.B) {
			dir, err := filepath.EvalSymlinks(b.TempDir())
			require.NoError(b, err)
			for i := range files {
				in := filepath.Join(dir, fmt.Sprint(i/20))
				if i%20 == 0 {
					require.NoError(b, os.Mkdir(in, 0o755))
				}
				require.NoError(b, os.WriteFile(filepath.Join(in, fmt.Sprint(i)), nil, 0o644))
			}
			var before, after unix.Rusage
			require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &before))
			for b.Loop() {
				_, err := Own(b.Context(), dir, nobody, nil)
				require.NoError(b, err)
			}
			require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &after))
			cpu := func(r unix.Rusage) int64 { return r.Utime.Nano() + r.Stime.Nano() }
			b.ReportMetric(float64(cpu(after)-cpu(before))/float64(b.N)/1e6, "CPU-ms/op")
		})
	}
}

// TestPathsThatNobodyCanName: who meets one is told how to remove it.
func TestPathsThatNobodyCanName(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	look := func() error {
		_, err := Own(t.Context(), dir, func(string) bool { return false }, func(Copied) {})
		return err
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-ec",
		"n=$(printf %0250d 0); for i in $(seq 18); do mkdir $n; cd -P $n; done")
	cmd.Dir = dir
	require.NoError(t, cmd.Run())
	err = look()
	require.ErrorContains(t, err, "remove what has such a path with `")
	_, line, _ := strings.Cut(err.Error(), "`cd ")
	line, _, _ = strings.Cut(line, "`")
	require.NoError(t, exec.CommandContext(t.Context(), "sh", "-ec", "cd "+line).Run())
	require.NoError(t, look())
}
