package explain

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/tests/golden"
)

// now is the moment of the explanations.
var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// TestExplanations has one archive for each case. Besides the stack file, requests.txt has a
// request a line: agent, method, URL, and NAME=VALUE for a query parameter or NAME: VALUE for a
// header, with "|" in between. Instead of a request, an agent alone asks for all its rules. What is
// said of each line has to come out.
func TestExplanations(t *testing.T) {
	t.Parallel()
	golden.Each(t, "testdata", []string{"explained.txt"}, func(t *testing.T, c *golden.Case) map[string]string {
		stack, err := stacks.Load(filepath.Join(c.Dir, "stack.yaml"))
		require.NoError(t, err)
		lines, err := os.ReadFile(filepath.Join(c.Dir, "requests.txt"))
		require.NoError(t, err)
		var out strings.Builder
		for line := range strings.Lines(string(lines)) {
			out.WriteString("> " + line)
			words := strings.Split(strings.TrimSpace(line), " | ")
			if len(words) == 1 {
				agent, err := Effective(stack, words[0], now)
				said(t, &out, agent, err)
				if err != nil {
					continue
				}
				for _, r := range agent.Rules {
					out.WriteString(r.ID + ": if " + Conditions(&r.Rule) + "; limits " + Limits(r.Limits) + "\n")
				}
				continue
			}
			var query, headers []string
			for _, word := range words[3:] {
				if strings.Contains(word, "=") {
					query = append(query, word)
				} else {
					headers = append(headers, word)
				}
			}
			r, err := ParseRequest(words[0], words[1], words[2], query, headers)
			if err != nil {
				said(t, &out, nil, err)
				continue
			}
			said(t, &out, Request(stack, r, now), nil)
		}
		return map[string]string{"explained.txt": strings.ReplaceAll(out.String(), c.Dir+"/", "")}
	})
}

// said writes v, or why there is none.
func said(t *testing.T, out *strings.Builder, v any, err error) {
	t.Helper()
	if err != nil {
		out.WriteString("error: " + err.Error() + "\n")
		return
	}
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	require.NoError(t, enc.Encode(v))
}

// TestKill: whatever the policy says, a killed agent's request is denied, and the way back is
// named.
func TestKill(t *testing.T) {
	t.Parallel()
	allowed := plan.Decision{Allow: true, Reason: "allowed"}
	by := plan.Decision{Allow: true, Reason: "allowed", Rule: "a/x"}
	denied := plan.Decision{Reason: "host_not_allowed", Rule: "a/default"}
	for _, c := range []struct {
		before Explanation
		policy string
	}{
		{Explanation{Decision: by, Source: "f.yaml:3"}, "allow it, by rule a/x (f.yaml:3)"},
		{Explanation{Decision: by}, "allow it, by rule a/x"},
		{Explanation{Decision: allowed}, "allow it"},
		{Explanation{Decision: denied, Source: "f.yaml:1", Then: []string{"x"}}, "deny it too: host_not_allowed"},
	} {
		e := c.before
		e.Kill("prod", "it's")
		require.Equal(t, Explanation{
			Decision: plan.Decision{Reason: "agent_killed"},
			Layer:    "the kill switch: every request and every open connection, whatever the policy says",
			Change: []string{
				`postern unkill --agent 'it'\''s' --file prod   # or --stack, if all were stopped; ` +
					`the policy alone would ` + c.policy,
			},
		}, e)
	}
}
