package stacks

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks/yaml"
)

// placed is a rule of an agent, with the place where it was asked for.
type placed struct {
	plan.Rule
	// item is the entry of the agent's list. at is the rule itself.
	item, at *yaml.Node
	preset   string
}

// agent reads one agent and flattens its rules: first the rules of its allow list, then those of
// its presets.
func (l *loader) agent(f yaml.Field, s *Stack) {
	l.name(f.Key, "an agent")
	what := "agent " + f.Key.Text
	if !l.Mapping(f.Value, what, "runtime", "image", "allow", "presets", "limits", "workspace", "home", "tools") {
		return
	}
	agent := plan.Agent{Name: f.Key.Text}
	l.runtime(f.Value, what, s.Target, &agent)
	from := &origins{at: f.Key}
	s.origins[agent.Name] = from
	if n := f.Value.Get("workspace"); n != nil {
		agent.Workspace = l.workspace(n, "workspace of "+what, s.Target)
	}
	if n := f.Value.Get("home"); n != nil {
		agent.Home = l.home(n, "home of "+what, s.Target)
	}
	rules := l.flat[:0]
	if n := f.Value.Get("allow"); n != nil {
		if n.Kind != yaml.KindList {
			l.At(n, "write allow: [] or the names of destinations", "allow is %s, not a list", n.Describe())
			return
		}
		seen := l.seen
		clear(seen)
		for _, item := range n.Items {
			d := l.allowed(item, seen)
			if d == nil {
				continue
			}
			for i := range d.rules {
				r := placed{Rule: d.rules[i].Rule, item: item, at: d.rules[i].at}
				r.ID = agent.Name + "/" + d.name + r.ID
				rules = append(rules, r)
			}
		}
		if p := f.Value.Get("presets"); p != nil {
			rules = append(rules, l.presets(p, agent.Name, seen)...)
		}
	} else if p := f.Value.Get("presets"); p != nil {
		rules = append(rules, l.presets(p, agent.Name, nil)...)
	}
	if n := f.Value.Get("limits"); n != nil {
		l.limitAll(n, what, rules, s)
	}
	l.agree(what, rules)
	if n := f.Value.Get("tools"); n != nil {
		agent.Git, agent.Tools = l.tools(n, what, s.Target, &agent, rules)
	}
	l.flat = rules
	if len(rules) > 0 {
		agent.Rules, from.rules = make([]plan.Rule, len(rules)), make([]Origin, len(rules))
	}
	for i := range rules {
		r := &rules[i]
		agent.Rules[i], from.rules[i] = r.Rule, Origin{At: r.at, Preset: r.preset}
	}
	s.Plan.Agents = append(s.Plan.Agents, agent)
}

// limitAll gives every destination of an agent those of the agent's limits that it has not set
// itself.
func (l *loader) limitAll(n *yaml.Node, what string, rules []placed, s *Stack) {
	limits := l.limits(n, "limits of "+what)
	for i := range rules {
		r := &rules[i]
		switch {
		case limits == nil || r.Deny:
		case r.Mode == plan.ModeTunnel:
			s.Warnings = append(s.Warnings, &yaml.Problem{
				File: l.File, Line: n.Line, Col: n.Col,
				Message: fmt.Sprintf("the limits of %s do not hold in the tunnel to %s", what, r.Host), Hint: "write mode: intercept if they have to",
			})
		default:
			r.Limits = limited(r.Limits, limits)
		}
	}
}

// allowed returns the destination that an item of an allow list names, or nil.
func (l *loader) allowed(item *yaml.Node, seen map[string]bool) *Destination {
	t, ok := l.Text(item, "the name of a destination")
	if !ok {
		return nil
	}
	d, ok := l.destinations[t]
	switch {
	case !ok:
		l.At(item, yaml.Nearest(t, sortedKeys(l.destinations)), "there is no destination %q", t)
		return nil
	case seen[t]:
		l.At(item, "remove one of them", "destination %q is in the list already", t)
		return nil
	}
	seen[t] = true
	return d
}

// place is where a rule leads.
type place struct {
	host string
	port uint16
}

// agree makes sure that an agent's rules can hold at the same time.
func (l *loader) agree(what string, rules []placed) {
	first := l.places
	clear(first)
	gateways := map[uint16]*placed{}
	reported := map[*yaml.Node]bool{}
	clash := func(r, other *placed, hint, format string, args ...any) {
		if !reported[r.item] {
			reported[r.item] = true
			at := fmt.Sprintf("line %d", other.item.Line)
			if other.item.Line == r.item.Line {
				at = fmt.Sprintf("line %d, column %d", other.item.Line, other.item.Col)
			}
			l.At(r.item, hint, "%s: %s, and %s (%s) %s", what, r.ID[strings.Index(r.ID, "/")+1:], other.ID[strings.Index(other.ID, "/")+1:], at, fmt.Sprintf(format, args...))
		}
	}
	for i := range rules {
		r := &rules[i]
		if r.Deny {
			continue
		}
		p := place{r.Host, r.Port}
		other, ok := first[p]
		switch {
		case !ok:
			first[p] = r
		case other.Mode != r.Mode:
			clash(r, other, "let both have the same mode", "reach %s:%d in different modes", r.Host, r.Port)
		case !reflect.DeepEqual(other.Limits, r.Limits):
			clash(r, other, "let both have the same limits", "have different limits for %s:%d", r.Host, r.Port)
		}
		if g := gateways[r.Gateway]; g != nil && (g.Host != r.Host || g.Port != r.Port) {
			clash(r, g, "write another port", "have the same gateway %d", r.Gateway)
		}
		if r.Gateway != 0 {
			gateways[r.Gateway] = r
		}
	}
	agent := plan.Agent{}
	for i := range rules {
		deny := &rules[i]
		if !deny.Deny || !Partial(&deny.Rule) {
			continue
		}
		if agent.Rules == nil {
			for j := range rules {
				agent.Rules = append(agent.Rules, rules[j].Rule)
			}
		}
		for j := range rules {
			r := &rules[j]
			host := ""
			switch {
			case r.Deny || r.Mode != plan.ModeTunnel || r.Port != deny.Port:
				continue
			case deny.Host == r.Host || deny.Covers(r.Host):
				host = r.Host
			case r.Covers(deny.Host):
				host = deny.Host
			}
			if host != "" && plan.ModeOf(agent.Covering(host, r.Port)) == plan.ModeTunnel {
				clash(deny, r, "let it deny everything there, or write mode: intercept", "reach %s, a tunnel that cannot be inspected: the first would deny nothing there", host)
			}
		}
	}
	ids := l.ids
	clear(ids)
	for i := range rules {
		r := &rules[i]
		if ids[r.ID] && !slices.ContainsFunc(l.List, func(p *yaml.Problem) bool { return p.Line == r.item.Line }) {
			l.At(r.item, "give the destination another name", "%s has two rules with the ID %s", what, r.ID)
		}
		ids[r.ID] = true
	}
}
