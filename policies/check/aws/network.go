package aws

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/postern/postern/graph"
)

// protocols are the protocols that rules name. The others are numbers.
var protocols = []string{"tcp", "udp", "icmp", "icmpv6", "58", "-1"}

// rule checks the resources that are one rule or route.
func (c *checker) rule(r *graph.Resource) {
	switch {
	case is(r, "vpc/securityGroupEgressRule"), is(r, "vpc/securityGroupIngressRule"):
		c.ports(r, "ipProtocol")
		c.exactlyOne(r, "cidrIpv4", "cidrIpv6", "prefixListId", "referencedSecurityGroupId")
	case is(r, "ec2/networkAclRule"):
		c.ports(r, "protocol")
		c.exactlyOne(r, "cidrBlock", "ipv6CidrBlock")
	case is(r, "ec2/route"):
		c.exactlyOne(r, "destinationCidrBlock", "destinationIpv6CidrBlock", "destinationPrefixListId")
		c.exactlyOne(r, "gatewayId", "natGatewayId", "egressOnlyGatewayId", "networkInterfaceId", "transitGatewayId", "vpcEndpointId",
			"vpcPeeringConnectionId", "localGatewayId", "carrierGatewayId", "coreNetworkArn")
	case is(r, "ec2/routeTableAssociation"):
		c.exactlyOne(r, "subnetId", "gatewayId")
	case is(r, "ec2/vpcEndpoint"):
		c.endpoint(r)
	case is(r, "lb/loadBalancer"):
		c.exactlyOne(r, "subnets", "subnetMappings")
	}
}

func (c *checker) exactlyOne(r *graph.Resource, properties ...string) {
	var given []string
	for _, p := range properties {
		if set(r, p) {
			given = append(given, p)
		}
	}
	switch len(given) {
	case 1:
	case 0:
		c.report(r, "", "set one of them", "none of %s is set", list(properties))
	default:
		c.report(r, given[1], "remove all but one", "%s exclude each other", strings.Join(given, " and "))
	}
}

// ports checks a protocol and the ports that go with it.
func (c *checker) ports(r *graph.Resource, protocol string) {
	p := r.String(protocol)
	from, okFrom := r.Number("fromPort")
	to, okTo := r.Number("toPort")
	n, err := strconv.Atoi(p)
	switch {
	case p == "":
	case slices.Contains(protocols, p):
	case err != nil || n < 0 || n > 255:
		c.report(r, protocol, "write tcp, udp, icmp, icmpv6, -1 for all, or a protocol number", "%q is not a valid protocol", p)
		return
	}
	switch p {
	case "-1":
		if okFrom && from > 0 || okTo && to > 0 {
			c.report(r, "fromPort", "remove the ports, or name the protocol", "with all protocols, ports mean nothing")
		}
	case "tcp", "udp", "6", "17":
		switch {
		case !okFrom && !set(r, "fromPort"):
			c.report(r, "fromPort", "set fromPort and toPort", "protocol %s needs ports", p)
		case !okTo && !set(r, "toPort"):
			c.report(r, "toPort", "set fromPort and toPort", "protocol %s needs ports", p)
		case okFrom && (from < 0 || from > 65535):
			c.report(r, "fromPort", "write a port from 0 to 65535", "%v is not a valid port", from)
		case okTo && (to < 0 || to > 65535):
			c.report(r, "toPort", "write a port from 0 to 65535", "%v is not a valid port", to)
		case okFrom && okTo && from > to:
			c.report(r, "fromPort", "exchange them", "it is %v, behind toPort %v", from, to)
		}
	}
}

func (c *checker) endpoint(r *graph.Resource) {
	kind := r.String("vpcEndpointType")
	if kind == "" {
		kind = "Gateway"
	}
	gateway := strings.HasSuffix(r.String("serviceName"), ".s3") || strings.HasSuffix(r.String("serviceName"), ".dynamodb")
	switch kind {
	case "Gateway":
		for _, p := range []string{"subnetIds", "securityGroupIds", "subnetConfigurations"} {
			if set(r, p) {
				c.report(r, p, "remove it, or make it an Interface endpoint", "a Gateway endpoint has none")
			}
		}
		if name := r.String("serviceName"); name != "" && !gateway {
			c.report(r, "vpcEndpointType", "write Interface", "only s3 and dynamodb have Gateway endpoints, not %s", name)
		}
	case "Interface":
		if set(r, "routeTableIds") {
			c.report(r, "routeTableIds", "remove it, or make it a Gateway endpoint", "an Interface endpoint is in no route table")
		}
		if !set(r, "subnetIds") && !set(r, "subnetConfigurations") {
			c.report(r, "subnetIds", "name its subnets", "an Interface endpoint without a subnet has no address")
		}
	}
}

// cidrs are the inputs that hold networks, of whatever type.
var cidrs = []string{
	"cidrBlock", "cidrIpv4", "cidrIpv6", "ipv6CidrBlock", "destinationCidrBlock", "destinationIpv6CidrBlock", "cidrBlocks.*", "ipv6CidrBlocks.*",
	"ingress.*.cidrBlocks.*", "egress.*.cidrBlocks.*", "ingress.*.cidrBlock", "egress.*.cidrBlock", "routes.*.cidrBlock", "entries.*.cidr",
}

