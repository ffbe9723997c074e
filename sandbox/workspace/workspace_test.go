package workspace

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/workspace/beneath"
	"github.com/postern/postern/sandbox/workspace/tool"
)

// applyVariable makes the test binary apply the run DIR ID, as `postern workspace apply` does,
// until somebody kills it.
const applyVariable = "POSTERN_TEST_APPLY"

func TestMain(m *testing.M) {
	if at := os.Getenv(applyVariable); at != "" {
		dir, id := filepath.Split(at)
		run, err := Open(dir, id, true)
		if err == nil {
			var result Applied
			result, err = run.Apply(context.Background(), Selected(nil), func(c Change) {
				fmt.Println(c.Path,
					c.Refused)
			})
			fmt.Println(result.Done, result.Refused)
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// layered is a host's folder, and a layer that a test writes as the kernel and an agent would.
type layered struct {
	*Run

	host, layer, state string
}

// newLayered makes a host's folder with the files, and a run that starts then.
func newLayered(t *testing.T, files map[string]string) *layered {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	l := &layered{host: filepath.Join(root, "host"), state: filepath.Join(root, "state")}
	require.NoError(t, os.Mkdir(l.host, 0o755))
	for path, content := range files {
		write(t, filepath.Join(l.host, path), content)
	}
	// The clock of a file system is coarse.
	for begin := time.Now(); time.Since(begin) < 20*time.Millisecond; {
		time.Sleep(time.Millisecond) //nolint:forbidigo // nothing says when it has moved on
	}
	l.Run, err = Create(t.Context(), l.state, Record{Agent: "demo", Workdir: l.host, Size: 1 << 30})
	require.NoError(t, err)
	t.Cleanup(l.Close)
	l.layer = l.upper()
	return l
}

func write(t *testing.T, path, content string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
}

func (l *layered) whiteout(t *testing.T, path string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(l.layer, path)), 0o755))
	require.NoError(t, unix.Mknod(filepath.Join(l.layer, path), unix.S_IFCHR, 0))
}

func (l *layered) set(t *testing.T, path, key, value string) {
	t.Helper()
	require.NoError(t, unix.Setxattr(filepath.Join(l.layer, path), "user.overlay."+key, []byte(value), 0))
}

// changes returns each change in a line.
func (l *layered) changes(t *testing.T) []string {
	t.Helper()
	var lines []string
	require.NoError(t, l.Changes(func(c Change) error {
		line := fmt.Sprintf("%s %s %s", c.Kind, c.Path, c.Mode)
		for _, note := range append(c.Notes, c.Refused) {
			if note != "" {
				line += "; " + note
			}
		}
		lines = append(lines, line)
		return nil
	}))
	return lines
}

// apply applies everything, and returns what was refused.
func (l *layered) apply(t *testing.T, paths ...string) map[string]string {
	t.Helper()
	refused := map[string]string{}
	_, err := l.Apply(t.Context(), Selected(paths), func(c Change) { refused[c.Path] = c.Refused })
	require.NoError(t, err)
	return refused
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(content)
}

