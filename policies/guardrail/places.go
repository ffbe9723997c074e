package guardrail

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/policies/packet"
)

// places says where the workloads of each role are: what only several resources together tell.
type places struct {
	g *graph.Graph
	// subnets, vpcs and groups are those of the workloads of a role; tables and acls those of the
	// subnets.
	subnets, vpcs, groups, tables, acls map[string]map[*graph.Resource]bool
	// gates are the groups of what agents may reach: load balancers and endpoints of the stack's
	// own services. gate is their addresses. platform are the groups of endpoints of the cloud's
	// services, and balancers those of load balancers.
	gates, platform, balancers map[*graph.Resource]bool
	gate                       packet.Set
}

// workloads are the types that run something, with the inputs that name where.
var workloads = []struct{ kind, subnets, groups string }{
	{"aws:autoscaling/group", "vpcZoneIdentifiers", ""},
	{"aws:ec2/instance", "subnetId", "vpcSecurityGroupIds"},
	{"aws:ecs/service", "networkConfiguration", "networkConfiguration"},
	{"aws:ec2/networkInterface", "subnetId", "securityGroups"},
	{"aws:lambda/function", "vpcConfig", "vpcConfig"},
}

// placed returns the subnets and groups of a workload. It reports false if r runs nothing.
func (p *places) placed(r *graph.Resource) (subnets, groups []*graph.Resource, ok bool) {
	for _, w := range workloads {
		if !is(r, w.kind) {
			continue
		}
		subnets, groups = p.to(r, w.subnets, "aws:ec2/subnet"), p.to(r, w.groups, "aws:ec2/securityGroup")
		for _, of := range []string{"launchTemplate", "mixedInstancesPolicy"} {
			for _, t := range p.to(r, of, "aws:ec2/launchTemplate") {
				for _, property := range []string{"networkInterfaces", "vpcSecurityGroupIds"} {
					groups = append(groups, p.to(t, property, "aws:ec2/securityGroup")...)
				}
			}
		}
		return subnets, groups, set(r, w.subnets) || w.kind != "aws:lambda/function"
	}
	return nil, nil, false
}

// newMap looks at who refers to what.
func newMap(g *graph.Graph) *places {
	p := &places{
		g: g, subnets: map[string]map[*graph.Resource]bool{}, vpcs: map[string]map[*graph.Resource]bool{},
		groups: map[string]map[*graph.Resource]bool{}, tables: map[string]map[*graph.Resource]bool{},
		acls:  map[string]map[*graph.Resource]bool{},
		gates: map[*graph.Resource]bool{}, platform: map[*graph.Resource]bool{}, balancers: map[*graph.Resource]bool{},
	}
	add := func(to map[string]map[*graph.Resource]bool, role string, found []*graph.Resource) {
		if to[role] == nil {
			to[role] = map[*graph.Resource]bool{}
		}
		for _, r := range found {
			to[role][r] = true
		}
	}
	for i := range g.Resources {
		r := &g.Resources[i]
		p.front(r)
		if subnets, groups, ok := p.placed(r); ok {
			add(p.subnets, r.Role, subnets)
			add(p.groups, r.Role, groups)
		}
	}
	for role, subnets := range p.subnets {
		for s := range subnets {
			add(p.vpcs, role, p.to(s, "vpcId", "aws:ec2/vpc"))
		}
	}
	joined := func(kind, property string, to map[string]map[*graph.Resource]bool, target string) {
		for i := range g.Resources {
			r := &g.Resources[i]
			if !is(r, kind) {
				continue
			}
			of := p.to(r, property, target)
			if kind == target { // it names its subnets itself
				of = []*graph.Resource{r}
			}
			in := slices.Concat(p.to(r, "subnetId", "aws:ec2/subnet"), p.to(r, "subnetIds", "aws:ec2/subnet"))
			for _, s := range in {
				for role := range p.subnets {
					if p.subnets[role][s] {
						add(to, role, of)
					}
				}
			}
		}
	}
	joined("aws:ec2/networkAcl", "", p.acls, "aws:ec2/networkAcl")
	joined("aws:ec2/routeTableAssociation", "routeTableId", p.tables, "aws:ec2/routeTable")
	joined("aws:ec2/networkAclAssociation", "networkAclId", p.acls, "aws:ec2/networkAcl")
	return p
}

// to returns the resources of a type from which an input was computed.
func (p *places) to(r *graph.Resource, property, kind string) []*graph.Resource {
	var out []*graph.Resource
	for _, urn := range r.PropertyDependencies[property] {
		if x := p.g.ByURN(urn); x != nil && is(x, kind) {
			out = append(out, x)
		}
	}
	return out
}

const (
	agents  = "agents"
	proxies = "proxies"
	control = "control"
)

// touches returns the first resource of a set to which any input of r refers, and the input.
func (p *places) touches(r *graph.Resource, of map[*graph.Resource]bool) (*graph.Resource, string) {
	for _, property := range sortedKeys(r.PropertyDependencies) {
		for _, urn := range r.PropertyDependencies[property] {
			if x := p.g.ByURN(urn); of[x] {
				return x, property
			}
		}
	}
	return nil, ""
}

// isolated reports whether the VPC has agents, and nothing that may go out.
func (p *places) isolated(vpc *graph.Resource) bool {
	return p.vpcs[agents][vpc] && !p.vpcs[proxies][vpc] && !p.vpcs[control][vpc]
}

// front adds a load balancer or endpoint to the gates, or to the platform.
func (p *places) front(r *graph.Resource) {
	of, list, key := "securityGroupIds", "subnetConfigurations", "ipv4"
	switch {
	case is(r, "aws:lb/loadBalancer"):
		of, list, key = "securityGroups", "subnetMappings", "privateIpv4Address"
		for _, g := range p.to(r, of, "aws:ec2/securityGroup") {
			p.balancers[g] = true
		}
	case !is(r, "aws:ec2/vpcEndpoint"):
		return
	case len(p.to(r, "serviceName", "aws:ec2/vpcEndpointService")) == 0:
		for _, g := range p.to(r, of, "aws:ec2/securityGroup") {
			p.platform[g] = true
		}
		return
	}
	for _, g := range p.to(r, of, "aws:ec2/securityGroup") {
		p.gates[g] = true
	}
	items, _ := r.Inputs[list].([]any)
	for _, item := range items {
		in, _ := item.(map[string]any)
		text, _ := in[key].(string)
		if a, err := netip.ParseAddr(text); err == nil {
			p.gate = p.gate.Union(packet.To(netip.PrefixFrom(a, a.BitLen())))
		}
	}
}

// all returns the resources of a type.
func (c *checker) all(kind string) []*graph.Resource {
	var out []*graph.Resource
	for i := range c.g.Resources {
		if r := &c.g.Resources[i]; is(r, kind) {
			out = append(out, r)
		}
	}
	return out
}

// sorted returns the resources of a set by URN.
func sorted(set map[*graph.Resource]bool) []*graph.Resource {
	out := make([]*graph.Resource, 0, len(set))
	for r := range set {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b *graph.Resource) int { return strings.Compare(a.URN, b.URN) })
	return out
}

// names returns the names of resources, for messages.
func names(set map[*graph.Resource]bool) string {
	var out []string
	for _, r := range sorted(set) {
		out = append(out, r.Name)
	}
	if len(out) == 0 {
		return "(none)"
	}
	return strings.Join(out, ", ")
}
