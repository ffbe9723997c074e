package guardrail

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/plan/network"
	"github.com/postern/postern/policies/proxy"
	"github.com/postern/postern/stacks/hosting"
)

// plansOf returns the egress plans, by the resource that publishes each, or by nil. The plan of a
// resource that does not know it yet is nil.
func plansOf(g *graph.Graph, o Options) map[*graph.Resource]*plan.Plan {
	out := map[*graph.Resource]*plan.Plan{}
	for i := range g.Resources {
		if r := &g.Resources[i]; is(r, bundleType) && (o.One == "" || r.URN == o.One) {
			p := &plan.Plan{}
			if json.Unmarshal([]byte(r.String("plan")), p) != nil {
				p = nil
			}
			out[r] = p
		}
	}
	if len(out) == 0 && o.Plan != nil {
		out[nil] = o.Plan
	}
	return out
}

// eachAllowed calls the rail for each rule of the plans that allows something. Such a finding is
// named after the rule.
func (c *checker) eachAllowed() {
	for r, p := range c.plans {
		if p == nil {
			c.unknown(r, "plan")
			continue
		}
		for i := range p.Agents {
			for j := range p.Agents[i].Rules {
				rule := &p.Agents[i].Rules[j]
				if rule.Deny {
					continue
				}
				if verdict, what := c.rail.Rule(p, rule); verdict != "" {
					c.add(r, verdict, "plan", what)
					c.report.Findings[len(c.report.Findings)-1].Name = rule.ID
				}
			}
		}
	}
}

var (
	nodeTypes  = []string{"postern:local:ControlPlane", "postern:local:Node"}
	digestForm = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

const bundleType = "postern:local:Bundle"

// tierRails are about the proxies, wherever they run, and about the local target.
var tierRails = []Rail{
	{
		ID: "PRX-03", Severity: Error, Says: "The proxies refuse what no rule allows before they resolve a name.",
		Fix: "remove the rule: Envoy would not do what the policy says", Whole: config(true),
	},
	{
		ID: "PRX-04", Severity: Error,
		Says: "A destination is verified by TLS, for the name of the request, unless a reason says why not.",
		Fix:  "write https, or a reason", Whole: config(false),
		Rule: func(_ *plan.Plan, rule *plan.Rule) (string, string) {
			if rule.Upstream == nil || !rule.Upstream.Plain || rule.Reason != "" ||
				strings.HasPrefix(rule.Upstream.Address, "unix:") {
				return "", ""
			}
			if a, err := netip.ParseAddrPort(rule.Upstream.Address); err == nil && a.Addr().IsLoopback() {
				return "", ""
			}
			return Fails, "nobody verifies who answers at " + rule.Upstream.Address + ", and the network sees it"
		},
	},
	{
		ID: "PRX-06", Severity: Error, Says: "No destination is at a metadata service.",
		Fix: "remove the upstream", Types: []string{bundleType},
		Rule: func(_ *plan.Plan, rule *plan.Rule) (string, string) {
			if rule.Upstream == nil {
				return "", ""
			}
			if a, err := netip.ParseAddrPort(rule.Upstream.Address); err == nil && network.Metadata(a.Addr()) {
				return Fails, rule.Upstream.Address + " answers with the credentials of the proxy"
			}
			return "", ""
		},
	},
	{
		ID: "PRX-07", Severity: Warning, Says: "An agent does not use an account of its own at a destination.",
		Fix: "write a credential instead of own_credentials",
		Rule: func(_ *plan.Plan, rule *plan.Rule) (string, string) {
			if !rule.OwnCredentials {
				return "", ""
			}
			return Fails, "what an agent sends to " + rule.Host + " may be for somebody else's account"
		},
	},
	{
		ID: "PRX-09", Severity: Error,
		Says: "No wildcard has names that strangers can rent, unless a reason says why all are needed.",
		Fix:  "write the names that are yours, or a reason",
		Rule: func(p *plan.Plan, rule *plan.Rule) (string, string) {
			rest, wildcard := strings.CutPrefix(rule.Host, "*.")
			suffix, registry := hosting.Below(rest)
			if !wildcard || suffix == "" || !registry && rule.Reason != "" && (rule.Credential == "" ||
				signs(p, rule.Credential)) {
				return "", ""
			}
			return Fails, fmt.Sprintf("everybody can have a name under %s, and so %s leads to whoever wants it", suffix,
				rule.Host)
		},
	},
	{
		ID: "LOC-01", Severity: Error, Production: true,
		Says:  "The control plane and the nodes run as users of their own.",
		Fix:   "bring the stack up as root",
		Needs: []need{{types: nodeTypes, path: "separate", is: []string{"true"}}},
	},
	{
		ID: "LOC-02", Severity: Error, Says: "The programs of a local stack are named by a full path and a digest.",
		Fix: "declare the stack with components/local", Types: nodeTypes,
		Each: func(c *checker, r *graph.Resource) {
			for path, digest := range map[string]string{"posternd": "digest", "envoy": "envoyDigest"} {
				if path == "envoy" && !is(r, nodeTypes[1]) {
					continue
				}
				c.each(r, path, func(at string, v any) {
					if !strings.HasPrefix(textOf(v), "/") {
						c.fail(r, at, "%q may be another program tomorrow", textOf(v))
					}
				})
				if v := r.Inputs[digest]; v != graph.Unknown && !digestForm.MatchString(textOf(v)) {
					c.fail(r, digest, "%q is not a digest", textOf(v))
				}
			}
		},
	},
}

// config returns a check of what the policies make of Envoy: see [proxy.Check].
func config(order bool) func(*checker) {
	return func(c *checker) {
		for r, p := range c.plans {
			if p != nil {
				for _, what := range proxy.Check(p, order) {
					c.fail(r, "plan", "%s", what)
				}
			}
		}
	}
}

// signs reports whether a credential is never sent itself.
func signs(p *plan.Plan, credential string) bool {
	for _, c := range p.Credentials {
		if c.Name == credential {
			return c.Kind == plan.KindAWSSigV4
		}
	}
	return false
}