// TestHostChangedMeanwhile: what the agent cannot have seen is neither replaced nor removed.
func TestHostChangedMeanwhile(t *testing.T) {
	t.Parallel()
	l := newLayered(t, map[string]string{
		"edited": "1", "removed": "1", "both": "1", "dir/old": "1", "opaque/old": "1",
		"kept": "1",
	})
	for _, path := range []string{"edited", "both", "kept", "appeared", "opaque/mine", "removed"} {
		write(t, filepath.Join(l.layer, path), "agent")
	}
	l.set(t, "removed", "origin", "handle")
	l.set(t, "kept", "origin", "handle") // as the kernel does for each file that is written
	l.set(t, "opaque", "opaque", "y")
	l.whiteout(t, "dir")
	write(t, filepath.Join(l.host, "edited"), "person")
	write(t, filepath.Join(l.host, "appeared"), "person")
	write(t, filepath.Join(l.host, "both"), "agent")
	write(t, filepath.Join(l.host, "dir/new"), "person")
	write(t, filepath.Join(l.host, "opaque/new"), "person")
	require.NoError(t, os.Remove(filepath.Join(l.host, "removed")))
	require.Equal(t, map[string]string{
		"edited": changedMeanwhile, "appeared": changedMeanwhile, "dir/new": changedMeanwhile,
		"opaque/new": changedMeanwhile,
		"dir":        "the host's folder has files that are not removed",
		"removed":    "it was removed in the host's folder meanwhile",
	}, l.apply(t))
	for path, want := range map[string]string{
		"edited": "person", "appeared": "person", "dir/new": "person",
		"opaque/new": "person", "both": "agent", "kept": "agent", "opaque/mine": "agent",
	} {
		require.Equal(t, want, read(t, filepath.Join(l.host, path)), path)
	}
	for _, gone := range []string{"dir/old", "opaque/old", "removed"} {
		require.NoFileExists(t, filepath.Join(l.host, gone))
	}
}

// TestApplyFollowsNoLink: neither a link in the host's folder nor one in the layer leads out of
// them.
func TestApplyFollowsNoLink(t *testing.T) {
	t.Parallel()
	l := newLayered(t, map[string]string{"dir/file": "1", "dir/sub/new": "1", "file": "1", "gone/file": "1"})
	outside := filepath.Join(filepath.Dir(l.host), "outside")
	write(t, filepath.Join(outside, "file"), "outside")
	write(t, filepath.Join(outside, "sub", "new"), "outside")
	for _, path := range []string{"dir/file", "dir/new", "dir/sub/new", "dir/sub/added", "file"} {
		write(t, filepath.Join(l.layer, path), "agent")
	}
	l.whiteout(t, "gone/file")
	var all []Change
	require.NoError(t, l.Changes(func(c Change) error { all = append(all, c); return nil }))
	// Between the comparison and the change, the host's folders become links.
	for _, name := range []string{"dir", "gone"} {
		require.NoError(t, os.Rename(filepath.Join(l.host, name), filepath.Join(l.host, name+".old")))
		require.NoError(t, os.Symlink(outside, filepath.Join(l.host, name)))
	}
	host, err := l.Run.host()
	require.NoError(t, err)
	defer host.Close()
	upper, err := beneath.Folder(l.layer)
	require.NoError(t, err)
	defer upper.Close()
	a := &applier{run: l.Run, host: tree{host}, upper: tree{upper}, left: l.Size}
	for _, c := range all {
		err := a.apply(&c)
		if c.Path == "file" {
			require.NoError(t, err)
			continue
		}
		require.True(t, isConflict(err), "%s: %v", c.Path, err)
	}
	require.Equal(t, "outside", read(t, filepath.Join(outside, "file")))
	require.Equal(t, "outside", read(t, filepath.Join(outside, "sub", "new")))
	require.NoFileExists(t, filepath.Join(outside, "new"))
	require.NoFileExists(t, filepath.Join(outside, "sub", "added"))
	// A link at the end is replaced, not written through; a folder of the layer that is a link is
	// one.
	require.NoError(t, os.Symlink(filepath.Join(outside, "file"), filepath.Join(l.host, "through")))
	write(t, filepath.Join(l.layer, "through"), "agent")
	require.NoError(t, os.Symlink(outside, filepath.Join(l.layer, "linked")))
	l.Started = time.Now().Add(time.Hour).UnixNano()
	l.apply(t)
	require.Equal(t, "outside", read(t, filepath.Join(outside, "file")))
	require.Equal(t, "agent", read(t, filepath.Join(l.host, "through")))
	target, err := os.Readlink(filepath.Join(l.host, "linked"))
	require.NoError(t, err)
	require.Equal(t, outside, target)
}

