package stacks

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/plan/cloud"
	"github.com/postern/postern/plan/tool"
	"github.com/postern/postern/stacks/aws"
	"github.com/postern/postern/stacks/own"
	"github.com/postern/postern/stacks/yaml"
)

// The targets: where a stack runs.
const (
	TargetLocal = "local"
	TargetAWS   = "aws"
)

// Stack is a loaded stack file.
type Stack struct {
	// Name is [File.Name].
	Name string
	// Path is the file, for messages.
	Path string
	// File is [File.Real].
	File string
	// Target is [TargetLocal] or [TargetAWS].
	Target string
	// Nodes is the number of proxies in the fleet.
	Nodes int
	Plan  *plan.Plan
	// AWS is what the file says about [TargetAWS]; nil for other targets.
	AWS        *cloud.AWS
	Guardrails Guardrails
	// Warnings are about text that is valid but probably no longer intended, such as rules that
	// have expired.
	Warnings []*yaml.Problem

	// origins has where each agent and its rules are from, by its name. The rules have the order of
	// the plan.
	origins map[string]*origins
	// Root is the tree of the file, and Destinations are what it declares, by name: what an edit
	// looks at.
	Root         *yaml.Node
	Destinations map[string]*Destination
}

// Origin is the place of a rule in the file, and the rule's preset, if any.
type Origin struct {
	At     *yaml.Node
	Preset string
}

// Agent returns the agent's part of the plan. The error names the agent that was probably meant.
func (s *Stack) Agent(name string) (*plan.Agent, error) {
	if a := s.agent(name); a != nil {
		return a, nil
	}
	names := make([]string, len(s.Plan.Agents))
	for i := range s.Plan.Agents {
		names[i] = s.Plan.Agents[i].Name
	}
	return nil, fmt.Errorf("%s: there is no agent %q; %s", s.Path, name, yaml.Nearest(name, names))
}

// origins are the places of an agent and of its rules.
type origins struct {
	at    *yaml.Node
	rules []Origin
}

// Origin returns the place of the rule, or false if the file has no such rule.
func (s *Stack) Origin(ruleID string) (Origin, bool) {
	name := plan.AgentOf(ruleID)
	from, agent := s.origins[name], s.agent(name)
	switch {
	case from == nil || agent == nil:
		return Origin{}, false
	case ruleID == plan.DefaultRule(name):
		return Origin{At: from.at}, true
	}
	i := slices.IndexFunc(agent.Rules, func(r plan.Rule) bool { return r.ID == ruleID })
	if i < 0 {
		return Origin{}, false
	}
	return from.rules[i], true
}

// agent returns the agent of that name, or nil.
func (s *Stack) agent(name string) *plan.Agent {
	for i := range s.Plan.Agents {
		if a := &s.Plan.Agents[i]; a.Name == name {
			return a
		}
	}
	return nil
}

// Source returns the place of the rule, such as "stacks/local.yaml:12", or, with its preset,
// "stacks/local.yaml:12, preset anthropic". For a rule that is not in the file it returns only the
// file.
func (s *Stack) Source(ruleID string) string {
	o, ok := s.Origin(ruleID)
	if !ok {
		return s.Path
	}
	at := fmt.Sprintf("%s:%d", s.Path, o.At.Line)
	if o.Preset != "" {
		at += ", preset " + o.Preset
	}
	return at
}

// maxFile is more than any stack file needs.
const maxFile = 1 << 20

// Load reads and compiles the stack file at path. It opens no secret. Its
// error joins a [yaml.Problem] for every mistake.
func Load(path string) (*Stack, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	return f.Load()
}

// Load compiles the file as it was read: see [Load].
func (f *File) Load() (*Stack, error) {
	data, err := f.Content()
	if err != nil {
		return nil, err
	}
	s, err := f.Parse(data)
	if err != nil {
		return nil, err
	}
	s.warn(time.Now())
	return s, nil
}

