package view

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/sandbox/wire"
)

// TestHomeBesideNoFolder: an agent keeps a home whose workspace has nothing of the host's folder.
func TestHomeBesideNoFolder(t *testing.T) {
	t.Parallel()
	m := small(t, 1)
	in := m.input(t)
	in.Home, in.Workspace, in.Workdir = "/home/me/kept", Workspace{Mode: Ephemeral}, Workdir{}
	v, err := m.view(in)
	require.NoError(t, err)
	require.Contains(t, v.Mounts, Mount{Kind: Bind, Source: "/home/me/kept", Target: wire.Home, Writable: true})
}

// TestWorkspaces: each mode shows what it says and nothing else, and no mode is none.
func TestWorkspaces(t *testing.T) {
	t.Parallel()
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	layers := filepath.Join(root, "layers")
	require.NoError(t, os.Mkdir(layers, 0o700))
	require.NoError(t, os.Symlink(layers, filepath.Join(root, "link")))
	device, inode, err := new(machine).identity(layers)
	require.NoError(t, err)
	for _, c := range []struct {
		workspace Workspace
		want      []Mount
	}{
		{Workspace{Mode: Write}, []Mount{{Kind: Bind, Source: "/w", Target: "/w", Writable: true}}},
		{Workspace{Mode: ReadOnly}, []Mount{{Kind: Bind, Source: "/w", Target: "/w"}}},
		{
			Workspace{Mode: Overlay, Layers: filepath.Join(root, "link")},
			[]Mount{{Kind: Bind, Source: "/w", Target: "/w"}, {
				Kind: Layer, Source: layers, Target: "/w",
				Writable: true,
			}},
		},
		{
			Workspace{Mode: ReadOnly, Layers: layers},
			[]Mount{{Kind: Bind, Source: "/w", Target: "/w"}, {Kind: Layer, Source: layers, Target: "/w"}},
		},
		{Workspace{Mode: Ephemeral}, []Mount{{Kind: Tmpfs, Target: "/workspace", Mode: 0o700, Size: 5, NoExec: true}}},
		{Workspace{Mode: Ephemeral, Size: 3}, []Mount{{
			Kind: Tmpfs, Target: "/workspace", Mode: 0o700, Size: 3,
			NoExec: true,
		}}},
		{
			Workspace{Mode: Volume, Volume: layers},
			[]Mount{{Kind: Bind, Source: layers, Target: "/workspace", Writable: true}},
		},
		{Workspace{Mode: Volume, Volume: filepath.Join(root, "link")}, nil},
		{Workspace{}, nil},
		{Workspace{Mode: "rw"}, nil},
		{Workspace{Mode: Overlay, Layers: filepath.Join(root, "gone")}, nil},
	} {
		b := new(machine).builder(&Input{
			Workdir: Workdir{Path: "/w"}, Workspace: c.workspace,
			Limits: Limits{Scratch: 5},
		})
		err := b.workspace()
		require.Equal(t, c.want, b.Mounts, c.workspace)
		require.Equal(t, c.want == nil, err != nil, c.workspace)
		if c.workspace.Mode == Ephemeral {
			require.Equal(t, Workdir{Path: "/workspace"}, b.Workdir, "nothing of the host's folder")
		}
		if c.workspace.Mode == Volume && c.want != nil {
			require.Equal(t, Workdir{Path: "/workspace", Device: device, Inode: inode}, b.Workdir)
		}
	}
}
