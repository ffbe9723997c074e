package records

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/exit"
)

// ran runs the command with the arguments.
func ran(t *testing.T, args ...string) (out string, status int, said string) {
	t.Helper()
	cmd := &cobra.Command{Use: "postern", SilenceUsage: true, SilenceErrors: true}
	cmd.AddCommand(New(Stack{}))
	var b bytes.Buffer
	cmd.SetOut(&b)
	cmd.SetErr(&b)
	cmd.SetArgs(append([]string{"audit"}, args...))
	err := cmd.ExecuteContext(t.Context())
	if err != nil {
		said = err.Error()
	}
	return b.String(), exit.Status(err), said
}

// written is a log of some events of a control plane.
func written(t *testing.T, dir string, events int) {
	t.Helper()
	w, err := audit.NewWriter(dir, audit.ControlPlane)
	require.NoError(t, err)
	for range events {
		require.NoError(t, w.Record(audit.Event{Kind: "published"}))
	}
	require.NoError(t, w.Close())
}

// TestVerifyStatuses: each exit status of verify, and what it says.
func TestVerifyStatuses(t *testing.T) {
	t.Parallel()
	dir, heads := t.TempDir(), filepath.Join(t.TempDir(), "heads.json")
	const first = "00000000000000000001.jsonl"
	segment := filepath.Join(dir, "control", first)
	written(t, dir, 3)
	earlier := map[string][]byte{}
	for _, name := range []string{first, "chain"} {
		b, err := os.ReadFile(filepath.Join(dir, "control", name))
		require.NoError(t, err)
		earlier[name] = b
	}
	out, status, said := ran(t, "verify", "--heads", heads, dir)
	require.Equal(t, exit.Done, status, said)
	require.Regexp(t, `^control: 1 of its segments are as they were written: \d+ bytes, the events 1 to 3; `+
		`key [0-9a-f]{16}\nno heads were kept in `+regexp.QuoteMeta(heads)+`: .*; the next time it is\n$`, out)

	// The tail is dropped: without the head, this is a log that ended earlier.
	written(t, dir, 2)
	out, status, said = ran(t, "verify", "--heads", heads, dir)
	require.Equal(t, exit.Done, status, said)
	require.NotContains(t, out, "no heads were kept")
	for name, b := range earlier {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "control", name), b, 0o600))
	}
	_, status, _ = ran(t, "verify", dir)
	require.Equal(t, exit.Done, status)
	out, status, said = ran(t, "verify", "--heads", heads, dir)
	require.Equal(t, exit.Open, status, out)
	require.Equal(t, "the audit log is not what was written: control/"+first+" is forgotten (findings: 1)", said)

	out, status, said = ran(t, "verify", "--key", "0123456789abcdef", dir)
	require.Equal(t, exit.Open, status)
	require.Contains(t, out, "control/chain: other-key: the key ")
	require.Contains(t, said, "control/chain is other-key")

	b := bytes.Replace(earlier[first], []byte("published"), []byte("publishes"), 1)
	require.NoError(t, os.WriteFile(segment, b, 0o600))
	out, status, said = ran(t, "verify", "--json", dir)
	require.Equal(t, exit.Open, status)
	require.Contains(t, said, "control/"+first+" is changed")
	var p audit.Proof
	require.NoError(t, json.Unmarshal([]byte(out), &p))
	require.Equal(t, audit.Changed, p.Findings[0].Problem)
	require.Equal(t, first, p.Findings[0].File)

	// Nothing is not what was written.
	empty, none := t.TempDir(), filepath.Join(t.TempDir(), "none.json")
	for _, node := range []string{"", "n1"} {
		require.NoError(t, os.MkdirAll(filepath.Join(empty, node), 0o700))
		_, status, said = ran(t, "verify", "--heads", none, "--key", "0123456789abcdef", empty)
		require.Equal(t, exit.Failed, status)
		require.Equal(t, "nothing is verified: no node has signed a log in "+empty+" yet", said)
		require.NoFileExists(t, none)
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, "n1"), 0o700))
	out, _, _ = ran(t, "verify", dir)
	require.Contains(t, out, "n1: nothing is signed yet\n")

	_, status, said = ran(t, "verify", filepath.Join(dir, "nowhere"))
	require.Equal(t, exit.Failed, status)
	require.Contains(t, said, "no such file")
	require.Equal(t, exit.Unproved, exit.Status(judge([]audit.Proof{{Unknown: []string{"x"}}})))
}

