package aws

import (
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/cloud"
	"github.com/postern/postern/graph"
)

// small is a plan of two subnets, of which only "open" has a way out, and the account as it
// is after it was carried out. The ID of a resource is its name with an x before it.
func small() (*graph.Graph, *live) {
	const table, acl, subnet, group = "aws:ec2/routeTable:RouteTable", "aws:ec2/networkAcl:NetworkAcl", "aws:ec2/subnet:Subnet", "aws:ec2/securityGroup:SecurityGroup"
	g := &graph.Graph{}
	add := func(token, name string, inputs map[string]any, from map[string]string) {
		inputs["tags"] = map[string]any{graph.TagName: name}
		r := graph.Resource{URN: name, Type: token, Name: name, Inputs: inputs, PropertyDependencies: map[string][]string{}}
		for property, urn := range from {
			r.PropertyDependencies[property] = []string{urn}
			r.Inputs[property] = graph.Unknown
		}
		g.Resources = append(g.Resources, r)
	}
	add("aws:ec2/vpc:Vpc", "vpc", map[string]any{"cidrBlock": "10.0.0.0/16", "enableDnsSupport": false}, nil)
	add("aws:ec2/internetGateway:InternetGateway", "internet", map[string]any{}, map[string]string{"vpcId": "vpc"})
	add("aws:ec2/natGateway:NatGateway", "nat", map[string]any{}, nil)
	for _, name := range []string{"open", "shut"} {
		add(subnet, "subnet-"+name, map[string]any{}, map[string]string{"vpcId": "vpc"})
		add(table, "table-"+name, map[string]any{}, map[string]string{"vpcId": "vpc"})
		add(acl, "acl-"+name, map[string]any{}, map[string]string{"vpcId": "vpc"})
		add("aws:ec2/routeTableAssociation:RouteTableAssociation", "routed-"+name, map[string]any{}, map[string]string{"subnetId": "subnet-" + name, "routeTableId": "table-" + name})
		add("aws:ec2/networkAclAssociation:NetworkAclAssociation", "covered-"+name, map[string]any{}, map[string]string{"subnetId": "subnet-" + name, "networkAclId": "acl-" + name})
	}
	add("aws:ec2/route:Route", "route", map[string]any{"destinationCidrBlock": "0.0.0.0/0"}, map[string]string{"routeTableId": "table-open", "natGatewayId": "nat"})
	add("aws:ec2/networkAclRule:NetworkAclRule", "rule", map[string]any{
		"ruleNumber": 100.0, "egress": true, "ruleAction": "deny", "protocol": "tcp", "cidrBlock": "10.0.0.0/16", "fromPort": 1.0, "toPort": 2.0,
	}, map[string]string{"networkAclId": "acl-shut"})
	add(group, "group", map[string]any{}, map[string]string{"vpcId": "vpc"})
	add(egressRule, "passage", map[string]any{"ipProtocol": "tcp", "fromPort": 443.0, "toPort": 443.0, "cidrIpv4": "10.0.0.0/16"}, map[string]string{"securityGroupId": "group"})

	l := &live{
		items: map[string][]item{
			"VPC": {{id: "xvpc", name: "vpc"}}, "internet gateway": {{id: "xinternet", name: "internet"}}, "NAT gateway": {{id: "xnat", name: "nat"}}, "security group": {{id: "xgroup", name: "group"}},
		},
		attributes: map[string]vpcAttributes{"xvpc": {}},
		vpcs:       []types.Vpc{{VpcId: aws.String("xvpc"), CidrBlockAssociationSet: []types.VpcCidrBlockAssociation{{CidrBlock: aws.String("10.0.0.0/16")}}}},
		groups:     []types.SecurityGroup{{GroupId: aws.String("xgroup")}},
		rules: []types.SecurityGroupRule{{
			GroupId: aws.String("xgroup"), IsEgress: aws.Bool(true), IpProtocol: aws.String("tcp"), FromPort: aws.Int32(443), ToPort: aws.Int32(443), CidrIpv4: aws.String("10.0.0.0/16"), SecurityGroupRuleId: aws.String("sgr-1"),
		}},
	}
	for _, name := range []string{"open", "shut"} {
		id := "subnet-x" + name
		l.items["subnet"] = append(l.items["subnet"], item{id: id, name: "subnet-" + name})
		l.items["route table"] = append(l.items["route table"], item{id: "xtable-" + name, name: "table-" + name})
		l.items["network ACL"] = append(l.items["network ACL"], item{id: "xacl-" + name, name: "acl-" + name})
		l.subnets = append(l.subnets, types.Subnet{SubnetId: &id, VpcId: aws.String("xvpc")})
		l.tables = append(l.tables, types.RouteTable{
			RouteTableId: aws.String("xtable-" + name), VpcId: aws.String("xvpc"), Associations: []types.RouteTableAssociation{{SubnetId: &id}},
			Routes: []types.Route{{DestinationCidrBlock: aws.String("10.0.0.0/16"), GatewayId: aws.String("local")}},
		})
		l.acls = append(l.acls, types.NetworkAcl{NetworkAclId: aws.String("xacl-" + name), VpcId: aws.String("xvpc"), Associations: []types.NetworkAclAssociation{{SubnetId: &id}}})
	}
	l.tables[0].Routes = append(l.tables[0].Routes, types.Route{DestinationCidrBlock: aws.String("0.0.0.0/0"), NatGatewayId: aws.String("xnat")})
	l.acls[1].Entries = []types.NetworkAclEntry{
		{RuleNumber: aws.Int32(100), Egress: aws.Bool(true), RuleAction: types.RuleActionDeny, Protocol: aws.String("6"), CidrBlock: aws.String("10.0.0.0/16"), PortRange: &types.PortRange{From: aws.Int32(1), To: aws.Int32(2)}},
		{RuleNumber: aws.Int32(32767), Egress: aws.Bool(true), RuleAction: types.RuleActionDeny, Protocol: aws.String("-1"), CidrBlock: aws.String("0.0.0.0/0")},
	}
	return g, l
}

