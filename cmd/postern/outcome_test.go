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

// TestPasted: a line for pasting stays what it is, and no terminal acts on one.
func TestPasted(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"docker run 'two\nlines é\t'": "docker run 'two\nlines é\t'",
		"x '\x1b[2J'":                 `x '\x1b[2J'`, "x '\u202e'": `x '\u202e'`,
	} {
		require.Equal(t, want, pasted(line))
	}
}
