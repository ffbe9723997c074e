package engine

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/hostpath"
)

// TestCLIIsNotAnAgents: a Pulumi CLI that an agent has left on PATH, in $PULUMI or in .cache/bin is not the stack's.
//
//nolint:paralleltest // the environment and the working folder say where it is
func TestCLIIsNotAnAgents(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	work, good := filepath.Join(dir, "work"), filepath.Join(dir, "good")
	for _, d := range []string{work + "/.cache/bin", good} {
		require.NoError(t, os.MkdirAll(d, 0o755))
		require.NoError(t, os.WriteFile(d+"/pulumi", []byte("#!/bin/sh\n"), 0o755))
	}
	agents := hostpath.In(filepath.Join(dir, "state"))
	require.NoError(t, agents.Record(work))
	folders, err := agents.Folders()
	require.NoError(t, err)
	t.Chdir(work)
	t.Setenv("PATH", work+"/.cache/bin:"+good)
	t.Setenv("PULUMI", "")
	found, err := FindCLI(folders, dir)
	require.NoError(t, err)
	require.Equal(t, good+"/pulumi", found)

	t.Setenv("PATH", good+"/none")
	_, err = FindCLI(folders, cwd(t))
	require.ErrorContains(t, err, "/work/pulumi is in "+work+", where an agent may write")
	t.Setenv("PULUMI", ".cache/bin/pulumi")
	_, err = FindCLI(folders, cwd(t))
	require.ErrorContains(t, err, "use $PULUMI: "+work+"/.cache/bin/pulumi is in "+work+", where an agent may write")

	t.Chdir(dir)
	t.Setenv("PULUMI", "")
	_, err = FindCLI(folders, cwd(t))
	require.ErrorContains(t, err, "no pulumi CLI")
}

func cwd(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	require.NoError(t, err)
	return dir
}
