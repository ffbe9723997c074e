package live

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/postern/postern/cloud"
	"github.com/postern/postern/graph"
)

const (
	tokenVPC     = "aws:ec2/vpc:Vpc"
	tokenTable   = "aws:ec2/routeTable:RouteTable"
	tokenMain    = "aws:ec2/defaultRouteTable:DefaultRouteTable"
	tokenACL     = "aws:ec2/networkAcl:NetworkAcl"
	tokenMainACL = "aws:ec2/defaultNetworkAcl:DefaultNetworkAcl"
)

// networks reads the VPCs. Without these nothing else can be asked.
func (r *reader) networks(n cloud.Networks) error {
	r.say("networks")
	var found []types.Vpc
	ask := func(in *ec2.DescribeVpcsInput) []types.Vpc {
		list := every(r, "ec2:DescribeVpcs", ec2.NewDescribeVpcsPaginator(r.ec2, in),
			func(p *ec2.DescribeVpcsOutput) []types.Vpc { return p.Vpcs })
		found = append(found, list...)
		return list
	}
	if n.Stack != "" && len(ask(&ec2.DescribeVpcsInput{Filters: filter("tag:"+graph.TagStack, n.Stack)})) == 0 &&
		len(n.IDs) == 0 && r.err == nil && r.unread == nil {
		return fmt.Errorf("no VPC in %s has the tag %s=%s: the stack is not up there, or its tags were removed",
			r.region, graph.TagStack, n.Stack)
	}
	if len(n.IDs) > 0 {
		ask(&ec2.DescribeVpcsInput{VpcIds: n.IDs})
	}
	if r.err != nil {
		return r.err
	}
	if len(r.unread) > 0 {
		return fmt.Errorf("%s: %s", r.unread[0].Action, r.unread[0].Why)
	}
	for i := range found {
		if id := aws.ToString(found[i].VpcId); !slices.Contains(r.vpcs, id) {
			r.vpcs = append(r.vpcs, id)
			r.network(&found[i])
		}
	}
	return r.err
}

func (r *reader) network(v *types.Vpc) {
	tags := tagsOf(v.Tags)
	in := object{"cidrBlock": value(v.CidrBlock), "tags": tags}
	out, err := r.ec2.DescribeVpcAttribute(r.ctx, &ec2.DescribeVpcAttributeInput{
		VpcId: v.VpcId, Attribute: types.VpcAttributeNameEnableDnsSupport,
	})
	if r.answered("ec2:DescribeVpcAttribute", err) && out.EnableDnsSupport != nil {
		in["enableDnsSupport"] = value(out.EnableDnsSupport.Value)
	}
	x := r.add(tokenVPC, aws.ToString(v.VpcId), called(tags), in)
	for _, a := range v.CidrBlockAssociationSet {
		if block := aws.ToString(a.CidrBlock); block != aws.ToString(v.CidrBlock) && a.CidrBlockState != nil &&
			a.CidrBlockState.State != types.VpcCidrBlockStateCodeDisassociated {
			r.add("aws:ec2/vpcIpv4CidrBlockAssociation:VpcIpv4CidrBlockAssociation", aws.ToString(a.AssociationId), "",
				object{"vpcId": x.ID, "cidrBlock": block})
		}
	}
}

// main says that a resource is what its VPC has by default. A state says so by an output of the
// VPC.
func (r *reader) main(x *resource, property string, vpc *string) {
	v := r.named[[2]string{tokenVPC, aws.ToString(vpc)}]
	if v == nil {
		return
	}
	x.Inputs[property], v.Outputs[property] = x.ID, x.ID
	x.refers(property, v)
}

func (r *reader) subnets() {
	for _, s := range every(r, "ec2:DescribeSubnets",
		ec2.NewDescribeSubnetsPaginator(r.ec2, &ec2.DescribeSubnetsInput{Filters: r.inside()}),
		func(p *ec2.DescribeSubnetsOutput) []types.Subnet { return p.Subnets }) {
		tags := tagsOf(s.Tags)
		in := object{
			"vpcId": value(s.VpcId), "cidrBlock": value(s.CidrBlock), "tags": tags,
			"mapPublicIpOnLaunch":         value(s.MapPublicIpOnLaunch),
			"assignIpv6AddressOnCreation": value(s.AssignIpv6AddressOnCreation), "ipv6Native": value(s.Ipv6Native),
		}
		for _, a := range s.Ipv6CidrBlockAssociationSet {
			if in["ipv6CidrBlock"] != nil {
				in["ipv6CidrBlock"] = "several" // any IPv6 address, then
				break
			}
			in["ipv6CidrBlock"] = value(a.Ipv6CidrBlock)
		}
		r.add("aws:ec2/subnet:Subnet", aws.ToString(s.SubnetId), called(tags), in)
	}
}

