// Package guardrail checks the resources that a stack would create, or has, against rules with an
// ID each: [Rails]. Package reach proves what an agent can reach; a guardrail looks at one
// resource, or at what should be next to it, and says what to write instead. It needs no SDK.
package guardrail

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/visible"
)

// Severity says what follows from a finding.
type Severity string

// The severities.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// Rail is one guardrail.
type Rail struct {
	// ID is a name such as NET-05. It is never used for something else.
	ID       string
	Severity Severity
	// Production means that outside of production a finding is a warning.
	Production bool
	// Says is the rule, in one sentence, and Fix what to do if it does not hold.
	Says, Fix string
	// Others are rules of other programs that ask for the same, or for a part: of Checkov (CKV) and
	// of Prowler. Against are those that ask for the opposite.
	Others, Against []string
	// Needs are values that resources must have.
	Needs []need
	// Each looks at one resource of the types, and at what it refers to.
	Types []string
	Each  func(c *checker, r *graph.Resource)
	// Whole looks at all resources together.
	Whole func(c *checker)
	// Judge judges one resource of the types, and Rule one rule of the egress plan that allows.
	// They return a verdict and what is wrong, or "" if the guardrail holds.
	Judge func(r *graph.Resource) (verdict, what string)
	Rule  func(p *plan.Plan, r *plan.Rule) (verdict, what string)
}

// The verdicts of a finding.
const (
	Fails = "fails"
	// Indeterminate means that a value that matters is not known yet.
	Indeterminate = "indeterminate"
)

// Finding is one place where a guardrail does not hold.
type Finding struct {
	Rail     string   `json:"guardrail"`
	Severity Severity `json:"severity"`
	Verdict  string   `json:"verdict"`
	// Resource is the resource's URN. Name is its name in the program.
	Resource string `json:"resource,omitempty"`
	Type     string `json:"type,omitempty"`
	Name     string `json:"name,omitempty"`
	// Property is the path of the input, such as tags or ingress.0.cidrBlock.
	Property string `json:"property,omitempty"`
	What     string `json:"what"`
	// Fix says how to correct it.
	Fix string `json:"fix"`
	// Waiver lets the finding be.
	Waiver *Waiver `json:"waiver,omitempty"`
}

// String returns the place, the problem and the correction in one line. It quotes values of the
// resources, which an agent may have written, as [visible.Text] does.
func (f Finding) String() string {
	where := f.Name
	if f.Type != "" {
		where += " (" + short(f.Type) + ")"
	}
	if f.Property != "" {
		where += ": " + f.Property
	}
	text := visible.Sprintf("%s %s: %s; %s", f.Rail, where, f.What, f.Fix)
	if f.Verdict == Indeterminate {
		text = visible.Sprintf("%s %s: indeterminate: %s; %s", f.Rail, where, f.What, f.Fix)
	}
	return text
}

// Options say how findings are judged.
type Options struct {
	// Production means that what is not known fails, and that guardrails for production hold.
	Production bool
	Waivers    []Waiver
	// Today is the date, as 2006-01-02, by which waivers end.
	Today string
	// More are guardrails besides [Rails].
	More []Rail
	// Plan is the egress plan, if no resource has it.
	Plan *plan.Plan
	// One limits the check to what can be said of the resource with this URN alone.
	One string
}

// Report is what a check found.
type Report struct {
	Stack      string    `json:"stack"`
	Production bool      `json:"production"`
	Rails      int       `json:"guardrails"`
	Resources  int       `json:"resources"`
	Findings   []Finding `json:"findings"`
}

// Blocks reports whether the resources must not be created.
func (r *Report) Blocks() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Severity == Error && f.Waiver == nil })
}

