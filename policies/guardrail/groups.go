package guardrail

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/policies/packet"
)

// rule is one rule of a security group, whether it is a resource of its own or a part of the group.
type rule struct {
	r *graph.Resource
	// group is nil if it is not in the stack, or not told.
	group *graph.Resource
	// at is the path of the rule in its resource, with a period at its end, or "".
	at     string
	out    bool
	inputs map[string]any
}

// groupTypes are the types that have such rules.
var groupTypes = []string{
	"aws:ec2/securityGroup", "aws:vpc/securityGroupEgressRule", "aws:vpc/securityGroupIngressRule",
	"aws:ec2/securityGroupRule",
}

// mostRules is what AWS takes in one group.
const mostRules = 1000

// rules returns the rules of a resource. It reports rules that are not known.
func (c *checker) rules(r *graph.Resource) []rule {
	if is(r, "aws:ec2/securityGroup") {
		var out []rule
		for _, property := range []string{"egress", "ingress"} {
			if items, _ := r.Inputs[property].([]any); len(items) > mostRules {
				c.add(r, Indeterminate, property,
					fmt.Sprintf("it has %d rules, and AWS takes no more than %d", len(items), mostRules))
				continue
			}
			c.each(r, property+".*", func(at string, v any) {
				inputs, ok := v.(map[string]any)
				if !ok {
					c.unknown(r, at)
					return
				}
				out = append(out, rule{r, r, at + ".", property == "egress", inputs})
			})
		}
		return out
	}
	x := rule{r: r, out: is(r, "aws:vpc/securityGroupEgressRule") || r.String("type") == "egress", inputs: r.Inputs}
	if groups := c.places.to(r, "securityGroupId", "aws:ec2/securityGroup"); len(groups) == 1 {
		x.group = groups[0]
	}
	return []rule{x}
}

// either returns the first of the inputs that is set, by its name: rules of different types spell
// the same differently.
func (x rule) either(properties ...string) (string, any) {
	for _, p := range properties {
		if v := x.inputs[p]; v != nil && v != "" {
			return x.at + p, v
		}
	}
	return x.at + properties[0], nil
}

// peerInputs are the inputs that name groups.
var peerInputs = []string{"referencedSecurityGroupId", "sourceSecurityGroupId", "securityGroups"}

// peers are the groups that the rule names.
func (x rule) peers(p *places) map[*graph.Resource]bool {
	out := map[*graph.Resource]bool{}
	for _, property := range []string{
		"referencedSecurityGroupId", "sourceSecurityGroupId", strings.SplitN(x.at, ".", 2)[0],
	} {
		for _, g := range p.to(x.r, property, "aws:ec2/securityGroup") {
			out[g] = true
		}
	}
	return out
}

// networks are the prefixes that the rule names.
func (x rule) networks(c *checker) map[string]string {
	out := map[string]string{}
	for _, property := range []string{
		"cidrIpv4", "cidrIpv6", "cidrBlock", "ipv6CidrBlock", "cidrBlocks", "ipv6CidrBlocks",
	} {
		items, ok := x.inputs[property].([]any)
		if !ok && x.inputs[property] != nil {
			items = []any{x.inputs[property]}
		}
		for i, v := range items {
			path := x.at + property
			if ok {
				path = fmt.Sprintf("%s.%d", path, i)
			}
			if text, isText := v.(string); isText && text != graph.Unknown && text != "" {
				out[path] = text
			} else if text != "" || !isText {
				c.unknown(x.r, path)
			}
		}
	}
	return out
}

// eachRule returns a check of every rule of the groups of a role.
func eachRule(role string, out bool, check func(c *checker, x rule)) func(*checker, *graph.Resource) {
	return func(c *checker, r *graph.Resource) {
		for _, x := range c.rules(r) {
			if x.out == out && (role == "" || c.places.groups[role][x.group]) {
				check(c, x)
			}
		}
	}
}