// warn adds what is odd about the stack at a given time.
func (s *Stack) warn(now time.Time) {
	odd := map[string]bool{}
	for _, a := range s.Plan.Agents {
		for i, r := range a.Rules {
			o := s.origins[a.Name].rules[i]
			if text := Lookalike(r.Host); text != "" && !odd[r.Host] {
				odd[r.Host] = true
				s.Warnings = append(s.Warnings, &yaml.Problem{
					File: s.Path, Line: o.At.Line, Col: o.At.Col, Message: text, Hint: "remove it, unless it is the host that you mean",
				})
			}
			if s.signsNothing(&r) && !odd[r.Host] {
				odd[r.Host] = true
				s.Warnings = append(s.Warnings, &yaml.Problem{
					File: s.Path, Line: o.At.Line, Col: o.At.Col,
					Message: fmt.Sprintf("rule %s refuses every client of this API: clients name an operation with X-Amz-Target, so a rule that restricts methods or paths must name it, too", r.ID),
					Hint:    "write headers: {x-amz-target: ...}, with a destination for each operation",
				})
			}
			if end, err := time.Parse(time.RFC3339, r.Expires); err == nil && !now.Before(end) {
				s.Warnings = append(s.Warnings, &yaml.Problem{
					File: s.Path, Line: o.At.Line, Col: o.At.Col,
					Message: fmt.Sprintf("rule %s has expired at %s", r.ID, r.Expires), Hint: "remove it, or write a later time",
				})
			}
		}
	}
}

// targeted are the AWS services of which every request is a POST to / that names its
// operation by a header.
var targeted = []string{
	"athena", "cloudtrail", "codebuild", "cognito-idp", "dynamodb", "ecr", "ecs", "events", "glue", "kinesis", "kms", "logs", "secretsmanager", "sqs", "ssm", "states",
}

// signsNothing reports whether a rule asks for a method or path only, where an operation has to be
// named.
func (s *Stack) signsNothing(r *plan.Rule) bool {
	i := slices.IndexFunc(s.Plan.Credentials, func(c plan.Credential) bool { return c.Name == r.Credential && c.Kind == plan.KindAWSSigV4 })
	return !r.Deny && i >= 0 && slices.Contains(targeted, s.Plan.Credentials[i].Service) &&
		!(slices.Contains(r.Methods, plan.AnyMethod) && slices.Contains(r.Paths, plan.AnyPath)) &&
		!slices.ContainsFunc(r.Headers, func(c plan.Condition) bool { return c.Name == "x-amz-target" })
}

// Parse compiles what the file has, or would have.
func (f *File) Parse(data []byte) (*Stack, error) {
	p := &yaml.Problems{File: f.Path}
	root := yaml.Parse(data, p)
	if root == nil {
		return nil, p.Err()
	}
	l := &loader{
		folders: sync.OnceValues(hostpath.AgentFolders),
		Reader:  &yaml.Reader{Problems: p, Dir: filepath.Dir(f.Real)}, clients: f.hostsOf,
		credentials: map[string]plan.Credential{}, destinations: map[string]*Destination{}, patterns: map[string]bool{},
		seen: map[string]bool{}, places: map[place]*placed{}, ids: map[string]bool{},
		owned: map[string]tool.Tool{},
	}
	stack := l.stack(root)
	if err := p.Err(); err != nil {
		return nil, err
	}
	stack.Name, stack.Path, stack.File = f.Name(), f.Path, f.Real
	stack.Plan.Stack = stack.Name
	stack.Root, stack.Destinations = root, l.destinations
	return stack, nil
}

// loader reads one file. Its methods record problems and carry on.
type loader struct {
	*yaml.Reader
	// clients returns the hosts of a package client.
	clients func(client string) ([]HostPort, error)
	// folders returns what agents may write.
	folders func() (*hostpath.Folders, error)
	// repositories holds what presets allow at a git host.
	repositories *yaml.Node
	// patterns are path patterns that were read and are right: most files have few.
	patterns map[string]bool
	// flat, seen, places and ids are what each agent is compiled in, one after the other.
	flat         []placed
	seen, ids    map[string]bool
	places       map[place]*placed
	credentials  map[string]plan.Credential
	destinations map[string]*Destination
	// owned are the tools of the file, by name.
	owned map[string]tool.Tool
}

