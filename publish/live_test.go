package publish_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/home"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/publish"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/tests/fleet"
)

func allowing(host string) *plan.Plan {
	rule := plan.Rule{ID: "a/" + host, Host: host, Port: 443, Mode: plan.ModeIntercept, Methods: []string{"GET"}, Paths: []string{plan.AnyPath}}
	return &plan.Plan{Stack: "local", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{rule}}}}
}

// newFleet is a control plane with a node that acknowledges everything, for a
// stack called local.
func newFleet(t *testing.T) *fleet.Fleet {
	t.Helper()
	root, err := os.MkdirTemp("", "publish")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })
	path := filepath.Join(root, "local.yaml")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	file, err := stacks.Open(path)
	require.NoError(t, err)
	home := home.Folder{Root: filepath.Join(root, "h")}
	require.NoError(t, home.Claim(file.Owner()))
	f := fleet.NewIn(t, home, 0)
	require.NoError(t, f.API.AddNode(t.Context(), "n1"))
	fleet.StartAcker(t, home.XDSSocket(), "n1")
	require.Eventually(t, func() bool { return f.Node("n1").Connected }, time.Minute, 10*time.Millisecond)
	return f
}

// What is live is what the control plane serves, not the newest object of the
// store, which an allow that was killed has left there.
func TestReadLive(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	read := func() *publish.Live {
		t.Helper()
		live, err := publish.ReadLive(t.Context(), publish.Operator(f.Home, nil))
		require.NoError(t, err)
		return live
	}
	require.Equal(t, &publish.Live{Plan: &plan.Plan{}}, read())

	was := allowing("was.test")
	f.MustPublish(was)
	live := read()
	require.Equal(t, was, live.Plan)
	require.EqualValues(t, 1, live.Seq)
	require.Empty(t, live.Note)

	// The same operator, at work on another control plane of the stack.
	other := newFleet(t)
	for _, name := range []string{"ed25519", "trusted.pem"} {
		key, err := os.ReadFile(filepath.Join(f.Home.OperatorDir(), name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(other.Home.OperatorDir(), name), key, 0o600))
	}
	other.MustPublish(was)
	other.MustPublish(allowing("new.test"))
	const object = "0000000000000002.json"
	unproven, err := os.ReadFile(filepath.Join(other.Home.Root, "bundle", object))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(f.Home.Root, "bundle", object), unproven, 0o600))

	newest, err := f.Operator().Newest(t.Context())
	require.NoError(t, err)
	require.Equal(t, "new.test", newest.Plan.Agents[0].Rules[0].Host, "what used to count as live")
	live = read()
	require.Equal(t, was, live.Plan)
	require.Regexp(t, `^publication 2, by .*, is not live; publication 1 is, and this compares with that$`, live.Note)

	f.StopControl()
	live = read()
	require.Equal(t, was, live.Plan, "by its mark")
	require.NotEmpty(t, live.Note)
	require.NoError(t, os.Remove(filepath.Join(f.Home.Root, "bundle", object)))
	require.Equal(t, "the control plane does not answer; this compares with the last publication that it rolled out", read().Note)
}

// What a person was shown is a difference to what was there then: if something
// else was published meanwhile, nothing is.
func TestPublishOnlyOverWhatWasShown(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	first, second := publish.Operator(f.Home, nil), publish.Operator(f.Home, nil)
	for _, o := range []*bundle.Operator{first, second} {
		_, err := publish.ReadLive(t.Context(), o)
		require.NoError(t, err)
	}
	_, err := first.Publish(t.Context(), allowing("first.test"))
	require.NoError(t, err)
	var conflict *bundle.ConflictError
	_, err = second.Publish(t.Context(), allowing("second.test"))
	require.ErrorAs(t, err, &conflict)
	require.Equal(t, []string{"+ a may GET https://first.test/**  [medium: first.test is a new host]", "+ agent a"}, conflict.Changes)

	// A kill is not another plan.
	_, err = publish.ReadLive(t.Context(), second)
	require.NoError(t, err)
	_, err = first.Kill(t.Context(), bundle.Killed{Agents: []string{"a"}})
	require.NoError(t, err)
	_, err = second.Publish(t.Context(), allowing("second.test"))
	require.NoError(t, err)
	s, err := f.API.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, s.Killed)
}
