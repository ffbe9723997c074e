package edit

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/stacks/yaml"
)

// editor rewrites the text of a stack file in steps. After each step the file loads. The tree is
// parsed again after every step, so that positions always belong to the current text.
type editor struct {
	file  *stacks.File
	agent string
	data  []byte
	stack *stacks.Stack
	// cuts are the changes of the step that is being made.
	cuts []cut
	// leases are the rules whose end was moved, or that were taken out because they had ended.
	leases map[string]bool
}

// cut replaces the bytes from start to end.
type cut struct {
	start, end int
	text       string
}

// splice adds a change to the step.
func (e *editor) splice(start, end int, text string) error {
	if start < 0 || end < start || end > len(e.data) {
		return fmt.Errorf("edit %s: a position is outside of the file", e.file.Path)
	}
	e.cuts = append(e.cuts, cut{start, end, text})
	return nil
}

// step makes the changes and parses the result: once, as a large file takes a while.
func (e *editor) step() error {
	// From the end of the file on, so that positions stay what they are. Of two
	// insertions at one place the later one comes before the other.
	slices.SortStableFunc(e.cuts, func(a, b cut) int { return b.start - a.start })
	data := e.data
	for _, c := range e.cuts {
		data = slices.Concat(data[:c.start], []byte(c.text), data[c.end:])
	}
	e.cuts = nil
	stack, err := e.file.Parse(data)
	if err != nil {
		return &loadError{e.file.Path, err}
	}
	e.data, e.stack = data, stack
	return nil
}

// allow adds one rule for the agent, if it does not have it already.
func (e *editor) allow(rule *plan.Rule) error {
	a, err := e.stack.Agent(e.agent)
	if err != nil {
		return err
	}
	for i := range a.Rules {
		r := &a.Rules[i]
		if r.Port != rule.Port || !r.Covers(rule.Host) {
			continue
		}
		if r.Deny && !stacks.Partial(r) && r.Expires == "" {
			o, _ := e.stack.Origin(r.ID)
			return fmt.Errorf("%s: rule %s in line %d denies everything at %s, whatever else is allowed: "+
				"take it away by hand first", e.file.Path, r.ID, o.At.Line, rule.Host)
		}
		if !r.Deny && r.Host == rule.Host { // all rules for one place have the same
			rule.Limits = r.Limits
		}
	}
	way, err := e.way(rule)
	if err != nil {
		return err
	}
	name, exists := e.destinationFor(rule, way != nil)
	allow := e.agentNode().Get("allow")
	if exists && allow != nil && slices.ContainsFunc(allow.Items, func(n *yaml.Node) bool { return n.Text == name }) {
		return nil
	}
	if done, err := e.prolong(rule); done || err != nil {
		return err
	}
	text := entry(name, rule, e.wayEntry(way))
	err = e.addDestination(exists, text)
	if err == nil {
		err = e.addAllowed(name)
	}
	if err == nil {
		err = e.step()
	}
	var load *loadError
	if errors.As(err, &load) {
		return err // by hand it would not load either
	}
	if err != nil && !exists {
		return fmt.Errorf("%w; write it by hand: `%s` below destinations, and %s into the allow list of agent %s, then run `%s`", err, text, scalar(name), e.agent, e.file.Command("push"))
	}
	if err != nil {
		return fmt.Errorf("%w; write it by hand: %s into the allow list of agent %s, then run `%s`", err, scalar(name), e.agent, e.file.Command("push"))
	}
	return nil
}

