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
	// Kind is "+" for more access, "-" for less, and "~" for any other change.
	Kind string `json:"kind"`
	// Agent is the agent whose access changes, or "" for a change that all agents share.
	Agent string `json:"agent,omitempty"`
	// Rule is the ID of the rule that is added, removed or changed, or "".
	Rule string `json:"rule,omitempty"`
	Text string `json:"text"`
	// Risk says how much the change opens. Why gives the reason.
	Risk Risk   `json:"risk"`
	Why  string `json:"why"`
}

// String returns a line such as "+ demo may GET https://docs.test/v1/**".
func (c Change) String() string { return c.Kind + " " + c.Text }

// change returns a change of the agent of that name, with which the text begins, if it is not "".
func change(kind, name string, risk Risk, why, format string, args ...any) Change {
	return Change{Kind: kind, Agent: name, Text: name + fmt.Sprintf(format, args...), Risk: risk, Why: why}
}

// Diff returns what changes for agents when a fleet goes from old to new. The changes are sorted by
// risk, the highest first. Within one risk, changes that all agents share come first, then the
// agents' changes by name. New access is measured against everything that the agent was allowed,
// not against the rule of the same name. Diff is empty exactly if the plans are equal, apart from
// the name of their stack.
func Diff(old, new *Plan) (out []Change) {
	if !slices.Equal(old.Resolvers, new.Resolvers) {
		out = append(out, change("~", "", RiskMedium, "others say where allowed names are", "resolvers: %s, was %s",
			orNone(new.Resolvers), orNone(old.Resolvers)))
	}
	both(old.Credentials, new.Credentials, func(c *Credential) string { return c.Name }, func(was, is *Credential) {
		switch {
		case was == nil:
			out = append(out, Change{Kind: "+", Text: "credential " + is.describe(), Risk: RiskLow, Why: "see the rules that use it"})
		case is == nil:
			out = append(out, Change{Kind: "-", Text: "credential " + was.describe(), Risk: RiskLow, Why: "less access"})
		case !reflect.DeepEqual(was, is):
			out = append(out, change("~", "", RiskMedium, "something else is sent, wherever it is used",
				"credential %s, was %s", is.describe(), was.describe()))
		}
	})
	both(old.Agents, new.Agents, func(a *Agent) string { return a.Name }, func(was, is *Agent) {
		out = append(out, diffAgent(was, is)...)
	})
	slices.SortStableFunc(out, func(a, b Change) int { return slices.Index(risks, a.Risk) - slices.Index(risks, b.Risk) })
	return out
}

func diffAgent(was, is *Agent) (out []Change) {
	var name string
	switch {
	case was == nil:
		name, was = is.Name, &Agent{}
		out = append(out, Change{Kind: "+", Agent: name, Text: "agent " + name, Risk: RiskLow, Why: "see its rules"})
		out = slices.Concat(out, diffWorkspace(name, was, is), diffHome(name, was, is), diffRuntime(name, was, is))
	case is == nil:
		name, is = was.Name, &Agent{}
		out = append(out, Change{Kind: "-", Agent: name, Text: "agent " + name, Risk: RiskLow, Why: "less access"})
	default:
		name = is.Name
		if was.Port != is.Port {
			out = append(out, change("~", name, RiskMedium, "whoever can connect to it is the agent",
				" has port %d of the nodes, was %d", is.Port, was.Port))
		}
		out = slices.Concat(out, diffWorkspace(name, was, is), diffHome(name, was, is), diffRuntime(name, was, is))
		if EqualRules(was.Rules, is.Rules) { // as almost all agents' are
			return out
		}
	}
	sorted := func(a *Agent) []Rule {
		return slices.SortedFunc(slices.Values(a.Rules), func(a, b Rule) int { return strings.Compare(a.ID, b.ID) })
	}
	taken := takeovers(was, is)
	assess := func(a, b *Rule, id string) assessment {
		out := diffRule(a, b, was, is)
		if t := taken[id]; t != nil {
			for _, why := range t.why {
				out.add(t.risk, "%s", why)
			}
		}
		return out
	}
	both(sorted(was), sorted(is), func(r *Rule) string { return r.ID }, func(a, b *Rule) {
		switch {
		case a == nil:
			out = append(out, assess(a, b, b.ID).on(Change{Kind: sign(b.Deny), Agent: name, Rule: b.ID, Text: name + b.may() + b.describe()}))
		case b == nil:
			out = append(out, assess(a, b, a.ID).on(Change{Kind: sign(!a.Deny), Agent: name, Rule: a.ID, Text: name + a.may() + a.describe()}))
		case !a.Equal(b):
			out = append(out, assess(a, b, b.ID).on(Change{Kind: "~", Agent: name, Rule: b.ID, Text: name + b.may() + b.becomes(a)}))
		}
	})
	if order := kept(is, was); !slices.Equal(order, kept(was, is)) {
		out = append(out, change("~", name, RiskMedium, "of the rules that match, the first says which credential is sent",
			" asks its rules in another order: %s", strings.Join(order, ", ")))
	}
	return out
}

