package stacks

import (
	"fmt"
	"slices"
	"strings"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks/yaml"
)

// Methods are the methods of HTTP and WebDAV, and QUERY.
var Methods = []string{
	"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "COPY", "LOCK", "MKCOL", "MOVE",
	"PROPFIND", "PROPPATCH", "REPORT", "SEARCH", "UNLOCK",
}

// ruleName matches the valid names of a rule within its destination.
var ruleName = plan.Matching(RuleNamePattern)

const RuleNamePattern = `^[a-z0-9][a-z0-9.-]{0,63}$`

// gitPrefix begins the names of the rules that git: compiles to.
const gitPrefix = "git-"

// ruleList reads rules: each with a name, which is part of its ID.
func (l *loader) ruleList(n *yaml.Node, what string, base plan.Rule) []namedRule {
	if n.Kind != yaml.KindList {
		l.At(n, "write a list of {name: ..., methods: [...], paths: [...]}", "rules is %s, not a list", n.Describe())
		return nil
	}
	if len(n.Items) == 0 {
		l.At(n, "remove the key to allow everything, or the destination to allow nothing", "rules is an empty list")
		return nil
	}
	var out []namedRule
	seen := map[string]*yaml.Node{}
	for _, item := range n.Items {
		r := namedRule{Rule: base, at: item}
		if !l.Mapping(item, "a rule of "+what, "name", "deny", "methods", "paths", "query", "headers", "expires", "reason", "owner") {
			continue
		}
		key := item.Get("name")
		if key == nil {
			l.At(item, "write name: and a word for it: it becomes part of the rule's ID", "a rule of %s has no name", what)
			continue
		}
		t, ok := l.Text(key, "name")
		switch {
		case !ok:
			continue
		case !ruleName(t):
			l.At(key, "write lower-case letters, digits, hyphens and dots", "%q cannot name a rule", t)
		case strings.HasPrefix(t, gitPrefix):
			l.At(key, "write another name", "names that begin with %s are reserved for the rules of git:", gitPrefix)
		case seen[t] != nil:
			l.At(key, "write another name", "%s has a rule %q already, in line %d", what, t, seen[t].Line)
		}
		seen[t] = key
		r.ID = "/" + t
		l.matcher(item, &r.Rule)
		l.people(item, &r.Rule)
		r.Expires = l.expires(item.Get("expires"))
		// A destination's end is the end of what it allows. A rule that denies ends only at its own
		// end, never before what it denies.
		if !r.Deny && base.Expires != "" && (r.Expires == "" || base.Expires < r.Expires) {
			r.Expires = base.Expires
		}
		out = append(out, r)
	}
	return out
}

// matcher reads which requests a rule is about, and whether it denies them.
func (l *loader) matcher(n *yaml.Node, r *plan.Rule) {
	if d := n.Get("deny"); d != nil {
		r.Deny = l.Boolean(d, "deny")
	}
	if m := n.Get("methods"); m != nil {
		r.Methods = l.methods(m)
	}
	if p := n.Get("paths"); p != nil {
		r.Paths = l.paths(p)
	}
	if q := n.Get("query"); q != nil {
		r.Query = l.conditions(q, "query", l.parameter)
	}
	if h := n.Get("headers"); h != nil {
		r.Headers = l.conditions(h, "headers", l.conditionHeader)
	}
}

func (l *loader) methods(n *yaml.Node) []string {
	var out []string
	l.Texts(n, "methods", "an empty list would allow nothing: remove the key to allow every method", func(item *yaml.Node, t string) {
		upper := strings.ToUpper(t)
		switch {
		case t == plan.AnyMethod || upper == "ALL" || upper == "ANY":
			l.At(item, "remove the key to allow every method", "%q is not a valid method", t)
		case upper == "CONNECT" || upper == "TRACE" || upper == "TRACK":
			l.At(item, "remove it", "method %s is never allowed", upper)
		case slices.Contains(Methods, t):
			out = append(out, t)
		case slices.Contains(Methods, upper):
			l.At(item, "write "+upper, "method %q is not in upper case", t)
		default:
			l.At(item, yaml.Nearest(upper, Methods), "method %q is unknown", t)
		}
	})
	slices.Sort(out)
	return out
}

func (l *loader) paths(n *yaml.Node) []string {
	var out []string
	l.Texts(n, "paths", "an empty list would allow nothing: remove the key to allow every path", func(item *yaml.Node, t string) {
		if !l.patterns[t] {
			if _, err := plan.ParsePath(t); err != nil {
				message, hint, _ := strings.Cut(err.Error(), "; ")
				l.At(item, hint, "%s", message)
				return
			}
			l.patterns[t] = true
		}
		out = append(out, t)
	})
	slices.Sort(out)
	return out
}

// MaxCondition bounds names and values of conditions, which become expressions.
const MaxCondition = 128

// conditions reads a mapping of names to values, or to "*" for any value.
func (l *loader) conditions(n *yaml.Node, what string, name func(*yaml.Node) string) []plan.Condition {
	if !l.Mapping(n, what) {
		return nil
	}
	if len(n.Fields) == 0 {
		l.At(n, "remove the key", "%s has no conditions", what)
	}
	var out []plan.Condition
	for _, f := range n.Fields {
		c := plan.Condition{Name: name(f.Key)}
		t, ok := l.Text(f.Value, fmt.Sprintf("the value of %q", f.Key.Text))
		switch {
		case !ok:
			continue
		case t == "*":
			c.Present = true
		case len(t) > MaxCondition || strings.ContainsFunc(t, func(r rune) bool { return r < ' ' || r > '~' }) || strings.TrimSpace(t) != t:
			l.At(f.Value, `write the value as it is after decoding, or "*" for any`, "the value of %q is longer than %d bytes, not printable ASCII, or has a space around it", f.Key.Text, MaxCondition)
		default:
			c.Value = t
		}
		if slices.ContainsFunc(out, func(o plan.Condition) bool { return o.Name == c.Name }) {
			l.At(f.Key, "remove one of them", "%q is in %s already", c.Name, what)
			continue
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b plan.Condition) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func (l *loader) parameter(n *yaml.Node) string {
	if n.Text == "" || len(n.Text) > MaxCondition || strings.ContainsFunc(n.Text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		l.At(n, "write its name as it is after decoding", "a query parameter's name is empty, longer than %d bytes, or not printable ASCII", MaxCondition)
	}
	return n.Text
}

// authentication are headers whose values are secrets, or which are taken off
// before anything is compared.
var authentication = []string{"authorization", "cookie", "x-api-key", "api-key", "x-goog-api-key"}

func (l *loader) conditionHeader(n *yaml.Node) string {
	h := strings.ToLower(n.Text)
	switch {
	case !token7230(h) || len(h) > MaxCondition:
		l.At(n, "write a name such as content-type", "%q is not a valid name of a header", n.Text)
	case slices.Contains(authentication, h):
		l.At(n, "remove it; credential: names the credential that is sent", "header %s authenticates: the agent may not send it, and its value does not belong in a policy", h)
	case slices.Contains(transport, h) && h != "upgrade" || hasPrefix(h, "proxy-", "x-postern-", "x-envoy-", "x-forwarded-"):
		l.At(n, "remove it", "header %s belongs to the connection or to the proxy", h)
	}
	return h
}

func (l *loader) gateway(n *yaml.Node) uint16 {
	port := uint16(l.Integer(n, "gateway", 1024, 65535))
	if port == sandboxPort {
		l.At(n, "write another port, such as 8080", "gateway %d is the port of the sandbox's own proxy", port)
	}
	return port
}
