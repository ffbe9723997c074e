// Package iam decides whether policies of AWS may allow a request, in the documented order of
// evaluation: an explicit deny decides; otherwise every policy that limits must allow the request
// (boundary, session), and a policy of the identity or of the resource must grant it. Whatever is
// not known, such as the value of a condition's key, makes the answer [Unknown] and never a
// refusal.
package iam

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Answer says whether a request is allowed.
type Answer int

// The answers, in this order: what is unknown may be allowed.
const (
	Denied Answer = iota
	Unknown
	Allowed
)

// Request is what somebody asks AWS for.
type Request struct {
	// Principal is the ARN of a role.
	Principal string
	Action    string
	Resource  string
	// Keys are the values of condition keys, by their names in lower case. A key without values is
	// known to be absent; a key that is not here is not known.
	Keys map[string][]string
}

// Policies are all policies that count for a request. A nil boundary or session limits nothing.
type Policies struct {
	Identity, Resource []*Document
	Boundary, Session  *Document
	// More means that there are policies of the identity that nobody can read.
	More bool
}

// Document is a policy.
type Document struct{ statements []statement }

type statement struct {
	Effect       string
	Principal    any
	NotPrincipal any
	Action       texts
	NotAction    texts
	Resource     texts
	NotResource  texts
	Condition    map[string]map[string]texts
}

// texts is one text or a list.
type texts []string

// UnmarshalJSON implements json.Unmarshaler.
func (t *texts) UnmarshalJSON(b []byte) error {
	var one any
	if err := json.Unmarshal(b, &one); err != nil {
		return err
	}
	list, ok := one.([]any)
	if !ok {
		list = []any{one}
	}
	*t = texts{}
	for _, v := range list {
		switch v := v.(type) {
		case string:
			*t = append(*t, v)
		case bool, float64:
			*t = append(*t, fmt.Sprint(v))
		default:
			return fmt.Errorf("%v is not text", v)
		}
	}
	return nil
}

// Parse reads a policy. It refuses what it does not know.
func Parse(text string) (*Document, error) {
	var raw struct {
		Version   string
		ID        string `json:"Id"`
		Statement json.RawMessage
	}
	if err := decode([]byte(text), &raw); err != nil {
		return nil, err
	}
	d := &Document{}
	if one := (statement{}); len(raw.Statement) > 0 && raw.Statement[0] == '{' {
		if err := decode(raw.Statement, &withID{statement: &one}); err != nil {
			return nil, err
		}
		d.statements = []statement{one}
	} else {
		var list []json.RawMessage
		if err := decode(raw.Statement, &list); err != nil {
			return nil, err
		}
		for _, text := range list {
			var s statement
			if err := decode(text, &withID{statement: &s}); err != nil {
				return nil, err
			}
			d.statements = append(d.statements, s)
		}
	}
	for _, s := range d.statements {
		if s.Effect != "Allow" && s.Effect != "Deny" || len(s.Action)+len(s.NotAction) == 0 {
			return nil, fmt.Errorf("read the policy: a statement has the effect %q and %d actions", s.Effect,
				len(s.Action))
		}
	}
	return d, nil
}

// withID is a statement with its name, which means nothing.
type withID struct {
	Sid string
	*statement
}

func decode(text []byte, into any) error {
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("read the policy: %w", err)
	}
	return nil
}

// Decide returns whether the policies allow the request.
func (p *Policies) Decide(r *Request) Answer {
	all := slices.Concat(p.Identity, p.Resource)
	for _, limit := range []*Document{p.Boundary, p.Session} {
		if limit != nil {
			all = append(all, limit)
		}
	}
	denied := Denied // so far nothing denies
	for _, d := range all {
		denied = max(denied, d.matches(r, "Deny", slices.Contains(p.Resource, d)))
	}
	if denied == Allowed {
		return Denied
	}
	granted := Denied
	if p.More {
		granted = Unknown
	}
	for _, d := range p.Identity {
		granted = max(granted, d.matches(r, "Allow", false))
	}
	for _, d := range p.Resource {
		granted = max(granted, d.matches(r, "Allow", true))
	}
	for _, limit := range []*Document{p.Boundary, p.Session} {
		if limit != nil {
			granted = min(granted, limit.matches(r, "Allow", false))
		}
	}
	if denied == Unknown {
		granted = min(granted, Unknown)
	}
	return granted
}

// matches returns whether a statement with the effect matches the request: Allowed stands for yes.
func (d *Document) matches(r *Request, effect string, ofResource bool) Answer {
	most := Denied
	for i := range d.statements {
		s := &d.statements[i]
		if s.Effect != effect {
			continue
		}
		is := Allowed
		if ofResource {
			is = s.principal(r.Principal)
		}
		most = max(most, min(is, s.what(r), s.when(r.Keys)))
	}
	return most
}

