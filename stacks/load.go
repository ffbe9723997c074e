package stacks

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/postern/postern/plan"
)

// Stack is a loaded stack file.
type Stack struct {
	// Name is the base name of the file, without extension.
	Name string
	// Path is the file, as it was given to [Load].
	Path string
	// Target is where the stack runs: "local".
	Target string
	// Nodes is how many proxies the fleet has.
	Nodes int
	Plan  *plan.Plan

	// lines has the line of each rule, by ID.
	lines map[string]int
	// root and destinations are what edits work on.
	root         *node
	destinations map[string]*destination
}

// Source is where the rule is written, such as "stacks/local.yaml:12"; the
// file alone for a rule that is not in it.
func (s *Stack) Source(ruleID string) string {
	if line, ok := s.lines[ruleID]; ok {
		return fmt.Sprintf("%s:%d", s.Path, line)
	}
	return s.Path
}

// maxFile is more than any stack file needs.
const maxFile = 1 << 20

// Load reads and compiles the stack file at path. It opens no secret. Its
// error joins a [Problem] for every mistake.
func Load(path string) (*Stack, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return parse(path, data)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read stack file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read stack file %s: %w", path, err)
	}
	if len(data) > maxFile {
		return nil, &Problem{File: path, Line: 1, Col: 1, Message: "the file is larger than 1 MiB", Hint: "split it into several stacks"}
	}
	return data, nil
}

// parse compiles what the file at path has, or would have.
func parse(path string, data []byte) (*Stack, error) {
	p := &problems{file: path}
	root := parseYAML(data, p)
	if root == nil {
		return nil, p.err()
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find stack file %s: %w", path, err)
	}
	l := &loader{
		problems: p, dir: filepath.Dir(abs),
		credentials: map[string]plan.Credential{}, destinations: map[string]*destination{},
	}
	stack := l.stack(root)
	if err := p.err(); err != nil {
		return nil, err
	}
	stack.Name, stack.Path = NameOf(path), path
	stack.Plan.Stack = stack.Name
	stack.root, stack.destinations = root, l.destinations
	return stack, nil
}

// loader reads one file. Its methods record problems and carry on.
type loader struct {
	*problems
	// dir is the absolute folder of the file.
	dir          string
	credentials  map[string]plan.Credential
	destinations map[string]*destination
}

var (
	// name is what agents and credentials may be called.
	name = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	// destinationName also admits host names.
	destinationName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)
)

func (l *loader) stack(root *node) *Stack {
	s := &Stack{Nodes: 1, Plan: &plan.Plan{}, lines: map[string]int{}}
	if !l.mapping(root, "the stack file", "version", "target", "credentials", "destinations", "agents", "proxies") {
		return s
	}
	l.version(root)
	s.Target = l.target(root)
	if n := root.get("credentials"); n != nil && l.mapping(n, "credentials") {
		for _, f := range n.fields {
			l.credential(f)
		}
	}
	if n := root.get("destinations"); n != nil && l.mapping(n, "destinations") {
		gateways := map[uint16]string{}
		for _, f := range n.fields {
			l.destination(f, gateways)
		}
	}
	if n := root.get("agents"); n != nil && l.mapping(n, "agents") {
		for _, f := range n.fields {
			l.agent(f, s)
		}
	}
	if n := root.get("proxies"); n != nil && l.mapping(n, "proxies", "count", "resolvers") {
		if c := n.get("count"); c != nil {
			s.Nodes = l.integer(c, "count", 1, 16)
		}
		if r := n.get("resolvers"); r != nil {
			s.Plan.Resolvers = l.resolvers(r)
		}
	}
	slices.SortFunc(s.Plan.Agents, func(a, b plan.Agent) int { return strings.Compare(a.Name, b.Name) })
	s.Plan.Credentials = l.used(s.Plan)
	return s
}

func (l *loader) version(root *node) {
	n := root.get("version")
	switch {
	case n == nil:
		l.at(root, "write version: 1", "version is missing")
	case n.kind != kindInteger || n.text != "1":
		l.at(n, "write version: 1", "this version of the grammar is unknown")
	}
}

func (l *loader) target(root *node) string {
	n := root.get("target")
	if n == nil {
		l.at(root, "write target: local", "target is missing")
		return ""
	}
	if t, ok := l.text(n, "target"); ok && t != "local" {
		l.at(n, "write target: local", "target %q is not supported", t)
	}
	return "local"
}

