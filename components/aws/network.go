package aws

import (
	"fmt"

	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/ec2"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/plan/cloud"
)

// network holds the networks. In the shared mode both VPCs are the same one.
type network struct {
	agents, egress *ec2.Vpc
	subnets        map[cloud.Tier][]*ec2.Subnet
	// tables are the route tables of tiers that may have routes, by zone.
	tables map[cloud.Tier][]*ec2.RouteTable
	nat    []*ec2.NatGateway
	// addresses are the public addresses that the proxies come from.
	addresses []*ec2.Eip
}

func newNetwork(parent *scope) *network {
	s := parent.component("Network", "network")
	set := s.args.AWS
	n := &network{subnets: map[cloud.Tier][]*ec2.Subnet{}, tables: map[cloud.Tier][]*ec2.RouteTable{}}
	if set.Mode == cloud.ModeShared {
		n.egress = emptied(s, "vpc", &ec2.VpcArgs{
			CidrBlock: pulumi.String(set.VPC.String()), EnableDnsSupport: pulumi.Bool(true),
			EnableDnsHostnames: pulumi.Bool(true),
		})
		n.agents = n.egress
	} else {
		// Without DNS there is no resolver through which an agent could tunnel. Fargate needs DNS;
		// see dns.go.
		dns := pulumi.Bool(set.FargateAgents())
		n.agents = emptied(s, "agents", &ec2.VpcArgs{
			CidrBlock: pulumi.String(set.AgentsCIDR.String()), EnableDnsSupport: dns, EnableDnsHostnames: dns,
		})
		n.egress = emptied(s, "egress", &ec2.VpcArgs{
			CidrBlock: pulumi.String(set.EgressCIDR.String()), EnableDnsSupport: pulumi.Bool(true),
			EnableDnsHostnames: pulumi.Bool(true),
		})
	}
	for _, tier := range []cloud.Tier{cloud.TierGate, cloud.TierAgents} {
		n.tier(s, tier, n.agents, false)
	}
	for _, tier := range []cloud.Tier{cloud.TierPublic, cloud.TierProxies, cloud.TierControl, cloud.TierServices} {
		n.tier(s, tier, n.egress, true)
	}
	n.wayOut(s)
	newACLs(n, s)
	if set.Singletons {
		n.singletons(s)
	}
	s.outputs(pulumi.Map{"agentsVpc": n.agents.ID(), "egressVpc": n.egress.ID()})
	return n
}

// emptied declares a VPC whose defaults hold nothing: a forgotten resource reaches nothing.
func emptied(s *scope, name string, args *ec2.VpcArgs) *ec2.Vpc {
	args.AssignGeneratedIpv6CidrBlock = pulumi.Bool(false)
	args.InstanceTenancy = pulumi.String("default")
	args.Tags = s.tags(name)
	v := add(s, ec2.NewVpc, name, args)
	add(s, ec2.NewDefaultRouteTable, name+"-main", &ec2.DefaultRouteTableArgs{
		DefaultRouteTableId: v.DefaultRouteTableId, Routes: ec2.DefaultRouteTableRouteArray{},
		Tags: s.tags(name + "-main"),
	})
	add(s, ec2.NewDefaultSecurityGroup, name+"-default", &ec2.DefaultSecurityGroupArgs{
		VpcId: v.ID(), Ingress: ec2.DefaultSecurityGroupIngressArray{},
		Egress: ec2.DefaultSecurityGroupEgressArray{}, Tags: s.tags(name + "-default"),
	})
	add(s, ec2.NewDefaultNetworkAcl, name+"-default", &ec2.DefaultNetworkAclArgs{
		DefaultNetworkAclId: v.DefaultNetworkAclId, Ingress: ec2.DefaultNetworkAclIngressArray{},
		Egress: ec2.DefaultNetworkAclEgressArray{}, Tags: s.tags(name + "-default"),
	}, // which subnets are left to it is not ours to say
		pulumi.IgnoreChanges([]string{"subnetIds"}))
	return v
}

