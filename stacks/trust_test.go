package stacks

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
)

// TestLoadRefusesWhatAnAgentWrites: a stack file that names a file in an agent's folder compiles for no command.
//
//nolint:paralleltest // the environment says where the list of folders is
func TestLoadRefusesWhatAnAgentWrites(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	t.Setenv("POSTERN_HOME", filepath.Join(dir, "state"))
	work := filepath.Join(dir, "work")
	for _, d := range []string{"work", "safe"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, d), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, d, "helper"), []byte("#!/bin/sh\n"), 0o700))
	}
	require.NoError(t, os.Symlink(filepath.Join(work, "helper"), filepath.Join(dir, "safe", "link")))
	path := filepath.Join(dir, "local.yaml")
	load := func(secret, upstream string) (*Stack, error) {
		content := fmt.Sprintf(`version: 1
target: local
credentials:
  key: {kind: bearer, secret: %q}
destinations:
  api: {host: api.test, credential: key%s}
agents:
  demo: {allow: [api]}
`, secret, upstream)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		file, err := Open(path)
		require.NoError(t, err)
		return file.Load()
	}
	for _, c := range []struct{ secret, upstream, line, want string }{
		{"file:work/helper", "", "4:31", "work/helper is in " + work + ", where an agent may write"},
		{"exec://" + work + "/helper", "", "4:31", "work/helper is in " + work + ", where an agent may write"},
		{"exec://" + dir + "/safe/link", "", "4:31", "safe/link leads through " + work + ", which is in " + work + ", where an agent may write"},
		{"env://KEY", `, upstream: {address: "unix:work/sock"}`, "6:62", "work/sock is in " + work + ", where an agent may write"},
		{"env://KEY", `, upstream: {address: "10.0.0.1:443", ca: work/helper}`, "6:82", "work/helper is in " + work + ", where an agent may write"},
	} {
		require.NoError(t, os.RemoveAll(filepath.Join(dir, "state")))
		if _, err := load(c.secret, c.upstream); err != nil {
			require.NotContains(t, err.Error(), "where an agent may write", "no agent was here yet")
		}
		require.NoError(t, hostpath.In(filepath.Join(dir, "state")).Record(work))
		_, err := load(c.secret, c.upstream)
		require.ErrorContains(t, err, path+":"+c.line+": "+dir+"/"+c.want, c.secret)
		if strings.Contains(c.upstream, "unix:") {
			require.ErrorContains(t, err, "have its service listen in a folder where no agent works")
		} else {
			require.ErrorContains(t, err, "install -D -m ", c.secret)
		}
	}
	// Whoever has not written the stack file is told to copy nothing.
	require.NoError(t, hostpath.In(filepath.Join(dir, "state")).Record(dir))
	_, err = load("exec://"+work+"/helper", "")
	require.ErrorContains(t, err, "an agent may have written this stack file, too")
	require.NotContains(t, err.Error(), "install -D")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "state", "workdirs"), []byte("damaged\n"), 0o600))
	_, err = load("file:safe/helper", "")
	require.ErrorContains(t, err, "workdirs:1: this line of the list of agents' working directories is damaged")
}

// TestLoadPinsHelpers: what is published names the helper by its content.
func TestLoadPinsHelpers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	helper := filepath.Join(dir, "helper")
	require.NoError(t, os.WriteFile(helper, []byte("#!/bin/sh\n"), 0o700))
	digest := fmt.Sprintf("%x", sha256.Sum256([]byte("#!/bin/sh\n")))
	for secret, want := range map[string]plan.Reference{
		"exec://" + helper:                       {Source: plan.SourceExec, Name: helper, Digest: digest},
		"exec://" + helper + "?arg=a#field":      {Source: plan.SourceExec, Name: helper, Args: []string{"a"}, Field: []string{"field"}, Digest: digest},
		"exec://" + helper + "?sha256=" + zeroes: {Source: plan.SourceExec, Name: helper, Digest: zeroes},
		"exec://" + helper + "none":              {Source: plan.SourceExec, Name: helper + "none"},
	} {
		path := filepath.Join(dir, "local.yaml")
		content := fmt.Sprintf("version: 1\ntarget: local\ncredentials:\n  key: {kind: bearer, secret: %q}\ndestinations:\n  api: {host: api.test, credential: key}\nagents:\n  demo: {allow: [api]}\n", secret)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		file, err := Open(path)
		require.NoError(t, err)
		stack, err := file.Load()
		require.NoError(t, err)
		got, err := plan.ParseReference(stack.Plan.Credentials[0].Secret)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

const zeroes = "0000000000000000000000000000000000000000000000000000000000000000"
