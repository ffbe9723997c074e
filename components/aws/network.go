package aws

import (
	"fmt"

	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/ec2"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/plan/cloud"
)

// NetworkArgs say where everything is.
type NetworkArgs struct {
	// AWS, Plan and Existing are as in [EnvironmentArgs].
	AWS      *cloud.AWS
	Plan     *plan.Plan
	Existing *ExistingNetwork
}

// Network is the agents' network without a way out, and the network of the fleet.
type Network struct {
	pulumi.ResourceState

	// AgentsVPC and EgressVPC are the IDs of the two networks; the same one in the shared mode.
	AgentsVPC pulumi.StringOutput `pulumi:"agentsVpc"`
	EgressVPC pulumi.StringOutput `pulumi:"egressVpc"`
	// The IDs of each tier's subnets, by zone: see package cloud.
	AgentsSubnets   pulumi.StringArrayOutput `pulumi:"agentsSubnets"`
	GateSubnets     pulumi.StringArrayOutput `pulumi:"gateSubnets"`
	ProxiesSubnets  pulumi.StringArrayOutput `pulumi:"proxiesSubnets"`
	ControlSubnets  pulumi.StringArrayOutput `pulumi:"controlSubnets"`
	ServicesSubnets pulumi.StringArrayOutput `pulumi:"servicesSubnets"`
	// Gates are the addresses at which agents reach the proxies, one for each zone.
	Gates pulumi.StringArrayOutput `pulumi:"gates"`
	// Addresses are the public addresses from which the proxies connect.
	Addresses pulumi.StringArrayOutput `pulumi:"addresses"`

	scope   *scope
	network *network
}

// NewNetwork declares the networks under the given name. opts must give a provider of the account
// and region of the settings.
func NewNetwork(
	ctx *pulumi.Context, name string, args *NetworkArgs, opts ...pulumi.ResourceOption,
) (n *Network, err error) {
	if args == nil || args.AWS == nil || args.Plan == nil {
		return nil, fmt.Errorf("declare network %s: AWS and Plan are needed", name)
	}
	all := &EnvironmentArgs{AWS: args.AWS, Plan: args.Plan, Existing: args.Existing}
	if err := all.check(true); err != nil {
		return nil, fmt.Errorf("declare network %s: %w", name, err)
	}
	defer declared(&err)
	s := open(ctx, name, all)
	n = newNetwork(s, name, opts...)
	s.complete()
	return n, nil
}

func newNetwork(parent *scope, name string, opts ...pulumi.ResourceOption) *Network {
	n := &Network{scope: parent, network: &network{}}
	s := parent.part("Network", name, n, settings(parent.args), opts...)
	n.network.declare(s)
	gates := pulumi.StringArray{}
	for i := range s.args.AWS.Zones {
		gates = append(gates, pulumi.String(s.args.gate(i).String()))
	}
	n.AgentsVPC, n.EgressVPC = n.network.agents.ToStringOutput(), n.network.egress.ToStringOutput()
	n.Gates, n.Addresses = gates.ToStringArrayOutput(), n.network.addresses.ToStringArrayOutput()
	for tier, out := range map[cloud.Tier]*pulumi.StringArrayOutput{
		cloud.TierAgents: &n.AgentsSubnets, cloud.TierGate: &n.GateSubnets, cloud.TierProxies: &n.ProxiesSubnets,
		cloud.TierControl: &n.ControlSubnets, cloud.TierServices: &n.ServicesSubnets,
	} {
		*out = n.network.subnets[tier].ToStringArrayOutput()
	}
	s.outputs(n.outputs())
	return n
}

func (n *Network) outputs() pulumi.Map {
	return pulumi.Map{
		"agentsVpc": n.AgentsVPC, "egressVpc": n.EgressVPC, "agentsSubnets": n.AgentsSubnets,
		"gateSubnets": n.GateSubnets, "proxiesSubnets": n.ProxiesSubnets, "controlSubnets": n.ControlSubnets,
		"servicesSubnets": n.ServicesSubnets, "gates": n.Gates, "addresses": n.Addresses,
	}
}

// network holds the networks. In the shared mode both VPCs are the same one.
type network struct {
	// agents and egress are the IDs of the VPCs, and subnets those of each tier's subnets, by zone.
	agents, egress pulumi.StringInput
	subnets        map[cloud.Tier]pulumi.StringArray
	// tables are the route tables of tiers that may have routes, by zone.
	tables map[cloud.Tier][]*ec2.RouteTable
	nat    []*ec2.NatGateway
	// addresses are the public addresses that the proxies come from.
	addresses pulumi.StringArray
}