// addresses checks every network: its form, and that subnets lie in their VPC
// and do not overlap.
func (c *checker) addresses() {
	type placed struct {
		r      *graph.Resource
		prefix netip.Prefix
	}
	networks := map[*graph.Resource]netip.Prefix{}
	subnets := map[*graph.Resource][]placed{} // by VPC
	var vpcs []placed
	for i := range c.g.Resources {
		r := &c.g.Resources[i]
		if !strings.HasPrefix(r.Type, "aws:") {
			continue
		}
		for _, path := range cidrs {
			each(r, path, func(path string, v any) {
				text, _ := v.(string)
				if text == "" {
					return
				}
				prefix, err := netip.ParsePrefix(text)
				switch {
				case err != nil:
					c.report(r, path, "write it like 10.64.0.0/20", "%q is not a valid network", text)
				case prefix.Masked() != prefix:
					c.report(r, path, "write "+prefix.Masked().String(), "%s has bits behind its mask, which AWS refuses or drops", text)
				case strings.Contains(strings.ToLower(path), "ipv6") != prefix.Addr().Is6() && !strings.HasPrefix(path, "entries"):
					c.report(r, path, "write it into the other argument", "%s is of the other version of IP", text)
				default:
					networks[r] = prefix
				}
			})
		}
		prefix, ok := networks[r]
		switch {
		case !ok || r.External:
		case is(r, "ec2/vpc"):
			c.size(r, prefix)
			vpcs = append(vpcs, placed{r, prefix})
		case is(r, "ec2/subnet"):
			c.size(r, prefix)
			vpc := c.g.Refers(r, "vpcId", "aws:ec2/vpc:Vpc")
			subnets[vpc] = append(subnets[vpc], placed{r, prefix})
		}
	}
	for vpc, within := range subnets {
		for i, s := range within {
			if outer, ok := networks[vpc]; ok && vpc != nil && (!outer.Contains(s.prefix.Addr()) || outer.Bits() > s.prefix.Bits()) {
				c.report(s.r, "cidrBlock", "choose a part of "+outer.String(), "%s is not within its VPC %s (%s)", s.prefix, vpc.Name, outer)
			}
			for _, other := range within[:i] {
				if s.prefix.Overlaps(other.prefix) {
					c.report(s.r, "cidrBlock", "choose another part of the VPC", "%s overlaps %s (%s)", s.prefix, other.r.Name, other.prefix)
				}
			}
		}
	}
	for i, v := range vpcs {
		for _, other := range vpcs[:i] {
			if v.prefix.Overlaps(other.prefix) {
				c.report(v.r, "cidrBlock", "choose another network", "%s overlaps %s (%s): addresses in logs and rules would be ambiguous", v.prefix, other.r.Name, other.prefix)
			}
		}
	}
	c.pinned(networks)
	c.numbers()
}

// maxRules is the most rules that an ACL has for a direction, unless AWS is asked for more.
const maxRules = 20

// numbers checks that no two rules of an ACL have a number, and that there are not too many.
func (c *checker) numbers() {
	taken, count := map[string]string{}, map[string]int{}
	for _, r := range c.g.OfType("aws:ec2/networkAclRule:NetworkAclRule") {
		acl := c.g.Refers(r, "networkAclId", "aws:ec2/networkAcl:NetworkAcl")
		if acl == nil {
			continue
		}
		direction := fmt.Sprint(acl.URN, r.Inputs["egress"])
		number := fmt.Sprint(direction, r.Inputs["ruleNumber"])
		if other := taken[number]; other != "" {
			c.report(r, "ruleNumber", "choose another", "%s has the number %v too", other, r.Inputs["ruleNumber"])
		}
		taken[number] = r.Name
		if count[direction]++; count[direction] == maxRules+1 {
			c.report(r, "networkAclId", "use fewer zones or resolvers, or ask AWS for more", "%s has more than %d rules for a direction", acl.Name, maxRules)
		}
	}
}

// size holds a VPC or subnet to what AWS takes: /16 to /28.
func (c *checker) size(r *graph.Resource, p netip.Prefix) {
	if p.Addr().Is4() && (p.Bits() < 16 || p.Bits() > 28) {
		c.report(r, "cidrBlock", "choose one from /16 to /28", "%s is a /%d, which AWS refuses", p, p.Bits())
	}
}

// pinned checks the addresses that endpoints are given: within their subnet,
// and not among the five that AWS keeps (the first four and the last).
func (c *checker) pinned(networks map[*graph.Resource]netip.Prefix) {
	taken := map[netip.Addr]string{}
	for _, r := range c.g.OfType("aws:ec2/vpcEndpoint:VpcEndpoint") {
		each(r, "subnetConfigurations.*.ipv4", func(path string, v any) {
			text, _ := v.(string)
			addr, err := netip.ParseAddr(text)
			if err != nil {
				c.report(r, path, "write it like 10.64.0.10", "%q is not a valid address", text)
				return
			}
			var in *graph.Resource
			for _, urn := range r.PropertyDependencies["subnetConfigurations"] {
				s := c.g.ByURN(urn)
				if p, ok := networks[s]; ok && is(s, "ec2/subnet") && p.Contains(addr) {
					in = s
				}
			}
			if in == nil {
				if len(r.PropertyDependencies["subnetConfigurations"]) > 0 {
					c.report(r, path, "choose one of its subnet's", "%s is in none of its subnets", addr)
				}
				return
			}
			if other := taken[addr]; other != "" {
				c.report(r, path, "choose another", "%s has %s too", other, addr)
			}
			taken[addr] = r.Name
			p := networks[in]
			low := p.Addr()
			for range 3 {
				low = low.Next()
			}
			if addr.Compare(low) <= 0 || !p.Contains(addr.Next()) {
				c.report(r, path, "choose another", "AWS keeps %s for itself: the first four addresses and the last one of %s", addr, p)
			}
		})
	}
}