// tier declares the subnets of a tier, each with a route table of its own kind:
// one for the whole tier, or, if routes differ by zone, one for each.
func (n *network) tier(s *scope, tier cloud.Tier, v *ec2.Vpc, byZone bool) {
	var shared *ec2.RouteTable
	if !byZone {
		shared = add(s, ec2.NewRouteTable, string(tier), &ec2.RouteTableArgs{VpcId: v.ID(), Tags: s.tags(string(tier))})
	}
	for i, zone := range s.args.AWS.Zones {
		name := zonal(tier, zone)
		subnet := add(s, ec2.NewSubnet, name, &ec2.SubnetArgs{
			VpcId: v.ID(), CidrBlock: pulumi.String(s.args.AWS.Subnet(tier, i).String()),
			AvailabilityZone:    pulumi.String(zone),
			MapPublicIpOnLaunch: pulumi.Bool(false), AssignIpv6AddressOnCreation: pulumi.Bool(false),
			EnableDns64: pulumi.Bool(false),
			Tags:        s.tags(name),
		})
		table := shared
		if byZone {
			table = add(s, ec2.NewRouteTable, name, &ec2.RouteTableArgs{VpcId: v.ID(), Tags: s.tags(name)})
			n.tables[tier] = append(n.tables[tier], table)
		}
		n.subnets[tier] = append(n.subnets[tier], subnet)
		add(s, ec2.NewRouteTableAssociation, name, &ec2.RouteTableAssociationArgs{SubnetId: subnet.ID(), RouteTableId: table.ID()})
	}
}

// zonal returns the name of something in a tier and a zone.
func zonal[T ~string](what T, zone string) string {
	return fmt.Sprintf("%s-%s", what, zone[len(zone)-1:])
}

// wayOut gives the proxies a way to the internet, and the control plane too if it needs one.
func (n *network) wayOut(s *scope) {
	gateway := add(s, ec2.NewInternetGateway, "internet", &ec2.InternetGatewayArgs{VpcId: n.egress.ID(), Tags: s.tags("internet")})
	for i, zone := range s.args.AWS.Zones {
		add(s, ec2.NewRoute, zonal("public-out", zone), &ec2.RouteArgs{
			RouteTableId: n.tables[cloud.TierPublic][i].ID(), DestinationCidrBlock: pulumi.String(anywhere),
			GatewayId: gateway.ID(),
		})
		if i == 0 || s.args.AWS.NATPerZone {
			name := zonal("nat", zone)
			address := add(s, ec2.NewEip, name, &ec2.EipArgs{Domain: pulumi.String("vpc"), Tags: s.tags(name)})
			n.addresses = append(n.addresses, address)
			n.nat = append(n.nat, add(s, ec2.NewNatGateway, name, &ec2.NatGatewayArgs{
				AllocationId: address.ID(), ConnectivityType: pulumi.String("public"),
				SubnetId: n.subnets[cloud.TierPublic][i].ID(), Tags: s.tags(name),
			}, pulumi.DependsOn([]pulumi.Resource{gateway})))
		}
		out := []cloud.Tier{cloud.TierProxies}
		if s.args.controlGoesOut() {
			out = append(out, cloud.TierControl)
		}
		for _, tier := range out {
			add(s, ec2.NewRoute, zonal(tier+"-out", zone), &ec2.RouteArgs{
				RouteTableId: n.tables[tier][i].ID(), DestinationCidrBlock: pulumi.String(anywhere),
				NatGatewayId: n.nat[len(n.nat)-1].ID(),
			})
		}
	}
}

// singletons block the internet for the whole account and region, except for
// what leaves the public subnets. AWS has one such setting: see docs/aws.md.
func (n *network) singletons(s *scope) {
	block := add(s, ec2.NewVpcBlockPublicAccessOptions, "block", &ec2.VpcBlockPublicAccessOptionsArgs{
		InternetGatewayBlockMode: pulumi.String("block-bidirectional"),
	})
	for i, zone := range s.args.AWS.Zones {
		name := zonal("unblocked", zone)
		add(s, ec2.NewVpcBlockPublicAccessExclusion, name, &ec2.VpcBlockPublicAccessExclusionArgs{
			SubnetId:                     n.subnets[cloud.TierPublic][i].ID(),
			InternetGatewayExclusionMode: pulumi.String("allow-egress"), Tags: s.tags(name),
		}, pulumi.DependsOn([]pulumi.Resource{block}))
	}
}