// TestHostileLayer: whatever an agent has in its layer, the diff acts on no terminal, and what is
// not a file stays in the layer.
func TestHostileLayer(t *testing.T) {
	t.Parallel()
	l := newLayered(t, map[string]string{"text": "old\n"})
	bad := "x\x1b]0;owned\a\x1b[2J\r\u202e\u200b\xff\n+fake\u009b"
	for _, path := range []string{"text", "n" + strings.ReplaceAll(bad, "/", ""), "-rf", " lead", "ünï", "..."} {
		write(t, filepath.Join(l.layer, path), bad)
	}
	require.NoError(t, os.Symlink(bad, filepath.Join(l.layer, "link")))
	require.NoError(t, unix.Mkfifo(filepath.Join(l.layer, "fifo"), 0o666))
	require.NoError(t, os.Chmod(filepath.Join(l.layer, "text"), 0o755|os.ModeSetuid|os.ModeSetgid))
	write(t, filepath.Join(l.layer, "names/a"), "one")
	require.NoError(t, os.Link(filepath.Join(l.layer, "names/a"), filepath.Join(l.layer, "names/b")))
	write(t, filepath.Join(l.layer, "binary"), "\x00\x01")
	write(t, filepath.Join(l.layer, ".git/hooks/pre-commit"), "#!/bin/sh\n")
	var out bytes.Buffer
	require.NoError(t, l.Diff(t.Context(), &out, Selected(nil)))
	for _, r := range out.String() {
		require.True(t, r == '\n' || r == '\t' || r >= ' ' && r < 0x7f || r == 'ü' || r == 'ï', "%q in %q", r,
			out.String())
	}
	require.Contains(t, out.String(), "! git may run commands from it\n")
	require.Contains(t, out.String(), "! a new program\n! its setuid, setgid or sticky bit is not applied\n")
	require.Contains(t, out.String(), "! not applied: it is not a file, folder or link\n")
	require.Equal(t, 2, strings.Count(out.String(), "! it has several names; each becomes a file of its own\n"))
	require.Contains(t, out.String(), `+x\x1b]0;owned\a\x1b[2J\r\u202e\u200b\xff`)
	require.Contains(t, out.String(), "Binary files /dev/null and b/binary differ\n")
	require.Equal(t, map[string]string{"fifo": "it is not a file, folder or link"}, l.apply(t))
	info, err := os.Stat(filepath.Join(l.host, "text"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o755), info.Mode(), "no setuid bit")
	info, err = os.Stat(filepath.Join(l.host, "names/a"))
	require.NoError(t, err)
	require.EqualValues(t, 1, info.Sys().(*syscall.Stat_t).Nlink)
	require.Equal(t, bad, read(t, filepath.Join(l.host, "n"+strings.ReplaceAll(bad, "/", ""))))
	require.Equal(t, []string{"added fifo ???644; " + tool.Waits + "; it is not a file, folder or link"}, l.changes(t))
}

// TestHiddenStays: what the agent could not see is neither removed with its folder nor replaced.
func TestHiddenStays(t *testing.T) {
	t.Parallel()
	l := newLayered(t, map[string]string{".env": "secret", "keys/id.pem": "secret", "keys/readme": "x"})
	l.Hidden = []string{".env", "keys/id.pem"}
	l.whiteout(t, "keys")
	write(t, filepath.Join(l.layer, ".env"), "agent")
	refused := l.apply(t)
	require.Len(t, refused, 3)
	require.Contains(t, refused[".env"], "the agent could not see it")
	require.Contains(t, refused["keys/id.pem"], "the agent could not see it")
	require.Equal(t, "secret", read(t, filepath.Join(l.host, ".env")))
	require.Equal(t, "secret", read(t, filepath.Join(l.host, "keys/id.pem")))
	require.NoFileExists(t, filepath.Join(l.host, "keys/readme"))
}