func differs(risk, resource, id, what, do string) cloud.Difference {
	return cloud.Difference{Risk: risk, Resource: resource, ID: id, What: what, Do: do}
}

// TestDifferences: each way by itself in which the network can be another one than planned is
// found, with its risk; and nothing is where nothing was changed.
func TestDifferences(t *testing.T) {
	t.Parallel()
	to := func(destination, gateway string) types.Route {
		return types.Route{DestinationCidrBlock: &destination, GatewayId: &gateway}
	}
	for name, c := range map[string]struct {
		change func(*live)
		want   []cloud.Difference
	}{
		"nothing": {func(*live) {}, nil},
		"a route that leads elsewhere": {func(l *live) { l.tables[0].Routes[1] = to("0.0.0.0/0", "xinternet") }, []cloud.Difference{
			differs(cloud.High, "table-open", "xtable-open", "the route to 0.0.0.0/0 leads through internet (xinternet), planned is nat (xnat)", again),
		}},
		"a route into nothing": {func(l *live) { l.tables[0].Routes[1].State = types.RouteStateBlackhole }, []cloud.Difference{
			differs(cloud.Medium, "table-open", "xtable-open", "the route to 0.0.0.0/0 leads nowhere: nat (xnat) is gone", again),
		}},
		"no route": {func(l *live) { l.tables[0].Routes = l.tables[0].Routes[:1] }, []cloud.Difference{
			differs(cloud.Medium, "table-open", "xtable-open", "the route to 0.0.0.0/0 through nat (xnat) is missing", again),
		}},
		"a route more": {func(l *live) { l.tables[0].Routes = append(l.tables[0].Routes, to("192.0.2.0/24", "pcx-1")) }, []cloud.Difference{
			differs(cloud.High, "table-open", "xtable-open", "a route to 192.0.2.0/24 through pcx-1 is not planned", "delete the route"),
		}},
		"a route where there is none": {func(l *live) { l.tables[1].Routes = append(l.tables[1].Routes, to("0.0.0.0/0", "xinternet")) }, []cloud.Difference{
			differs(cloud.Critical, "table-shut", "xtable-shut", "a route to 0.0.0.0/0 through internet (xinternet) is not planned: agents may have a way out around the proxies", "delete the route"),
		}},
		"routes of a VPN": {func(l *live) {
			for i := range l.tables {
				l.tables[i].PropagatingVgws = []types.PropagatingVgw{{GatewayId: aws.String("vgw-1")}}
			}
		}, []cloud.Difference{
			differs(cloud.High, "table-open", "xtable-open", "a VPN gateway may put routes into it (vgw-1)", "disable the propagation"),
			differs(cloud.Critical, "table-shut", "xtable-shut", "a VPN gateway may put routes into it (vgw-1)", "disable the propagation"),
		}},
		"another table": {func(l *live) {
			l.tables[0].Associations = append(l.tables[0].Associations, l.tables[1].Associations...)
			l.tables[1].Associations = nil
		}, []cloud.Difference{
			differs(cloud.Critical, "subnet-shut", "subnet-xshut", "it has route table table-open (xtable-open), planned is table-shut (xtable-shut)", again),
		}},
		"the main table": {func(l *live) { l.tables[1].Associations = nil }, []cloud.Difference{
			differs(cloud.Critical, "subnet-shut", "subnet-xshut", "it has no route table of its own, so the main one applies; planned is table-shut (xtable-shut)", again),
		}},
		"a table of nobody's": {func(l *live) {
			l.tables = append(l.tables, types.RouteTable{RouteTableId: aws.String("rtb-9"), VpcId: aws.String("xvpc"), Associations: []types.RouteTableAssociation{{SubnetId: aws.String("subnet-9")}}})
		}, []cloud.Difference{differs(cloud.High, "rtb-9", "", "a route table in use in vpc (xvpc) is not in the plan", "find out who made it, and remove it")}},
		"a table that is not used": {func(l *live) { l.tables = append(l.tables, types.RouteTable{RouteTableId: aws.String("rtb-9")}) }, nil},
		"another network ACL": {func(l *live) {
			l.acls[0].Associations = append(l.acls[0].Associations, l.acls[1].Associations...)
			l.acls[1].Associations = nil
		}, []cloud.Difference{
			differs(cloud.High, "subnet-shut", "subnet-xshut", "it has network ACL acl-open (xacl-open), planned is acl-shut (xacl-shut)", again),
		}},
		"a network ACL of nobody's": {func(l *live) {
			l.acls = append(l.acls, types.NetworkAcl{NetworkAclId: aws.String("acl-9"), VpcId: aws.String("xvpc"), Associations: []types.NetworkAclAssociation{{SubnetId: aws.String("subnet-9")}}})
		}, []cloud.Difference{differs(cloud.High, "acl-9", "", "a network ACL in use in vpc (xvpc) is not in the plan", "find out who made it, and remove it")}},
		"a denial that is gone": {func(l *live) { l.acls[1].Entries = l.acls[1].Entries[1:] }, []cloud.Difference{
			differs(cloud.High, "acl-shut", "xacl-shut", "rule 100: deny tcp 1 to 2 out to 10.0.0.0/16 is missing", again),
		}},
		"a denial that allows": {func(l *live) { l.acls[1].Entries[0].RuleAction = types.RuleActionAllow }, []cloud.Difference{
			differs(cloud.High, "acl-shut", "xacl-shut", "rule 100: allow tcp 1 to 2 out to 10.0.0.0/16 is not planned", "delete it"),
			differs(cloud.High, "acl-shut", "xacl-shut", "rule 100: deny tcp 1 to 2 out to 10.0.0.0/16 is missing", again),
		}},
		"a denial more": {func(l *live) {
			l.acls[0].Entries = []types.NetworkAclEntry{{RuleNumber: aws.Int32(7), RuleAction: types.RuleActionDeny, Protocol: aws.String("-1"), CidrBlock: aws.String("10.0.0.0/8"), PortRange: &types.PortRange{}}}
		}, []cloud.Difference{differs(cloud.Medium, "acl-open", "xacl-open", "rule 7: deny all in from 10.0.0.0/8 is not planned", "delete it")}},
		"a rule that lets out": {func(l *live) {
			l.rules = append(l.rules, types.SecurityGroupRule{GroupId: aws.String("xgroup"), IsEgress: aws.Bool(true), IpProtocol: aws.String("-1"), CidrIpv4: aws.String("0.0.0.0/0"), SecurityGroupRuleId: aws.String("sgr-2")})
		}, []cloud.Difference{differs(cloud.Critical, "group", "xgroup", "a rule lets everything out to 0.0.0.0/0: the rule is not in the plan", "revoke rule sgr-2")}},
		"a rule that lets in": {func(l *live) {
			l.rules = append(l.rules, types.SecurityGroupRule{GroupId: aws.String("xgroup"), IpProtocol: aws.String("tcp"), FromPort: aws.Int32(1), ToPort: aws.Int32(9), ReferencedGroupInfo: &types.ReferencedSecurityGroup{GroupId: aws.String("sg-9")}, SecurityGroupRuleId: aws.String("sgr-2")})
		}, []cloud.Difference{differs(cloud.High, "group", "xgroup", "a rule lets tcp 1 to 9 in from sg-9: the rule is not in the plan", "revoke rule sgr-2")}},
		"a rule that is gone": {func(l *live) { l.rules = nil }, []cloud.Difference{
			differs(cloud.Medium, "group", "xgroup", "the rule that lets tcp 443 out to 10.0.0.0/16 is missing", again),
		}},
		"a group of nobody's that is used": {func(l *live) {
			l.groups = append(l.groups, types.SecurityGroup{GroupId: aws.String("sg-9"), GroupName: aws.String("nine")})
			l.interfaces = []types.NetworkInterface{{Groups: []types.GroupIdentifier{{GroupId: aws.String("sg-9")}}}}
		}, []cloud.Difference{differs(cloud.High, "sg-9", "", `security group "nine" is in use and not in the plan`, "find out who made it, and remove it")}},
		"a group that nobody uses": {func(l *live) {
			l.groups = append(l.groups, types.SecurityGroup{GroupId: aws.String("sg-9")})
			l.rules = append(l.rules, types.SecurityGroupRule{GroupId: aws.String("sg-9"), IsEgress: aws.Bool(true), IpProtocol: aws.String("-1"), CidrIpv4: aws.String("0.0.0.0/0"), SecurityGroupRuleId: aws.String("sgr-2")})
		}, []cloud.Difference{differs(cloud.Medium, "sg-9", "", "a rule lets everything out to 0.0.0.0/0: the group is not in the plan", "revoke rule sgr-2")}},
		"names are resolved": {func(l *live) { l.attributes["xvpc"] = vpcAttributes{dnsSupport: true} }, []cloud.Difference{
			differs(cloud.Critical, "vpc", "xvpc", "DNS support is on, the plan has it off", again),
		}},
		"another range": {func(l *live) {
			l.vpcs[0].CidrBlockAssociationSet = append(l.vpcs[0].CidrBlockAssociationSet, types.VpcCidrBlockAssociation{CidrBlock: aws.String("10.9.0.0/16")})
		}, []cloud.Difference{differs(cloud.High, "vpc", "xvpc", "it has the address range 10.9.0.0/16, which is not planned", "disassociate it")}},
		"IPv6": {func(l *live) {
			l.vpcs[0].Ipv6CidrBlockAssociationSet = []types.VpcIpv6CidrBlockAssociation{{Ipv6CidrBlock: aws.String("2001:db8::/56")}}
			l.subnets[1].AssignIpv6AddressOnCreation = aws.Bool(true)
		}, []cloud.Difference{
			differs(cloud.Critical, "subnet-shut", "subnet-xshut", "machines in it get IPv6 addresses", again),
			differs(cloud.High, "vpc", "xvpc", "it has the IPv6 range 2001:db8::/56, and no rule of the plan is about IPv6", "disassociate it"),
		}},
		"public addresses": {func(l *live) {
			l.subnets[0].MapPublicIpOnLaunch, l.subnets[1].MapPublicIpOnLaunch = aws.Bool(true), aws.Bool(true)
		}, []cloud.Difference{
			differs(cloud.High, "subnet-open", "subnet-xopen", "machines in it get public addresses", again), differs(cloud.Critical, "subnet-shut", "subnet-xshut", "machines in it get public addresses", again),
		}},
		"two of a name": {func(l *live) {
			l.items["security group"] = append(l.items["security group"], item{id: "sg-9", name: "group"})
			l.rules[0].GroupId = aws.String("sg-9")
		}, []cloud.Difference{differs(cloud.High, "sg-9", "", "there are two security groups of the name group", "remove the one that is not in the plan")}},
		"something that is gone": {func(l *live) { l.items["network ACL"] = l.items["network ACL"][1:]; l.acls = l.acls[1:] }, []cloud.Difference{
			differs(cloud.High, "acl-open", "", "the network ACL is not there", again),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, l := small()
			c.change(l)
			d := &differ{g: g, live: l, planned: map[string]*graph.Resource{}, ids: map[string]string{}}
			d.match()
			d.vpcs()
			d.routes()
			d.rules()
			d.acls()
			slices.SortStableFunc(d.found, func(a, b cloud.Difference) int {
				return slices.Compare([]string{a.Resource, a.What}, []string{b.Resource, b.What})
			})
			require.Equal(t, c.want, d.found)
		})
	}
}