// destinationFor returns the destination that is equal to the rule, if there is one, or a name for
// a new one. The agent's own destinations come first. If the agent reaches the place already, only
// a destination counts that leads there in the same way.
func (e *editor) destinationFor(rule *plan.Rule, reached bool) (name string, exists bool) {
	same := func(name string) bool {
		d := e.stack.Destinations[name]
		return d.Allows(rule) && (!reached || d.Leads(rule))
	}
	if allow := e.agentNode().Get("allow"); allow != nil {
		for _, item := range allow.Items {
			if same(item.Text) {
				return item.Text, true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(e.stack.Destinations)) {
		if same(name) {
			return name, true
		}
	}
	host := destinationOf(rule.Host)
	name = host
	for i := 2; e.stack.Destinations[name] != nil || name == "default" || slices.Contains(stacks.PresetNames(), name); i++ {
		name = fmt.Sprintf("%s-%d", host, i)
	}
	return name, false
}

func (e *editor) addDestination(exists bool, text string) error {
	if exists {
		return nil
	}
	n := e.stack.Root.Get("destinations")
	if n == nil {
		return e.addField(e.stack.Root, "destinations:", "  "+text, "destinations: {"+text+"}")
	}
	return e.addField(n, text, "", text)
}

// addField appends a field to a mapping: one or two lines in block style, or
// the flow form in braces.
func (e *editor) addField(n *yaml.Node, line, second, flow string) error {
	if n.Flow {
		if len(n.Fields) == 0 {
			at := e.offset(n.Line, n.Col) + 1
			return e.splice(at, at, flow)
		}
		at, err := e.end(n.Fields[len(n.Fields)-1].Value)
		if err != nil {
			return err
		}
		return e.splice(at, at, ", "+flow)
	}
	indent, err := e.indent(n.Fields[0].Key)
	if err != nil {
		return err
	}
	lines := []string{indent + line}
	if second != "" {
		lines = append(lines, indent+second)
	}
	return e.insertLines(lastLine(n), lines...)
}

func (e *editor) addAllowed(name string) error {
	agent := e.agentNode()
	n := agent.Get("allow")
	switch {
	case n == nil:
		return e.addField(agent, "allow:", "  - "+scalar(name), "allow: ["+scalar(name)+"]")
	case len(n.Items) == 0:
		at := e.offset(n.Line, n.Col) + 1
		return e.splice(at, at, scalar(name))
	case n.Flow:
		at, err := e.end(n.Items[len(n.Items)-1])
		if err != nil {
			return err
		}
		return e.splice(at, at, ", "+scalar(name))
	}
	last := n.Items[len(n.Items)-1]
	line := e.line(last.Line)
	m := blockItem.FindStringSubmatch(line)
	if m == nil || lastLine(last) != last.Line {
		return fmt.Errorf("edit %s: line %d is not a plain list item", e.file.Path, last.Line)
	}
	return e.insertLines(last.Line, m[1]+scalar(name))
}

// blockItem is a list item that has its line for itself.
var blockItem = regexp.MustCompile(`^( *- +)("[^"\\]*"|'[^']*'|[^\s"'#]+)\s*(#.*)?$`)

// revoke removes every destination for the host from the agent, except destinations that only deny:
// without them there would be more access, not less.
func (e *editor) revoke(hp stacks.HostPort) error {
	matches := func(name string) bool {
		d := e.stack.Destinations[name]
		host, port := d.Place()
		return host == hp.Host && (hp.Port == 0 || port == hp.Port) && !d.Denies()
	}
	var names []string
	allow := e.agentNode().Get("allow")
	if allow != nil {
		for _, item := range allow.Items {
			if matches(item.Text) {
				names = append(names, item.Text)
			}
		}
	}
	if other := e.elsewhere(hp); other != "" {
		return fmt.Errorf("%s: agent %s reaches %s by %s", e.file.Path, e.agent, hp, other)
	}
	if len(names) == 0 {
		return fmt.Errorf("%s: agent %s is not allowed anything at %s; `%s` shows what it is",
			e.file.Path, e.agent, hp, e.file.Command("effective", "--agent", e.agent))
	}
	for _, name := range names {
		if err := e.drop(name); err != nil {
			return fmt.Errorf("%w; take %s out of the allow list of agent %s by hand, then run `%s`", err, scalar(name), e.agent, e.file.Command("push"))
		}
	}
	return nil
}

// drop takes a destination off the agent's allow list, and out of the file if it is named after its
// host and no agent uses it any longer.
func (e *editor) drop(name string) error {
	if slices.Contains(e.users(name), e.agent) {
		if err := errors.Join(e.removeAllowed(name), e.step()); err != nil {
			return err
		}
	}
	if !e.ours(name) || len(e.users(name)) > 0 {
		return nil
	}
	return errors.Join(e.removeDestination(name), e.step())
}

// ours reports whether the destination is named after its host.
func (e *editor) ours(name string) bool {
	host, _ := e.stack.Destinations[name].Place()
	host = destinationOf(host)
	rest, ok := strings.CutPrefix(name, host)
	return ok && (rest == "" || regexp.MustCompile(`^-[0-9]+$`).MatchString(rest))
}

// users returns the agents that use a destination.
func (e *editor) users(name string) (agents []string) {
	for _, a := range e.stack.Plan.Agents {
		if slices.ContainsFunc(a.Rules, func(r plan.Rule) bool {
			return r.ID == a.Name+"/"+name || strings.HasPrefix(r.ID, a.Name+"/"+name+"/")
		}) {
			agents = append(agents, a.Name)
		}
	}
	return agents
}

func (e *editor) removeAllowed(name string) error {
	agent := e.agentNode()
	n := agent.Get("allow")
	i := slices.IndexFunc(n.Items, func(item *yaml.Node) bool { return item.Text == name })
	item := n.Items[i]
	if n.Flow {
		var before, after *yaml.Node
		if i > 0 {
			before = n.Items[i-1]
		}
		if i+1 < len(n.Items) {
			after = n.Items[i+1]
		}
		return e.removeFlow(before, item, item, after)
	}
	if !blockItem.MatchString(e.line(item.Line)) || lastLine(item) != item.Line {
		return fmt.Errorf("edit %s: line %d is not a plain list item", e.file.Path, item.Line)
	}
	if len(n.Items) > 1 {
		start, end := e.lines(item.Line, item.Line)
		return e.splice(start, end, "")
	}
	return e.removeLast(agent, "allow", "[]", item.Line, item.Line)
}

func (e *editor) removeDestination(name string) error {
	n := e.stack.Root.Get("destinations")
	i := slices.IndexFunc(n.Fields, func(f yaml.Field) bool { return f.Key.Text == name })
	f := n.Fields[i]
	if n.Flow {
		var before, after *yaml.Node
		if i > 0 {
			before = n.Fields[i-1].Value
		}
		if i+1 < len(n.Fields) {
			after = n.Fields[i+1].Key
		}
		return e.removeFlow(before, f.Key, f.Value, after)
	}
	if strings.TrimSpace(e.line(f.Key.Line)[:f.Key.Col-1]) != "" {
		return fmt.Errorf("edit %s: line %d has more than the destination", e.file.Path, f.Key.Line)
	}
	last := max(f.Key.Line, lastLine(f.Value))
	if len(n.Fields) > 1 {
		start, end := e.lines(f.Key.Line, last)
		return e.splice(start, end, "")
	}
	return e.removeLast(e.stack.Root, "destinations", "{}", f.Key.Line, last)
}

// removeFlow removes what reaches from first to last out of a list in brackets
// or braces, with the comma that it brought along.
func (e *editor) removeFlow(before, first, last, after *yaml.Node) error {
	start := e.offset(first.Line, first.Col)
	end, err := e.end(last)
	if err != nil {
		return err
	}
	switch {
	case before != nil:
		from, err := e.end(before)
		if err != nil {
			return err
		}
		if !strings.Contains(string(e.data[from:start]), "#") { // somebody's comment
			start = from
			break
		}
		if after != nil {
			end = e.offset(after.Line, after.Col)
		}
	case after != nil:
		end = e.offset(after.Line, after.Col)
	default:
		if rest := strings.TrimLeft(string(e.data[end:]), " "); strings.HasPrefix(rest, ",") {
			end = len(e.data) - len(rest) + 1
		}
	}
	return e.splice(start, end, "")
}

// removeLast removes the lines of the only entry of the block collection
// below key. Block style has no empty form: the key goes as well, or, if that
// would leave its parent without keys or the line has more than the key, the
// flow form of nothing takes the entry's place.
func (e *editor) removeLast(parent *yaml.Node, key, empty string, first, last int) error {
	i := slices.IndexFunc(parent.Fields, func(f yaml.Field) bool { return f.Key.Text == key })
	at := parent.Fields[i].Key
	line := e.line(at.Line)
	start, end := e.lines(first, last)
	if len(parent.Fields) > 1 && strings.TrimSpace(line) == key+":" && at.Line+1 == first {
		start, end = e.lines(at.Line, last)
		return e.splice(start, end, "")
	}
	colon := strings.Index(line[at.Col-1:], ":")
	if colon < 0 {
		return fmt.Errorf("edit %s: line %d is not a plain key", e.file.Path, at.Line)
	}
	keyEnd := e.offset(at.Line, at.Col) + colon + 1
	if keyEnd > start {
		return fmt.Errorf("edit %s: line %d is not a plain key", e.file.Path, at.Line)
	}
	return e.splice(keyEnd, end, " "+empty+string(e.data[keyEnd:start]))
}

func (e *editor) agentNode() *yaml.Node { return e.stack.Root.Get("agents").Get(e.agent) }

var plainName = plan.Matching(`^[a-z][a-z0-9.-]*$`)

// scalar writes a name, in quotes if YAML would not read it as text.
func scalar(s string) string {
	if plainName(s) && !slices.Contains(yaml.Reserved, s) {
		return s
	}
	return quote(s)
}

func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string
	}
	return string(b)
}