// TestHeadsOfGoodNodes: the heads of other nodes are renewed, although a finding stays.
func TestHeadsOfGoodNodes(t *testing.T) {
	t.Parallel()
	dir, heads := t.TempDir(), filepath.Join(t.TempDir(), "heads.json")
	written(t, dir, 1)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "bad"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bad", "00000000000000000001.jsonl"), []byte("x\n"), 0o600))
	chain := filepath.Join(dir, "control", "chain")
	segment := filepath.Join(dir, "control", "00000000000000000001.jsonl")
	earlier, err := os.ReadFile(chain)
	require.NoError(t, err)
	earlierEvents, err := os.ReadFile(segment)
	require.NoError(t, err)
	written(t, dir, 1)
	_, status, said := ran(t, "verify", "--heads", heads, dir)
	require.Equal(t, exit.Open, status)
	require.Contains(t, said, "bad/chain is missing (findings: 1)")
	require.NoError(t, os.WriteFile(chain, earlier, 0o600))
	require.NoError(t, os.WriteFile(segment, earlierEvents, 0o600))
	_, status, said = ran(t, "verify", "--heads", heads, dir)
	require.Equal(t, exit.Open, status)
	require.Contains(t, said, "(findings: 2)")
}

// hostileByte reports whether a terminal may act on the byte, or take it for a part of a character.
func hostileByte(c byte) bool { return c != '\n' && (c < ' ' || c >= 0x7f) }

// TestVerifyPrintsNothingHostile: the names of folders are the nodes' user's.
func TestVerifyPrintsNothingHostile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	written(t, dir, 1)
	hostile := filepath.Join(dir, "\x1b[2J\u009b\u202e\n")
	require.NoError(t, os.Mkdir(hostile, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(hostile, "00000000000000000001.jsonl"), nil, 0o600))
	for _, flag := range []string{"--json=false", "--json"} {
		out, status, said := ran(t, "verify", flag, dir)
		require.Equal(t, exit.Open, status)
		require.False(t, slices.ContainsFunc([]byte(out+said), hostileByte), "%q", out+said)
		require.Equal(t, 2, strings.Count(out, "\n"), "%q", out)
	}
}

// TestCSV: whatever an agent sent, a row has a field for each column, no terminal acts on one, and
// no spreadsheet computes one.
func TestCSV(t *testing.T) {
	t.Parallel()
	for _, hostile := range []string{
		"/\x1b[2J\u009b2J\u202egpj.exe\u2028\x07\x7f", "=1+1", "+1", "-1", "@SUM(A1)", "a,b\"c\r\nd", "\xff\xfe",
		"\t=1", "",
		strings.Repeat(`","`, 1<<15),
	} {
		e := audit.Event{
			Time: time.Unix(1, 0).UTC(), Node: "n1", Seq: 7, Agent: "a", Host: hostile, Path: hostile, Method: hostile,
			Verdict: audit.Deny, Detail: hostile, Status: 403, Rule: hostile,
		}
		var b bytes.Buffer
		show := csvPrinter(&b)
		require.NoError(t, show(e))
		require.NoError(t, show(e))
		require.False(t, slices.ContainsFunc(b.Bytes(), hostileByte), "%.200q", hostile)
		rows, err := csv.NewReader(&b).ReadAll()
		require.NoError(t, err)
		require.Len(t, rows, 3)
		require.Equal(t, columns, rows[0])
		require.Equal(t, "403", rows[1][8])
		for _, field := range rows[1] {
			require.False(t, field != "" && strings.Contains("=+-@\t\r", field[:1]), "%q", field)
		}
	}
}

// TestTimes: a filter that cannot select anything is an error, not an empty log.
func TestTimes(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	var f audit.Filter
	require.NoError(t, times(&f, "2h", "2026-11-23T09:00:00Z", now))
	require.Equal(t, now.Add(-2*time.Hour), f.Since)
	require.Equal(t, now.Add(-time.Hour), f.Until)
	require.EqualError(t, times(&f, "1h", "2h", now), "--since is not before --until")
	require.ErrorContains(t, times(&f, "", "yesterday", now), `--until "yesterday" is neither`)
	f.Verdict = "denied"
	require.ErrorContains(t, times(&f, "", "", now), `--verdict "denied" is not one of allow, deny, error, gap, change`)
}
