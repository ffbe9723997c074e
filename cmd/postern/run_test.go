package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks"
)

func TestExtraEnv(t *testing.T) {
	t.Setenv("POSTERN_TEST_A", "a value")
	env, err := extraEnv([]string{"POSTERN_TEST_A", "B=c=d", "EMPTY="})
	require.NoError(t, err)
	require.Equal(t, []string{"POSTERN_TEST_A=a value", "B=c=d", "EMPTY="}, env)
	for _, bad := range []string{"", "=x", "A B=c", "POSTERN_TEST_UNSET"} {
		_, err := extraEnv([]string{bad})
		require.ErrorContains(t, err, "--env", bad)
	}
}

func TestPolicyFolder(t *testing.T) {
	t.Parallel()
}

func TestDenialText(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		event audit.Event
		want  string
	}{
		{
			audit.Event{Agent: "demo", Method: "CONNECT", Host: "api.test:443", Rule: "demo/default", Reason: plan.ReasonHost},
			"postern: denied by policy: CONNECT api.test:443 (rule demo/default: host_not_allowed)\n  an operator can allow it: postern allow api.test --agent demo\n",
		},
		{
			audit.Event{Agent: "demo", Method: "CONNECT", Host: "api.test:8443", Rule: "demo/default", Reason: plan.ReasonHost},
			"postern: denied by policy: CONNECT api.test:8443 (rule demo/default: host_not_allowed)\n  an operator can allow it: postern allow api.test:8443 --agent demo\n",
		},
		{
			audit.Event{Agent: "demo", Method: "DELETE", Host: "api.test:443", Path: "/v1/x", Rule: "demo/default", Reason: plan.ReasonMethod},
			"postern: denied by policy: DELETE api.test:443/v1/x (rule demo/default: method_not_allowed)\n  an operator can allow it: postern allow api.test --agent demo --method METHOD --path PATH\n",
		},
		{ // an agent chose the host: nothing to paste, nothing that moves the cursor
			audit.Event{Agent: "demo", Method: "CONNECT", Host: "a;rm -rf ~\x1b[2J:443", Rule: "demo/default", Reason: plan.ReasonHost},
			"postern: denied by policy: CONNECT a;rm -rf ~?[2J:443 (rule demo/default: host_not_allowed)\n",
		},
		{
			audit.Event{Agent: "demo", Method: "CONNECT", Host: "a.test:443;reboot", Rule: "demo/default", Reason: plan.ReasonHost},
			"postern: denied by policy: CONNECT a.test:443;reboot (rule demo/default: host_not_allowed)\n",
		},
	} {
		require.Equal(t, c.want, denialText(&c.event))
	}
}

func TestExplainDenials(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start := time.Now()
	var log bytes.Buffer
	encoder := json.NewEncoder(&log)
	write := func(e audit.Event) {
		e.Seq = uint64(bytes.Count(log.Bytes(), []byte("\n")) + 1)
		e.Node = "n1"
		require.NoError(t, encoder.Encode(e))
	}
	denied := audit.Event{Time: start.Add(time.Second), Agent: "demo", Method: "CONNECT", Verdict: audit.Deny, Reason: plan.ReasonHost, Rule: "demo/default"}
	for _, host := range []string{"a.test:443", "a.test:443", "b.test:443", "c.test:443", "d.test:443", "e.test:443", "f.test:443"} {
		denied.Host = host
		write(denied)
	}
	old, other, fine := denied, denied, denied
	old.Host, old.Time = "old.test:443", start.Add(-time.Minute)
	other.Host, other.Agent = "other.test:443", "other"
	fine.Host, fine.Verdict = "fine.test:443", audit.Allow
	write(old)
	write(other)
	write(fine)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "n1"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "n1", "00000000000000000001.jsonl"), log.Bytes(), 0o600))
	var out bytes.Buffer
	explainDenials(t.Context(), &out, dir, "demo", start)
	text := out.String()
	require.Equal(t, 1, bytes.Count(out.Bytes(), []byte("CONNECT a.test:443")))
	require.Equal(t, maxDenials, bytes.Count(out.Bytes(), []byte("denied by policy")))
	require.Contains(t, text, "and 1 more: postern audit --agent demo --denied")
	for _, not := range []string{"old.test", "other.test", "fine.test"} {
		require.NotContains(t, text, not)
	}
}