// destinationOf names a destination after its host.
func destinationOf(host string) string {
	if rest, ok := strings.CutPrefix(host, "*."); ok {
		return "any." + rest
	}
	return host
}

// elsewhere names the other ways in which the agent reaches a host, if they cannot be taken off the
// allow list: a wildcard above it, or a preset.
func (e *editor) elsewhere(hp stacks.HostPort) string {
	for _, a := range e.stack.Plan.Agents {
		if a.Name != e.agent {
			continue
		}
		for _, r := range a.Rules {
			if r.Deny || hp.Port != 0 && r.Port != hp.Port {
				continue
			}
			o, _ := e.stack.Origin(r.ID)
			switch {
			case o.Preset != "" && r.Covers(hp.Host):
				return fmt.Sprintf("preset %s in line %d: take that off its presets by hand, then run `%s`", o.Preset, o.At.Line, e.file.Command("push"))
			case r.Host != hp.Host && r.Covers(hp.Host):
				return fmt.Sprintf("%s in line %d: revoke '%s', or by hand add a destination {host: %s, deny: true}, then run `%s`", r.Host, o.At.Line, r.Host, hp.Host, e.file.Command("push"))
			}
		}
	}
	return ""
}

// loadError is an edit after which the file would not load.
type loadError struct {
	path string
	err  error
}

