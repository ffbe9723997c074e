package credential_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/cloud"
	"github.com/postern/postern/credential"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	planned "github.com/postern/postern/plan/cloud"
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

// account is a cloud's account that has secrets.
type account struct {
	cloud.Account

	secrets map[string]*cloud.Secret
	failed  error
	put     []string
}

func (a *account) Secret(_ context.Context, name string) (*cloud.Secret, error) {
	if s := a.secrets[name]; s != nil {
		return s, nil
	}
	if a.failed != nil {
		return nil, a.failed
	}
	return nil, cloud.ErrNoSecret
}

func (a *account) PutSecret(_ context.Context, name string, value []byte) (string, error) {
	a.put = append(a.put, name+"="+string(value))
	return "v7", a.failed
}

// inAWS is a stack on AWS with a credential in each kind of place.
func inAWS() *stacks.Stack {
	return &stacks.Stack{
		Name: "prod", Path: "prod.yaml", AWS: &planned.AWS{Region: "eu-west-1"},
		Plan: &plan.Plan{Credentials: []plan.Credential{
			{Name: "k", Secret: "awssecretsmanager://team/k?region=eu-north-1#api.key"},
			{Name: "e", Secret: "env://TOKEN"},
		}},
	}
}

// TestNamed: a name is that of a credential of the stack, or of a secret of its own if it is on AWS.
func TestNamed(t *testing.T) {
	t.Parallel()
	aws := inAWS()
	local := &stacks.Stack{Name: "local", Path: "local.yaml", Plan: aws.Plan}
	ref, err := credential.Named(aws, "k")
	require.NoError(t, err)
	require.Equal(t, plan.Reference{
		Source: plan.SourceAWSSecretsManager, Name: "team/k", Region: "eu-north-1", Field: []string{"api", "key"},
	}, ref)
	for _, own := range []string{"ca-key", "fleet-ca-key", "join-token", "join-tokens"} {
		ref, err := credential.Named(aws, own)
		require.NoError(t, err)
		require.Equal(t, plan.Reference{
			Source: plan.SourceAWSSecretsManager, Name: "postern/prod/" + own, Region: "eu-west-1",
		}, ref)
		_, err = credential.Named(local, own)
		require.EqualError(t, err, `local.yaml: no rule uses a credential "`+own+`"; there is: k, e`)
	}
	_, err = credential.Named(aws, "none")
	require.EqualError(t, err, `prod.yaml: no rule uses a credential "none"; there is: k, e, ca-key, fleet-ca-key, `+
		`join-token, join-tokens`)
}

// TestPlaceFor: a value goes to the operator's file or into the stack's account, and nowhere else.
// The account is asked before there is a value.
func TestPlaceFor(t *testing.T) {
	t.Parallel()
	stack, a := inAWS(), &account{}
	local := &stacks.Stack{Name: "local", Plan: stack.Plan}
	opened := ""
	open := func(_ context.Context, s *stacks.Stack, region string) (cloud.Account, error) {
		opened = s.Name + " " + region
		return a, nil
	}
	refuses := errors.New("no account")
	secret := plan.Reference{Source: plan.SourceAWSSecretsManager, Name: "team/k", Region: "eu-north-1"}
	put, err := credential.PlaceFor(t.Context(), stack, "k", secret, open)
	require.NoError(t, err)
	require.Equal(t, "prod eu-north-1", opened)
	done, err := put([]byte("hunter2"))
	require.NoError(t, err)
	require.Equal(t, "version v7 of team/k in eu-north-1", done)
	require.Equal(t, []string{"team/k=hunter2"}, a.put)
	a.failed = errors.New("denied")
	_, err = put([]byte("x"))
	require.ErrorIs(t, err, a.failed)
	_, err = credential.PlaceFor(t.Context(), stack, "k", secret,
		func(context.Context, *stacks.Stack, string) (cloud.Account, error) { return nil, refuses })
	require.ErrorIs(t, err, refuses)
	_, err = credential.PlaceFor(t.Context(), local, "k", secret, open)
	require.EqualError(t, err, "k: its secret is in AWS, and this stack is not: set it there with the AWS CLI")

	file := filepath.Join(t.TempDir(), "keys", "secret")
	put, err = credential.PlaceFor(t.Context(), local, "k", plan.Reference{Source: plan.SourceFile, Name: file}, nil)
	require.NoError(t, err)
	done, err = put([]byte("hunter2"))
	require.NoError(t, err)
	require.Equal(t, "written to "+file, done)
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "hunter2", string(content))
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	below := plan.Reference{Source: plan.SourceFile, Name: file + "/x"}
	put, err = credential.PlaceFor(t.Context(), local, "k", below, nil)
	require.NoError(t, err)
	_, err = put(nil)
	require.Error(t, err)
	_, err = credential.PlaceFor(t.Context(), stack, "e", plan.Reference{Source: plan.SourceEnv, Name: "TOKEN"}, open)
	require.ErrorContains(t, err, "e: its secret comes from env: set it there")
}

