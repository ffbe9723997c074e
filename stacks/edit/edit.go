package edit

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/stacks/yaml"
)

// AllowRequest says what [Allow] adds.
type AllowRequest struct {
	// Agent may be "": see [stacks.ChooseAgent].
	Agent string
	Hosts []stacks.HostPort
	// Methods and Paths apply to every host; none means all.
	Methods, Paths []string
	// Expires is the end of the access, or the zero time. Reason says why the access is given, or
	// is "".
	Expires time.Time
	Reason  string
}

// RevokeRequest says what [Revoke] takes away.
type RevokeRequest struct {
	// Agent may be "": see [stacks.ChooseAgent].
	Agent string
	// Hosts are revoked with all their rules; port 0 means every port.
	Hosts []stacks.HostPort
}

// Edit is a change to a stack file that was not written yet.
type Edit struct {
	*stacks.File
	After []byte
	// Old and Plan are the plans of the file before and after.
	Old, Plan *plan.Plan
	// Ended has a line for each lease that has ended and that the edit takes out.
	Ended []string

	before []byte
	agent  string
	stack  *stacks.Stack
}

// Source is [stacks.Stack.Source] of the file as it would be.
func (e *Edit) Source(ruleID string) string { return e.stack.Source(ruleID) }

// Changes describe the meaning of the edit.
func (e *Edit) Changes() []plan.Change { return plan.Diff(e.Old, e.Plan) }

// Allow plans an edit of the stack file that allows an agent to reach hosts. It reuses a
// destination that says the same; a new destination is named after its host. If the agent reaches
// the host already, the new destination leads there in the same way, with the same credential. A
// lease of the same shape is prolonged. If the access is allowed already, nothing changes.
// Everything except the inserted text, and leases that have ended, stays the same, byte for byte.
// All requests are for the agent of the last.
func Allow(f *stacks.File, requests ...AllowRequest) (*Edit, error) {
	agent := ""
	var rules []*plan.Rule
	for _, r := range requests {
		rule, err := r.rule()
		if err != nil {
			return nil, err
		}
		agent = r.Agent
		for _, hp := range r.Hosts {
			rule := *rule
			rule.Host, rule.Port = hp.Host, hp.Port
			rules = append(rules, &rule)
		}
	}
	return rewrite(f, agent, func(e *editor) error {
		for _, rule := range rules {
			if err := e.allow(rule); err != nil {
				return err
			}
		}
		return nil
	}, adds)
}

// adds reports whether a change is one that allowing something to the agent may make.
func adds(c plan.Change, agent string) bool {
	return c.Kind == "+" && (c.Agent == "" || c.Agent == agent && c.Rule != "")
}

// rule returns the rule that the request describes, without the host.
func (r *AllowRequest) rule() (*plan.Rule, error) {
	rule := &plan.Rule{Methods: []string{plan.AnyMethod}, Paths: []string{plan.AnyPath}, Reason: r.Reason}
	if !r.Expires.IsZero() {
		rule.Expires = r.Expires.UTC().Format(time.RFC3339)
	}
	if len(r.Reason) > 500 || strings.ContainsFunc(r.Reason, yaml.IsForbidden) || strings.ContainsAny(r.Reason, "\n\r\t") {
		return nil, errors.New("the reason is longer than 500 bytes, or more than a line")
	}
	if len(r.Methods) > 0 {
		rule.Methods = nil
	}
	for _, m := range r.Methods {
		upper := strings.ToUpper(m)
		if !slices.Contains(stacks.Methods, upper) {
			return nil, fmt.Errorf("method %q cannot be allowed; %s", m, yaml.Nearest(upper, stacks.Methods))
		}
		rule.Methods = append(rule.Methods, upper)
	}
	if len(r.Paths) > 0 {
		rule.Paths = nil
	}
	for _, p := range r.Paths {
		if _, err := plan.ParsePath(p); err != nil {
			return nil, err
		}
		rule.Paths = append(rule.Paths, p)
	}
	slices.Sort(rule.Methods)
	slices.Sort(rule.Paths)
	rule.Methods, rule.Paths = slices.Compact(rule.Methods), slices.Compact(rule.Paths)
	return rule, nil
}

// Revoke plans an edit that takes hosts off an agent's allow list, with every rule for them. If a
// destination is named after such a host, as Allow names it, and no agent uses it any longer, the
// edit removes it.
func Revoke(f *stacks.File, r RevokeRequest) (*Edit, error) {
	return rewrite(f, r.Agent, func(e *editor) error {
		for _, hp := range r.Hosts {
			if err := e.revoke(hp); err != nil {
				return err
			}
		}
		return nil
	}, takes)
}

// takes reports whether a change is one that revoking something from the agent may make. A rule
// that denied goes with the destination it was written in, if nothing that it denied is allowed any
// more.
func takes(c plan.Change, agent string) bool {
	less := c.Kind == "-" && c.Risk != plan.RiskHigh || c.Kind == "+" && c.Risk == plan.RiskLow
	return less && (c.Agent == "" || c.Agent == agent && c.Rule != "")
}

// rewrite compiles the file, has change rewrite it, and accepts the result only if
// it compiles to a plan that differs in the way that is expected. If agent is "", see
// [stacks.ChooseAgent].
func rewrite(
	f *stacks.File, agent string, change func(*editor) error, expected func(c plan.Change, agent string) bool,
) (*Edit, error) {
	data, err := f.Content()
	if err != nil {
		return nil, err
	}
	stack, err := f.Parse(data)
	if err != nil {
		return nil, err
	}
	if agent, _, err = stacks.ChooseAgent(stack.Plan, agent); err != nil {
		return nil, err
	}
	if _, err := stack.Agent(agent); err != nil {
		return nil, err
	}
	e := &editor{file: f, agent: agent, data: data, stack: stack, leases: map[string]bool{}}
	if err := change(e); err != nil {
		return nil, err
	}
	ended := e.prune(time.Now())
	out := &Edit{
		File: f, Ended: ended, agent: agent, before: data, After: e.data,
		Old: stack.Plan, Plan: e.stack.Plan, stack: e.stack,
	}
	for _, c := range out.Changes() {
		if !expected(c, agent) && !e.leases[c.Rule] {
			return nil, fmt.Errorf("edit %s: the result would also change this: %s; edit it by hand, then run `%s`",
				f.Path, c, f.Command("push"))
		}
	}
	return out, nil
}

// Write replaces the file, whole or not at all, and keeps its mode. If the file is no longer what
// the edit began with, Write leaves it alone and returns [stacks.ErrChanged].
func (e *Edit) Write() error { return e.Replace(e.before, e.After) }

// Restore takes a written edit back. If the file was changed since, it is left
// alone: [stacks.ErrChanged].
func (e *Edit) Restore() error { return e.Replace(e.After, e.before) }

// Lookalikes returns a warning for each host that the edit adds and that looks like
// another one.
func (e *Edit) Lookalikes() []string {
	known := func(host string) bool {
		return slices.ContainsFunc(e.Old.Agents, func(a plan.Agent) bool {
			return slices.ContainsFunc(a.Rules, func(r plan.Rule) bool { return r.Host == host })
		})
	}
	seen := map[string]bool{}
	var warnings []string
	for _, a := range e.Plan.Agents {
		if a.Name != e.agent { // an edit changes no other one
			continue
		}
		for i := range a.Rules {
			host := a.Rules[i].Host
			if text := stacks.Lookalike(host); text != "" && !seen[host] && !known(host) {
				seen[host] = true
				warnings = append(warnings, text)
			}
		}
	}
	return warnings
}
