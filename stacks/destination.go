package stacks

import (
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks/yaml"
)

// Destination is a compiled destination: rules without an agent.
type Destination struct {
	name  string
	key   *yaml.Node
	rules []namedRule
}

// namedRule is a rule whose ID is only what follows the destination: "" or "/name".
type namedRule struct {
	plan.Rule
	at *yaml.Node
}

// Place is the host and port that a destination's rules share.
func (d *Destination) Place() (string, uint16) {
	if len(d.rules) == 0 {
		return "", 0
	}
	return d.rules[0].Host, d.rules[0].Port
}

// Denies reports whether the destination does nothing but deny.
func (d *Destination) Denies() bool {
	return !slices.ContainsFunc(d.rules, func(r namedRule) bool { return !r.Deny })
}

// Allows reports whether the destination already allows exactly what an edit wants to allow, for at
// least as long.
func (d *Destination) Allows(rule *plan.Rule) bool {
	return d.shaped(rule) && (d.rules[0].Expires == "" || rule.Expires != "" && d.rules[0].Expires >= rule.Expires)
}

// Lease reports whether the destination allows exactly what an edit wants to allow, and ends before
// that.
func (d *Destination) Lease(rule *plan.Rule) bool {
	return d.shaped(rule) && d.rules[0].Expires != "" && d.rules[0].Expires < rule.Expires
}

func (d *Destination) shaped(rule *plan.Rule) bool {
	if len(d.rules) != 1 {
		return false
	}
	r := &d.rules[0]
	return !r.Deny && r.Host == rule.Host && r.Port == rule.Port && r.Mode == rule.Mode &&
		slices.Equal(r.Methods, rule.Methods) && slices.Equal(r.Paths, rule.Paths) && len(r.Query)+len(r.Headers) == 0
}

// Ended returns when the destination has ended, if it allows nothing any longer.
func (d *Destination) Ended(now time.Time) (string, bool) {
	if len(d.rules) != 1 || d.rules[0].Deny {
		return "", false
	}
	end, err := time.Parse(time.RFC3339, d.rules[0].Expires)
	return d.rules[0].Expires, err == nil && !now.Before(end)
}

// Leads reports whether the destination leads to its host in the way of the rule: see [SameWay].
func (d *Destination) Leads(rule *plan.Rule) bool { return SameWay(&d.rules[0].Rule, rule) }

// SameWay reports whether both rules lead to their hosts in the same way, whatever they match: to
// the same upstream, with the same credential, by the same gateway.
func SameWay(a, b *plan.Rule) bool {
	return a.Credential == b.Credential && a.OwnCredentials == b.OwnCredentials && a.Gateway == b.Gateway &&
		reflect.DeepEqual(a.Upstream, b.Upstream)
}

// sandboxPort is the port of the sandbox's own proxy, which no gateway may take.
const sandboxPort = 3128

// ShortForm are the keys of a destination that make up its one rule.
var ShortForm = []string{"deny", "methods", "paths", "query", "headers"}

// destination reads one destination. Even if something in it is wrong, its name is known, so that
// agents that use it cause no further messages.
func (l *loader) destination(f yaml.Field) {
	d := &Destination{name: f.Key.Text, key: f.Key}
	if d.name != "" {
		l.destinations[d.name] = d
	}
	switch {
	case d.name == "default":
		l.At(f.Key, "write another name", "a destination cannot be called default: that is the rule that denies the rest")
	case !destinationName(d.name):
		l.At(f.Key, "write lower-case letters, digits, hyphens and dots, such as docs or docs.example.com", "%q cannot name a destination", d.name)
	}
	what := "destination " + d.name
	if !l.Mapping(f.Value, what, "host", "port", "mode", "methods", "paths", "query", "headers", "deny", "rules", "git",
		"credential", "own_credentials", "gateway", "upstream", "limits", "expires", "reason", "owner") {
		return
	}
	base := l.base(f, what)
	own := l.rules(f, what, base)
	for _, r := range own {
		if r.Deny {
			// Only these fields count: see plan.Rule.
			r.Rule = plan.Rule{
				ID: r.ID, Deny: true, Host: r.Host, Port: r.Port, Methods: r.Methods, Paths: r.Paths, Query: r.Query, Headers: r.Headers,
				Expires: r.Expires, Reason: r.Reason, Owner: r.Owner,
			}
		}
		d.rules = append(d.rules, r)
	}
	if !slices.ContainsFunc(d.rules, func(r namedRule) bool { return !r.Deny }) {
		l.Useless(f.Value, "a destination that only denies", "credential", "own_credentials", "gateway", "upstream", "limits", "mode")
	}
	if base.Mode == plan.ModeTunnel {
		l.tunnel(f.Value, d)
	}
	if u := base.Upstream; u != nil && u.Plain && base.Credential != "" && base.Reason == "" {
		l.At(f.Value.Get("credential"), "remove it, or say in reason: why it is sent so",
			"credential %s would be sent over plain HTTP", base.Credential)
	}
}

