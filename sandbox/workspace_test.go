package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/view"
	"github.com/postern/postern/sandbox/wire"
	"github.com/postern/postern/sandbox/workspace"
)

// overlay gives the box a workspace whose layer is in its state folder.
func (b *box) overlay(t *testing.T, hidden ...string) *workspace.Run {
	t.Helper()
	run, err := workspace.Create(t.Context(), filepath.Join(b.root, "state", "workspaces"), workspace.Record{
		Agent: "demo", Workdir: b.spec.Workdir, Size: 1 << 30, Hidden: hidden, Owners: b.spec.Container != nil,
	})
	require.NoError(t, err)
	t.Cleanup(run.Close)
	if b.spec.Container == nil {
		b.ownLayers(t)
	}
	b.spec.Workspace = view.Workspace{Mode: view.Overlay, Layers: run.Layers()}
	return run
}

// ownLayers gives the layers to the caller. The folder is left alone: its files would count as
// changed.
func (b *box) ownLayers(t *testing.T) {
	t.Helper()
	require.NoError(t, filepath.Walk(filepath.Join(b.root, "state"), func(path string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, b.uid, b.uid)
	}))
}

// changes returns a line for each change.
func changes(t *testing.T, run *workspace.Run) string {
	t.Helper()
	var lines strings.Builder
	require.NoError(t, run.Changes(func(c workspace.Change) error {
		fmt.Fprintf(&lines, "%s %s %s%s\n", c.Kind, c.Path, strings.Join(c.Notes, "; "), c.Refused)
		return nil
	}))
	return lines.String()
}

// TestOverlayKeepsTheFolder: the agent works as in the folder, the folder does not change, and what
// is applied is what the agent saw.
func TestOverlayKeepsTheFolder(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		b.write(t, "work/keep", "keep\n")
		b.write(t, "work/edit", "one\n")
		b.write(t, "work/gone", "gone\n")
		b.write(t, "work/old/deep/file", "deep\n")
		b.write(t, "work/replaced", "a file\n")
		b.write(t, "work/emptied/a", "a\n")
		before := tree(t, b.spec.Workdir)
		run := b.overlay(t)
		out := b.sh(t, `set -e
			test $(stat -c %u .) = $(id -u); touch keep; echo two >> edit; rm gone; mv old new; chmod 700 new/deep/file
			rm replaced; mkdir replaced; echo in > replaced/in; rm -r emptied; mkdir emptied; echo b > emptied/b
			ln -s edit link; ln -s /etc/passwd out; printf '#!/bin/sh\necho ran\n' > tool; chmod +x tool; ./tool
			cat edit; ls; ls -A /run/postern/layers | wc -l`)
		require.Equal(t, "ran\none\ntwo\nedit\nemptied\nkeep\nlink\nnew\nout\nreplaced\ntool\ntry\n0\n", out)
		require.Equal(t, before, tree(t, b.spec.Workdir), "the host's folder changed")
		require.Equal(t, strings.Join([]string{
			"modified edit ", "deleted emptied/a ", "deleted gone ", "added link ", "added new ", "added new/deep ",
			"added new/deep/file a new program", "deleted old/deep/file ", "deleted old/deep ", "deleted old ",
			"added out it leads out of the folder",
			"deleted replaced ", "added replaced ", "added replaced/in ", "added tool a new program", "",
		}, "\n"), strings.Replace(changes(t, run), "added emptied/b \n", "", 1))

		result, err := run.Apply(t.Context(), workspace.Selected(nil),
			func(c workspace.Change) { t.Errorf("refused: %+v", c) })
		require.NoError(t, err)
		require.Positive(t, result.Done)
		require.Empty(t, changes(t, run))
		after := tree(t, b.spec.Workdir)
		require.Equal(t, "one\ntwo\n", after["edit"].content)
		require.Equal(t, "deep\n", after["new/deep/file"].content)
		require.Equal(t, os.FileMode(0o700), after["new/deep/file"].mode.Perm())
		require.Equal(t, "/etc/passwd", after["out"].content)
		require.Equal(t, "b\n", after["emptied/b"].content)
		for _, gone := range []string{"gone", "old", "emptied/a"} {
			require.NotContains(t, after, gone)
		}
		for path, f := range after {
			require.EqualValues(t, b.uid, f.uid, path)
		}
		require.NoError(t, run.Discard(t.Context()))
		require.NoDirExists(t, run.Layers())
	})
}