// Check checks the resources. Its findings are sorted by guardrail and resource.
func Check(g *graph.Graph, o Options) *Report {
	rails := append(slices.Clone(Rails), o.More...)
	report := &Report{Stack: g.Stack, Production: o.Production, Rails: len(rails), Findings: []Finding{}}
	m, plans := newMap(g), plansOf(g, o)
	known := map[string]bool{}
	for i := range rails {
		c := &checker{
			g: g, rail: &rails[i], places: m, production: o.Production, report: report,
			plans: plans, alone: o.One != "",
			connect: map[*graph.Resource][]string{},
		}
		for j := range g.Resources {
			r := &g.Resources[j]
			if o.One != "" && r.URN != o.One {
				continue
			}
			for k := range c.rail.Needs {
				known[r.Type] = c.need(r, &c.rail.Needs[k]) || known[r.Type]
			}
			if slices.ContainsFunc(c.rail.Types, func(kind string) bool { return is(r, kind) }) {
				known[r.Type] = true
				if c.rail.Each != nil {
					c.rail.Each(c, r)
				}
				if c.rail.Judge != nil {
					if verdict, what := c.rail.Judge(r); verdict != "" {
						c.add(r, verdict, "", what)
					}
				}
			}
		}
		if c.rail.Rule != nil {
			c.eachAllowed()
		}
		if c.rail.Whole != nil && o.One == "" {
			c.rail.Whole(c)
		}
	}
	for i := range g.Resources {
		if r := &g.Resources[i]; r.Custom && !strings.HasPrefix(r.Type, "pulumi:") && (o.One == "" || r.URN == o.One) {
			report.Resources++
			if !known[r.Type] && !slices.ContainsFunc(harmless, func(prefix string) bool {
				return strings.HasPrefix(r.Type, prefix)
			}) {
				report.Findings = append(report.Findings, m.unknownType(r, o.Production))
			}
		}
	}
	report.waive(o, rails)
	slices.SortStableFunc(report.Findings, func(a, b Finding) int {
		return cmp.Or(strings.Compare(a.Rail, b.Rail), strings.Compare(a.Resource, b.Resource),
			strings.Compare(a.Property, b.Property), strings.Compare(a.What, b.What))
	})
	return report
}

// checker is one guardrail at work.
type checker struct {
	g          *graph.Graph
	rail       *Rail
	places     *places
	production bool
	report     *Report
	plans      map[*graph.Resource]*plan.Plan
	// alone means that the resources do not say to what they refer: see [Options.One].
	alone bool
	// connect has the networks from which each group takes connections.
	connect map[*graph.Resource][]string
}

func (c *checker) add(r *graph.Resource, verdict, property, what string) {
	f := Finding{
		Rail: c.rail.ID, Severity: c.rail.Severity, Verdict: verdict, Property: property, What: what, Fix: c.rail.Fix,
	}
	if r != nil {
		f.Resource, f.Type, f.Name = r.URN, r.Type, r.Name
	}
	if (verdict == Indeterminate || c.rail.Production) && !c.production {
		f.Severity = Warning
	}
	c.report.Findings = append(c.report.Findings, f)
}

// fail reports that the guardrail does not hold at a property of the resource.
func (c *checker) fail(r *graph.Resource, property, what string, a ...any) {
	c.add(r, Fails, property, fmt.Sprintf(what, a...))
}

// unknown reports a value that matters and that is not known.
func (c *checker) unknown(r *graph.Resource, property string) {
	c.add(r, Indeterminate, property, "the value matters, and is not known yet")
}

// is reports whether the resource is of a type, which may be written without its last part:
// aws:ec2/vpc for aws:ec2/vpc:Vpc.
func is(r *graph.Resource, kind string) bool {
	rest, ok := strings.CutPrefix(r.Type, kind)
	return r.Custom && ok && (rest == "" || rest[0] == ':')
}

// short is a type without its package and module: Vpc for aws:ec2/vpc:Vpc.
func short(token string) string { return token[strings.LastIndexByte(token, ':')+1:] }

// TypeRail reports types of resources that no guardrail looks at.
const TypeRail = "TYP-01"

// uses says who has a role.
var uses = map[string]string{
	agents: "agents use", proxies: "the proxies use", control: "the control plane uses",
}

// unknownType is a warning. In production it is an error if the resource uses a network, a subnet
// or a group of agents, of the proxies or of the control plane: it may be a way out.
func (p *places) unknownType(r *graph.Resource, production bool) Finding {
	f := Finding{
		Rail: TypeRail, Severity: Warning, Verdict: Indeterminate, Resource: r.URN, Type: r.Type, Name: r.Name,
		What: "no guardrail knows this type, so nothing was checked of it",
		Fix:  "look at it yourself, and write a waiver or a policy of your own for it: docs/guardrails.md",
	}
	for _, role := range []string{control, proxies, agents} {
		for _, of := range []map[string]map[*graph.Resource]bool{p.vpcs, p.subnets, p.groups, p.tables, p.acls} {
			if x, property := p.touches(r, of[role]); x != nil && production {
				f.Severity, f.Verdict, f.Property = Error, Fails, property
				f.What = fmt.Sprintf("no guardrail knows this type, and it uses %s, which %s", x.Name, uses[role])
			}
		}
	}
	return f
}
