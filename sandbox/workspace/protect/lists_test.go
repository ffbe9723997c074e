package protect

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func real(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	return dir
}

func write(t *testing.T, path, content string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(content)
}

// TestEveryProtectedFile: what is protected of each folder that a command writes: each file that is
// there, and what is put in the place of those that are not, written out.
func TestEveryProtectedFile(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		files Files
		there string
		// before is there before the files are, and made is what is made then: a folder, or the
		// content of a file.
		before string
		made   map[string]string
	}{
		"the working directory": {
			files: Workdir,
			there: `.git/hooks .git/config .git/config.worktree .git/remotes .git/branches
				.envrc .mcp.json .claude .vscode .idea .devcontainer
				.devcontainer.json .cursor .codex .gemini .husky .githooks .mise.toml mise.toml .tool-versions .vim
				.nvimrc .exrc .dir-locals.el .mise.local.toml .mise mise.local.toml mise/config.toml .config/mise.toml
				.config/mise .direnv .hg/hgrc .opencode .kiro .amazonq .roo .windsurf .zed .helix .nvim.lua .lvimrc`,
			before: ".git",
			made: map[string]string{
				".git/hooks": "/", ".git/remotes": "/", ".git/branches": "/",
				".envrc": "/", ".mcp.json": "/", ".claude": "/", ".vscode": "/", ".idea": "/",
				".devcontainer": "/",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			whole, missing := real(t), real(t)
			for _, at := range strings.Fields(c.there) {
				write(t, filepath.Join(whole, at), "theirs")
			}
			p, err := Protect(whole, c.files)
			require.NoError(t, err)
			defer p.Release()
			require.ElementsMatch(t, strings.Fields(c.there), p.Paths)
			require.Empty(t, p.made)
			p.Remove()
			for _, at := range strings.Fields(c.there) {
				require.Equal(t, "theirs", read(t, filepath.Join(whole, at)), at)
			}

			require.NoError(t, os.MkdirAll(filepath.Join(missing, c.before), 0o755))
			if os.Getuid() == 0 { // another user's folder
				for _, at := range []string{missing, filepath.Join(missing, c.before)} {
					require.NoError(t, os.Chown(at, 65534, 65534))
				}
			}
			p, err = Protect(missing, c.files)
			require.NoError(t, err)
			defer p.Release()
			require.ElementsMatch(t, slices.Collect(maps.Keys(c.made)), p.Paths)
			for at, content := range c.made {
				info, err := os.Lstat(filepath.Join(missing, at))
				require.NoError(t, err)
				require.Equal(t, "/", content, at)
				require.Equal(t, os.ModeDir|os.ModeSticky|0o500, info.Mode(), at)
			}
			// What a program of the host has put in the place of one since is not ours.
			kept := slices.Sorted(maps.Keys(c.made))[0]
			require.NoError(t, os.Remove(filepath.Join(missing, kept)))
			write(t, filepath.Join(missing, kept), "theirs")
			p.Remove()
			for at := range c.made {
				_, err := os.Lstat(filepath.Join(missing, at))
				require.Equal(t, at == kept, err == nil, at)
			}
		})
	}
}

// TestWorkdirOf: a repository next to its worktrees is protected as one in .git is, and a file .git
// that leads elsewhere adds nothing.
func TestWorkdirOf(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.Equal(t, Workdir, WorkdirOf(dir))
	write(t, filepath.Join(dir, ".bare/worktrees/w/commondir"), "../..\n")
	write(t, filepath.Join(dir, "out/commondir"), "../../other\n")
	for named, ats := range map[string][]string{
		"./.bare\n": {".bare"}, dir + "/a/b\r\n": {"a/b"}, "../other": nil, dir + "x": nil, "": nil,
		".bare/worktrees/w\n": {".bare/worktrees/w", ".bare"}, "out": {"out"},
	} {
		write(t, filepath.Join(dir, ".git"), "gitdir: "+named)
		want := append(slices.Clone(Workdir), Files{{".git", nothing}}...)
		for _, at := range ats {
			want = append(want, Files{
				{at + "/hooks", aFolder},
				{at + "/config", nothing},
				{at + "/config.worktree", nothing},
				{at + "/remotes", aFolder},
				{at + "/branches", aFolder},
			}...)
		}
		require.Equal(t, want, WorkdirOf(dir), named)
		require.True(t, WorkdirOf(dir).Has(".git"), "by all its names")
	}
}
