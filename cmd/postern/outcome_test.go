package main

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/home"
	"github.com/postern/postern/xds/api"
)

// TestMissingByAnotherName: a control plane that was taken over names as a node what it likes. Such
// a node counts as one of another machine, whatever folder has that name here.
func TestMissingByAnotherName(t *testing.T) {
	t.Parallel()
	home := home.Folder{Root: filepath.Join(t.TempDir(), "local-1")}
	require.NoError(t, os.MkdirAll(home.NodeDir("n1"), 0o700))
	require.NoError(t, os.MkdirAll(filepath.Join(home.ControlDir(), "d", "agents", "demo"), 0o755))
	for _, node := range []string{"../control/d", "..", "."} {
		missing := &bundle.Outcome{Converged: &api.Converged{Nodes: 1, Missing: []api.Missing{{Node: node}}}}
		require.ErrorContains(t, imposed(io.Discard, home, "killed", missing, nil), "may serve its old version")
	}
}

// TestPasted: a line for pasting stays what it is. What a terminal acts on or does not show is not
// printed: with an escape in it the line would mean something else.
func TestPasted(t *testing.T) {
	t.Parallel()
	const plain = "docker run 'two\nlines é\t'"
	line, err := pasted(plain)
	require.NoError(t, err)
	require.Equal(t, plain, line)
	for hidden, shown := range map[string]string{
		"x '\x1b[2J'": `x '\x1b[2J'`, "x '\u202e'": `x '\u202e'`, "x '\u2800'": `x '\u2800'`, "x '\x9b2J'": `x '\ufffd2J'`,
		"x '\u115f'": `x '\u115f'`, "x '\ufe0f'": `x '\ufe0f'`,
	} {
		line, err := pasted(hidden)
		require.Empty(t, line)
		require.ErrorContains(t, err, "is not printed, because some of its characters cannot be seen: "+shown)
	}
}