// TestHiddenFolderStays: of a hidden folder, nothing is removed or replaced: neither if the agent
// removes the folder that it is in, nor if it makes one of that name.
func TestHiddenFolderStays(t *testing.T) {
	t.Parallel()
	l := newLayered(t, map[string]string{
		"conf/.ssh/id_rsa": "secret", "conf/readme": "x", ".ssh/id_rsa": "secret", ".gnupg/a/key": "secret",
		".config/gcloud/tokens": "secret",
	})
	l.Hidden = []string{".config/gcloud", ".gnupg", ".ssh", "conf/.ssh"}
	l.whiteout(t, "conf")
	write(t, filepath.Join(l.layer, ".ssh/id_rsa"), "agent")
	write(t, filepath.Join(l.layer, ".ssh/config"), "agent")
	l.set(t, ".ssh", "opaque", "y")
	write(t, filepath.Join(l.layer, ".gnupg"), "agent")
	write(t, filepath.Join(l.layer, ".config/new"), "agent")
	l.set(t, ".config", "opaque", "y")
	refused := l.apply(t)
	for _, at := range []string{"conf/.ssh/id_rsa", ".ssh/id_rsa", ".gnupg/a/key", ".config/gcloud/tokens"} {
		require.Equal(t, "secret", read(t, filepath.Join(l.host, at)), at)
	}
	for _, at := range []string{"conf/.ssh", ".ssh", ".gnupg", ".config/gcloud"} {
		require.Contains(t, refused[at], "the agent could not see", at)
	}
	require.NoFileExists(t, filepath.Join(l.host, ".ssh/config"))
	require.NoFileExists(t, filepath.Join(l.host, "conf/readme"))
}

// TestMovedFolderStays: a folder that was moved into the host's folder after the start has files
// whose times are older. Nothing in it is removed, replaced or added, and neither is it itself.
func TestMovedFolderStays(t *testing.T) {
	t.Parallel()
	l := newLayered(t, map[string]string{"gone/a": "1", "swapped/a": "1", "opaque/x": "1", "seen/deep/a": "1"})
	later := filepath.Join(filepath.Dir(l.host), "later")
	moved := []string{"gone", "swapped", "opaque/new", "seen/deep"}
	for _, at := range moved {
		write(t, filepath.Join(later, at, "a"), "person")
	}
	l.Started = time.Now().Add(time.Hour).UnixNano() // whatever the times are
	l.whiteout(t, "gone")
	write(t, filepath.Join(l.layer, "swapped/a"), "agent")
	write(t, filepath.Join(l.layer, "swapped/added"), "agent")
	require.NoError(t, os.Chmod(filepath.Join(l.layer, "swapped"), 0o777))
	write(t, filepath.Join(l.layer, "opaque/y"), "agent")
	l.set(t, "opaque", "opaque", "y")
	l.whiteout(t, "seen/deep/a")
	for _, at := range moved {
		require.NoError(t, os.RemoveAll(filepath.Join(l.host, at)))
		require.NoError(t, os.Rename(filepath.Join(later, at), filepath.Join(l.host, at)))
	}
	l.seen = nil // as the next process knows it
	refused := l.apply(t)
	for _, at := range moved {
		require.FileExists(t, filepath.Join(l.host, at, "a"))
		require.Equal(t, "person", read(t, filepath.Join(l.host, at, "a")), at)
		require.Equal(t, unseenFolder, refused[at], at)
	}
	require.NoFileExists(t, filepath.Join(l.host, "swapped/added"))
	require.NoFileExists(t, filepath.Join(l.host, "opaque/x"))
	info, err := os.Stat(filepath.Join(l.host, "swapped"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o755), info.Mode().Perm())
	// Once it is away, the agent's is applied, and another process continues there.
	require.NoError(t, os.Rename(filepath.Join(l.host, "swapped"), filepath.Join(later, "swapped")))
	l.apply(t, "swapped/a")
	l.seen = nil
	l.apply(t, "swapped")
	require.Equal(t, "agent", read(t, filepath.Join(l.host, "swapped/added")))
}

