package sandbox

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/sandbox/wire"
	"github.com/postern/postern/sandbox/workspace"
)

// persist gives the box's agent a home that it keeps.
func (b *box) persist(t *testing.T, agent string) *workspace.Kept {
	t.Helper()
	h, err := workspace.Keep(filepath.Join(b.root, "state", "kept"), agent, "", 0)
	require.NoError(t, err)
	t.Cleanup(h.Close)
	b.own(t)
	b.spec.Agent, b.spec.Home = agent, h.Files()
	return h
}

// TestHomePersists: what a command writes in its home is there for the next one of the agent, and
// for nobody else.
func TestHomePersists(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		b.write(t, ".secret", canary)
		h := b.persist(t, "demo")
		require.Equal(t, wire.Home+"\n", b.sh(t, `set -e; cd; pwd
			test "$(getent passwd $(id -u) | cut -d: -f6)" = $HOME
			test -z "$(ls -A)"; mkdir -p .claude bin; echo state > .claude/x; printf '#!/bin/sh\necho ran\n' > bin/tool
			chmod +x bin/tool; test $(stat -c %u .claude/x) = $(id -u)`))
		require.Equal(t, "state\nran\n", b.sh(t, "cat ~/.claude/x; ~/bin/tool"))
		require.EqualValues(t, b.uid, tree(t, h.Files())[".claude/x"].uid, "the caller owns what the agent wrote")
		require.NotContains(t, b.sh(t, "grep -rs canary ~ "+b.home+" || true"), canary)

		b.persist(t, "other")
		require.Empty(t, b.sh(t, "ls -A ~; find / -path /proc -prune -o -name .claude -print 2>/dev/null || true"))
		out, status := b.run(t, "cat", filepath.Join(h.Files(), ".claude/x"))
		require.NotZero(t, status, out)
		b.spec.Home = ""
		require.Equal(t, b.home+"\n", b.sh(t, "cd; pwd; test ! -e "+wire.Home))
	})
}

// TestHomeHoldsAgainstTheAgent: nothing that an agent leaves in its home has rights, or leads a
// later sandbox out of it.
func TestHomeHoldsAgainstTheAgent(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		b.write(t, ".cargo/bin/tool", "#!/bin/sh\necho tool\n")
		b.write(t, "private/key", canary)
		require.NoError(t, os.Chmod(filepath.Join(b.home, ".cargo/bin/tool"), 0o755))
		b.env = append(b.env, "PATH="+filepath.Join(b.home, ".cargo/bin")+":/usr/bin:/bin")
		b.persist(t, "demo")
		b.refuses(t,
			"cd; touch s; chmod u+s s", "cd; touch s; chmod g+s s", "cd; mknod n b 8 0", "cd; mknod n c 1 3",
			"umount ~", "mount -o remount,suid,dev ~",
		)
		require.Contains(t, b.sh(t, "grep ' "+wire.Home+" ' /proc/self/mountinfo"), "nosuid,nodev")
		// The links of an earlier run are in the way of everything that is shown.
		b.sh(t, `cd; rm -rf .cargo .config .local; ln -s `+b.home+`/private .cargo; ln -s / .local
			ln -s /run/postern .config; mkfifo pipe; ln -s ../../state x`)
		require.Equal(t, "tool\n", b.sh(t, "tool; cat ~/.cargo/key 2>/dev/null; cat ~/x/node/* 2>/dev/null; true"))
		entries, err := os.ReadDir(filepath.Join(b.home, "private"))
		require.NoError(t, err)
		require.Len(t, entries, 1)
	})
}
