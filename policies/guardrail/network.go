package guardrail

import (
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern/postern/graph"
)

// inAgents checks resources of a type that may not refer to what agents use.
func inAgents(why string) func(*checker, *graph.Resource) {
	return func(c *checker, r *graph.Resource) {
		for _, of := range []map[string]map[*graph.Resource]bool{c.places.vpcs, c.places.subnets, c.places.tables} {
			if x, property := c.places.touches(r, of[agents]); x != nil {
				c.fail(r, property, "%s %s, which agents use", why, x.Name)
				return
			}
		}
	}
}

var networkRails = []Rail{
	{
		ID: "TYP-02", Severity: Error, Says: "The subnets and groups of what agents run on are in the stack.",
		Fix: "declare them in the same program, or check where they are declared",
		Whole: func(c *checker) {
			for i := range c.g.Resources {
				r := &c.g.Resources[i]
				subnets, groups, ok := c.places.placed(r)
				if ok && r.Role == agents && (len(subnets) == 0 || len(groups) == 0) {
					c.add(r, Indeterminate, "", "its subnets or groups are elsewhere: nothing is known of them")
				}
			}
		},
	},
	{
		ID: "TYP-03", Severity: Warning, Says: "Something that runs is an agent's.",
		Fix: "tag what agents run on and use with postern:role: agents",
		Whole: func(c *checker) {
			var other *graph.Resource
			for i := range c.g.Resources {
				r := &c.g.Resources[i]
				if _, _, ok := c.places.placed(r); ok && r.Role == agents {
					return
				} else if ok && other == nil {
					other = r
				}
			}
			if other != nil {
				c.fail(other, "tags", "nothing is known to be an agent's: the guardrails about agents look at nothing")
			}
		},
	},
	{
		ID: "TYP-04", Severity: Error, Says: "Whatever runs says whose it is.",
		Fix: "tag it with postern:role: agents, proxies, control or, if it is nobody's of these, other",
		Types: []string{
			"aws:autoscaling/group", "aws:ec2/instance", "aws:ecs/service", "aws:ec2/networkInterface",
			"aws:lambda/function",
		},
		Each: func(c *checker, r *graph.Resource) {
			said := graph.Tagged(r.Inputs)
			_, _, runs := c.places.placed(r)
			switch {
			case said != "" && said != graph.Unknown && !slices.Contains(graph.Roles, said):
				c.fail(r, "tags", "%s is %q, which is nobody", graph.TagRole, said)
			case runs && said != "other" && !slices.Contains([]string{agents, proxies, control}, r.Role):
				c.add(r, Indeterminate, "tags", "nothing says whose it is: it may be an agent")
			}
		},
	},
	{
		ID: "NET-01", Severity: Error, Says: "The agents' own network has no internet gateway.",
		Fix:   "attach the gateway to the proxies' network",
		Types: []string{"aws:ec2/internetGateway", "aws:ec2/internetGatewayAttachment"},
		Each: func(c *checker, r *graph.Resource) {
			for _, v := range c.places.to(r, "vpcId", "aws:ec2/vpc") {
				if c.places.isolated(v) {
					c.fail(r, "vpcId", "it is attached to %s, in which there are only agents", v.Name)
				}
			}
		},
	},
	{
		ID: "NET-02", Severity: Error, Says: "No NAT gateway and no Elastic IP address is in agents' subnets.",
		Fix:   "place it in a public subnet of the proxies' network",
		Types: []string{"aws:ec2/natGateway", "aws:ec2/eip"},
		Each: func(c *checker, r *graph.Resource) {
			inAgents("it is in")(c, r)
			for _, property := range []string{"instance", "networkInterface"} {
				if set(r, property) && is(r, "aws:ec2/eip") {
					c.fail(r, property, "it is the address of a machine")
				}
			}
		},
	},
	{
		ID: "NET-03", Severity: Error,
		Says: "VPC Block Public Access, where the stack declares it, covers the agents' network.",
		Fix:  `write internetGatewayBlockMode: "block-bidirectional", and exclude the proxies' network only`,
		Needs: []need{{
			types: []string{"aws:ec2/vpcBlockPublicAccessOptions"}, path: "internetGatewayBlockMode",
			is: []string{"block-bidirectional"},
		}},
		Types: []string{"aws:ec2/vpcBlockPublicAccessExclusion"},
		Each: func(c *checker, r *graph.Resource) {
			if x, property := c.places.touches(r, c.places.vpcs[agents]); x != nil && c.places.isolated(x) {
				c.fail(r, property, "it excludes %s, which agents use", x.Name)
			}
			if x, property := c.places.touches(r, c.places.subnets[agents]); x != nil {
				c.fail(r, property, "it excludes %s, which agents use", x.Name)
			}
		},
	},
	{
		ID: "NET-04", Severity: Error, Says: "No machine, task or subnet has public addresses.",
		Fix:    "write false",
		Others: []string{"CKV_AWS_130", "CKV_AWS_88", "CKV_AWS_333", "CKV_AWS_389"},
		Needs: []need{
			{
				types: []string{"aws:ec2/launchTemplate"}, path: "networkInterfaces.*.associatePublicIpAddress",
				is: []string{"false"}, optional: true,
			},
			{
				types: []string{"aws:ec2/instance"}, path: "associatePublicIpAddress",
				is: []string{"false"}, optional: true,
			},
			{
				types: []string{"aws:ecs/service"}, path: "networkConfiguration.assignPublicIp", is: []string{"false"},
				optional: true,
			},
			{types: []string{"aws:ec2/subnet"}, path: "mapPublicIpOnLaunch", is: []string{"false"}, optional: true},
			{
				types: []string{"aws:ec2/launchTemplate"}, path: "networkInterfaces.*.associateCarrierIpAddress",
				is: []string{"false"}, optional: true,
			},
		},
	},
	{
		ID: "NET-05", Severity: Error,
		Says:  "The agents' route tables have no route, and take none from a VPN gateway.",
		Fix:   "remove it: agents reach the proxies inside of their own network",
		Types: []string{"aws:ec2/route", "aws:ec2/routeTable", "aws:ec2/vpnGatewayRoutePropagation"},
		Each: func(c *checker, r *graph.Resource) {
			tables := c.places.to(r, "routeTableId", "aws:ec2/routeTable")
			if len(tables) == 0 && !is(r, "aws:ec2/routeTable") && len(c.places.tables[agents]) > 0 &&
				len(r.PropertyDependencies["routeTableId"]) == 0 {
				c.add(r, Indeterminate, "routeTableId", "it is in a table that is not in this stack")
			}
			for _, t := range tables {
				if c.places.tables[agents][t] {
					c.fail(r, "routeTableId", "it is in %s, which agents use", t.Name)
				}
			}
			for _, property := range []string{"routes", "propagatingVgws"} {
				if c.places.tables[agents][r] && set(r, property) {
					c.fail(r, property, "agents use this table, and it leads somewhere")
				}
			}
		},
	},
	{
		ID: "NET-06", Severity: Error,
		Says: "Every subnet of agents has a route table of its own, and main tables are empty.",
		Fix:  "associate the subnet with a table that has no routes",
		Types: []string{
			"aws:ec2/defaultRouteTable", "aws:ec2/mainRouteTableAssociation", "aws:ec2/routeTableAssociation",
		},
		Each: func(c *checker, r *graph.Resource) {
			for _, property := range []string{"routes", "propagatingVgws"} {
				if is(r, "aws:ec2/defaultRouteTable") && set(r, property) {
					c.fail(r, property, "every subnet that is forgotten uses this table, and it leads somewhere")
				}
			}
			if is(r, "aws:ec2/mainRouteTableAssociation") {
				inAgents("it replaces the main table of")(c, r)
			}
		},
		Whole: func(c *checker) {
			tabled := map[*graph.Resource]bool{}
			for _, a := range c.all("aws:ec2/routeTableAssociation") {
				for _, s := range c.places.to(a, "subnetId", "aws:ec2/subnet") {
					tabled[s] = true
				}
			}
			for _, s := range sorted(c.places.subnets[agents]) {
				if !tabled[s] {
					c.fail(s, "", "no route table is associated with it, so it uses the main table")
				}
			}
		},
	},
	{
		ID: "NET-07", Severity: Error, Says: "The agents' network has no IPv6.",
		Fix: "remove it: every filter would have to be written twice",
		Needs: []need{
			{
				types: []string{"aws:ec2/launchTemplate"}, role: agents, path: "networkInterfaces.*.ipv6AddressCount",
				is: []string{"0"}, optional: true,
			},
			{
				types: []string{"aws:ec2/instance"}, role: agents, path: "ipv6AddressCount", is: []string{"0"},
				optional: true,
			},
		},
		Types: []string{
			"aws:ec2/vpc", "aws:ec2/subnet", "aws:ec2/egressOnlyInternetGateway", "aws:ec2/vpcIpv6CidrBlockAssociation",
		},
		Each: func(c *checker, r *graph.Resource) {
			if !is(r, "aws:ec2/vpc") && !is(r, "aws:ec2/subnet") {
				inAgents("it gives IPv6 to")(c, r)
				return
			}
			if !c.places.vpcs[agents][r] && !c.places.subnets[agents][r] {
				return
			}
			for _, property := range []string{
				"ipv6CidrBlock", "ipv6IpamPoolId", "assignGeneratedIpv6CidrBlock", "assignIpv6AddressOnCreation",
				"enableDns64",
			} {
				if set(r, property) && r.Inputs[property] != false {
					c.fail(r, property, "agents use it, and it has IPv6")
				}
			}
		},
	},
	{
		ID: "NET-09", Severity: Error, Says: "Nothing joins the agents' network to another one.",
		Fix:    "remove it, or join the proxies' network",
		Others: []string{"CKV2_AWS_44", "vpc_peering_routing_tables_with_least_privilege"},
		Types: []string{
			"aws:ec2/vpcPeeringConnection", "aws:ec2/vpcPeeringConnectionAccepter", "aws:ec2/vpnGateway",
			"aws:ec2/vpnGatewayAttachment", "aws:ec2transitgateway/vpcAttachment", "aws:networkmanager/vpcAttachment",
			"aws:directconnect/gatewayAssociation", "aws:ec2/localGatewayRouteTableVpcAssociation",
		},
		Each: inAgents("it joins another network to"),
	},
	{
		ID: "NET-10", Severity: Error, Says: "A transit gateway does not accept strangers' networks.",
		Fix: "write disable", Others: []string{"CKV_AWS_331"},
		Needs: []need{{
			types: []string{"aws:ec2transitgateway/transitGateway"}, path: "autoAcceptSharedAttachments",
			is: []string{"disable"}, optional: true,
		}},
	},
	{
		ID: "NET-11", Severity: Error, Says: "The agents' network is in no service network of VPC Lattice.",
		Fix: "remove it", Each: inAgents("it gives services to"),
		Types: []string{"aws:vpclattice/serviceNetworkVpcAssociation", "aws:vpclattice/resourceGateway"},
	},
	{
		ID: "NET-16", Severity: Error,
		Says: "The load balancer before the proxies is internal, has security groups, and asks them.",
		Fix:  "write it as it is needed; groups can only be given when the balancer is made",
		Needs: []need{
			{types: []string{"aws:lb/loadBalancer"}, path: "internal", is: []string{"true"}},
			{types: []string{"aws:lb/loadBalancer"}, path: "securityGroups"},
			{
				types: []string{"aws:lb/loadBalancer"}, path: "enforceSecurityGroupInboundRulesOnPrivateLinkTraffic",
				is: []string{"on"}, optional: true,
			},
		},
	},
	{
		ID: "NET-18", Severity: Error, Says: "The endpoint service of the proxies accepts only who is named.",
		Fix: "write acceptanceRequired: true, and name accounts",
		Others: []string{
			"CKV_AWS_123", "vpc_endpoint_services_allowed_principals_trust_boundaries",
		},
		Needs: []need{
			{types: []string{"aws:ec2/vpcEndpointService"}, path: "acceptanceRequired", is: []string{"true"}},
			{
				types: []string{"aws:ec2/vpcEndpointService"}, path: "allowedPrincipals.*", not: []string{"*"},
				optional: true,
			},
			{
				types: []string{"aws:ec2/vpcEndpointServiceAllowedPrinciple"}, path: "principalArn", not: []string{"*"},
			},
		},
		Types: []string{"aws:ec2/vpcEndpointConnectionAccepter"},
		Each: func(c *checker, r *graph.Resource) {
			if len(c.places.to(r, "vpcEndpointId", "aws:ec2/vpcEndpoint")) != 1 && !c.alone {
				c.add(r, Indeterminate, "vpcEndpointId", "it accepts an endpoint that is not in this stack")
			}
		},
	},
	{
		ID: "NET-19", Severity: Error, Says: "No other account uses the agents' subnets.", Fix: "remove it",
		Types: []string{"aws:ram/resourceAssociation", "aws:ram/resourceShare"},
		Each: func(c *checker, r *graph.Resource) {
			inAgents("it gives other accounts")(c, r)
		},
	},
	{
		ID: "NET-20", Severity: Error, Says: "Each network's default security group and network ACL are emptied.",
		Fix:    "declare it, without rules",
		Others: []string{"CKV2_AWS_12"},
		Types:  []string{"aws:ec2/defaultSecurityGroup", "aws:ec2/defaultNetworkAcl", "aws:ec2/vpc"},
		Each: func(c *checker, r *graph.Resource) {
			for _, property := range []string{"ingress", "egress"} {
				if !is(r, "aws:ec2/vpc") && set(r, property) {
					c.fail(r, property, "whatever is forgotten uses it, and it allows something")
				}
			}
		},
		Whole: func(c *checker) {
			for _, kind := range []struct{ kind, property, name string }{
				{"aws:ec2/defaultSecurityGroup", "vpcId", "security group"},
				{"aws:ec2/defaultNetworkAcl", "defaultNetworkAclId", "network ACL"},
			} {
				declared := map[*graph.Resource]bool{}
				for _, r := range c.all(kind.kind) {
					for _, v := range c.places.to(r, kind.property, "aws:ec2/vpc") {
						declared[v] = true
					}
				}
				for _, v := range c.all("aws:ec2/vpc") {
					if !declared[v] {
						c.fail(v, "", "its default %s is as AWS makes it, and allows everything", kind.name)
					}
				}
			}
		},
	},
	{
		ID: "NET-21", Severity: Error, Says: "The network ACL of the agents lets only TCP out, and not to everywhere.",
		Fix:   "name the subnets of the gate, and the agents' ports",
		Types: []string{"aws:ec2/networkAclRule", "aws:ec2/networkAcl"},
		Others: []string{
			"CKV_AWS_229", "CKV_AWS_230", "CKV_AWS_231", "CKV_AWS_232", "CKV_AWS_352",
		},
		Each: func(c *checker, r *graph.Resource) {
			if is(r, "aws:ec2/networkAcl") {
				if c.places.acls[agents][r] && set(r, "egress") {
					c.fail(r, "egress", "its rules are not resources of their own, so they cannot be looked at")
				}
				return
			}
			x, _ := c.places.touches(r, c.places.acls[agents])
			in := textOf(r.Inputs["egress"]) == "false" || !set(r, "egress")
			if x == nil || in || r.String("ruleAction") == "deny" {
				return
			}
			if r.Inputs["egress"] != true {
				c.unknown(r, "egress")
			}
			if p := c.texts(r, "protocol"); len(p) > 0 && p[0] != "tcp" && p[0] != "6" {
				c.fail(r, "protocol", "it lets %s out of %s", p[0], x.Name)
			}
			for _, property := range []string{"cidrBlock", "ipv6CidrBlock"} {
				for _, text := range c.texts(r, property) {
					if !ofNetworks(c, text) {
						c.fail(r, property, "%s is not within the agents' networks", text)
					}
				}
			}
		},
	},
	{
		ID: "NET-22", Severity: Warning, Says: "Every security group and rule says what it is for.",
		Fix: "write a description", Others: []string{"CKV_AWS_23"},
		Needs: []need{{types: []string{
			"aws:ec2/securityGroup", "aws:vpc/securityGroupEgressRule", "aws:vpc/securityGroupIngressRule",
		}, path: "description"}},
	},
	{
		ID: "NET-25", Severity: Warning, Production: true, Says: "Agents and proxies are in two zones.",
		Fix:   "add a subnet in another zone (zones: 2)",
		Types: []string{"aws:ec2/subnet"},
		Whole: func(c *checker) {
			for _, role := range []string{agents, proxies} {
				zones := map[any]bool{}
				subnets := sorted(c.places.subnets[role])
				for _, s := range subnets {
					for _, property := range []string{"availabilityZone", "availabilityZoneId"} {
						if v := s.Inputs[property]; v != nil {
							zones[textOf(v)] = true
						}
					}
				}
				if len(subnets) > 0 && len(zones) < 2 {
					c.fail(subnets[0], "availabilityZone", "if this zone is down, all %s are", role)
				}
			}
		},
	},
	{
		ID: "NET-23", Severity: Error, Says: "Nobody uses the account's default network.",
		Fix:    "declare a VPC",
		Others: []string{"CKV_AWS_148"}, Types: []string{"aws:ec2/defaultVpc", "aws:ec2/defaultSubnet"},
		Each: func(c *checker, r *graph.Resource) {
			c.fail(r, "", "it is the account's default, in which there may be others")
		},
	},
}