// base reads what all rules of a destination share.
func (l *loader) base(f yaml.Field, what string) plan.Rule {
	r := plan.Rule{Port: 443, Methods: []string{plan.AnyMethod}, Paths: []string{plan.AnyPath}}
	get := f.Value.Get
	if n := get("port"); n != nil {
		r.Port = uint16(l.Integer(n, "port", 1, 65535))
	}
	if n := get("credential"); n != nil {
		if t, ok := l.Text(n, "credential"); ok {
			if _, ok := l.credentials[t]; !ok {
				l.At(n, yaml.Nearest(t, sortedKeys(l.credentials)), "there is no credential %q", t)
			}
			r.Credential = t
		}
	}
	l.people(f.Value, &r)
	r.Expires = l.expires(get("expires"))
	if n := get("own_credentials"); n != nil {
		r.OwnCredentials = l.ownCredentials(n, &r)
	}
	if n := get("gateway"); n != nil {
		r.Gateway = l.gateway(n)
	}
	if n := get("upstream"); n != nil {
		r.Upstream = l.upstream(n)
	}
	if n := get("limits"); n != nil {
		r.Limits = l.limits(n, "limits of "+what)
	}
	if n := get("mode"); n != nil {
		r.Mode = l.mode(n, f.Value)
	}
	if n := get("host"); n == nil {
		l.At(f.Key, "write host: and the name of a host", "%s has no host", what)
	} else {
		r.Host = l.host(n)
		if d := get("deny"); d == nil || d.Text != "true" {
			l.wildcard(n, &r, r.Reason)
			if why, hint := nowhere(r.Host); why != "" && (r.Upstream == nil || r.Upstream.Address == "") {
				l.At(n, hint, "host %q %s", r.Host, why)
			}
		}
		if g := get("gateway"); g != nil && strings.HasPrefix(r.Host, "*.") {
			l.At(g, "remove it, or write the host out", "a gateway reaches one host, and %q is many", r.Host)
		}
	}
	return r
}

// rules reads the rules of a destination, in whichever form.
func (l *loader) rules(f yaml.Field, what string, base plan.Rule) []namedRule {
	n, g := f.Value.Get("rules"), f.Value.Get("git")
	if n == nil && g == nil {
		r := namedRule{Rule: base, at: f.Key}
		l.matcher(f.Value, &r.Rule)
		return []namedRule{r}
	}
	l.Useless(f.Value, "a destination with rules: or git:", ShortForm...)
	var out []namedRule
	if n != nil {
		out = append(out, l.ruleList(n, what, base)...)
	}
	if g != nil {
		out = append(out, l.git(g, base)...)
	}
	return out
}

func (l *loader) mode(n, destination *yaml.Node) string {
	t, ok := l.Text(n, "mode")
	if !ok {
		return plan.ModeIntercept
	}
	switch t {
	case "intercept":
	case "tunnel":
		return plan.ModeTunnel
	case "gateway":
		if destination.Get("gateway") == nil {
			l.At(n, "write gateway: and a port of the sandbox, such as 8080", "mode gateway needs a gateway")
		}
	default:
		l.At(n, yaml.Nearest(t, []string{"intercept", "tunnel", "gateway"}), "mode %q is unknown", t)
	}
	return plan.ModeIntercept
}

// tunnel refuses whatever requires inspection of the connection.
func (l *loader) tunnel(n *yaml.Node, d *Destination) {
	if up := n.Get("upstream"); up != nil {
		l.Useless(up, "the upstream of a tunnel", "ca", "plain_http")
	}
	l.Useless(n, "a tunnel", "methods", "paths", "query", "headers", "credential", "own_credentials", "gateway", "limits", "git")
	for _, r := range d.rules {
		if r.ID != "" && n.Get("git") == nil && Partial(&r.Rule) {
			l.At(r.at, "remove its methods, paths and conditions, or write mode: intercept", "a tunnel cannot be inspected: rule %s of destination %s would never see what it tests", strings.TrimPrefix(r.ID, "/"), d.name)
		}
	}
}

// Partial reports whether the rule needs to see a request to decide on it.
func Partial(r *plan.Rule) bool {
	return !slices.Equal(r.Methods, []string{plan.AnyMethod}) || !slices.Equal(r.Paths, []string{plan.AnyPath}) || len(r.Query)+len(r.Headers) > 0
}

// people reads the parts of a rule that are for people.
func (l *loader) people(n *yaml.Node, r *plan.Rule) {
	for key, to := range map[string]*string{"reason": &r.Reason, "owner": &r.Owner} {
		v := n.Get(key)
		if v == nil {
			continue
		}
		t, ok := l.Text(v, key)
		if !ok {
			continue
		}
		if len(t) > 500 || strings.ContainsFunc(t, func(r rune) bool { return r < ' ' }) {
			l.At(v, "write one short line", "%s is longer than 500 bytes, or more than a line", key)
			continue
		}
		*to = t
	}
}

// expires returns the time in UTC, or "".
func (l *loader) expires(n *yaml.Node) string {
	if n == nil {
		return ""
	}
	t, ok := l.Text(n, "expires")
	if !ok {
		return ""
	}
	end, err := time.Parse(time.RFC3339, t)
	if err != nil || end.UTC().Year() > 9999 || end.UTC().Year() < 0 {
		l.At(n, `write it as in RFC 3339, such as "2027-01-31T18:00:00Z"`, "expires is not a valid time")
		return ""
	}
	return end.UTC().Format(time.RFC3339)
}

func (l *loader) ownCredentials(n *yaml.Node, r *plan.Rule) bool {
	if !l.Mapping(n, "own_credentials", "allow", "reason") {
		return false
	}
	var allow bool
	if a := n.Get("allow"); a == nil {
		l.At(n, "write {allow: true, reason: ...}, or remove it", "own_credentials does not say allow: true")
	} else {
		allow = l.Boolean(a, "allow")
	}
	if w := n.Get("reason"); w == nil {
		l.At(n, "write reason: and why the agent needs its own", "own_credentials does not say why")
	} else if t, ok := l.Text(w, "reason"); ok && r.Reason == "" {
		r.Reason = t
	}
	if r.Credential != "" {
		l.At(n, "remove one of them", "a destination with a credential does not let the agent's own pass")
	}
	return allow
}
