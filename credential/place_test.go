package credential_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/credential"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/publish"
	"github.com/postern/postern/stacks"
)

// TestPlaceOfAProposal: where an agent may write the stack file, a secret goes only to a place that
// is published.
func TestPlaceOfAProposal(t *testing.T) {
	root := t.TempDir()
	base := filepath.Join(root, "state")
	t.Setenv("POSTERN_HOME", base)
	require.NoError(t, os.MkdirAll(base, 0o700))
	open := func(dir string) *stacks.File {
		t.Helper()
		path := filepath.Join(root, dir, "local.yaml")
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte("version: 1\n"), 0o600))
		f, err := stacks.Open(path)
		require.NoError(t, err)
		return f
	}
	mine, agents := open("mine"), open("agents")
	require.NoError(t, hostpath.In(base).Record(filepath.Join(root, "agents")))
	in := func(secret string) *plan.Plan {
		return &plan.Plan{Credentials: []plan.Credential{{Name: "k", Secret: secret}}}
	}
	unknown := errors.New("nobody answers")
	for _, c := range []struct {
		what   string
		file   *stacks.File
		live   *plan.Plan
		failed error
		ok     bool
	}{
		{what: "the operator's file", file: mine, failed: unknown, ok: true},
		{what: "the same place", file: agents, live: in("file:///a"), ok: true},
		{what: "another place", file: agents, live: in("file:///b")},
		{what: "a new credential", file: agents, live: &plan.Plan{}},
		{what: "what is published is not known", file: agents, failed: unknown},
	} {
		live := func() (*plan.Plan, error) { return c.live, c.failed }
		err := credential.PlaceIsPublished(c.file, live, in("file:///a"), "k")
		if c.ok {
			require.NoError(t, err, c.what)
			continue
		}
		var unseen *publish.UnseenError
		require.ErrorAs(t, err, &unseen, c.what)
		require.Contains(t, unseen.Why, "it is not published that the secret of k is file:///a", c.what)
	}
	// A list of agents' folders that is damaged stops everything.
	require.NoError(t, os.WriteFile(filepath.Join(base, "workdirs"), []byte("torn\n"), 0o600))
	live := func() (*plan.Plan, error) { return in("file:///a"), nil }
	require.Error(t, credential.PlaceIsPublished(mine, live, in("file:///a"), "k"))
}

// TestHolds: a value without the field that the stack file takes is refused, and is in no error.
func TestHolds(t *testing.T) {
	t.Parallel()
	ref := plan.Reference{Field: []string{"api", "key"}}
	require.NoError(t, credential.Holds([]byte(`{"api":{"key":"hunter2"}}`), ref))
	require.NoError(t, credential.Holds([]byte("hunter2"), plan.Reference{}))
	for _, bad := range []string{
		"hunter2", `"hunter2"`, `{"api":"hunter2"}`, `{"api":{"other":"hunter2"}}`,
		`{"api":{"key":null},"x":"hunter2"}`,
	} {
		err := credential.Holds([]byte(bad), ref)
		require.ErrorContains(t, err, "takes field api.key of this secret", bad)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

// TestStatesOfFiles: what is told of a secret in a file, without its value.
func TestStatesOfFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := &plan.Plan{}
	add := func(name string, value string, mode os.FileMode) {
		path := filepath.Join(dir, name)
		if mode != 0 {
			require.NoError(t, os.WriteFile(path, []byte(value), 0o600))
			require.NoError(t, os.Chmod(path, mode))
		}
		p.Credentials = append(p.Credentials, plan.Credential{Name: name, Secret: "file://" + path})
	}
	add("gone", "", 0)
	add("empty", "", 0o600)
	add("open", "v", 0o644)
	add("set", "v", 0o600)
	states, err := credential.States(t.Context(), &stacks.Stack{Plan: p}, nil)
	require.NoError(t, err)
	var said []string
	for _, s := range states {
		require.Equal(t, s.Name == "gone", s.Changed.IsZero())
		said = append(said, s.Name+": "+s.State)
	}
	require.Equal(t, []string{
		"gone: does not exist", "empty: empty", "open: set, others may read it (0644)", "set: set",
	}, said)
}
