package guardrail

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/postern/postern/graph"
)

// statement is a statement of a policy document of IAM.
type statement struct {
	Effect                         string
	Principal, NotPrincipal        any
	Action, NotAction              any
	Resource, NotResource          any
	Condition                      map[string]map[string]any
	principals, actions, resources []string
}

// statements returns what a policy document says. Where IDs are not known yet, the document has
// made up ones. It reports a document that is not known or not valid.
func (c *checker) statements(r *graph.Resource, property string) []statement {
	return c.document(r, property, r.Value(property))
}

// document returns what the policy document v, in the property, says.
func (c *checker) document(r *graph.Resource, property string, v any) []statement {
	if v == nil || v == "" {
		return nil
	}
	text, ok := v.(string)
	if !ok || text == graph.Unknown {
		c.unknown(r, property)
		return nil
	}
	var doc struct{ Statement json.RawMessage }
	var out []statement
	err := json.Unmarshal([]byte(text), &doc)
	if err == nil && json.Unmarshal(doc.Statement, &out) != nil {
		out = make([]statement, 1) // AWS takes one without a list
		err = json.Unmarshal(doc.Statement, &out[0])
	}
	if err != nil {
		c.add(r, Indeterminate, property, "it is not a valid policy document")
		return nil
	}
	for i := range out {
		s := &out[i]
		s.actions, s.resources = textsOf(s.Action), textsOf(s.Resource)
		s.principals = textsOf(s.Principal)
		if m, ok := s.Principal.(map[string]any); ok {
			s.principals = nil
			for _, kind := range sortedKeys(m) {
				s.principals = append(s.principals, textsOf(m[kind])...)
			}
		}
	}
	return out
}

// textsOf is a list, or a single item without one.
func textsOf(v any) []string {
	items, ok := v.([]any)
	if !ok && v != nil {
		items = []any{v}
	}
	var out []string
	for _, item := range items {
		out = append(out, textOf(item))
	}
	return out
}

func (s *statement) allows() bool { return s.Effect == "Allow" }

// anybody reports whether everybody is meant.
func (s *statement) anybody() bool {
	return s.NotPrincipal != nil || slices.Contains(s.principals, "*")
}

// requires reports whether a condition with that operator is on one of the keys.
func (s *statement) requires(operators []string, keys ...string) bool {
	for _, op := range operators {
		for key := range s.Condition[op] {
			if slices.Contains(keys, strings.ToLower(key)) {
				return true
			}
		}
	}
	return false
}

// whom are the keys by which a condition says who asks, or from where.
var whom = []string{
	"aws:principalaccount", "aws:principalorgid", "aws:principalorgpaths", "aws:principalarn", "aws:sourceaccount",
	"aws:sourcearn", "aws:sourceorgid", "aws:sourceorgpaths", "aws:sourcevpc", "aws:sourcevpce", "aws:sourceip",
	"aws:vpcsourceip", "aws:userid", "kms:calleraccount", "s3:dataaccesspointaccount",
}

// limits reports whether a condition with that operator has one of the keys, and values that are
// not for everybody.
func (s *statement) limits(operators []string, keys ...string) bool {
	for _, op := range operators {
		for key, v := range s.Condition[op] {
			if slices.Contains(keys, strings.ToLower(key)) && !slices.ContainsFunc(textsOf(v), func(text string) bool {
				return strings.Trim(text, "*?:") == "" || strings.Contains(text, "${") || strings.HasSuffix(text, "/0")
			}) {
				return true
			}
		}
	}
	return false
}

// does reports whether the statement is about an action, such as iam:PassRole.
func (s *statement) does(action string) bool {
	if s.NotAction != nil {
		return !slices.ContainsFunc(textsOf(s.NotAction), func(p string) bool { return matches(p, action) })
	}
	return slices.ContainsFunc(s.actions, func(p string) bool { return matches(p, action) })
}

// matches reports whether a pattern of IAM, with * and ?, matches the text in any letter case.
func matches(pattern, text string) bool {
	p, t := strings.ToLower(pattern), strings.ToLower(text)
	// The place behind the last * of the pattern, and the part of the text that the * has taken.
	i, j, star, taken := 0, 0, -1, 0
	for j < len(t) {
		switch {
		case i < len(p) && p[i] == '*':
			star, taken = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == t[j]):
			i++
			j++
		case star >= 0:
			taken++
			i, j = star+1, taken
		default:
			return false
		}
	}
	return strings.Trim(p[i:], "*") == ""
}

// everything reports whether a list of resources has one that is every resource.
func everything(resources []string) bool {
	return slices.ContainsFunc(resources, func(r string) bool {
		parts := strings.SplitN(r, ":", 6)
		if len(parts) < 6 {
			return strings.HasSuffix(r, "*")
		}
		name := strings.TrimRight(parts[5], "*?")
		return name == "" || parts[2] == "iam" && (name == "role/" || name == "user/")
	})
}