// TestHiddenBytes: a hidden path that is not UTF-8 is hidden for the next process too.
func TestHiddenBytes(t *testing.T) {
	t.Parallel()
	const at = "caf\xe9/.env"
	l := newLayered(t, map[string]string{at: "secret"})
	l.Hidden = []string{at}
	folder, err := beneath.Folder(l.host)
	require.NoError(t, err)
	defer folder.Close()
	require.NoError(t, errors.Join(l.record(t.Context(), folder), l.write()))
	l.Close()
	l.Run, err = Open(l.state, l.ID, true)
	require.NoError(t, err)
	l.whiteout(t, "caf\xe9")
	require.Len(t, l.apply(t), 2)
	require.Equal(t, "secret", read(t, filepath.Join(l.host, at)))
}

func TestApplySomePaths(t *testing.T) {
	t.Parallel()
	l := newLayered(t, map[string]string{"a/x": "1", "b": "1"})
	for _, path := range []string{"a/x", "b", "new/deep/c", "new/deep/d", "newer"} {
		write(t, filepath.Join(l.layer, path), "agent")
	}
	// As a process leaves it that is killed before its rename: the name of the next one's.
	sum := sha256.Sum256([]byte("a/x"))
	left := filepath.Join(l.host, "a", ".postern-"+l.ID+"-"+hex.EncodeToString(sum[:8]))
	write(t, left, "half")
	require.Empty(t, l.apply(t, "new/deep/c", "./a/"))
	require.NoFileExists(t, left)
	write(t, filepath.Join(l.layer, "closed/file"), "agent")
	require.NoError(t, os.Chmod(filepath.Join(l.layer, "closed"), 0o500))
	require.Empty(t, l.apply(t, "closed"))
	info, err := os.Stat(filepath.Join(l.host, "closed"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o500), info.Mode().Perm())
	require.Equal(t, "agent", read(t, filepath.Join(l.host, "closed/file")))
	for _, dir := range []string{l.layer, l.host} {
		closed := filepath.Join(dir, "closed")
		require.NoError(t, errors.Join(os.Chmod(closed, 0o700), os.RemoveAll(closed)))
	}
	require.Equal(t, []string{"modified b 100644", "added new/deep/d 100644", "added newer 100644"}, l.changes(t))
}

// TestApplyIsBounded: a layer that is small on the disk does not become more than its bound.
func TestApplyIsBounded(t *testing.T) {
	t.Parallel()
	l := newLayered(t, map[string]string{"x": "1"})
	l.Size = 1 << 20
	write(t, filepath.Join(l.layer, "holes"), "")
	require.NoError(t, os.Truncate(filepath.Join(l.layer, "holes"), 1<<40))
	write(t, filepath.Join(l.layer, "names/0"), strings.Repeat("1", 300<<10))
	for i := range 9 {
		name := filepath.Join(l.layer, "names", strconv.Itoa(i+1))
		require.NoError(t, os.Link(filepath.Join(l.layer, "names/0"), name))
	}
	write(t, filepath.Join(l.layer, "x"), "2")
	refused := l.apply(t)
	require.Len(t, refused, 8)
	require.Contains(t, refused["holes"], "is more than the layer may have")
	require.NoFileExists(t, filepath.Join(l.host, "holes"))
	require.Equal(t, "2", read(t, filepath.Join(l.host, "x")))
	require.Len(t, l.apply(t, "names"), 4, "the rest by its path, three at a time")
}