// sign returns "-" if the rule's coming or going allows its agent less, and otherwise "+".
func sign(less bool) string {
	if less {
		return "-"
	}
	return "+"
}

// diffRule assesses one rule that comes (a is nil), goes (b is nil) or changes.
func diffRule(a, b *Rule, was, is *Agent) assessment {
	var out assessment
	if a != nil && a.Deny {
		out = loses(a, is)
	} else if a != nil && (b == nil || b.Deny || b.Host != a.Host || b.Port != a.Port || !b.includesAll(a)) {
		out = uncovers(a, was, is)
	}
	if b != nil && !b.Deny {
		g := gains(b, was)
		for _, why := range g.why {
			out.add(g.risk, "%s", why)
		}
	}
	return out
}

// kept returns the IDs of a's rules that b also has, in a's order.
func kept(a, b *Agent) []string {
	there := make(map[string]bool, len(b.Rules))
	for i := range b.Rules {
		there[b.Rules[i].ID] = true
	}
	var ids []string
	for i := range a.Rules {
		if id := a.Rules[i].ID; there[id] {
			ids = append(ids, id)
		}
	}
	return ids
}

// both walks two lists that are sorted by key, and pairs the elements with equal keys.
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

func canonical(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // plans are pure data
	}
	return string(b)
}

// others returns the fields of v that are set, except the named ones, as "field value".
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

func (r *Rule) may() string {
	if r.Deny {
		return " may never "
	}
	return " may "
}

// What describes what a rule covers, such as "GET,HEAD https://docs.test/v1/**", without its
// conditions.
func (r *Rule) What() string {
	var b strings.Builder
	switch {
	case r.Mode == ModeTunnel:
		b.WriteString("tunnel to ")
	case slices.Equal(r.Methods, []string{AnyMethod}):
		b.WriteString("use any method at ")
	default:
		b.WriteString(strings.Join(r.Methods, ",") + " ")
	}
	b.WriteString("https://" + r.Host)
	if r.Port != 443 {
		fmt.Fprintf(&b, ":%d", r.Port)
	}
	b.WriteString(strings.Join(r.Paths, ", "))
	return b.String()
}

// describe says what the agent may do. Every field of the rule shows in it.
func (r *Rule) describe() string { return r.What() + inBrackets(r.notes()) }

// becomes describes a rule that was another one: what both are is not repeated.
func (r *Rule) becomes(was *Rule) string {
	notes, old := r.notes(), was.notes()
	differ := func(notes, others []string) []string {
		return slices.DeleteFunc(slices.Clone(notes), func(n string) bool { return slices.Contains(others, n) })
	}
	before := ""
	if was.What() != r.What() || was.Deny != r.Deny {
		before = strings.TrimPrefix(was.may(), " may ") + was.What()
	}
	before = strings.TrimSpace(before + inBrackets(differ(old, notes)))
	if before == "" {
		before = "without"
	}
	return r.What() + inBrackets(differ(notes, old)) + ", was " + before
}

func inBrackets(notes []string) string {
	if len(notes) == 0 {
		return ""
	}
	return " (" + strings.Join(notes, ", ") + ")"
}

// notes returns what a rule says in addition to What.
func (r *Rule) notes() []string {
	var notes []string
	for _, c := range r.Query {
		notes = append(notes, "with ?"+c.String())
	}
	for _, c := range r.Headers {
		notes = append(notes, "with header "+c.String())
	}
	if r.Expires != "" {
		notes = append(notes, "until "+r.Expires)
	}
	if r.Credential != "" {
		notes = append(notes, "credential "+r.Credential)
	}
	if r.Gateway != 0 {
		notes = append(notes, fmt.Sprintf("gateway http://localhost:%d", r.Gateway))
	}
	if r.Upstream != nil {
		notes = append(notes, r.Upstream.describe())
	}
	if r.OwnCredentials {
		notes = append(notes, "its own credentials pass")
	}
	return append(notes, others(r, "id", "deny", "host", "port", "mode", "methods", "paths", "query", "headers", "credential", "own_credentials", "gateway", "upstream", "expires")...)
}

// describe says where a destination is, or who vouches for it.
func (u *Upstream) describe() string {
	var words []string
	if u.Address != "" {
		words = append(words, "at "+u.Address)
	}
	if u.CA != "" {
		words = append(words, "with authority "+digest(u.CA))
	}
	if u.Plain {
		words = append(words, "over plain HTTP")
	}
	return strings.Join(words, " ")
}

// String returns "name=value", or only the name if any value matches.
func (c Condition) String() string {
	if c.Present {
		return c.Name
	}
	return c.Name + "=" + c.Value
}

func (c *Credential) describe() string {
	value := c.Secret
	if c.Prefix != "" {
		value = fmt.Sprintf("%q + %s", c.Prefix, c.Secret)
	}
	if header := c.Slot().Header; header != "" {
		value = header + " = " + value
	}
	notes := append([]string{string(c.Kind) + " " + value}, others(c, "name", "kind", "header", "prefix", "secret")...)
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