func TestPlaceholders(t *testing.T) {
	t.Parallel()
	p := &plan.Plan{
		Credentials: []plan.Credential{{Name: "a", Placeholders: []string{"A_KEY", "A_TOKEN"}}, {Name: "b"}, {Name: "other", Placeholders: []string{"OTHER_KEY"}}},
		Agents:      []plan.Agent{{Name: "demo", Rules: []plan.Rule{{Credential: "a"}, {Credential: "b"}, {Credential: "a"}, {}}}},
	}
	require.Equal(t, []string{"A_KEY=postern", "A_TOKEN=postern"}, placeholders(p, &p.Agents[0]))
	require.Empty(t, placeholders(p, &plan.Agent{Name: "nobody"}))
}

func TestSpecErrors(t *testing.T) {
	t.Parallel()
	home := stacks.Home{Root: filepath.Join(t.TempDir(), "local-1")}
	work := filepath.Join(t.TempDir(), "work")
	require.NoError(t, os.Mkdir(work, 0o700))
	p := &plan.Plan{Agents: []plan.Agent{{Name: "coder"}, {Name: "demo"}}}
	_, err := newSpec(p, "stacks/local.yaml", home, "nobody", work)
	require.EqualError(t, err, "the publication of stacks/local.yaml has no agent \"nobody\": it has coder, demo; `postern push` publishes the file")
	_, err = newSpec(p, "stacks/local.yaml", home, "demo", work)
	require.ErrorContains(t, err, "the stack is not up")
	require.NoError(t, os.MkdirAll(home.AgentDir("n1", "coder"), 0o700))
	_, err = newSpec(p, "stacks/local.yaml", home, "demo", work)
	require.ErrorContains(t, err, `no node serves the agent "demo" yet`)
	_, err = newSpec(p, "stacks/local.yaml", home, "coder", work)
	require.ErrorContains(t, err, "certificate authority")
}

// What makeWorkdir has looked at may be a link since.
func TestWorkdirThatLeadsOut(t *testing.T) {
	t.Parallel()
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	home := stacks.Home{Root: filepath.Join(root, "state", "local-1")}
	project, other := filepath.Join(root, "project"), filepath.Join(root, "other")
	for _, dir := range []string{home.Root, project, filepath.Join(project, "real"), other} {
		require.NoError(t, os.MkdirAll(dir, 0o700))
	}
	require.NoError(t, hostpath.In(filepath.Dir(home.Root)).Record(project))
	require.NoError(t, os.Symlink(other, filepath.Join(project, "sub")))
	p := &plan.Plan{Agents: []plan.Agent{{Name: "demo"}}}
	_, err = newSpec(p, "stacks/local.yaml", home, "demo", filepath.Join(project, "sub"))
	require.ErrorContains(t, err, "where an agent may write, and leads out of there: name the folder itself")
	_, err = newSpec(p, "stacks/local.yaml", home, "demo", filepath.Join(project, "real"))
	require.ErrorContains(t, err, "the stack is not up")
	require.ErrorContains(t, hostpath.In(filepath.Dir(home.Root)).Record(filepath.Join(project, "sub")), "it leads to "+other)
	// A folder that is not there is not made where an agent could have a link by then.
	_, err = makeWorkdir(home, filepath.Join(project, "new", "deep"))
	require.ErrorContains(t, err, "where an agent may write: name a folder that is there, or one elsewhere")
	require.NoDirExists(t, filepath.Join(project, "new"))
	made, err := makeWorkdir(home, filepath.Join(other, "new", "deep"))
	require.NoError(t, err)
	require.DirExists(t, made)
}