// TestStatesInAWS: what is told of each secret of an account, which is opened once for a region.
func TestStatesInAWS(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)
	stack, opened := inAWS(), []string{}
	a := &account{secrets: map[string]*cloud.Secret{
		"team/k":                    {Version: "v2", Versions: 2, Changed: at},
		"postern/prod/ca-key":       {Version: "v1", Versions: 1, Changed: at},
		"postern/prod/fleet-ca-key": {},
		"postern/prod/join-token":   {Version: "v1", Versions: 1, Deleting: true},
	}}
	open := func(_ context.Context, _ *stacks.Stack, region string) (cloud.Account, error) {
		opened = append(opened, region)
		return a, nil
	}
	states, err := credential.States(t.Context(), stack, open)
	require.NoError(t, err)
	var said []string
	for _, s := range states {
		said = append(said, s.Name+": "+s.State+" "+s.Version)
		require.Equal(t, s.Name == "k" || s.Name == "ca-key", s.Changed.Equal(at), s.Name)
	}
	require.Equal(t, []string{
		"k: set, 2 versions v2", "e: not looked at from here ", "ca-key: set, 1 version v1", "fleet-ca-key: empty ",
		"join-token: waits for deletion v1", "join-tokens: does not exist ",
	}, said)
	require.Equal(t, []string{"eu-north-1", "eu-west-1"}, opened)
	states, err = credential.States(t.Context(), &stacks.Stack{Plan: stack.Plan}, nil)
	require.NoError(t, err)
	require.Len(t, states, 2)
	require.Equal(t, "not looked at from here", states[0].State)

	a.failed = errors.New("denied")
	_, err = credential.States(t.Context(), stack, open)
	require.ErrorIs(t, err, a.failed)
	_, err = credential.States(t.Context(), stack,
		func(context.Context, *stacks.Stack, string) (cloud.Account, error) { return nil, a.failed })
	require.ErrorIs(t, err, a.failed)
	stack.Plan = &plan.Plan{Credentials: []plan.Credential{{Name: "k", Secret: "nowhere"}}}
	_, err = credential.States(t.Context(), stack, open)
	require.Error(t, err)
	_, err = credential.Named(stack, "k")
	require.Error(t, err)
}

// TestPlaceIsOnesOwn: the name of a secret of the stack's own is not the file's to say.
func TestPlaceIsOnesOwn(t *testing.T) {
	root := t.TempDir()
	base, dir := filepath.Join(root, "state"), filepath.Join(root, "agents")
	t.Setenv("POSTERN_HOME", base)
	require.NoError(t, errors.Join(os.Mkdir(base, 0o700), os.Mkdir(dir, 0o700), hostpath.In(base).Record(dir)))
	path := filepath.Join(dir, "local.yaml")
	require.NoError(t, os.WriteFile(path, []byte("version: 1\n"), 0o600))
	f, err := stacks.Open(path)
	require.NoError(t, err)
	live := func() (*plan.Plan, error) { return nil, errors.New("nobody answers") }
	require.NoError(t, credential.PlaceIsPublished(f, live, inAWS().Plan, "ca-key"))
	require.ErrorContains(t, credential.PlaceIsPublished(f, live, inAWS().Plan, "k"), "it is only a proposal")
}
