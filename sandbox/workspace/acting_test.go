package workspace

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/workspace/tool"
)

// TestNamedBySettings: what settings name, and what links of the person lead to, is marked in what
// the agent made of the folder, and so is what the agent's own settings and links lead to.
func TestNamedBySettings(t *testing.T) {
	t.Parallel()
	l := newLayered(t, map[string]string{
		".git/config": "[core]\nhooksPath = ops/hooks\nfsmonitor = ops/fsm\n[include]\npath = ../cfg/team\n",
		".git/HEAD":   "ref: refs/heads/main", "ops/hooks/pre-commit": "1", "ops/fsm": "1",
		"cfg/team": "[alias]\nx = !t/x\n", "t/x": "1", "scripts/co": "1", "scripts/gone": "1",
		"store/hgrc": "1", "cfg/code/tasks.json": "1",
		"dev/pager": "1", "main.go": "1", "pkg/x/dev/pager": "1", "pkg/x/.git/HEAD": "1",
		"pkg/x/.git/config": "[core]\nhooksPath = hk\n", "later/x": "1", "real/hooks/x": "1", "docs/hidden": "1",
	})
	for at, to := range map[string]string{
		".git/hooks/post-checkout": "../../scripts/co", ".git/hooks/x": "../../scripts/gone", ".hg": "store",
		".vscode": "cfg/code",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(l.host, at)), 0o700))
		require.NoError(t, os.Symlink(to, filepath.Join(l.host, at)))
	}
	l.Named = []tool.Named{{Path: "dev/pager"}}
	git, vcs := tool.Who(".git/config"), tool.Who(".hg/hgrc")
	editor, person := tool.Who(".vscode/x"), tool.ByPerson
	want := map[string]string{
		"ops/hooks/pre-commit": git, "ops/hooks/post-checkout": git, "ops/fsm": git, "cfg/team": git, "t/x": git,
		"scripts/co": git, "store/hgrc": vcs, "cfg/code/tasks.json": editor, "cfg/code/new": editor,
		"dev/pager": person, "pkg/x/dev/pager": person, "pkg/x/hk/pre-push": git, "main.go": "",
		// The agent's own.
		"sub/.git/config": git, "sub/hk/y": git, "later/y": editor, "docs/y": "",
	}
	for at := range want {
		write(t, filepath.Join(l.layer, at), "agent")
	}
	write(t, filepath.Join(l.layer, "sub/.git/config"), "[core]\nhooksPath = hk\n")
	write(t, filepath.Join(l.layer, "sub/.git/HEAD"), "ref: refs/heads/main")
	require.NoError(t, os.MkdirAll(filepath.Join(l.layer, "sub"), 0o700))
	require.NoError(t, os.Symlink("../later", filepath.Join(l.layer, "sub/.idea")))
	l.whiteout(t, "scripts/gone")
	want["scripts/gone"] = git
	got := map[string]string{}
	require.NoError(t, l.Checked(t.Context(), Selected(nil), func(c Change) error {
		if _, ok := want[c.Path]; ok {
			got[c.Path] = ""
			if len(c.Notes) > 0 {
				got[c.Path] = c.Notes[0]
			}
		}
		return nil
	}))
	require.Equal(t, want, got)
}

// TestSettingsBehindTheAgentsLink: an agent puts a link in the place of a folder that the settings
// go through. What they then lead to is marked, also if it is new, or the host's own.
func TestSettingsBehindTheAgentsLink(t *testing.T) {
	t.Parallel()
	l := newLayered(t, map[string]string{
		".git/config": "[core]\nhooksPath = ops/hooks\n", ".git/HEAD": "x", "ops/hooks/x": "1", "gone/hooks/x": "1",
	})
	require.NoError(t, unix.Mknod(filepath.Join(l.layer, "gone"), unix.S_IFCHR, 0))
	require.NoError(t, os.Symlink("data", filepath.Join(l.layer, "ops")))
	write(t, filepath.Join(l.layer, "data/hooks/post-checkout"), "agent")
	got := map[string][]string{}
	require.NoError(t, l.Checked(t.Context(), Selected(nil), func(c Change) error {
		got[c.Path] = c.Notes
		return nil
	}))
	git := []string{tool.Who(".git/config")}
	require.Equal(t, git, got["ops"])
	require.Equal(t, git, got["ops/hooks/x"])
	require.Equal(t, git, got["data/hooks/post-checkout"])
	require.Empty(t, got["gone/hooks/x"])
}

// TestMoreThanCanBeLookedAt: nothing passes for harmless because the time was over.
func TestMoreThanCanBeLookedAt(t *testing.T) {
	t.Parallel()
	l := newLayered(t, map[string]string{"a": "1"})
	write(t, filepath.Join(l.layer, "a"), "2")
	for i := range 1100 { // more links than are followed
		dir := filepath.Join(l.layer, "many", strconv.Itoa(i))
		write(t, filepath.Join(dir, "to/x"), "1")
		require.NoError(t, os.Symlink("to", filepath.Join(dir, ".vscode")))
	}
	var notes []string
	require.NoError(t, l.Checked(t.Context(), Selected([]string{"a"}), func(c Change) error {
		notes = c.Notes
		return nil
	}))
	require.Equal(t, []string{"there is more than could be looked at: look yourself, .git first"}, notes)
}

// TestFIFOIsMarked: the mark is there, though nobody applies it.
func TestFIFOIsMarked(t *testing.T) {
	t.Parallel()
	l := newLayered(t, map[string]string{"a": "1"})
	require.NoError(t, unix.Mkfifo(filepath.Join(l.layer, ".gitignore"), 0o600))
	var all []Change
	require.NoError(t, l.Checked(t.Context(), Selected(nil), func(c Change) error { all = append(all, c); return nil }))
	require.Len(t, all, 1)
	require.Equal(t, []string{tool.Waits}, all[0].Notes)
	require.Equal(t, "it is not a file, folder or link", all[0].Refused)
}