var (
	// name matches the valid names of agents and credentials.
	name = plan.Matching(NamePattern)
	// destinationName also admits host names.
	destinationName = plan.Matching(DestinationNamePattern)
)

const (
	NamePattern            = `^[a-z][a-z0-9-]{0,31}$`
	DestinationNamePattern = `^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`
)

func (l *loader) stack(root *yaml.Node) *Stack {
	s := &Stack{Nodes: 1, Plan: &plan.Plan{}, origins: map[string]*origins{}}
	if !l.Mapping(root, "the stack file", "version", "target", "credentials", "destinations", "tools", "agents", "proxies",
		"aws", "guardrails") {
		return s
	}
	l.version(root)
	s.Target = l.target(root)
	if n := root.Get("credentials"); n != nil && l.Mapping(n, "credentials") {
		for _, f := range n.Fields {
			l.credential(f)
		}
	}
	if n := root.Get("destinations"); n != nil && l.Mapping(n, "destinations") {
		for _, f := range n.Fields {
			l.destination(f)
		}
	}
	if n := root.Get("tools"); n != nil && l.Mapping(n, "tools") {
		for _, f := range n.Fields {
			if l.name(f.Key, "a tool"); s.Target != TargetLocal {
				l.At(f.Key, "remove it", "tools are for target: local")
			}
			l.owned[f.Key.Text] = own.Read(l.Reader, f)
		}
	}
	if n := root.Get("agents"); n != nil && l.Mapping(n, "agents") {
		for _, f := range n.Fields {
			l.agent(f, s)
		}
	}
	if n := root.Get("proxies"); n != nil && l.Mapping(n, "proxies", "count", "resolvers") {
		if c := n.Get("count"); c != nil && s.Target == TargetAWS {
			l.At(c, "remove it, and write aws: {proxies: {min: 2}}", "target aws scales its proxies automatically")
		} else if c != nil {
			s.Nodes = l.Integer(c, "count", 1, 16)
		}
		if r := n.Get("resolvers"); r != nil {
			s.Plan.Resolvers = l.resolvers(r)
		}
	}
	slices.SortFunc(s.Plan.Agents, func(a, b plan.Agent) int { return strings.Compare(a.Name, b.Name) })
	s.Plan.Credentials = l.used(s.Plan)
	if s.Target == TargetAWS {
		var warnings []*yaml.Problem
		s.AWS, warnings = aws.Read(l.Reader, root, s.Plan)
		s.Warnings = append(s.Warnings, warnings...)
	} else if n := root.Get("aws"); n != nil {
		l.At(n, "remove it, or write target: aws", "target %s has no section aws", s.Target)
	}
	s.Guardrails.Production = s.AWS != nil && s.AWS.Mode == cloud.ModeIsolated && s.AWS.Protect
	if n := root.Get("guardrails"); n != nil {
		s.Guardrails.read(l.Reader, n, l.File)
	}
	return s
}

func (l *loader) version(root *yaml.Node) {
	n := root.Get("version")
	switch {
	case n == nil:
		l.At(root, "write version: 1", "version is missing")
	case n.Kind != yaml.KindInteger || n.Text != "1":
		l.At(n, "write version: 1", "this version of the grammar is unknown")
	}
}

func (l *loader) target(root *yaml.Node) string {
	n := root.Get("target")
	if n == nil {
		l.At(root, "write target: local", "target is missing")
		return TargetLocal
	}
	return l.OneOf(n, "target", TargetLocal, TargetAWS)
}

// used returns the credentials that some rule injects. The fleet does not need the others.
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

func (l *loader) name(n *yaml.Node, what string) {
	if !name(n.Text) {
		l.At(n, "write a lower-case letter, then up to 31 letters, digits and hyphens", "%q cannot name %s", n.Text, what)
	}
}
