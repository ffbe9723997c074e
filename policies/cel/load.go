// Package cel has the operators' own guardrails: files of expressions in CEL over resources, or
// over the rules of the egress plan, each with tests. An expression is bounded in what it may
// compute.
package cel

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/policies/guardrail"
	"github.com/postern/postern/stacks/yaml"
)

// maxFile is more than any file of policies needs.
const maxFile = 1 << 20

// Set is the policies of a folder.
type Set struct {
	policies []*policy
	budget   *budget
}

type policy struct {
	rail    guardrail.Rail
	program cel.Program
	at      string
	tests   []test
}

// test is an example of a policy, with the verdict that it should have.
type test struct {
	at, name, verdict string
	resource, rule    map[string]any
}

// holds is the verdict of an example for which nothing is found.
const holds = "holds"

var id = plan.Matching(`^[A-Z][A-Z0-9]{1,15}-[0-9]{2,4}$`)

// Load reads the files *.yaml of a folder, of which each has to pass the check. Its error joins a
// [yaml.Problem] for every mistake of the first file that has one.
func Load(folder string, check func(path string) error) (*Set, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("find policies: %w", err)
	}
	s := &Set{budget: &budget{left: mostCost}}
	for _, e := range entries {
		path := filepath.Join(folder, e.Name())
		if filepath.Ext(path) != ".yaml" || slices.Contains(notPolicies, e.Name()) {
			continue
		}
		if err := check(path); err != nil {
			return nil, fmt.Errorf("read policies: %w", err)
		}
		data, err := hostpath.ReadFile(path, maxFile)
		if err != nil {
			return nil, fmt.Errorf("read policies: %w", err)
		}
		if err := s.read(path, data); err != nil {
			return nil, err
		}
	}
	if len(s.policies) == 0 {
		return nil, fmt.Errorf("there is no policy in %s: write one into a file there, such as own.yaml", folder)
	}
	return s, nil
}

// notPolicies are the files of a policy pack that say something else.
var notPolicies = []string{"PulumiPolicy.yaml", "guardrails.yaml"}

// Rails returns the policies as guardrails.
func (s *Set) Rails() []guardrail.Rail {
	var out []guardrail.Rail
	for _, p := range s.policies {
		out = append(out, p.rail)
	}
	return out
}

func (s *Set) read(path string, data []byte) error {
	problems := &yaml.Problems{File: path}
	root := yaml.Parse(data, problems)
	if root == nil {
		return problems.Err()
	}
	r := &yaml.Reader{Problems: problems, Dir: filepath.Dir(path)}
	if r.Mapping(root, "a file of policies", "policies") {
		list := root.Get("policies")
		if list == nil || list.Kind != yaml.KindList {
			r.At(root, "write policies: and a list", "there is no list of policies")
		} else {
			for _, item := range list.Items {
				s.policy(r, item)
			}
		}
	}
	return problems.Err()
}

func (s *Set) policy(r *yaml.Reader, n *yaml.Node) {
	if !r.Mapping(n, "a policy", "id", "severity", "types", "says", "fix", "expression", "tests") {
		return
	}
	given := func(t string) bool { return strings.TrimSpace(t) != "" && len(t) <= 500 }
	p := &policy{at: fmt.Sprintf("%s:%d:%d", r.File, n.Line, n.Col), rail: guardrail.Rail{
		ID:       r.Required(n, "a policy", "id", "write a name such as ACME-01", id),
		Severity: guardrail.Error,
		Says:     r.Required(n, "a policy", "says", "write what has to hold, in one sentence", given),
		Fix:      r.Required(n, "a policy", "fix", "write what to do if it does not hold", given),
	}}
	if m := n.Get("severity"); m != nil {
		p.rail.Severity = guardrail.Severity(r.OneOf(m, "severity", string(guardrail.Error), string(guardrail.Warning)))
	}
	if guardrail.Of(p.rail.ID, s.Rails()) != nil || p.rail.ID == guardrail.TypeRail ||
		p.rail.ID == guardrail.WaiverRail {
		r.At(n, "choose another", "there is a guardrail %s already", p.rail.ID)
	}
	if m := n.Get("types"); m != nil {
		const none = "remove the key for a policy about the rules of the egress plan"
		r.Texts(m, "types", none, func(item *yaml.Node, t string) {
			if n := strings.Count(t, ":"); n < 1 || n > 2 || strings.ContainsAny(t, " *") {
				r.At(item, "write package:module/type, such as aws:s3/bucketV2", "%q is not a type of resources", t)
			}
			p.rail.Types = append(p.rail.Types, t)
		})
	}
	subject := "rule"
	if p.rail.Types != nil {
		subject = "resource"
	}
	text := r.Required(n, "a policy", "expression", "write an expression in CEL over "+subject, func(t string) bool {
		return strings.TrimSpace(t) != "" && len(t) <= mostText
	})
	if m := n.Get("expression"); m != nil && text != "" {
		var err error
		if p.program, err = compile(subject, text); err != nil {
			r.At(m, "correct the expression", "%s", err)
		}
	}
	p.judge(s.budget)
	if m := n.Get("tests"); m != nil && m.Kind == yaml.KindList {
		for _, item := range m.Items {
			p.test(r, item, subject)
		}
	} else if m != nil {
		r.At(m, "write a list", "tests is %s, not a list", m.Describe())
	}
	s.policies = append(s.policies, p)
}

func (p *policy) test(r *yaml.Reader, n *yaml.Node, subject string) {
	if !r.Mapping(n, "a test", "name", "verdict", subject) {
		return
	}
	t := test{at: fmt.Sprintf("%s:%d:%d", r.File, n.Line, n.Col)}
	t.name = r.Required(n, "a test", "name", "say what it is about", func(t string) bool { return t != "" })
	t.verdict = holds
	if m := n.Get("verdict"); m == nil {
		r.At(n, "write verdict: holds, fails or indeterminate", "a test has no verdict")
	} else {
		t.verdict = r.OneOf(m, "verdict", holds, guardrail.Fails, guardrail.Indeterminate)
	}
	m := n.Get(subject)
	if m == nil || !r.Mapping(m, subject, keys(m)...) {
		r.At(n, "write one with the keys that the expression needs", "a test has no %s", subject)
		return
	}
	value, _ := plain(m).(map[string]any)
	if subject == "rule" {
		t.rule = value
	} else {
		t.resource = value
	}
	p.tests = append(p.tests, t)
}

func keys(n *yaml.Node) []string {
	var out []string
	for _, f := range n.Fields {
		out = append(out, f.Key.Text)
	}
	return out
}