// TestKilledApply: a process that is killed at any moment leaves each file with its old content or
// the new one, and the next one does the rest.
func TestKilledApply(t *testing.T) {
	t.Parallel()
	const count, size = 120, 256 << 10
	files := map[string]string{}
	for i := range count {
		files[fmt.Sprintf("d%d/f%d", i%3, i)] = strings.Repeat("o", size)
	}
	l := newLayered(t, files)
	for path := range files {
		write(t, filepath.Join(l.layer, path), strings.Repeat("n", size))
	}
	write(t, filepath.Join(l.layer, "closed/file"), "n")
	require.NoError(t, os.Chmod(filepath.Join(l.layer, "closed"), 0o500))
	l.Close()
	uid := os.Getuid()
	if uid == 0 { // an ordinary user's rights are what counts
		uid = 65534
		require.NoError(t, filepath.Walk(filepath.Dir(l.host), func(path string, _ os.FileInfo, err error) error {
			if err != nil || strings.HasPrefix(path, l.host) && path != l.host {
				return err
			}
			return os.Lchown(path, uid, uid)
		}))
		for i := range 3 {
			require.NoError(t, os.Chown(filepath.Join(l.host, fmt.Sprintf("d%d", i)), uid, uid))
		}
		for dir := filepath.Dir(l.host); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
			require.NoError(t, os.Chmod(dir, 0o755))
		}
	}
	self := filepath.Join(filepath.Dir(l.host), "apply")
	binary, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(self, binary, 0o755))
	apply := func(ctx context.Context) (string, error) {
		cmd := exec.CommandContext(ctx, self)
		cmd.Env = []string{applyVariable + "=" + filepath.Join(l.state, l.ID)}
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if uid != os.Getuid() {
			cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}
		}
		runtime.LockOSThread() // Pdeathsig is about the thread
		defer runtime.UnlockOSThread()
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	killed := 0
	for i := range 6 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(20+30*i)*time.Millisecond)
		_, err := apply(ctx)
		cancel()
		if err != nil {
			killed++
		}
		for path := range files {
			content := read(t, filepath.Join(l.host, path))
			require.Len(t, content, size, path)
			require.Equal(t, strings.Repeat(content[:1], size), content, path)
		}
	}
	require.Positive(t, killed)
	out, err := apply(t.Context())
	require.NoError(t, err, out)
	for path := range files {
		require.Equal(t, "n", read(t, filepath.Join(l.host, path))[:1], path)
	}
	info, err := os.Stat(filepath.Join(l.host, "closed"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o500), info.Mode().Perm())
	require.NoError(t, filepath.Walk(l.host, func(path string, _ os.FileInfo, err error) error {
		require.NotContains(t, filepath.Base(path), ".postern-")
		return err
	}))
}

func TestOpen(t *testing.T) {
	t.Parallel()
	l := newLayered(t, nil)
	require.True(t, func() bool { r, err := Open(l.state, l.ID, false); return err == nil && r.Running() }())
	_, err := Open(l.state, l.ID, true)
	require.ErrorIs(t, err, ErrRuns)
	l.Close()
	other, err := Open(l.state, l.ID, true)
	require.NoError(t, err)
	defer other.Close()
	for _, id := range []string{"", ".", "..", "../state/" + l.ID, "aaaaaaaa", strings.ToUpper(l.ID)} {
		_, err := Open(l.state, id, false)
		require.ErrorIs(t, err, ErrUnknown, id)
	}
	runs, err := List(l.state)
	require.NoError(t, err)
	require.Len(t, runs, 1)
	// Another folder at the same path is not the one that the agent has seen.
	require.NoError(t, os.Rename(l.host, l.host+".old"))
	require.NoError(t, os.Mkdir(l.host, 0o755))
	require.ErrorContains(t, other.Changes(nil), "is not the folder in which the agent worked")
	write(t, filepath.Join(l.layer, "closed/file"), "x")
	require.NoError(t, os.Chmod(filepath.Join(l.layer, "closed"), 0))
	require.NoError(t, other.Discard(t.Context()))
	require.NoDirExists(t, other.dir)
}

