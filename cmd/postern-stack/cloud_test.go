package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/drive"
	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/publish"
	"github.com/postern/postern/stacks"
)

// TestNoCommandAsksAProposalsCloud: a stack file that an agent may write says where this user's
// credentials are sent, and whose state is believed. So not even a command that only shows
// something follows it.
func TestNoCommandAsksAProposalsCloud(t *testing.T) {
	base, work := t.TempDir(), t.TempDir()
	t.Setenv("POSTERN_HOME", base)
	targets[stacks.TargetAWS] = func(*pulumi.Context, *stacks.Stack, home.Folder, bool) error { return nil }
	defer delete(targets, stacks.TargetAWS)
	content, err := os.ReadFile("../../stacks/dev-aws.yaml")
	require.NoError(t, err)
	path := filepath.Join(work, "stacks", "dev-aws.yaml")
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	content = bytes.Replace(content, []byte("\naws:\n"), []byte("\naws:\n  state: https://evil.test\n"), 1)
	require.NoError(t, os.WriteFile(path, content, 0o600))
	require.NoError(t, hostpath.In(base).Record(work))
	for name, command := range map[string]func(*driver, context.Context) error{
		"preview": (*driver).preview, "up": (*driver).up, "refresh": (*driver).refresh, "down": (*driver).destroy,
	} {
		d := &driver{Request: &drive.Request{File: path}, out: os.Stderr}
		var unseen *publish.UnseenError
		require.ErrorAs(t, command(d, t.Context()), &unseen, name)
		require.Empty(t, d.backend, name)
	}
}
