package edit

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks/yaml"
)

// prolong moves the end of a lease of the agent that allows just what the rule allows, if there is
// one, and reports whether there was.
func (e *editor) prolong(rule *plan.Rule) (bool, error) {
	allow := e.agentNode().Get("allow")
	if rule.Expires == "" || allow == nil {
		return false, nil
	}
	i := slices.IndexFunc(allow.Items, func(item *yaml.Node) bool {
		d := e.stack.Destinations[item.Text]
		return e.ours(item.Text) && d.Lease(rule) && d.Leads(rule) && len(e.users(item.Text)) == 1
	})
	if i < 0 {
		return false, nil
	}
	name := allow.Items[i].Text
	n := e.stack.Root.Get("destinations").Get(name)
	for key, text := range map[string]string{"expires": rule.Expires, "reason": rule.Reason} {
		v := n.Get(key)
		switch {
		case text == "":
			continue
		case v == nil:
			line := key + ": " + quote(text)
			if err := e.addField(n, line, "", line); err != nil {
				return false, err
			}
			continue
		}
		end, err := e.end(v)
		if err != nil {
			return false, err
		}
		if err := e.splice(e.offset(v.Line, v.Col), end, quote(text)); err != nil {
			return false, err
		}
	}
	e.leases[e.agent+"/"+name] = true
	return true, e.step()
}

// prune takes out what `postern allow --for` has written and what has ended, as far as no other
// agent uses it and nobody has written a comment next to it. It returns a line for each.
func (e *editor) prune(now time.Time) []string {
	var ended []string
	for _, name := range slices.Sorted(maps.Keys(e.stack.Destinations)) {
		end, over := e.stack.Destinations[name].Ended(now)
		if !over || !e.ours(name) || slices.ContainsFunc(e.users(name), func(a string) bool { return a != e.agent }) {
			continue
		}
		f := e.stack.Root.Get("destinations").Fields
		at := f[slices.IndexFunc(f, func(f yaml.Field) bool { return f.Key.Text == name })]
		if !at.Value.Flow || strings.Contains(e.line(at.Key.Line), "#") {
			continue
		}
		if e.drop(name) != nil {
			e.cuts = nil // it stays: the file's form is one that only people edit
			continue
		}
		e.leases[e.agent+"/"+name] = true
		ended = append(ended, fmt.Sprintf("%s ended at %s, and is taken out of %s", name, end, e.file.Path))
	}
	return ended
}