func (r *reader) groups() {
	for _, g := range every(r, "ec2:DescribeSecurityGroups",
		ec2.NewDescribeSecurityGroupsPaginator(r.ec2, &ec2.DescribeSecurityGroupsInput{Filters: r.inside()}),
		func(p *ec2.DescribeSecurityGroupsOutput) []types.SecurityGroup { return p.SecurityGroups }) {
		token, tags := "aws:ec2/securityGroup:SecurityGroup", tagsOf(g.Tags)
		if aws.ToString(g.GroupName) == "default" {
			token = "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup"
		}
		r.add(token, aws.ToString(g.GroupId), called(tags), object{"vpcId": value(g.VpcId), "tags": tags})
	}
}

// maxFilter is the number of values that AWS accepts in one filter.
const maxFilter = 200

// rules reads the rules of groups, each a resource of its own.
func (r *reader) rules() {
	var groups []string
	for _, x := range r.all {
		if strings.HasSuffix(x.Type, "ecurityGroup") {
			groups = append(groups, x.ID)
		}
	}
	for some := range slices.Chunk(groups, maxFilter) {
		for _, rule := range every(r, "ec2:DescribeSecurityGroupRules",
			ec2.NewDescribeSecurityGroupRulesPaginator(r.ec2, &ec2.DescribeSecurityGroupRulesInput{
				Filters: filter("group-id", some...),
			}), func(p *ec2.DescribeSecurityGroupRulesOutput) []types.SecurityGroupRule {
				return p.SecurityGroupRules
			}) {
			r.rule(&rule)
		}
	}
}

func (r *reader) rule(rule *types.SecurityGroupRule) {
	token := "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
	if aws.ToBool(rule.IsEgress) {
		token = "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule"
	}
	id, group := aws.ToString(rule.SecurityGroupRuleId), aws.ToString(rule.GroupId)
	in := func() object {
		return object{
			"securityGroupId": group, "ipProtocol": value(rule.IpProtocol), "fromPort": value(rule.FromPort),
			"toPort": value(rule.ToPort),
		}
	}
	whole := in()
	whole["cidrIpv4"], whole["cidrIpv6"] = value(rule.CidrIpv4), value(rule.CidrIpv6)
	if g := rule.ReferencedGroupInfo; g != nil {
		whole["referencedSecurityGroupId"] = value(g.GroupId)
	}
	list := aws.ToString(rule.PrefixListId)
	if list == "" {
		r.add(token, id, "of "+group, whole)
		return
	}
	if e := r.served(list); e != nil {
		whole["prefixListId"] = list
		r.add(token, id, "of "+group, whole).refers("prefixListId", e)
		return
	}
	for _, block := range r.entries(list) {
		part := in()
		part[family("cidrIpv", block)] = block
		r.add(token, id+" "+block, "of "+group, part)
	}
}

// family returns the name of an input for IPv4 or IPv6 networks.
func family(before, block string) string {
	if strings.Contains(block, ":") {
		return before + "6"
	}
	return before + "4"
}

// served returns the gateway endpoint whose service has the prefix list, or nil.
func (r *reader) served(list string) *resource {
	for _, x := range r.all {
		if x.Outputs["prefixListId"] == list {
			return x
		}
	}
	return nil
}

// entries returns the networks of a prefix list: none if it is unread.
func (r *reader) entries(list string) []string {
	if had, ok := r.lists[list]; ok {
		return had
	}
	out := pick(every(r, "ec2:GetManagedPrefixListEntries",
		ec2.NewGetManagedPrefixListEntriesPaginator(r.ec2, &ec2.GetManagedPrefixListEntriesInput{PrefixListId: &list}),
		func(p *ec2.GetManagedPrefixListEntriesOutput) []types.PrefixListEntry { return p.Entries }),
		func(e types.PrefixListEntry) string { return aws.ToString(e.Cidr) })
	r.lists[list] = out
	return out
}

func (r *reader) acls() {
	for _, a := range every(r, "ec2:DescribeNetworkAcls",
		ec2.NewDescribeNetworkAclsPaginator(r.ec2, &ec2.DescribeNetworkAclsInput{Filters: r.inside()}),
		func(p *ec2.DescribeNetworkAclsOutput) []types.NetworkAcl { return p.NetworkAcls }) {
		token, tags := tokenACL, tagsOf(a.Tags)
		if aws.ToBool(a.IsDefault) {
			token = tokenMainACL
		}
		id := aws.ToString(a.NetworkAclId)
		x := r.add(token, id, called(tags), object{
			"tags": tags, "subnetIds": pick(a.Associations, func(a types.NetworkAclAssociation) string {
				return aws.ToString(a.SubnetId)
			}),
		})
		if token == tokenMainACL {
			r.main(x, "defaultNetworkAclId", a.VpcId)
		} else {
			x.Inputs["vpcId"] = value(a.VpcId)
		}
		for i := range a.Entries {
			r.entry(id, &a.Entries[i])
		}
	}
}