var groupRails = []Rail{
	{
		ID: "NET-08", Severity: Error,
		Says:  "No rule of an agent's security group is for IPv6.",
		Fix:   "remove the rule",
		Types: groupTypes, Others: []string{"CKV_AWS_382"},
		Each: eachRule(agents, true, func(c *checker, x rule) {
			if path, v := x.either("cidrIpv6", "ipv6CidrBlocks"); v != nil {
				if items, ok := v.([]any); !ok || len(items) > 0 {
					c.fail(x.r, path, "the group %s lets the agent out by IPv6", x.group.Name)
				}
			}
		}),
	},
	{
		ID: "NET-12", Severity: Error,
		Says:  "An agent's security group lets the agent reach the gate, by the group of the gate.",
		Fix:   "write referencedSecurityGroupId, for the group of the load balancer or endpoint before the proxies",
		Types: groupTypes, Others: []string{"CKV_AWS_382"},
		Whole: func(c *checker) {
			for _, kind := range groupTypes[1:] {
				for _, r := range c.all(kind) {
					if c.rules(r)[0].group == nil && len(c.places.groups[agents]) > 0 {
						c.add(r, Indeterminate, "securityGroupId", "it is a rule of a group that is not in this stack")
					}
				}
			}
		},
		Each: eachRule(agents, true, func(c *checker, x rule) {
			peers := x.peers(c.places)
			for _, g := range sorted(peers) {
				if !c.places.gates[g] && !c.places.platform[g] && g != x.group {
					path, _ := x.either(peerInputs...)
					c.fail(x.r, path, "%s is not the gate's (%s)", g.Name, names(c.places.gates))
				}
			}
			if path, v := x.either("prefixListId", "prefixListIds"); v != nil {
				c.fail(x.r, path, "what is in the list may change without this stack")
			}
			if path, v := x.either(peerInputs...); len(peers) == 0 && v != nil {
				c.add(x.r, Indeterminate, path, "it names a group that is not in this stack")
			}
		}),
	},
	{
		ID: "NET-13", Severity: Error, Says: "A rule of an agent's security group is for one port of TCP.",
		Fix: "write tcp, and the same port as fromPort and toPort", Types: groupTypes,
		Each: eachRule(agents, true, func(c *checker, x rule) {
			path, v := x.either("ipProtocol", "protocol")
			switch {
			case graph.HasUnknown(v):
				c.unknown(x.r, path)
			case textOf(v) != "tcp" && textOf(v) != "6":
				c.fail(x.r, path, "it is %q", textOf(v))
			case textOf(x.inputs["fromPort"]) != textOf(x.inputs["toPort"]):
				c.fail(x.r, x.at+"toPort", "the ports from %s to %s are more than one: a port is an identity",
					textOf(x.inputs["fromPort"]), textOf(x.inputs["toPort"]))
			}
		}),
	},
	{
		ID: "NET-14", Severity: Error, Says: "No agent reaches an agent: no group names itself or another agent's.",
		Fix: "remove the rule", Types: groupTypes,
		Each: func(c *checker, r *graph.Resource) {
			for _, x := range c.rules(r) {
				for _, g := range sorted(x.peers(c.places)) {
					if c.places.groups[agents][x.group] && c.places.groups[agents][g] {
						path, _ := x.either(peerInputs...)
						c.fail(r, path, "%s and %s are both agents'", x.group.Name, g.Name)
					}
				}
				if c.places.groups[agents][x.group] && x.inputs["self"] == true {
					c.fail(r, x.at+"self", "%s reaches itself", x.group.Name)
				}
			}
		},
	},
	{
		ID: "NET-15", Severity: Error,
		Says:  "The addresses that agents' groups let them reach are the gate's, taken together.",
		Fix:   "name the gate's group instead of addresses",
		Types: append([]string{"aws:efs/mountTarget", "aws:fsx/lustreFileSystem"}, groupTypes...),
		Each: func(c *checker, r *graph.Resource) {
			if !strings.HasPrefix(r.Type, "aws:efs/") && !strings.HasPrefix(r.Type, "aws:fsx/") {
				return
			}
			inAgents("others may read and write the file system in")(c, r)
		},
		Whole: func(c *checker) {
			for i := range c.g.Resources {
				r := &c.g.Resources[i]
				if !is(r, groupTypes[0]) && !is(r, groupTypes[1]) && !is(r, groupTypes[3]) {
					continue
				}
				for _, x := range c.rules(r) {
					if !x.out || !c.places.groups[agents][x.group] {
						continue
					}
					networks := x.networks(c)
					for _, path := range sortedKeys(networks) {
						to, err := netip.ParsePrefix(networks[path])
						if err != nil {
							c.fail(x.r, path, "%q is not a network", networks[path])
						} else if p, ok := packet.To(to).Minus(c.places.gate).Witness(); ok {
							c.fail(x.r, path, "%s has addresses that are not the gate's, such as %s", to, p.Destination)
						}
					}
				}
			}
		},
	},
	{
		ID: "NET-17", Severity: Error, Says: "The proxies take connections from the load balancer's group only.",
		Fix:   "write referencedSecurityGroupId, for the load balancer's group",
		Types: groupTypes,
		Each: eachRule(proxies, false, func(c *checker, x rule) {
			peers := x.peers(c.places)
			for _, g := range sorted(peers) {
				if !c.places.balancers[g] {
					path, _ := x.either(peerInputs...)
					c.fail(x.r, path, "%s is not a load balancer's (%s): it could write any agent's header", g.Name,
						names(c.places.balancers))
				}
			}
			if len(peers) == 0 {
				path, _ := x.either("cidrIpv4", "cidrIpv6", "cidrBlocks", "ipv6CidrBlocks", "prefixListId")
				c.fail(x.r, path, "it names no group of this stack: who is there could write any agent's header")
			}
		}),
	},
	{
		ID: "NET-24", Severity: Error,
		Says:   "Nothing takes connections from everywhere, by one rule or by the rules of a group together.",
		Fix:    "name who may connect",
		Others: []string{"CKV_AWS_24", "CKV_AWS_25", "CKV_AWS_260", "CKV_AWS_277"}, Types: groupTypes,
		Each: eachRule("", false, func(c *checker, x rule) {
			networks := x.networks(c)
			for _, path := range sortedKeys(networks) {
				if everywhere(networks[path]) {
					c.fail(x.r, path, "everybody may connect")
				} else if x.group != nil {
					c.connect[x.group] = append(c.connect[x.group], networks[path])
				}
			}
		}),
		Whole: func(c *checker) {
			for _, r := range c.all(groupTypes[0]) {
				if everywhere(c.connect[r]...) {
					c.fail(r, "", "its %d rules together let everybody connect", len(c.connect[r]))
				}
			}
		},
	},
	{
		ID: "EPT-07", Severity: Warning,
		Says:  "The endpoint of a cloud's service takes connections from groups that its own group names.",
		Fix:   "write referencedSecurityGroupId",
		Types: groupTypes,
		Each: func(c *checker, r *graph.Resource) {
			for _, x := range c.rules(r) {
				if path, v := x.either(peerInputs...); !x.out && c.places.platform[x.group] && v == nil {
					c.fail(r, path, "whoever gets an address there uses the endpoint of %s", x.group.Name)
				}
			}
		},
	},
	{
		ID: "PRX-01", Severity: Error, Says: "No agent has the port of the proxies' health check.",
		Fix:   "give the agent another port",
		Types: []string{"aws:lb/targetGroup", "aws:lb/listener"},
		Each: func(c *checker, r *graph.Resource) {
			if !is(r, "aws:lb/targetGroup") {
				return
			}
			port, of := textOf(r.Inputs["port"]), c.texts(r, "healthCheck.port")
			if len(of) > 0 && of[0] == port {
				c.fail(r, "port", "agents reach the port %s, on which the proxies tell how they are", port)
			}
		},
	},
	{
		ID: "PRX-05", Severity: Error, Says: "The load balancer tells the proxies who connects, by the PROXY protocol.",
		Fix: "write proxyProtocolV2: true, and preserveClientIp: false",
		Needs: []need{
			{types: []string{"aws:lb/targetGroup"}, role: proxies, path: "proxyProtocolV2", is: []string{"true"}},
			{
				types: []string{"aws:lb/targetGroup"}, role: proxies, path: "preserveClientIp", is: []string{"false"},
				optional: true,
			},
		},
	},
	{
		ID: "PRX-08", Severity: Warning,
		Says: "An agent's connection ends with its way to a proxy: no group ends one that is open.",
		Fix:  "write connectionTermination: true",
		Needs: []need{
			{types: []string{"aws:lb/targetGroup"}, role: proxies, path: "connectionTermination", is: []string{"true"}},
		},
	},
	{
		ID: "PRX-10", Severity: Error, Says: "The proxies' groups let them out by TCP, and by UDP to resolvers only.",
		Fix: "write tcp and one port", Types: groupTypes,
		Each: eachRule(proxies, true, func(c *checker, x rule) {
			path, v := x.either("ipProtocol", "protocol")
			from, to := textOf(x.inputs["fromPort"]), textOf(x.inputs["toPort"])
			single := true
			for _, network := range x.networks(c) {
				single = single && (strings.HasSuffix(network, "/32") || strings.HasSuffix(network, "/128"))
			}
			switch {
			case graph.HasUnknown(v):
				c.unknown(x.r, path)
			case textOf(v) == "udp" && single:
			case textOf(v) != "tcp":
				c.fail(x.r, path, "it is %q", textOf(v))
			case from != to:
				c.fail(x.r, x.at+"toPort", "the ports from %s to %s are more than one", from, to)
			}
		}),
	},
}
