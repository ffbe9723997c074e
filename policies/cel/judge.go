package cel

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/policies/guardrail"
	"github.com/postern/postern/stacks/yaml"
)

// What expressions may cost, in CEL's own units: about one for each value that is looked at.
const (
	// mostText bounds the text of an expression.
	mostText = 8 << 10
	// mostEach bounds one evaluation, and mostCost all of one check together: a minute or so.
	mostEach = 1_000_000
	mostCost = 200_000_000
	// mostUnknown bounds the unknown values of a resource that are told apart.
	mostUnknown = 1000
)

// budget is what the expressions of a check may still cost.
type budget struct{ left uint64 }

// compile returns the program of an expression over a subject, which is resource or rule.
func compile(subject, text string) (cel.Program, error) {
	env, err := cel.NewEnv(cel.Variable(subject, cel.MapType(cel.StringType, cel.DynType)))
	if err != nil {
		return nil, err
	}
	ast, issues := env.Compile(text)
	if issues.Err() != nil {
		return nil, errors.New(strings.TrimSpace(issues.Err().Error()))
	}
	if t := ast.OutputType(); !t.IsExactType(cel.BoolType) {
		return nil, fmt.Errorf("its value is %s, not true or false", t)
	}
	return env.Program(ast, cel.EvalOptions(cel.OptPartialEval, cel.OptTrackCost), cel.CostLimit(mostEach))
}

// judge makes the policy a guardrail.
func (p *policy) judge(b *budget) {
	if p.rail.Types != nil {
		p.rail.Judge = func(r *graph.Resource) (string, string) {
			inputs := r.Inputs
			if inputs == nil {
				inputs = map[string]any{}
			}
			return p.verdict(b, "resource", map[string]any{
				"urn": r.URN, "type": r.Type, "name": r.Name, "role": r.Role, "parent": r.Parent, "protect": r.Protect,
				"inputs": inputs,
			})
		}
		return
	}
	p.rail.Rule = func(_ *plan.Plan, r *plan.Rule) (string, string) { return p.verdict(b, "rule", ruleOf(r)) }
}

// ruleOf returns a rule as expressions have it: every key is there.
func ruleOf(r *plan.Rule) map[string]any {
	mode := "intercept"
	if r.Mode == plan.ModeTunnel {
		mode = "tunnel"
	}
	upstream := ""
	if r.Upstream != nil {
		upstream = r.Upstream.Address
	}
	return map[string]any{
		"id": r.ID, "agent": plan.AgentOf(r.ID), "host": r.Host, "port": int64(r.Port), "mode": mode,
		"methods": r.Methods, "paths": r.Paths, "writes": slices.ContainsFunc(r.Methods, plan.IsWrite),
		"credential": r.Credential, "own_credentials": r.OwnCredentials, "upstream": upstream, "expires": r.Expires,
		"reason": r.Reason, "owner": r.Owner, "limited": r.Limits != nil,
	}
}

// verdict evaluates the expression over a value. A value without an answer fails.
func (p *policy) verdict(b *budget, subject string, value map[string]any) (verdict, what string) {
	if p.program == nil { // it was not valid, and Load has said so
		return guardrail.Fails, "the expression is not valid"
	}
	if b.left == 0 {
		return guardrail.Fails, "the policies together compute too much: simplify them"
	}
	var unknown []*cel.AttributePatternType
	at := []any{}
	if !unknowns(value, subject, at, &unknown) {
		return guardrail.Indeterminate, fmt.Sprintf("more than %d values are not known yet", mostUnknown)
	}
	vars, err := cel.PartialVars(map[string]any{subject: value}, unknown...)
	if err != nil {
		return guardrail.Fails, "the expression has no value: " + err.Error()
	}
	out, details, err := p.program.Eval(vars)
	cost := uint64(mostEach)
	if details != nil && details.ActualCost() != nil {
		cost = *details.ActualCost()
	}
	b.left -= min(b.left, cost)
	switch {
	case err != nil:
		return guardrail.Fails, "the expression has no value: " + err.Error()
	case types.IsUnknown(out):
		return guardrail.Indeterminate, "a value that the expression needs is not known yet"
	case out == types.True:
		return "", ""
	}
	return guardrail.Fails, "this does not hold: " + p.rail.Says
}

// unknowns adds a pattern for every value within v that is not known, or is a secret. It returns
// false if there are too many.
func unknowns(v any, subject string, at []any, found *[]*cel.AttributePatternType) bool {
	switch x := v.(type) {
	case string:
		if x != graph.Unknown {
			return true
		}
	case []any:
		for i, item := range x {
			if !unknowns(item, subject, append(slices.Clip(at), int64(i)), found) {
				return false
			}
		}
		return true
	case map[string]any:
		if !graph.IsSecret(v) {
			for k, item := range x {
				if !unknowns(item, subject, append(slices.Clip(at), k), found) {
					return false
				}
			}
			return true
		}
	default:
		return true
	}
	pattern := cel.AttributePattern(subject)
	for _, q := range at {
		switch q := q.(type) {
		case string:
			pattern = pattern.QualString(q)
		case int64:
			pattern = pattern.QualInt(q)
		}
	}
	*found = append(*found, pattern)
	return len(*found) <= mostUnknown
}

// Result is what the test of a policy showed.
type Result struct {
	Policy, Test string
	// Problem is what is wrong, or "".
	Problem string
	At      string
}

// Test runs the tests of every policy. A policy needs one example that holds, and one that fails.
func (s *Set) Test() []Result {
	var out []Result
	for _, p := range s.policies {
		seen := map[string]bool{}
		for _, t := range p.tests {
			subject, value := "rule", t.rule
			if t.resource != nil {
				subject, value = "resource", t.resource
			}
			got, what := p.verdict(s.budget, subject, value)
			if got == "" {
				got = holds
			}
			seen[t.verdict] = true
			r := Result{Policy: p.rail.ID, Test: t.name, At: t.at}
			if got != t.verdict {
				r.Problem = fmt.Sprintf("it should be %q, and is %q: %s", t.verdict, got, what)
				r.Problem = strings.TrimSuffix(r.Problem, ": ")
			}
			out = append(out, r)
		}
		for _, verdict := range []string{holds, guardrail.Fails} {
			if !seen[verdict] {
				out = append(out, Result{
					Policy: p.rail.ID, Test: "an example of each verdict", At: p.at,
					Problem: "no test has verdict: " + verdict,
				})
			}
		}
	}
	return out
}

// unknownText stands for a value that is not known yet, in an example.
const unknownText = "<unknown>"

// plain returns what a file says, as a graph has it.
func plain(n *yaml.Node) any {
	switch n.Kind {
	case yaml.KindMap:
		m := map[string]any{}
		for _, f := range n.Fields {
			m[f.Key.Text] = plain(f.Value)
		}
		return m
	case yaml.KindList:
		list := []any{}
		for _, item := range n.Items {
			list = append(list, plain(item))
		}
		return list
	case yaml.KindText:
		if n.Text == unknownText {
			return graph.Unknown
		}
		return n.Text
	}
	if number, err := strconv.ParseFloat(n.Text, 64); err == nil {
		return number
	}
	if b, err := strconv.ParseBool(n.Text); err == nil {
		return b
	}
	return nil
}
