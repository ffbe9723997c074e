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
	"github.com/postern/postern/plan"
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
		require.Equal(t, c.want, denialText("local", &c.event))
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
	explainDenials(t.Context(), &out, dir, "work", "demo", start)
	text := out.String()
	require.Equal(t, 1, bytes.Count(out.Bytes(), []byte("CONNECT a.test:443")))
	require.Equal(t, maxDenials, bytes.Count(out.Bytes(), []byte("denied by policy")))
	require.Contains(t, text, "an operator can allow it: postern allow a.test --agent demo --stack=work\n")
	require.Contains(t, text, "and 1 more: postern audit --agent demo --stack=work --denied")
	for _, not := range []string{"old.test", "other.test", "fine.test"} {
		require.NotContains(t, text, not)
	}
}
