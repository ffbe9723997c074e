package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Change is one difference between two plans, in words for a person.
type Change struct {
	// Kind is "+" for more access, "-" for less, "~" for anything else.
	Kind string `json:"kind"`
	// Agent is whose access changes, or "" for something that all share.
	Agent string `json:"agent,omitempty"`
	// Rule is the ID of the rule that is added, removed or changed, or "".
	Rule string `json:"rule,omitempty"`
	Text string `json:"text"`
}

// String is a line such as "+ demo may GET https://docs.test/v1/**".
func (c Change) String() string { return c.Kind + " " + c.Text }

// Diff says what a fleet that goes from old to new allows more, less or in
// another way: first what all agents share, then agent by agent, in the order
// of names. It is empty exactly if the plans are equal but for their stack's name.
func Diff(old, new *Plan) []Change {
	var out []Change
	if !slices.Equal(old.Resolvers, new.Resolvers) {
		out = append(out, Change{Kind: "~", Text: "resolvers: " + orNone(new.Resolvers) + ", was " + orNone(old.Resolvers)})
	}
	both(old.Credentials, new.Credentials, func(c *Credential) string { return c.Name }, func(was, is *Credential) {
		switch {
		case was == nil:
			out = append(out, Change{Kind: "+", Text: "credential " + is.describe()})
		case is == nil:
			out = append(out, Change{Kind: "-", Text: "credential " + was.describe()})
		case !reflect.DeepEqual(was, is):
			out = append(out, Change{Kind: "~", Text: "credential " + is.describe() + ", was " + was.describe()})
		}
	})
	both(old.Agents, new.Agents, func(a *Agent) string { return a.Name }, func(was, is *Agent) {
		out = append(out, diffAgent(was, is)...)
	})
	return out
}

func diffAgent(was, is *Agent) []Change {
	var out []Change
	var name string
	switch {
	case was == nil:
		name, was = is.Name, &Agent{}
		out = append(out, Change{Kind: "+", Agent: name, Text: "agent " + name})
	case is == nil:
		name, is = was.Name, &Agent{}
		out = append(out, Change{Kind: "-", Agent: name, Text: "agent " + name})
	default:
		name = is.Name
	}
	byID := func(a *Agent) []Rule {
		return slices.SortedFunc(slices.Values(a.Rules), func(a, b Rule) int { return strings.Compare(a.ID, b.ID) })
	}
	both(byID(was), byID(is), func(r *Rule) string { return r.ID }, func(a, b *Rule) {
		switch {
		case a == nil:
			out = append(out, Change{Kind: "+", Agent: name, Rule: b.ID, Text: name + " may " + b.describe()})
		case b == nil:
			out = append(out, Change{Kind: "-", Agent: name, Rule: a.ID, Text: name + " may " + a.describe()})
		case !same(a, b):
			out = append(out, Change{Kind: "~", Agent: name, Rule: b.ID, Text: name + " may " + b.describe() + ", was " + a.describe()})
		}
	})
	if order := kept(is, was); !slices.Equal(order, kept(was, is)) {
		out = append(out, Change{Kind: "~", Agent: name, Text: name + " asks its rules in another order: " + strings.Join(order, ", ")})
	}
	return out
}

// kept are the IDs of a's rules that b has too, in a's order.
func kept(a, b *Agent) []string {
	var ids []string
	for _, r := range a.Rules {
		if slices.ContainsFunc(b.Rules, func(other Rule) bool { return other.ID == r.ID }) {
			ids = append(ids, r.ID)
		}
	}
	return ids
}

// both walks two lists that are sorted by key, and pairs what has the same key.
func both[T any](old, new []T, key func(*T) string, visit func(was, is *T)) {
	for len(old) > 0 || len(new) > 0 {
		switch {
		case len(new) == 0 || len(old) > 0 && key(&old[0]) < key(&new[0]):
			visit(&old[0], nil)
			old = old[1:]
		case len(old) == 0 || key(&new[0]) < key(&old[0]):
			visit(nil, &new[0])
			new = new[1:]
		default:
			visit(&old[0], &new[0])
			old, new = old[1:], new[1:]
		}
	}
}

// same compares canonical forms, so that no field can be forgotten.
func same(a, b any) bool { return canonical(a) == canonical(b) }

func canonical(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // plans are pure data
	}
	return string(b)
}

// others are the fields of v that are set, but for those named, as "field value".
func others(v any, named ...string) []string {
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal([]byte(canonical(v)), &fields); err != nil {
		panic(err) // it was made above
	}
	var out []string
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		if !slices.Contains(named, key) {
			out = append(out, key+" "+string(fields[key]))
		}
	}
	return out
}

// describe is what follows "may": every field of the rule shows in it.
func (r *Rule) describe() string {
	var b strings.Builder
	if slices.Equal(r.Methods, []string{AnyMethod}) {
		b.WriteString("use any method at ")
	} else {
		b.WriteString(strings.Join(r.Methods, ",") + " ")
	}
	b.WriteString("https://" + r.Host)
	if r.Port != 443 {
		fmt.Fprintf(&b, ":%d", r.Port)
	}
	b.WriteString(strings.Join(r.Paths, ", "))
	var notes []string
	if r.Credential != "" {
		notes = append(notes, "credential "+r.Credential)
	}
	if r.Gateway != 0 {
		notes = append(notes, fmt.Sprintf("gateway http://localhost:%d", r.Gateway))
	}
	if r.Upstream != nil {
		at := "at " + r.Upstream.Address
		if r.Upstream.CA != "" {
			at += " with authority " + digest(r.Upstream.CA)
		}
		notes = append(notes, at)
	}
	notes = append(notes, others(r, "id", "host", "port", "methods", "paths", "credential", "gateway", "upstream")...)
	if len(notes) > 0 {
		b.WriteString(" (" + strings.Join(notes, ", ") + ")")
	}
	return b.String()
}

func (c *Credential) describe() string {
	value := c.Secret
	if c.Prefix != "" {
		value = fmt.Sprintf("%q + %s", c.Prefix, c.Secret)
	}
	if c.Header != "" {
		value = c.Header + " = " + value
	}
	notes := append([]string{c.Kind + " " + value}, others(c, "name", "kind", "header", "prefix", "secret")...)
	return c.Name + " (" + strings.Join(notes, ", ") + ")"
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:4])
}

func orNone(s []string) string {
	if len(s) == 0 {
		return "the machine's"
	}
	return strings.Join(s, ", ")
}