// ofNetworks reports whether a prefix is within a network that agents are in.
func ofNetworks(c *checker, text string) bool {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(sorted(c.places.vpcs[agents]), func(v *graph.Resource) bool {
		outer, err := netip.ParsePrefix(v.String("cidrBlock"))
		return err == nil && outer.Bits() <= p.Bits() && outer.Contains(p.Addr())
	})
}

// private are the addresses that every network may have as its own (RFC 1918, RFC 4193).
var private = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("fc00::/7"),
}

// everywhere reports whether prefixes together are the internet, or a part of it that is larger
// than what anybody is given: 2^25 addresses of IPv4, or 2^113 of IPv6. Private addresses do not
// count. A blank prefix is everywhere; another one that cannot be read is nowhere.
func everywhere(prefixes ...string) bool {
	var counted []netip.Prefix
	share4, share6 := 0.0, 0.0 // of what is too much
	for _, text := range prefixes {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			if strings.TrimSpace(text) == "" {
				return true
			}
			continue
		}
		p = p.Masked()
		own := func(o netip.Prefix) bool { return o.Bits() <= p.Bits() && o.Contains(p.Addr()) }
		if slices.ContainsFunc(private, own) {
			continue
		}
		counted = append(counted, p)
	}
	slices.SortFunc(counted, func(a, b netip.Prefix) int { return a.Bits() - b.Bits() })
	for i, p := range counted {
		if slices.ContainsFunc(counted[:i], func(o netip.Prefix) bool { return o.Overlaps(p) }) {
			continue // a wider one has all of it
		}
		if p.Addr().Is4() {
			share4 += math.Ldexp(1, 7-p.Bits())
		} else {
			share6 += math.Ldexp(1, 15-p.Bits())
		}
	}
	return share4 >= 1 || share6 >= 1
}
