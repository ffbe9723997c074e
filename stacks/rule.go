package stacks

import (
	"fmt"
	"slices"
	"strings"

	"github.com/postern/postern/plan"
)

// methods are the methods of HTTP and WebDAV, and QUERY.
var methods = []string{
	"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "COPY", "LOCK", "MKCOL", "MOVE",
	"PROPFIND", "PROPPATCH", "REPORT", "SEARCH", "UNLOCK",
}

// ruleName matches the valid names of a rule within its destination.
var ruleName = plan.Matching(`^[a-z0-9][a-z0-9.-]{0,63}$`)

// gitPrefix begins the names of the rules that git: compiles to.
const gitPrefix = "git-"

// ruleList reads rules: each with a name, which is part of its ID.
func (l *loader) ruleList(n *node, what string, base plan.Rule) []namedRule {
	if n.kind != kindList {
		l.at(n, "write a list of {name: ..., methods: [...], paths: [...]}", "rules is %s, not a list", n.describe())
		return nil
	}
	if len(n.items) == 0 {
		l.at(n, "remove the key to allow everything, or the destination to allow nothing", "rules is an empty list")
		return nil
	}
	var out []namedRule
	seen := map[string]*node{}
	for _, item := range n.items {
		r := namedRule{Rule: base, at: item}
		if !l.mapping(item, "a rule of "+what, "name", "deny", "methods", "paths", "query", "headers", "expires", "reason", "owner") {
			continue
		}
		key := item.get("name")
		if key == nil {
			l.at(item, "write name: and a word for it: it becomes part of the rule's ID", "a rule of %s has no name", what)
			continue
		}
		t, ok := l.text(key, "name")
		switch {
		case !ok:
			continue
		case !ruleName(t):
			l.at(key, "write lower-case letters, digits, hyphens and dots", "%q cannot name a rule", t)
		case strings.HasPrefix(t, gitPrefix):
			l.at(key, "write another name", "names that begin with %s are reserved for the rules of git:", gitPrefix)
		case seen[t] != nil:
			l.at(key, "write another name", "%s has a rule %q already, in line %d", what, t, seen[t].line)
		}
		seen[t] = key
		r.ID = "/" + t
		l.matcher(item, &r.Rule)
		l.people(item, &r.Rule)
		r.Expires = l.expires(item.get("expires"))
		// The destination's end is that of all it allows. A rule that denies
		// does not end before what it denies, unless it says so itself.
		if !r.Deny && base.Expires != "" && (r.Expires == "" || base.Expires < r.Expires) {
			r.Expires = base.Expires
		}
		out = append(out, r)
	}
	return out
}

// matcher reads which requests a rule is about, and whether it denies them.
func (l *loader) matcher(n *node, r *plan.Rule) {
	if d := n.get("deny"); d != nil {
		r.Deny = l.boolean(d, "deny")
	}
	if m := n.get("methods"); m != nil {
		r.Methods = l.methods(m)
	}
	if p := n.get("paths"); p != nil {
		r.Paths = l.paths(p)
	}
	if q := n.get("query"); q != nil {
		r.Query = l.conditions(q, "query", l.parameter)
	}
	if h := n.get("headers"); h != nil {
		r.Headers = l.conditions(h, "headers", l.conditionHeader)
	}
}

func (l *loader) methods(n *node) []string {
	var out []string
	l.texts(n, "methods", "an empty list would allow nothing: remove the key to allow every method", func(item *node, t string) {
		upper := strings.ToUpper(t)
		switch {
		case t == plan.AnyMethod || upper == "ALL" || upper == "ANY":
			l.at(item, "remove the key to allow every method", "%q is not a valid method", t)
		case upper == "CONNECT" || upper == "TRACE" || upper == "TRACK":
			l.at(item, "remove it", "method %s is never allowed", upper)
		case slices.Contains(methods, t):
			out = append(out, t)
		case slices.Contains(methods, upper):
			l.at(item, "write "+upper, "method %q is not in upper case", t)
		default:
			l.at(item, nearest(upper, methods), "method %q is unknown", t)
		}
	})
	slices.Sort(out)
	return out
}

func (l *loader) paths(n *node) []string {
	var out []string
	l.texts(n, "paths", "an empty list would allow nothing: remove the key to allow every path", func(item *node, t string) {
		if !l.patterns[t] {
			if _, err := plan.ParsePath(t); err != nil {
				message, hint, _ := strings.Cut(err.Error(), "; ")
				l.at(item, hint, "%s", message)
				return
			}
			l.patterns[t] = true
		}
		out = append(out, t)
	})
	slices.Sort(out)
	return out
}

// maxCondition bounds names and values of conditions, which become expressions.
const maxCondition = 128

// conditions reads a mapping of names to values, or to "*" for any value.
func (l *loader) conditions(n *node, what string, name func(*node) string) []plan.Condition {
	if !l.mapping(n, what) {
		return nil
	}
	if len(n.fields) == 0 {
		l.at(n, "remove the key", "%s has no conditions", what)
	}
	var out []plan.Condition
	for _, f := range n.fields {
		c := plan.Condition{Name: name(f.key)}
		t, ok := l.text(f.value, fmt.Sprintf("the value of %q", f.key.text))
		switch {
		case !ok:
			continue
		case t == "*":
			c.Present = true
		case len(t) > maxCondition || strings.ContainsFunc(t, func(r rune) bool { return r < ' ' || r > '~' }) || strings.TrimSpace(t) != t:
			l.at(f.value, `write the value as it is after decoding, or "*" for any`, "the value of %q is longer than %d bytes, not printable ASCII, or has a space around it", f.key.text, maxCondition)
		default:
			c.Value = t
		}
		if slices.ContainsFunc(out, func(o plan.Condition) bool { return o.Name == c.Name }) {
			l.at(f.key, "remove one of them", "%q is in %s already", c.Name, what)
			continue
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b plan.Condition) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func (l *loader) parameter(n *node) string {
	if n.text == "" || len(n.text) > maxCondition || strings.ContainsFunc(n.text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		l.at(n, "write its name as it is after decoding", "a query parameter's name is empty, longer than %d bytes, or not printable ASCII", maxCondition)
	}
	return n.text
}

// authentication are headers whose values are secrets, or which are taken off
// before anything is compared.
var authentication = []string{"authorization", "cookie", "x-api-key", "api-key", "x-goog-api-key"}

func (l *loader) conditionHeader(n *node) string {
	h := strings.ToLower(n.text)
	switch {
	case !token7230(h) || len(h) > maxCondition:
		l.at(n, "write a name such as content-type", "%q is not a valid name of a header", n.text)
	case slices.Contains(authentication, h):
		l.at(n, "remove it; credential: names the credential that is sent", "header %s authenticates: the agent may not send it, and its value does not belong in a policy", h)
	case slices.Contains(transport, h) && h != "upgrade" || hasPrefix(h, "proxy-", "x-postern-", "x-envoy-", "x-forwarded-"):
		l.at(n, "remove it", "header %s belongs to the connection or to the proxy", h)
	}
	return h
}

func (l *loader) gateway(n *node, owner string, gateways map[uint16]string) uint16 {
	port := uint16(l.integer(n, "gateway", 1024, 65535))
	if port == 0 {
		return 0
	}
	if port == sandboxPort {
		l.at(n, "write another port, such as 8080", "gateway %d is the port of the sandbox's own proxy", port)
	}
	if other, ok := gateways[port]; ok {
		l.at(n, "write another port", "gateway %d is that of destination %s already", port, other)
	}
	gateways[port] = owner
	return port
}