// TestTooDeep: a path that no program can name is refused in words, and a layer with it can be
// discarded.
func TestTooDeep(t *testing.T) {
	t.Parallel()
	l := newLayered(t, nil)
	dir, err := os.Open(l.layer)
	require.NoError(t, err)
	name := strings.Repeat("d", 250)
	for range 20 {
		require.NoError(t, unix.Mkdirat(int(dir.Fd()), name, 0o755))
		next, err := beneath.Open(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
		require.NoError(t, err)
		require.NoError(t, errors.Join(dir.Close()))
		dir = next
	}
	dir.Close()
	require.Contains(t, l.changes(t), "modified "+name+strings.Repeat("/"+name, 16)+" ??????; "+ErrTooDeep.Error())
	require.NoError(t, l.Discard(t.Context()))
}

// TestChangesThatCannotBeCompared: what an agent has made so that it cannot be read is refused,
// each for itself, and the rest is applied.
func TestChangesThatCannotBeCompared(t *testing.T) {
	t.Parallel()
	if os.Getuid() == 0 {
		t.Log("root reads every folder: only the deep ones are compared")
	}
	l := newLayered(t, map[string]string{"other/a": "1"})
	deep := filepath.Join("deep", strings.Repeat("d/", deepest), "file")
	write(t, filepath.Join(l.layer, deep), "x")
	write(t, filepath.Join(l.layer, "good"), "x")
	write(t, filepath.Join(l.layer, "locked/file"), "x")
	write(t, filepath.Join(l.layer, "zz"), "x")
	require.NoError(t, os.Chmod(filepath.Join(l.layer, "locked"), 0))
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(l.layer, "locked"), 0o700) })
	require.Empty(t, l.apply(t, "good"))
	require.Equal(t, "x", read(t, filepath.Join(l.host, "good")))
	refused := l.apply(t)
	tooDeep := "deep/" + strings.Repeat("d/", deepest-1) + "d"
	require.Equal(t, ErrTooDeep.Error(), refused[tooDeep])
	if os.Getuid() != 0 {
		require.Contains(t, refused["locked"], "the agent took the right to read this folder")
	}
	require.Equal(t, "x", read(t, filepath.Join(l.host, "zz")))
	var out strings.Builder
	require.NoError(t, l.Diff(t.Context(), &out, Selected(nil)))
	require.Contains(t, out.String(), "! not applied: "+ErrTooDeep.Error())
}

// TestNotes: why somebody should look at a change, and what is not told twice.
func TestNotes(t *testing.T) {
	t.Parallel()
	l := newLayered(t, map[string]string{"Makefile": "1", "plain": "1", "tool": "1", "run": "1", "untouched": "1"})
	require.NoError(t, os.Chmod(filepath.Join(l.host, "run"), 0o755))
	l.Started = time.Now().Add(time.Hour).UnixNano()
	for _, gone := range []string{"Makefile", "plain"} {
		l.whiteout(t, gone)
	}
	for _, path := range []string{"tool", "run", "new", "package.json", "fresh/file"} {
		write(t, filepath.Join(l.layer, path), "agent")
	}
	l.set(t, "fresh", "opaque", "y")
	for _, path := range []string{"tool", "run"} {
		require.NoError(t, os.Chmod(filepath.Join(l.layer, path), 0o755))
	}
	require.NoError(t, os.Symlink("run", filepath.Join(l.layer, "in")))
	require.NoError(t, os.Symlink("../run", filepath.Join(l.layer, "out")))
	got := map[string]string{}
	require.NoError(t, l.Changes(func(c Change) error {
		got[c.Path] = fmt.Sprintf("%s %s %s %q", c.Kind, c.Was, c.Mode, c.Notes)
		return nil
	}))
	require.Equal(t, map[string]string{
		"Makefile": `deleted  100644 ["a build runs commands from it"]`, "plain": `deleted  100644 []`,
		"tool": `modified 100644 100755 ["a new program"]`, "run": `modified  100755 []`, "new": `added  100644 []`,
		"package.json": `added  100644 ["a build runs commands from it"]`, "in": `added  120000 []`,
		"fresh": `added  040755 []`, "fresh/file": `added  100644 []`,
		"out": `added  120000 ["it leads out of the folder"]`,
	}, got)
	// What was removed meanwhile is no change, and an error of the visitor ends the walk.
	host, err := l.Run.host()
	require.NoError(t, err)
	defer host.Close()
	ended := errors.New("enough")
	w := &walker{run: l.Run, visit: func(Change) error { return ended }}
	require.NoError(t, w.deleted("gone", "gone", host))
	require.ErrorIs(t, w.refuse("x", errors.New("why")), ended)
	require.ErrorIs(t, l.Changes(func(Change) error { return ended }), ended)
}