// agent reads one agent and flattens its rules.
func (l *loader) agent(f field, s *Stack) {
	l.name(f.key, "an agent")
	if !l.mapping(f.value, "agent "+f.key.text, "runtime", "allow") {
		return
	}
	if n := f.value.get("runtime"); n != nil {
		if t, ok := l.text(n, "runtime"); ok && t != "bubblewrap" {
			l.at(n, "write runtime: bubblewrap", "runtime %q is not supported", t)
		}
	}
	agent := plan.Agent{Name: f.key.text}
	s.lines[plan.DefaultRule(agent.Name)] = f.key.line
	if n := f.value.get("allow"); n != nil {
		if n.kind != kindList {
			l.at(n, "write allow: [] or the names of destinations", "allow is %s, not a list", n.describe())
			return
		}
		seen := map[string]bool{}
		for _, item := range n.items {
			d := l.allowed(item, seen)
			if d == nil {
				continue
			}
			rule := d.rule
			rule.ID = agent.Name + "/" + d.name
			agent.Rules = append(agent.Rules, rule)
			s.lines[rule.ID] = d.line
		}
	}
	s.Plan.Agents = append(s.Plan.Agents, agent)
}

// allowed returns the destination that an item of an allow list names, or nil.
func (l *loader) allowed(item *node, seen map[string]bool) *destination {
	t, ok := l.text(item, "the name of a destination")
	if !ok {
		return nil
	}
	d, ok := l.destinations[t]
	switch {
	case !ok:
		l.at(item, nearest(t, sortedKeys(l.destinations)), "there is no destination %q", t)
		return nil
	case seen[t]:
		l.at(item, "remove one of them", "destination %q is in the list already", t)
		return nil
	}
	seen[t] = true
	return d
}

// used returns the credentials that some rule injects: the others are nobody's
// business, least of all the fleet's.
func (l *loader) used(p *plan.Plan) []plan.Credential {
	names := map[string]bool{}
	for _, a := range p.Agents {
		for _, r := range a.Rules {
			names[r.Credential] = true
		}
	}
	var used []plan.Credential
	for _, key := range sortedKeys(l.credentials) {
		if names[key] {
			used = append(used, l.credentials[key])
		}
	}
	return used
}

// mapping reports whether n is a mapping, all of whose keys are among those
// given. Without keys every key is welcome.
func (l *loader) mapping(n *node, what string, keys ...string) bool {
	if n.kind != kindMap {
		l.at(n, "write key: value pairs, or {} for none", "%s is %s, not a mapping", what, n.describe())
		return false
	}
	for _, f := range n.fields {
		if len(keys) > 0 && !slices.Contains(keys, f.key.text) {
			l.at(f.key, nearest(f.key.text, keys), "unknown key %q in %s", f.key.text, what)
		}
	}
	return true
}

func (l *loader) name(n *node, what string) {
	if !name.MatchString(n.text) {
		l.at(n, "write a lower-case letter, then up to 31 letters, digits and hyphens", "%q cannot name %s", n.text, what)
	}
}

// text returns the text of a scalar. It never quotes the value of another type.
func (l *loader) text(n *node, what string) (string, bool) {
	if n.kind != kindText {
		hint := "write text"
		if n.kind == kindInteger || n.kind == kindOther {
			hint = "write it in quotes"
		}
		l.at(n, hint, "%s is %s, not text", what, n.kind)
		return "", false
	}
	if n.text == "" {
		l.at(n, "write it, or remove the key", "%s is empty", what)
		return "", false
	}
	return n.text, true
}

// integer returns a whole number between low and high, or 0.
func (l *loader) integer(n *node, what string, low, high int) int {
	v, err := strconv.Atoi(n.text)
	if n.kind != kindInteger || err != nil || v < low || v > high || strconv.Itoa(v) != n.text {
		l.at(n, fmt.Sprintf("write a number from %d to %d", low, high), "%s is no such number", what)
		return 0
	}
	return v
}

// texts returns the items of a list that has some, without duplicates.
func (l *loader) texts(n *node, what, empty string, each func(item *node, text string)) {
	if n.kind != kindList {
		l.at(n, "write a list, such as [a, b]", "%s is %s, not a list", what, n.describe())
		return
	}
	if len(n.items) == 0 {
		l.at(n, empty, "%s is an empty list", what)
		return
	}
	seen := map[string]bool{}
	for _, item := range n.items {
		t, ok := l.text(item, "an item of "+what)
		if !ok {
			continue
		}
		if seen[t] {
			l.at(item, "remove one of them", "%q is in %s already", t, what)
			continue
		}
		seen[t] = true
		each(item, t)
	}
}