type file struct {
	mode    os.FileMode
	content string
	uid     uint32
}

// tree returns what is in the folder, without what is not the same after a run of the tests.
func tree(t *testing.T, dir string) map[string]file {
	t.Helper()
	all := map[string]file{}
	require.NoError(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || path == dir {
			return err
		}
		f := file{mode: info.Mode(), uid: info.Sys().(*syscall.Stat_t).Uid}
		switch {
		case info.Mode()&os.ModeSymlink != 0:
			f.content, err = os.Readlink(path)
		case info.Mode().IsRegular():
			var content []byte
			content, err = os.ReadFile(path)
			f.content = string(content)
		}
		rel, _ := filepath.Rel(dir, path)
		all[rel] = f
		return err
	}))
	return all
}

// TestOverlayHoldsAgainstTheAgent: the agent reaches neither its layers nor what they hide, and can
// write nothing that a layer means something by.
func TestOverlayHoldsAgainstTheAgent(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		b.write(t, "work/.env", canary)
		b.write(t, "work/keys/deep/id.pem", canary)
		b.write(t, "work/keys/readme", "readme\n")
		b.overlay(t, ".env", "keys/deep/id.pem")
		out := b.sh(t, `mv keys other; mkdir keys; cat .env keys/deep/* other/deep/* 2>&1
			grep -r canary . ; cat other/readme
			ln keys/deep/id.pem l; cp -a other copy; ls -A . other/deep; cat /proc/self/mountinfo; rm -rf other copy
			find /run/postern/layers`)
		require.NotContains(t, out, canary)
		require.Contains(t, out, "readme\n")
		require.Contains(t, out, "/run/postern/layers\n")
		require.NotContains(t, out, "/run/postern/layers/upper\n")
		b.refuses(t,
			"umount .", "mount -o remount,bind,rw .", "unshare -Urm umount "+b.spec.Workdir, "mknod w c 0 0",
			"mknod n b 8 0", "./try write /run/postern/layers/upper/x",
			"touch s && chmod u+s s",
			"unshare -Urm mount -t overlay overlay -o lowerdir=/usr,upperdir=.,workdir=. /mnt",
		)
		require.Equal(t, canary, tree(t, b.spec.Workdir)[".env"].content)
		require.Equal(t, canary, tree(t, b.spec.Workdir)["keys/deep/id.pem"].content)
		out = b.sh(t, `grep CapEff /proc/self/status; grep -h CapEff /proc/1/status; grep -h CapBnd /proc/self/status`)
		require.Contains(t, out, "CapEff:\t0000000000000000\nCapEff:\t0000000000001000\n")
	})
}

// TestOverlaySocket: a process of the sandbox is reached by a socket in the folder, and a daemon of
// the host is not.
func TestOverlaySocket(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		b.proxy(t)
		run := b.overlay(t)
		require.Equal(t, "hello\n", b.sh(t, `/usr/bin/python3 -c '
import socket, threading
s = socket.socket(socket.AF_UNIX); s.bind("s"); s.listen()
def serve():
    c, _ = s.accept(); c.sendall(b"hello\n")
threading.Thread(target=serve, daemon=True).start()
c = socket.socket(socket.AF_UNIX); c.connect("s"); print(c.recv(9).decode(), end="")'`))
		require.Equal(t, "added s it is not a file, folder or link\n", changes(t, run))
	})
}

func TestReadOnlyWorkspace(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		b.write(t, "work/keep", "keep\n")
		b.spec.Workspace = view.Workspace{Mode: view.ReadOnly}
		require.Equal(t, "keep\n", b.sh(t, "cat keep"))
		b.refuses(t,
			"touch keep", "echo x > new", "rm keep", "mkdir d", "chmod 600 keep",
			"mount -o remount,rw .",
		)
		require.Equal(t, "keep\n", tree(t, b.spec.Workdir)["keep"].content)
	})
}