func (n *network) declare(s *scope) {
	set := s.args.AWS
	n.subnets, n.tables = map[cloud.Tier]pulumi.StringArray{}, map[cloud.Tier][]*ec2.RouteTable{}
	switch {
	case set.Mode == cloud.ModeShared:
		n.egress = emptied(s, "vpc", &ec2.VpcArgs{
			CidrBlock: pulumi.String(set.VPC.String()), EnableDnsSupport: pulumi.Bool(true),
			EnableDnsHostnames: pulumi.Bool(true),
		})
		n.agents = n.egress
	case s.args.Existing != nil:
		n.agents = s.args.Existing.VPC
		n.subnets[cloud.TierAgents] = s.args.Existing.Subnets
		for _, g := range s.args.Existing.Gates {
			n.subnets[cloud.TierGate] = append(n.subnets[cloud.TierGate], g.Subnet)
		}
	default:
		// Without DNS there is no resolver through which an agent could tunnel. Fargate needs DNS;
		// see dns.go.
		dns := pulumi.Bool(set.FargateAgents())
		n.agents = emptied(s, "agents", &ec2.VpcArgs{
			CidrBlock: pulumi.String(set.AgentsCIDR.String()), EnableDnsSupport: dns, EnableDnsHostnames: dns,
		})
	}
	if set.Mode == cloud.ModeIsolated {
		n.egress = emptied(s, "egress", &ec2.VpcArgs{
			CidrBlock: pulumi.String(set.EgressCIDR.String()), EnableDnsSupport: pulumi.Bool(true),
			EnableDnsHostnames: pulumi.Bool(true),
		})
	}
	if s.args.Existing == nil {
		for _, tier := range []cloud.Tier{cloud.TierGate, cloud.TierAgents} {
			n.tier(s, tier, n.agents, false)
		}
	}
	for _, tier := range []cloud.Tier{cloud.TierPublic, cloud.TierProxies, cloud.TierControl, cloud.TierServices} {
		n.tier(s, tier, n.egress, true)
	}
	n.wayOut(s)
	newACLs(n, s)
	if set.Singletons {
		n.singletons(s)
	}
}

// emptied declares a VPC whose defaults hold nothing: a forgotten resource reaches nothing.
func emptied(s *scope, name string, args *ec2.VpcArgs) pulumi.StringOutput {
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
	return v.ID().ToStringOutput()
}

// tier declares the subnets of a tier, each with a route table of its own kind:
// one for the whole tier, or, if routes differ by zone, one for each.
func (n *network) tier(s *scope, tier cloud.Tier, v pulumi.StringInput, byZone bool) {
	var shared *ec2.RouteTable
	if !byZone {
		shared = add(s, ec2.NewRouteTable, string(tier),
			&ec2.RouteTableArgs{VpcId: v.ToStringOutput(), Tags: s.tags(string(tier))})
	}
	for i, zone := range s.args.AWS.Zones {
		name := zonal(tier, zone)
		subnet := add(s, ec2.NewSubnet, name, &ec2.SubnetArgs{
			VpcId: v, CidrBlock: pulumi.String(s.args.AWS.Subnet(tier, i).String()),
			AvailabilityZone:    pulumi.String(zone),
			MapPublicIpOnLaunch: pulumi.Bool(false), AssignIpv6AddressOnCreation: pulumi.Bool(false),
			EnableDns64: pulumi.Bool(false),
			Tags:        s.tags(name),
		})
		table := shared
		if byZone {
			table = add(s, ec2.NewRouteTable, name, &ec2.RouteTableArgs{VpcId: v.ToStringOutput(), Tags: s.tags(name)})
			n.tables[tier] = append(n.tables[tier], table)
		}
		n.subnets[tier] = append(n.subnets[tier], subnet.ID().ToStringOutput())
		add(s, ec2.NewRouteTableAssociation, name, &ec2.RouteTableAssociationArgs{SubnetId: subnet.ID(), RouteTableId: table.ID()})
	}
}

// zonal returns the name of something in a tier and a zone.
func zonal[T ~string](what T, zone string) string {
	return fmt.Sprintf("%s-%s", what, zone[len(zone)-1:])
}

// wayOut gives the proxies a way to the internet, and the control plane too if it needs one.
func (n *network) wayOut(s *scope) {
	gateway := add(s, ec2.NewInternetGateway, "internet",
		&ec2.InternetGatewayArgs{VpcId: n.egress.ToStringOutput(), Tags: s.tags("internet")})
	for i, zone := range s.args.AWS.Zones {
		add(s, ec2.NewRoute, zonal("public-out", zone), &ec2.RouteArgs{
			RouteTableId: n.tables[cloud.TierPublic][i].ID(), DestinationCidrBlock: pulumi.String(anywhere),
			GatewayId: gateway.ID(),
		})
		if i == 0 || s.args.AWS.NATPerZone {
			name := zonal("nat", zone)
			address := add(s, ec2.NewEip, name, &ec2.EipArgs{Domain: pulumi.String("vpc"), Tags: s.tags(name)})
			n.addresses = append(n.addresses, address.PublicIp)
			n.nat = append(n.nat, add(s, ec2.NewNatGateway, name, &ec2.NatGatewayArgs{
				AllocationId: address.ID(), ConnectivityType: pulumi.String("public"),
				SubnetId: n.subnets[cloud.TierPublic][i], Tags: s.tags(name),
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
	var exclusions []pulumi.Resource
	for i, zone := range s.args.AWS.Zones {
		name := zonal("unblocked", zone)
		exclusions = append(exclusions,
			add(s, ec2.NewVpcBlockPublicAccessExclusion, name, &ec2.VpcBlockPublicAccessExclusionArgs{
				SubnetId:                     n.subnets[cloud.TierPublic][i],
				InternetGatewayExclusionMode: pulumi.String("allow-egress"), Tags: s.tags(name),
			}))
	}
	// An exclusion takes minutes, and the proxies' way out is cut without it. Whoever takes the stack
	// down has not decided that other VPCs of the account are open again: the setting stays.
	add(s, ec2.NewVpcBlockPublicAccessOptions, "block", &ec2.VpcBlockPublicAccessOptionsArgs{
		InternetGatewayBlockMode: pulumi.String("block-bidirectional"),
	}, pulumi.DependsOn(exclusions), pulumi.RetainOnDelete(true))
}
