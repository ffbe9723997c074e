package records

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks"
)

// TestAuditPrintsNothingHostile: what an agent sent is shown in a way that no terminal acts
// on, and as JSON it is what it was.
func TestAuditPrintsNothingHostile(t *testing.T) {
	t.Parallel()
	hostile := "/\x1b[2J\u009b2J\u202egpj.exe\u2028\x07\x7f\U0001f600"
	e := audit.Event{Time: time.Unix(0, 0).UTC(), Node: "n1", Agent: "a", Host: "h.test:443", Path: hostile, Verdict: audit.Deny, Detail: hostile}
	for _, asJSON := range []bool{false, true} {
		var b bytes.Buffer
		require.NoError(t, Printer(&b, asJSON)(e))
		for _, c := range b.Bytes() {
			require.True(t, c == '\n' || c >= ' ' && c < 0x7f, "%q", b.String())
		}
		if asJSON {
			var got audit.Event
			require.NoError(t, json.Unmarshal(b.Bytes(), &got))
			require.Equal(t, e, got)
		}
	}
}

// TestAuditOfAnUnknownAgent: an agent that is neither in the stack file nor in an event is an
// error, and one that was removed from the file is not.
func TestAuditOfAnUnknownAgent(t *testing.T) {
	t.Parallel()
	stack := &stacks.Stack{Path: "stacks/local.yaml", Plan: &plan.Plan{Agents: []plan.Agent{{Name: "coder"}}}}
	dir := t.TempDir()
	w, err := audit.NewWriter(dir, audit.ControlPlane)
	require.NoError(t, err)
	require.NoError(t, w.Record(audit.Event{Kind: "killed", Agent: "former"}))
	require.NoError(t, w.Close())
	read, _ := localEvents(dir)
	require.NoError(t, known(t.Context(), stack, read, "coder"))
	require.NoError(t, known(t.Context(), stack, read, "former"))
	require.EqualError(t, known(t.Context(), stack, read, "codr"),
		`stacks/local.yaml: there is no agent "codr"; did you mean coder?; no event has this agent either`)
}
