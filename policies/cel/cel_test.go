package cel_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/policies/cel"
	"github.com/postern/postern/policies/guardrail"
)

func load(t *testing.T, text string) (*cel.Set, error) {
	t.Helper()
	folder := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(folder, "own.yaml"), []byte(text), 0o600))
	set, err := cel.Load(folder, func(string) error { return nil })
	if err != nil {
		return nil, &shortened{err, folder}
	}
	return set, nil
}

// shortened is an error without the folder of a test.
type shortened struct {
	error
	folder string
}

func (e *shortened) Error() string { return strings.ReplaceAll(e.error.Error(), e.folder+"/", "") }

const own = `policies:
  - id: ACME-01
    types: [aws:s3/bucketV2]
    says: Buckets say who answers for them.
    fix: add the tag owner
    expression: has(resource.inputs.tags) && has(resource.inputs.tags.owner)
    tests:
      - {name: tagged, verdict: holds, resource: {inputs: {tags: {owner: ops}}}}
      - {name: not tagged, verdict: fails, resource: {inputs: {}}}
      - {name: not known, verdict: indeterminate, resource: {inputs: {tags: "<unknown>"}}}
  - id: ACME-02
    severity: warning
    says: Whoever writes has a limit.
    fix: add limits
    expression: "!rule.writes || rule.limited"
    tests:
      - {name: reads, verdict: holds, rule: {writes: false, limited: false}}
      - {name: writes, verdict: fails, rule: {writes: true, limited: false}}
`

func TestOwnPolicies(t *testing.T) {
	t.Parallel()
	set, err := load(t, own)
	require.NoError(t, err)
	for _, r := range set.Test() {
		require.Empty(t, r.Problem, r.Test)
	}
	bucket := func(name string, inputs map[string]any) graph.Resource {
		const token = "aws:s3/bucketV2:BucketV2"
		return graph.Resource{
			URN: "urn:pulumi:prod::web::" + token + "::" + name, Type: token, Name: name, Custom: true, Inputs: inputs,
		}
	}
	g := &graph.Graph{Stack: "prod", Resources: []graph.Resource{
		bucket("a", map[string]any{"tags": map[string]any{"owner": "ops"}}), bucket("b", map[string]any{}),
		bucket("c", map[string]any{"tags": graph.Unknown}),
		bucket("d", map[string]any{"tags": map[string]any{"other": graph.Unknown, "owner": "ops"}}),
		bucket("e", map[string]any{"tags": map[string]any{graph.SecretKey: graph.SecretMark}}),
	}}
	require.NoError(t, g.Complete())
	report := guardrail.Check(g, guardrail.Options{Production: true, More: set.Rails(), Plan: &plan.Plan{
		Agents: []plan.Agent{{Name: "coder", Rules: []plan.Rule{
			{ID: "coder/read", Host: "a.test", Methods: []string{"GET"}},
			{ID: "coder/write", Host: "b.test", Methods: []string{"POST"}},
			{ID: "coder/never", Host: "c.test", Methods: []string{"POST"}, Deny: true},
		}}},
	}})
	var got []string
	for _, f := range report.Findings {
		if strings.HasPrefix(f.Rail, "ACME-") {
			got = append(got, strings.Join([]string{f.Rail, f.Name, f.Verdict, string(f.Severity)}, " "))
		}
	}
	require.Equal(t, []string{
		// What is known of a mapping of which something is not known does not count.
		"ACME-01 b fails error", "ACME-01 c indeterminate error", "ACME-01 d indeterminate error",
		"ACME-01 e indeterminate error", "ACME-02 coder/write fails warning",
	}, got)
}

// An expression cannot hold up an `up`, whatever it computes.
func TestExpressionsAreBounded(t *testing.T) {
	t.Parallel()
	const list = "[1,2,3,4,5,6,7,8,9,10]"
	deep := "true"
	for _, v := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"} {
		deep = list + ".all(" + v + ", " + deep + ")"
	}
	set, err := load(t, `policies:
  - id: ACME-01
    types: [aws:s3/bucketV2]
    says: Nothing.
    fix: nothing
    expression: "`+deep+`"
`)
	require.NoError(t, err)
	verdict, what := set.Rails()[0].Judge(&graph.Resource{})
	require.Equal(t, guardrail.Fails, verdict)
	require.Contains(t, what, "cost limit exceeded")
}

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	policy := func(more string) string {
		return "policies:\n  - {id: ACME-01, says: a, fix: b, " + more + "}\n"
	}
	for name, c := range map[string]struct{ text, want string }{
		"no list":       {"policies: 1\n", "own.yaml:1:1: there is no list of policies"},
		"not CEL":       {policy(`expression: "rule.host =="`), "own.yaml:2:48: ERROR"},
		"no truth":      {policy(`expression: "1 + 1"`), "its value is int, not true or false"},
		"no expression": {policy(`severity: error`), "a policy has no expression"},
		"another name":  {policy(`expression: "resource.name == 'a'"`), "undeclared reference to 'resource'"},
		"another key":   {policy(`expression: "true", when: now`), "when"},
		"ours": {
			"policies:\n  - {id: NET-05, says: a, fix: b, expression: \"true\"}\n",
			"there is a guardrail NET-05 already",
		},
		"not a type": {policy(`expression: "true", types: ["aws:*"]`), `"aws:*" is not a type of resources`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := load(t, c.text)
			require.ErrorContains(t, err, c.want)
		})
	}
	anything := func(string) error { return nil }
	_, err := cel.Load(filepath.Join(t.TempDir(), "none"), anything)
	require.ErrorContains(t, err, "no such file or directory")
	_, err = cel.Load(t.TempDir(), anything)
	require.ErrorContains(t, err, "there is no policy in")

	// Neither the name of the folder nor a link in it leaves out a policy.
	folder := filepath.Join(t.TempDir(), "[a]*")
	require.NoError(t, os.Mkdir(folder, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "own.yaml"), []byte(own), 0o600))
	set, err := cel.Load(folder, anything)
	require.NoError(t, err)
	require.Len(t, set.Rails(), 2)
	_, err = cel.Load(folder, func(path string) error {
		return fmt.Errorf("an agent may write %s", filepath.Base(path))
	})
	require.ErrorContains(t, err, "an agent may write own.yaml")
}

// A policy that nothing has tried may say anything.
func TestPoliciesNeedTests(t *testing.T) {
	t.Parallel()
	set, err := load(t, strings.Replace(own, "verdict: fails, resource", "verdict: holds, resource", 1))
	require.NoError(t, err)
	var problems []string
	for _, r := range set.Test() {
		if r.Problem != "" {
			problems = append(problems, r.Policy+" "+r.Test+": "+r.Problem)
		}
	}
	require.Equal(t, []string{
		`ACME-01 not tagged: it should be "holds", and is "fails": this does not hold: ` +
			"Buckets say who answers for them.",
		"ACME-01 an example of each verdict: no test has verdict: fails",
	}, problems)
}
