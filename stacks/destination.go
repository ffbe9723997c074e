package stacks

import (
	"slices"
	"strings"
	"time"

	"github.com/postern/postern/plan"
)

// destination is a compiled destination: rules without an agent.
type destination struct {
	name  string
	key   *node
	rules []namedRule
}

// namedRule is a rule whose ID is only what follows the destination: "" or "/name".
type namedRule struct {
	plan.Rule
	at *node
}

// sandboxPort is the port of the sandbox's own proxy, which no gateway may take.
const sandboxPort = 3128

// shortForm are the keys of a destination that make up its one rule.
var shortForm = []string{"deny", "methods", "paths", "query", "headers"}

// destination reads one destination. It is known by its name even if something
// in it is wrong, so that the agents that use it are not blamed as well.
func (l *loader) destination(f field, gateways map[uint16]string) {
	d := &destination{name: f.key.text, key: f.key}
	if d.name != "" {
		l.destinations[d.name] = d
	}
	switch {
	case d.name == "default":
		l.at(f.key, "write another name", "a destination cannot be called default: that is the rule that denies the rest")
	case !destinationName(d.name):
		l.at(f.key, "write lower-case letters, digits, hyphens and dots, such as docs or docs.example.com", "%q cannot name a destination", d.name)
	}
	what := "destination " + d.name
	if !l.mapping(f.value, what, "host", "port", "mode", "methods", "paths", "query", "headers", "deny", "rules", "git",
		"credential", "own_credentials", "gateway", "upstream", "limits", "expires", "reason", "owner") {
		return
	}
	base := l.base(f, what, gateways)
	own := l.rules(f, what, base)
	for _, r := range own {
		if r.Deny {
			// Only these count: see plan.Rule.
			r.Rule = plan.Rule{
				ID: r.ID, Deny: true, Host: r.Host, Port: r.Port, Methods: r.Methods, Paths: r.Paths, Query: r.Query, Headers: r.Headers,
				Expires: r.Expires, Reason: r.Reason, Owner: r.Owner,
			}
		}
		d.rules = append(d.rules, r)
	}
	if !slices.ContainsFunc(d.rules, func(r namedRule) bool { return !r.Deny }) {
		l.useless(f.value, "a destination that only denies", "credential", "own_credentials", "gateway", "upstream", "limits", "mode")
	}
	if base.Mode == plan.ModeTunnel {
		l.tunnel(f.value, d)
	}
}

// base reads what all rules of a destination share.
func (l *loader) base(f field, what string, gateways map[uint16]string) plan.Rule {
	r := plan.Rule{Port: 443, Methods: []string{plan.AnyMethod}, Paths: []string{plan.AnyPath}}
	get := f.value.get
	if n := get("port"); n != nil {
		r.Port = uint16(l.integer(n, "port", 1, 65535))
	}
	if n := get("credential"); n != nil {
		if t, ok := l.text(n, "credential"); ok {
			if _, ok := l.credentials[t]; !ok {
				l.at(n, nearest(t, sortedKeys(l.credentials)), "there is no credential %q", t)
			}
			r.Credential = t
		}
	}
	l.people(f.value, &r)
	r.Expires = l.expires(get("expires"))
	if n := get("own_credentials"); n != nil {
		r.OwnCredentials = l.ownCredentials(n, &r)
	}
	if n := get("gateway"); n != nil {
		r.Gateway = l.gateway(n, f.key.text, gateways)
	}
	if n := get("upstream"); n != nil {
		r.Upstream = l.upstream(n)
	}
	if n := get("limits"); n != nil {
		r.Limits = l.limits(n, "limits of "+what)
	}
	if n := get("mode"); n != nil {
		r.Mode = l.mode(n, f.value)
	}
	if n := get("host"); n == nil {
		l.at(f.key, "write host: and the name of a host", "%s has no host", what)
	} else {
		r.Host = l.host(n)
		if d := get("deny"); d == nil || d.text != "true" {
			l.wildcard(n, &r, r.Reason)
		}
		if g := get("gateway"); g != nil && strings.HasPrefix(r.Host, "*.") {
			l.at(g, "remove it, or write the host out", "a gateway reaches one host, and %q is many", r.Host)
		}
	}
	return r
}

