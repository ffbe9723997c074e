package protect

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestProtectLeavesNothing: what is made for several commands is there until the last one ends, and
// what a killed one left is removed by the next.
func TestProtectLeavesNothing(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(filepath.Join(dir, ".vscode"), 0o755)) // the user's, and empty
	there := func() (names []string) {
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	all := []string{".claude", ".devcontainer", ".envrc", ".idea", ".mcp.json", ".vscode"}
	first, err := Protect(dir, Workdir)
	require.NoError(t, err)
	second, err := Protect(dir, Workdir)
	require.NoError(t, err)
	require.ElementsMatch(t, all, first.Paths)
	require.ElementsMatch(t, all, second.Paths)
	first.Release()
	require.Equal(t, all, there())
	require.NoError(t, second.Lost())
	second.Remove()
	second.Release()
	require.Equal(t, []string{".vscode"}, there())

	_, err = os.Stat(dir)
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(filepath.Join(dir, ".claude"), 0o500))
	require.NoError(t, os.Chmod(filepath.Join(dir, ".claude"), 0o500|os.ModeSticky)) // as a killed one leaves it
	last, err := Protect(dir, Workdir)
	require.NoError(t, err)
	last.Remove()
	last.Release()
	require.Equal(t, []string{".vscode"}, there())
}

// TestProtectGitFile: in a worktree, and in a submodule, the file .git says where git's folder is.
// What git's folder is behind a link is not this folder's.
func TestProtectGitFile(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	git := filepath.Join(dir, ".git")
	protects := func() []string {
		p, err := Protect(dir, Workdir)
		require.NoError(t, err)
		p.Release()
		return p.Paths
	}
	require.NotContains(t, protects(), ".git")
	require.NoError(t, os.WriteFile(git, []byte("gitdir: /elsewhere"), 0o600))
	require.Contains(t, protects(), ".git")
	require.NoError(t, os.Remove(git))
	require.NoError(t, os.Symlink(t.TempDir(), git))
	require.NotContains(t, protects(), ".git")
}

// TestProtectionIsLost: whatever takes the name from a protected file, or from a folder on the way
// to it, is known at once, also if the same file has the name again. What else happens is not.
func TestProtectionIsLost(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script string
		lost   string // "" if nothing is
	}{
		"git push -u":        {"cp .git/config .git/config.lock && mv .git/config.lock .git/config", ".git/config"},
		"an editor's backup": {"mv .envrc .envrc~ && echo x > .envrc", ".envrc"},
		"another repository": {"mv .git old && mkdir .git", ".git"},
		"removed":            {"rm -r .git", ".git/config"},
		"the same file":      {"ln .envrc x && rm .envrc && mv x .envrc", ".envrc"},
		"there and back":     {"mv .git x && mv x .git", ".git"},
		"an empty folder":    {"rmdir .vscode", ".vscode"},
		"a file of git's":    {"rm gitdir/x; git init -q other && mv other/.git/HEAD . && rm HEAD", ""},
		"written in place":   {"echo x >> .git/config && echo x >> .envrc && chmod 600 .envrc && touch .envrc", ""},
		"another name":       {"ln .envrc x && rm x", ""},
		"below a folder":     {"touch .claude/x && mv .claude/x .claude/y && rm .claude/y", ""},
		"git": {"git -c user.name=a -c user.email=a@b.test commit -qm x --allow-empty && git checkout -qb b " +
			"&& git gc -q && touch .env .git/configs && rm .env .git/configs", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, err := filepath.EvalSymlinks(t.TempDir())
			require.NoError(t, err)
			sh := func(script string) {
				cmd := exec.CommandContext(t.Context(), "sh", "-ec", script)
				cmd.Dir = dir
				out, err := cmd.CombinedOutput()
				require.NoError(t, err, string(out))
			}
			sh("git init -q; mkdir .claude gitdir; touch .envrc gitdir/x")
			p, err := Protect(dir, Workdir)
			require.NoError(t, err)
			defer p.Release()
			stopped := make(chan error, 1)
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				p.Watch(ctx, func(err error) { stopped <- err })
				close(stopped)
			}()
			sh(c.script)
			if c.lost == "" {
				require.NoError(t, p.Lost())
				cancel()
				require.NoError(t, <-stopped)
				return
			}
			require.ErrorContains(t, p.Lost(), filepath.Join(dir, c.lost)+" was replaced, renamed or removed")
			require.ErrorContains(t, <-stopped, "the command may have written there since")
			cancel()
		})
	}
}

// TestProtectionCannotBeWatched: where more happens than the kernel keeps, nothing is known any
// longer, which is no reason to go on.
func TestProtectionCannotBeWatched(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	p, err := Protect(dir, Workdir)
	require.NoError(t, err)
	defer p.Release()
	most, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	require.NoError(t, err)
	n, err := strconv.Atoi(strings.TrimSpace(string(most)))
	require.NoError(t, err)
	for i := range n/2 + 1 {
		at := filepath.Join(dir, strconv.Itoa(i%2))
		require.NoError(t, os.WriteFile(at, nil, 0o600))
		require.NoError(t, os.Rename(at, at+"x"))
	}
	require.ErrorContains(t, p.Lost(), "more happened in "+dir+" than could be watched")
}

// TestProtectLocked: an agent that can read the folder holds a lock on what is in the place of a
// missing file. That keeps nobody from protecting the folder, or from removing it.
func TestProtectLocked(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	first, err := Protect(dir, Workdir)
	require.NoError(t, err)
	defer first.Release()
	held, err := os.Open(filepath.Join(dir, ".claude"))
	require.NoError(t, err)
	defer held.Close()
	require.NoError(t, unix.Flock(int(held.Fd()), unix.LOCK_EX))
	second, err := Protect(dir, Workdir)
	require.NoError(t, err)
	defer second.Release()
	second.Remove()
	require.NoDirExists(t, held.Name())
}
