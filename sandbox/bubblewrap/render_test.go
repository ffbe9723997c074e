package bubblewrap

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/sandbox/view"
)

// TestRender: the namespaces and powers of a sandbox come first, then each kind of mount in the
// view's order, then what covers it.
func TestRender(t *testing.T) {
	t.Parallel()
	args, contents := Render(&view.View{
		Hostname: "demo", Limits: view.Limits{Scratch: 4096}, ReadOnly: []string{"/proc/sys"}, Masked: []string{"/proc/kcore", "/opt/x/etc/npmrc"},
		Mounts: []view.Mount{
			{Kind: view.Bind, Source: "/usr", Target: "/usr"},
			{Kind: view.File, Target: "/etc/hosts", Content: []byte("hosts")},
			{Kind: view.Tmpfs, Target: "/home/me", Mode: 0o700, Size: 1},
			{Kind: view.Symlink, Source: "usr/bin", Target: "/bin"},
			{Kind: view.Bind, Source: "/real/work", Target: "/home/me/work", Writable: true},
			{Kind: view.Cover, Target: "/opt/jdk/cacerts", Content: []byte("store")},
		},
	}, 7)
	require.Empty(t, cmp.Diff([]string{
		"--unshare-all", "--new-session", "--as-pid-1", "--clearenv", "--hostname", "demo", "--uid", "0", "--gid", "0",
		"--cap-drop", "ALL", "--cap-add", "CAP_NET_ADMIN", "--cap-add", "CAP_NET_BIND_SERVICE", "--cap-add", "CAP_SETFCAP", "--cap-add", "CAP_SYS_ADMIN", "--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys",
		"--dev", "/dev", "--size", "4096", "--perms", "01777", "--tmpfs", "/dev/shm", "--remount-ro", "/dev",
		"--ro-bind", "/usr", "/usr",
		"--perms", "0444", "--file", "7", "/etc/hosts",
		"--size", "1", "--perms", "0700", "--tmpfs", "/home/me",
		"--symlink", "usr/bin", "/bin",
		"--bind", "/real/work", "/home/me/work",
		"--ro-bind-data", "8", "/opt/jdk/cacerts",
		"--ro-bind", "/dev/null", "/proc/kcore", "--ro-bind", "/dev/null", "/opt/x/etc/npmrc",
		"--remount-ro", "/", "--chdir", "/", "/run/postern/postern-sandbox",
	}, args))
	require.Equal(t, [][]byte{[]byte("hosts"), []byte("store")}, contents)
}

// TestRenderWorkspace: what bwrap cannot mount takes capabilities, and nothing else does.
func TestRenderWorkspace(t *testing.T) {
	t.Parallel()
	base, _ := Render(&view.View{}, 7)
	for _, c := range []struct {
		mount    view.Mount
		added    []string
		contains string
	}{
		{view.Mount{Kind: view.Bind, Source: "/w", Target: "/w"}, nil, "--ro-bind /w /w"},
		{
			view.Mount{Kind: view.Layer, Source: "/state/layers", Target: "/w", Writable: true},
			[]string{"CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_CHOWN"},
			"--bind /state/layers /run/postern/layers",
		},
		{
			view.Mount{Kind: view.Tmpfs, Target: "/workspace", Mode: 0o700, Size: 9, NoExec: true},
			nil,
			"--size 9 --perms 0700 --tmpfs /workspace",
		},
	} {
		args, _ := Render(&view.View{Mounts: []view.Mount{c.mount}}, 7)
		var added []string
		for _, a := range args {
			if strings.HasPrefix(a, "CAP_") && !slices.Contains(base, a) {
				added = append(added, a)
			}
		}
		require.Equal(t, c.added, added)
		require.Contains(t, strings.Join(args, " "), c.contains)
	}
}

// TestFirstProcess has what bubblewrap 0.8.0 writes, and what there is when it fails.
func TestFirstProcess(t *testing.T) {
	t.Parallel()
	pid, err := FirstProcess(strings.NewReader("{\n    \"child-pid\": 4321,\n    \"cgroup-namespace\": 4026531835\n}\n"))
	require.NoError(t, err)
	require.Equal(t, 4321, pid)
	for _, bad := range []string{"", "{", "{}", `{"child-pid": 1}`, `{"child-pid": -1}`, `{"child-pid": "x"}`} {
		_, err := FirstProcess(strings.NewReader(bad))
		require.ErrorContains(t, err, "find the sandbox's first process", bad)
	}
}