// rules reads the rules of a destination, in whichever form.
func (l *loader) rules(f field, what string, base plan.Rule) []namedRule {
	n, g := f.value.get("rules"), f.value.get("git")
	if n == nil && g == nil {
		r := namedRule{Rule: base, at: f.key}
		l.matcher(f.value, &r.Rule)
		return []namedRule{r}
	}
	l.useless(f.value, "a destination with rules: or git:", shortForm...)
	var out []namedRule
	if n != nil {
		out = append(out, l.ruleList(n, what, base)...)
	}
	if g != nil {
		out = append(out, l.git(g, base)...)
	}
	return out
}

func (l *loader) mode(n, destination *node) string {
	t, ok := l.text(n, "mode")
	if !ok {
		return plan.ModeIntercept
	}
	switch t {
	case "intercept":
	case "tunnel":
		return plan.ModeTunnel
	case "gateway":
		if destination.get("gateway") == nil {
			l.at(n, "write gateway: and a port of the sandbox, such as 8080", "mode gateway needs a gateway")
		}
	default:
		l.at(n, nearest(t, []string{"intercept", "tunnel", "gateway"}), "mode %q is unknown", t)
	}
	return plan.ModeIntercept
}

// tunnel refuses whatever requires inspection of the connection.
func (l *loader) tunnel(n *node, d *destination) {
	l.useless(n, "a tunnel", "methods", "paths", "query", "headers", "credential", "own_credentials", "gateway", "limits", "git")
	for _, r := range d.rules {
		if r.ID != "" && n.get("git") == nil && partial(&r.Rule) {
			l.at(r.at, "remove its methods, paths and conditions, or write mode: intercept", "a tunnel cannot be inspected: rule %s of destination %s would never see what it tests", strings.TrimPrefix(r.ID, "/"), d.name)
		}
	}
}

// partial reports whether the rule needs to see a request to decide on it.
func partial(r *plan.Rule) bool {
	return !slices.Equal(r.Methods, []string{plan.AnyMethod}) || !slices.Equal(r.Paths, []string{plan.AnyPath}) || len(r.Query)+len(r.Headers) > 0
}

// useless refuses the keys that mean nothing here.
func (l *loader) useless(n *node, what string, keys ...string) {
	for _, f := range n.fields {
		if slices.Contains(keys, f.key.text) {
			l.at(f.key, "remove it", "%s has no %s", what, f.key.text)
		}
	}
}

// people reads the parts of a rule that are for people.
func (l *loader) people(n *node, r *plan.Rule) {
	for key, to := range map[string]*string{"reason": &r.Reason, "owner": &r.Owner} {
		v := n.get(key)
		if v == nil {
			continue
		}
		t, ok := l.text(v, key)
		if !ok {
			continue
		}
		if len(t) > 500 || strings.ContainsFunc(t, func(r rune) bool { return r < ' ' }) {
			l.at(v, "write one short line", "%s is longer than 500 bytes, or more than a line", key)
			continue
		}
		*to = t
	}
}

// expires returns the time in UTC, or "".
func (l *loader) expires(n *node) string {
	if n == nil {
		return ""
	}
	t, ok := l.text(n, "expires")
	if !ok {
		return ""
	}
	end, err := time.Parse(time.RFC3339, t)
	if err != nil || end.UTC().Year() > 9999 || end.UTC().Year() < 0 {
		l.at(n, `write it as in RFC 3339, such as "2027-01-31T18:00:00Z"`, "expires is not a valid time")
		return ""
	}
	return end.UTC().Format(time.RFC3339)
}

func (l *loader) ownCredentials(n *node, r *plan.Rule) bool {
	if !l.mapping(n, "own_credentials", "allow", "reason") {
		return false
	}
	var allow bool
	if a := n.get("allow"); a == nil {
		l.at(n, "write {allow: true, reason: ...}, or remove it", "own_credentials does not say allow: true")
	} else {
		allow = l.boolean(a, "allow")
	}
	if w := n.get("reason"); w == nil {
		l.at(n, "write reason: and why the agent needs its own", "own_credentials does not say why")
	} else if t, ok := l.text(w, "reason"); ok && r.Reason == "" {
		r.Reason = t
	}
	if r.Credential != "" {
		l.at(n, "remove one of them", "a destination with a credential does not let the agent's own pass")
	}
	return allow
}

func (l *loader) boolean(n *node, what string) bool {
	if n.kind != kindOther || n.text != "true" && n.text != "false" {
		l.at(n, "write true or false", "%s is %s", what, n.describe())
	}
	return n.text == "true"
}