// TestReadOnlyHides: what looks like a secret is not in a folder that an agent reads.
func TestReadOnlyHides(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		b.write(t, "work/.env", canary)
		b.write(t, "work/keys/id.pem", "-----BEGIN PRIVATE KEY-----"+canary)
		b.write(t, "work/keys/readme", "readme\n")
		hidden, err := workspace.Search{}.Secrets(t.Context(), b.spec.Workdir)
		require.NoError(t, err)
		run := b.overlay(t, hidden.Paths()...)
		b.spec.Workspace.Mode = view.ReadOnly
		out := b.sh(t, `cat keys/readme; grep -r canary . ; ls -A . keys
			touch x 2>/dev/null || echo fixed; rm keys/readme 2>/dev/null || echo kept`)
		require.Equal(t, "readme\n.:\nkeys\ntry\n\nkeys:\nreadme\nfixed\nkept\n", out)
		require.Empty(t, changes(t, run))
	})
}

func TestEphemeralWorkspace(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		b.write(t, "work/keep", "keep\n")
		b.spec.Workspace = view.Workspace{Mode: view.Ephemeral, Size: 1 << 20}
		out := b.sh(t, `pwd; ls -A; test -e `+b.spec.Workdir+` || echo hidden; printf '#!/bin/sh\n' > tool; chmod +x tool
			./tool 2>/dev/null || echo noexec
			head -c 2000000 /dev/zero 2>/dev/null > big || echo full
			grep ' /workspace ' /proc/self/mountinfo | grep -o 'nosuid,nodev,noexec'`)
		require.Equal(t, "/workspace\nhidden\nnoexec\nfull\nnosuid,nodev,noexec\n", out)
		require.Len(t, tree(t, b.spec.Workdir), 2)
	})
}

// TestOverlayBound: an agent that writes more than its layer may have is ended.
func TestOverlayBound(t *testing.T) {
	t.Parallel()
	b := newBox(t, os.Getuid())
	run := b.overlay(t)
	b.sh(t, "head -c 3000000 /dev/zero > big; mkdir d; echo x > d/x; chmod 0 d")
	used, whole, err := run.Measure()
	require.NoError(t, err)
	require.GreaterOrEqual(t, used, uint64(3000000))
	require.True(t, whole || unix.Getuid() != 0)
	run.Size = 1 << 20
	stopped := make(chan error, 1)
	go run.Bound(t.Context(), func(err error) { stopped <- err })
	require.ErrorContains(t, <-stopped, "the workspace's layer is larger than its 1048576 bytes")
}

// TestVolume: what a command writes in its volume is there for the next one of the agent, and for
// nobody else, and nothing of the host's folder is there.
func TestVolume(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		b.write(t, "work/secret", canary)
		volume := func(agent, name string) *workspace.Kept {
			k, err := workspace.Keep(filepath.Join(b.root, "state", "kept"), agent, name, 0)
			require.NoError(t, err)
			t.Cleanup(k.Close)
			b.own(t)
			b.spec.Agent = agent
			b.spec.Workspace = view.Workspace{Mode: view.Volume, Volume: k.Files()}
			return k
		}
		k := volume("demo", "out")
		require.Equal(t, wire.Ephemeral+"\nran\n", b.sh(t, `set -e; pwd; test -z "$(ls -A)"; echo kept > file; mkdir dir
			test $(stat -c %u file) = $(id -u); printf '#!/bin/sh\necho ran\n' > tool; chmod +x tool; ./tool
			test ! -e `+b.spec.Workdir))
		require.Equal(t, "kept\n", b.sh(t, "cat file"))
		require.Contains(t, b.sh(t, "grep ' "+wire.Ephemeral+" ' /proc/self/mountinfo"), "nosuid,nodev")
		require.EqualValues(t, b.uid, tree(t, k.Files())["file"].uid)
		volume("demo", "other")
		require.Empty(t, b.sh(t, "ls -A"))
		volume("another", "out")
		require.Empty(t, b.sh(t, "ls -A"))
		out, status := b.run(t, "cat", filepath.Join(k.Files(), "file"))
		require.NotZero(t, status, out)
	})
}