// lastRule is the number of the rule of every ACL that denies the rest.
const lastRule = 32767

func (r *reader) entry(acl string, e *types.NetworkAclEntry) {
	if aws.ToInt32(e.RuleNumber) >= lastRule {
		return
	}
	way := "in"
	if aws.ToBool(e.Egress) {
		way = "out"
	}
	in := object{
		"networkAclId": acl, "ruleNumber": value(e.RuleNumber), "egress": aws.ToBool(e.Egress),
		"ruleAction": string(e.RuleAction), "protocol": value(e.Protocol), "cidrBlock": value(e.CidrBlock),
		"ipv6CidrBlock": value(e.Ipv6CidrBlock),
	}
	if p := e.PortRange; p != nil {
		in["fromPort"], in["toPort"] = value(p.From), value(p.To)
	}
	if e.IcmpTypeCode != nil {
		in["icmpType"] = value(e.IcmpTypeCode.Type)
	}
	r.add("aws:ec2/networkAclRule:NetworkAclRule", fmt.Sprintf("%s rule %d %s", acl, aws.ToInt32(e.RuleNumber), way),
		"", in)
}

// tables reads route tables, with each route a resource of its own.
func (r *reader) tables() {
	for _, t := range every(r, "ec2:DescribeRouteTables",
		ec2.NewDescribeRouteTablesPaginator(r.ec2, &ec2.DescribeRouteTablesInput{Filters: r.inside()}),
		func(p *ec2.DescribeRouteTablesOutput) []types.RouteTable { return p.RouteTables }) {
		token, tags, id := tokenTable, tagsOf(t.Tags), aws.ToString(t.RouteTableId)
		if slices.ContainsFunc(t.Associations, func(a types.RouteTableAssociation) bool { return aws.ToBool(a.Main) }) {
			token = tokenMain
		}
		x := r.add(token, id, called(tags), object{
			"tags": tags, "propagatingVgws": pick(t.PropagatingVgws, func(v types.PropagatingVgw) string {
				return aws.ToString(v.GatewayId)
			}),
		})
		if token == tokenMain {
			r.main(x, "defaultRouteTableId", t.VpcId)
		} else {
			x.Inputs["vpcId"] = value(t.VpcId)
		}
		for _, a := range t.Associations {
			if aws.ToBool(a.Main) {
				continue
			}
			r.add("aws:ec2/routeTableAssociation:RouteTableAssociation", aws.ToString(a.RouteTableAssociationId), "",
				object{"routeTableId": id, "subnetId": value(a.SubnetId), "gatewayId": value(a.GatewayId)})
		}
		for i := range t.Routes {
			r.route(id, &t.Routes[i])
		}
	}
}

// route reads a route. The proof knows that of the VPC itself, and those of gateway endpoints. A
// route whose target is gone counts as if the target were there.
func (r *reader) route(table string, t *types.Route) {
	target := aws.ToString(t.GatewayId)
	if e := r.named[[2]string{tokenEndpoint, target}]; target == "local" ||
		e != nil && slices.Contains(e.Inputs["routeTableIds"].([]string), table) {
		return
	}
	in := object{
		"routeTableId": table, "gatewayId": value(t.GatewayId), "natGatewayId": value(t.NatGatewayId),
		"egressOnlyGatewayId": value(t.EgressOnlyInternetGatewayId), "transitGatewayId": value(t.TransitGatewayId),
		"vpcPeeringConnectionId": value(t.VpcPeeringConnectionId), "networkInterfaceId": value(t.NetworkInterfaceId),
		"carrierGatewayId": value(t.CarrierGatewayId), "localGatewayId": value(t.LocalGatewayId),
		"coreNetworkArn": value(t.CoreNetworkArn),
	}
	through := ""
	for _, v := range in {
		if text, ok := v.(string); ok && text != table {
			through = text
		}
	}
	to := []string{aws.ToString(t.DestinationCidrBlock) + aws.ToString(t.DestinationIpv6CidrBlock)}
	if list := aws.ToString(t.DestinationPrefixListId); list != "" {
		to = r.entries(list)
	}
	for _, block := range to {
		part, key := maps.Clone(in), "destinationCidrBlock"
		if strings.Contains(block, ":") {
			key = "destinationIpv6CidrBlock"
		}
		part[key] = block
		r.add("aws:ec2/route:Route", table+" to "+block, "through "+through, part)
	}
}
