package tests

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/accesslog"
	"github.com/postern/postern/node"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
	"github.com/postern/postern/tests/golden"
)

// current compares a generated document with the one in docs/, or writes it.
func current(t *testing.T, name, want string) {
	t.Helper()
	path := filepath.Join("..", "docs", name)
	if *golden.Update {
		require.NoError(t, os.WriteFile(path, []byte(want), 0o600))
		return
	}
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	if string(got) != want {
		t.Errorf("%s is not current: run `go test ./tests -run TestReference -update`", path)
	}
}

// family is the head of one metric in the Prometheus text format, with a line of it.
var family = regexp.MustCompile(`(?m)^# HELP (\S+) (.*)\n# TYPE \S+ (\S+)\n(\S+)`)

// TestReferenceOfMetrics: docs/reference-metrics.md is what a running fleet serves.
func TestReferenceOfMetrics(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := f.NewUpstream("one.test")
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{{
		ID: "a/one", Host: "one.test", Port: 443, Methods: []string{plan.AnyMethod}, Paths: []string{plan.AnyPath}, Upstream: up.Pin(),
	}}}}})
	require.Equal(t, http.StatusOK, f.Get("n1", "a", "https://one.test/"))
	f.Events(1)
	page := func(h http.Handler) string {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
		return w.Body.String()
	}
	var b strings.Builder
	b.WriteString("# Metrics\n\nGenerated from the metrics of a running fleet: `go test ./tests -run TestReference -update`. [Operations](operations.md) says where they are served.\n" +
		"No label has a value that an agent can make up. No metric has hosts or paths.\n")
	table := func(title, text string) {
		fmt.Fprintf(&b, "\n## %s\n\n| metric | type | labels | what it says |\n|---|---|---|---|\n", title)
		label := regexp.MustCompile(`[{,]([a-z_]+)=`)
		for _, m := range family.FindAllStringSubmatch(text, -1) {
			var labels []string
			for _, l := range label.FindAllStringSubmatch(m[4], -1) {
				if l[1] != "le" && !strings.HasPrefix(m[1], "envoy_") {
					labels = append(labels, "`"+l[1]+"`")
				}
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m[1], m[3], strings.Join(labels, ", "), m[2])
		}
	}
	table("The control plane", page(f.Observability))
	all := page(f.Monitors["n1"].Handler())
	var ours []string
	for _, block := range strings.Split("\n"+all, "\n# HELP ")[1:] {
		if strings.HasPrefix(block, "postern_") {
			ours = append(ours, "# HELP "+block)
		}
	}
	table("A node", strings.Join(ours, "\n"))
	b.WriteString("\n## Envoy's own, at a node\n\nEnvoy has about a thousand metrics. A node passes on these, and nothing else of Envoy's admin interface.\n\n| metric | what it says |\n|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(node.EnvoyFamilies)) {
		require.Contains(t, all, "# TYPE "+name+" ")
		fmt.Fprintf(&b, "| `%s` | %s |\n", name, node.EnvoyFamilies[name])
	}
	current(t, "reference-metrics.md", b.String())
}

// TestReferenceOfReasons: docs/reference-reasons.md is what events and answers are made of.
func TestReferenceOfReasons(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("# Reasons\n\nGenerated from package accesslog: `go test ./tests -run TestReference -update`.\n\n" +
		"Each event of the [audit log](audit.md) has a reason. So has each answer of Envoy itself: see [what\n" +
		"the client sees](policy.md#what-the-client-sees). HOST and AGENT stand for the request's host\n" +
		"and agent.\n\n" +
		"| reason | verdict | status | what it means | what can be done | Envoy's own words |\n|---|---|---|---|---|---|\n")
	for _, reason := range plan.Reasons {
		verdicts, statuses, details := map[string]bool{}, map[string]bool{}, []string{}
		add := func(verdict string, a accesslog.Answer) {
			verdicts[verdict] = true
			for _, d := range a.Details {
				details = append(details, "`"+d+"`")
			}
			switch {
			case a.Status != 0:
				statuses[fmt.Sprint(a.Status)] = true
			case verdict == accesslog.Deny && reason == plan.ReasonMalformed:
				statuses["400 and above"] = true
			case reason == plan.ReasonUpstream:
				statuses["408, 502, 503, 504, 507"] = true
			case reason == plan.ReasonUnknown:
				statuses["any"] = true
			}
		}
		for _, a := range accesslog.Answers {
			if a.Reason == reason {
				add(a.Verdict, a)
			}
			if a.Sent == reason {
				add(accesslog.Allow, a)
			}
		}
		switch {
		case reason == plan.ReasonUnknown:
			add(accesslog.Error, accesslog.Unknown)
		case reason == plan.ReasonTLS:
			add(accesslog.Deny, accesslog.Answer{})
		case len(verdicts) == 0:
			add(accesslog.Deny, *accesslog.AnswerTo("direct_response")) // the policy's own
		}
		said := accesslog.Advice[reason]
		require.NotEmpty(t, said.Means, reason)
		slices.Sort(details)
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s |\n", reason, joined(verdicts), joined(statuses), said.Means, said.Hint, strings.Join(slices.Compact(details), ", "))
	}
	current(t, "reference-reasons.md", b.String())
}

func joined(set map[string]bool) string { return strings.Join(slices.Sorted(maps.Keys(set)), ", ") }

// TestReferenceOfCommands: docs/reference-cli.md is what the programs say of themselves.
func TestReferenceOfCommands(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fleet.Put(t, dir, "postern", "posternd")
	var b strings.Builder
	b.WriteString("# Commands\n\nGenerated from the help of the programs: `go test ./tests -run TestReference -update`.\n" +
		"Exit status: 0 done, 1 failed, 2 the command line is not valid. `postern` has more, see below.\n")
	listed := regexp.MustCompile(`(?m)^  ([a-z]+) {2,}\S`)
	var describe func(level string, command ...string)
	describe = func(level string, command ...string) {
		cmd := exec.CommandContext(t.Context(), filepath.Join(dir, command[0]), append(slices.Clone(command[1:]), "--help")...)
		cmd.Env = []string{"HOME=/home/you", "PATH=" + os.Getenv("PATH")}
		help, err := cmd.Output()
		require.NoError(t, err)
		text := strings.TrimRight(string(help), "\n")
		fmt.Fprintf(&b, "\n%s %s\n\n```text\n%s\n```\n", level, strings.Join(command, " "), text)
		_, commands, ok := strings.Cut(text, "Available Commands:\n")
		if !ok {
			return
		}
		commands, _, _ = strings.Cut(commands, "\n\n")
		for _, m := range listed.FindAllStringSubmatch(commands, -1) {
			if m[1] != "completion" && m[1] != "help" {
				describe("#"+level, append(slices.Clone(command), m[1])...)
			}
		}
	}
	describe("##", "postern")
	describe("##", "posternd")
	current(t, "reference-cli.md", b.String())
}