// Error is the first mistake, without its position in a text that nobody sees.
func (e *loadError) Error() string {
	var p *yaml.Problem
	if errors.As(e.err, &p) {
		return fmt.Sprintf("edit %s: the result would not load: %s; %s", e.path, p.Message, p.Hint)
	}
	return fmt.Sprintf("edit %s: the result would not load: %s", e.path, e.err)
}

func (e *loadError) Unwrap() error { return e.err }

// entry writes a destination. way is what [editor.wayEntry] returns.
func entry(name string, r *plan.Rule, way string) string {
	host := scalar(r.Host)
	s := scalar(name) + ": {host: " + host
	if r.Port != 443 {
		s += fmt.Sprintf(", port: %d", r.Port)
	}
	if !slices.Equal(r.Methods, []string{plan.AnyMethod}) {
		s += ", methods: [" + strings.Join(r.Methods, ", ") + "]"
	}
	if !slices.Equal(r.Paths, []string{plan.AnyPath}) {
		var quoted []string
		for _, p := range r.Paths {
			quoted = append(quoted, quote(p))
		}
		s += ", paths: [" + strings.Join(quoted, ", ") + "]"
	}
	s += way + limitsEntry(r.Limits)
	if r.Expires != "" {
		s += ", expires: " + quote(r.Expires)
	}
	if r.Reason != "" {
		s += ", reason: " + quote(r.Reason)
	}
	return s + "}"
}

// limitsEntry writes limits in the grammar, as a key that follows others.
func limitsEntry(l *plan.Limits) string {
	if l == nil {
		return ""
	}
	var keys []string
	if l.Requests != 0 {
		per := map[uint32]string{1: "s", 60: "min", 3600: "hour"}[l.Per]
		keys = append(keys, fmt.Sprintf("requests: %d/%s", l.Requests, per))
	}
	if l.Concurrent != 0 {
		keys = append(keys, fmt.Sprintf("concurrent: %d", l.Concurrent))
	}
	for _, s := range []struct {
		key, per string
		bytes    uint64
	}{{"body", "", l.Body}, {"upload", "/s", l.Upload}, {"download", "/s", l.Download}} {
		if s.bytes != 0 {
			keys = append(keys, s.key+": "+yaml.SizeText(s.bytes)+s.per)
		}
	}
	return ", limits: {" + strings.Join(keys, ", ") + "}"
}