// principal returns whether the statement is about the principal. An account that is allowed only
// delegates: the identity's own policies decide.
func (s *statement) principal(arn string) Answer {
	of := s.Principal
	if s.NotPrincipal != nil {
		return Unknown
	}
	if text, ok := of.(string); ok {
		of = map[string]any{"AWS": text}
	}
	kinds, _ := of.(map[string]any)
	encoded, err := json.Marshal(kinds["AWS"])
	var list texts
	if err != nil || kinds["AWS"] != nil && list.UnmarshalJSON(encoded) != nil {
		return Unknown
	}
	account, most := strings.Split(arn, ":"), Denied
	for _, p := range list {
		root := len(account) > 4 && (p == account[4] || strings.HasSuffix(p, ":"+account[4]+":root"))
		switch {
		case p == "*", p == arn:
			return Allowed
		case root && (s.Effect == "Deny" || strings.HasSuffix(arn, ":root")):
			return Allowed
		case !strings.Contains(p, ":iam::") && len(p) != 12:
			most = Unknown // a session of a role, or a unique ID, which may be the principal's
		}
	}
	return most
}

// what returns whether the statement is about the action and the resource.
func (s *statement) what(r *Request) Answer {
	action := any1(s.Action, func(p string) Answer { return like(strings.ToLower(p), strings.ToLower(r.Action)) })
	if len(s.NotAction) > 0 {
		action = Allowed - any1(s.NotAction, func(p string) Answer {
			return like(strings.ToLower(p), strings.ToLower(r.Action))
		})
	}
	resource := Allowed // a trust policy has none
	switch {
	case len(s.NotResource) > 0:
		resource = Allowed - any1(s.NotResource, func(p string) Answer { return like(p, r.Resource) })
	case len(s.Resource) > 0:
		resource = any1(s.Resource, func(p string) Answer { return like(p, r.Resource) })
	}
	return min(action, resource)
}

func any1(patterns []string, is func(string) Answer) Answer {
	most := Denied
	for _, p := range patterns {
		most = max(most, is(p))
	}
	return most
}

// like matches a pattern with * and ?. A variable in it stands for what nobody knows.
func like(pattern, text string) Answer {
	before, rest, ok := strings.Cut(pattern, "${")
	if !ok {
		if glob(pattern, text) {
			return Allowed
		}
		return Denied
	}
	if _, after, closed := strings.Cut(rest, "}"); closed && like(before+"*"+after, text) == Denied {
		return Denied
	}
	return Unknown
}

func glob(pattern, text string) bool {
	star, at := -1, 0
	p, t := 0, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, at = p, t
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == text[t]):
			p++
			t++
		case star >= 0:
			at++
			p, t = star+1, at
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// when returns whether all conditions hold.
func (s *statement) when(keys map[string][]string) Answer {
	least := Allowed
	for operator, tests := range s.Condition {
		for key, want := range tests {
			least = min(least, holds(operator, strings.ToLower(key), want, keys))
		}
	}
	return least
}

// holds evaluates one condition. Operators that are not here make it unknown.
func holds(operator, key string, want texts, keys map[string][]string) Answer {
	name, optional := strings.CutSuffix(operator, "IfExists")
	values, known := keys[key]
	if name == "Null" && known && len(want) == 1 {
		return yes((len(values) == 0) == (want[0] == "true"))
	}
	if !known || strings.Contains(name, ":") {
		return Unknown
	}
	negated := strings.Contains(name, "Not")
	if len(values) == 0 {
		return yes(optional || negated)
	}
	var is func(p, v string) Answer
	switch strings.Replace(name, "Not", "", 1) {
	case "StringEquals", "ArnEquals", "Bool":
		is = func(p, v string) Answer { return like(strings.NewReplacer("*", "\x00", "?", "\x00").Replace(p), v) }
	case "StringEqualsIgnoreCase":
		is = func(p, v string) Answer { return yes(strings.EqualFold(p, v)) }
	case "StringLike", "ArnLike":
		is = like
	default:
		return Unknown
	}
	if name == "ArnEquals" || name == "ArnNotEquals" {
		is = like // the same as ArnLike
	}
	most := Denied
	for _, v := range values {
		most = max(most, any1(want, func(p string) Answer { return is(p, v) }))
	}
	if negated {
		return Allowed - most
	}
	return most
}

func yes(is bool) Answer {
	if is {
		return Allowed
	}
	return Denied
}
