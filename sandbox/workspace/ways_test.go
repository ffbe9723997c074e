package workspace

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLinksThatLeadOut: a link that leads out of the folder is marked, whatever way it takes in
// what the agent made, or in the host's folder.
func TestLinksThatLeadOut(t *testing.T) {
	t.Parallel()
	l := newLayered(t, map[string]string{
		"sub/x": "1", "deep/a/b/x": "1", "opaque/x": "1", "gone/x": "1", "file": "1", "here/x": "1",
	})
	link := func(in, at, to string) {
		t.Helper()
		at = filepath.Join(in, at)
		require.NoError(t, os.MkdirAll(filepath.Dir(at), 0o700))
		require.NoError(t, os.Symlink(to, at))
	}
	write(t, filepath.Join(l.host, "../thesis"), "secret")
	link(l.host, "mine", "sub")
	link(l.host, "up", "..")
	link(l.host, "opaque/up", "../..")
	link(l.host, "was", "..")
	l.whiteout(t, "was")
	l.whiteout(t, "gone")
	write(t, filepath.Join(l.layer, "opaque/y"), "1")
	l.set(t, "opaque", "opaque", "y")
	write(t, filepath.Join(l.layer, "here/y"), "1")
	for at, to := range map[string]string{
		"p/q/r/d": "../../..", "out": "p/q/r/d/../thesis", "again": "p/q/r/d/../../thesis", "by": "up/thesis",
		"abs": "/etc/passwd", "dots": "mine/../../thesis", "late": "later/../../thesis",
		"in": "p/q/r/d/file", "round": "../" + filepath.Base(l.host) + "/file", "own": l.host + "/file",
		"near": "mine/../file", "now": "opaque/up/z", "then": "was/file",
		"b": "deep/a/b/../../../file", "old": "gone/../file",
		"way": "here/../up", ".hg": "sub", "sub2/.JJ": "../sub",
	} {
		link(l.layer, at, to)
	}
	notes := map[string][]string{}
	require.NoError(t, l.Changes(func(c Change) error {
		if c.Mode == "120000" && c.Kind == Added {
			notes[c.Path] = c.Notes
		}
		return nil
	}))
	out, vcs := []string{"it leads out of the folder"}, []string{"version control may run commands from it"}
	require.Equal(t, map[string][]string{
		"p/q/r/d": nil, "out": out, "again": out, "by": out, "abs": out, "dots": out, "late": out, "way": out,
		"in": nil, "round": nil, "own": nil, "near": nil, "b": nil, "old": nil, ".hg": vcs, "sub2/.JJ": vcs,
		// They would, if the rest were not applied.
		"now": out, "then": out,
	}, notes)
	// So the attack works.
	require.Empty(t, l.apply(t, "p", "out"))
	require.Equal(t, "secret", read(t, filepath.Join(l.host, "out")))
}
