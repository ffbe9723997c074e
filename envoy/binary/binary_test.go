package binary

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/hostpath"
)

// TestBinaryIsNotAnAgents: an Envoy that an agent has left on PATH, in $ENVOY or in .cache/bin is
// not the stack's.
//
//nolint:paralleltest // the environment and the working folder say where Envoy is
func TestBinaryIsNotAnAgents(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	work, good := filepath.Join(dir, "work"), filepath.Join(dir, "good")
	for _, d := range []string{work + "/.cache/bin", good} {
		require.NoError(t, os.MkdirAll(d, 0o755))
		require.NoError(t, os.WriteFile(d+"/envoy", []byte("#!/bin/sh\n"), 0o755))
	}
	agents := hostpath.In(filepath.Join(dir, "state"))
	require.NoError(t, agents.Record(work))
	folders, err := agents.Folders()
	require.NoError(t, err)
	t.Chdir(work)
	t.Setenv("PATH", work+"/.cache/bin:"+good)
	t.Setenv("ENVOY", "")
	found, err := Find(folders, dir)
	require.NoError(t, err)
	require.Equal(t, good+"/envoy", found)

	t.Setenv("PATH", good+"/none")
	_, err = Find(folders, cwd(t))
	require.ErrorContains(t, err, "/work/envoy is in "+work+", where an agent may write")
	t.Setenv("ENVOY", ".cache/bin/envoy")
	_, err = Find(folders, cwd(t))
	require.ErrorContains(t, err, "use $ENVOY: "+work+"/.cache/bin/envoy is in "+work+", where an agent may write")

	t.Chdir(dir)
	t.Setenv("ENVOY", "")
	_, err = Find(folders, cwd(t))
	require.ErrorIs(t, err, ErrNone)
}

// An Envoy that was installed next to our programs is taken before that of PATH.
//
//nolint:paralleltest // the environment says where Envoy is
func TestBinaryThatWasInstalled(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	for _, d := range []string{"installed", "path"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, d, "envoy"), []byte("#!/bin/sh\n"), 0o755))
	}
	agents := hostpath.In(filepath.Join(dir, "state"))
	folders, err := agents.Folders()
	require.NoError(t, err)
	t.Setenv("PATH", filepath.Join(dir, "path"))
	t.Setenv("ENVOY", "")
	installed := filepath.Join(dir, "installed")
	found, err := Find(folders, installed)
	require.NoError(t, err)
	require.Equal(t, filepath.Join(installed, "envoy"), found)

	require.NoError(t, agents.Record(installed))
	folders, err = agents.Folders()
	require.NoError(t, err)
	_, err = Find(folders, installed)
	require.ErrorContains(t, err, "where an agent may write")
}

func cwd(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	require.NoError(t, err)
	return dir
}
