package aws

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/postern/postern/graph"
)

// live holds the content of the account about the stack's VPCs, roles included.
type live struct {
	items      map[string][]item // by class
	vpcs       []types.Vpc
	attributes map[string]vpcAttributes
	subnets    []types.Subnet
	tables     []types.RouteTable
	groups     []types.SecurityGroup
	rules      []types.SecurityGroupRule
	acls       []types.NetworkAcl
	endpoints  []types.VpcEndpoint
	gateways   []types.InternetGateway
	nats       []types.NatGateway
	peerings   []types.VpcPeeringConnection
	transits   []types.TransitGatewayVpcAttachment
	egressOnly []types.EgressOnlyInternetGateway
	vpns       []types.VpnGateway
	interfaces []types.NetworkInterface
	instances  []types.Instance
	// lists are the IDs of the prefix lists that the plan names by their service.
	lists    map[string]string
	services []endpointService
	tasks    []service
	roles    []role
	// boundaries are the documents of roles' boundaries, by ARN.
	boundaries map[string]string
	secrets    map[string]string // policies, by the secret's name
	keys       map[string]key    // by alias
	// block is the mode of VPC Block Public Access, "" if the account has none.
	block string
}

// item is one live resource that could be one of the plan's.
type item struct {
	id, name  string
	isDefault bool
}

type vpcAttributes struct{ dnsSupport, dnsHostnames bool }

func tag(tags []types.Tag, key string) string {
	for _, t := range tags {
		if aws.ToString(t.Key) == key {
			return aws.ToString(t.Value)
		}
	}
	return ""
}

func filter(name string, values ...string) []types.Filter {
	return []types.Filter{{Name: aws.String(name), Values: values}}
}

// read reads everything in the stack's VPCs, whoever made it.
func (a *Account) read(ctx context.Context, g *graph.Graph) (*live, error) {
	client := ec2.NewFromConfig(a.cfg)
	l := &live{items: map[string][]item{}, attributes: map[string]vpcAttributes{}, lists: map[string]string{}, boundaries: map[string]string{}, secrets: map[string]string{}, keys: map[string]key{}}
	vpcs, err := client.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{Filters: filter("tag:"+graph.TagStack, g.Stack)})
	if err != nil {
		return nil, explain("list VPCs", err)
	}
	l.vpcs = vpcs.Vpcs
	if len(l.vpcs) == 0 {
		return nil, fmt.Errorf("no VPC in %s of account %s has the tag %s=%s: the stack is not up there, or its tags were removed", a.Region, a.ID, graph.TagStack, g.Stack)
	}
	var ids []string
	for _, v := range l.vpcs {
		ids = append(ids, aws.ToString(v.VpcId))
		l.add("VPC", aws.ToString(v.VpcId), v.Tags, false)
		if l.attributes[aws.ToString(v.VpcId)], err = attributes(ctx, client, v.VpcId); err != nil {
			return nil, err
		}
	}
	for _, step := range []struct {
		doing string
		read  func(context.Context, *ec2.Client, []string) error
	}{
		{"list subnets", l.readSubnets},
		{"list route tables", l.readTables},
		{"list security groups", l.readGroups},
		{"list rules of security groups", l.readRules},
		{"list network ACLs", l.readACLs},
		{"list endpoints", l.readEndpoints},
		{"list gateways", l.readGateways},
		{"list network interfaces", l.readInterfaces},
		{"list instances", l.readInstances},
	} {
		if err := step.read(ctx, client, ids); err != nil {
			return nil, explain(step.doing, err)
		}
	}
	for _, read := range []func(context.Context, *graph.Graph, *live) error{
		a.readLists, a.readTasks, a.readEndpointServices, a.readSecretPolicies, a.readKeys, a.readBlock, a.readRoles,
	} {
		if err := read(ctx, g, l); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// pages is one of the SDK's paginators.
type pages[P, O any] interface {
	HasMorePages() bool
	NextPage(context.Context, ...func(*O)) (*P, error)
}

// all returns the items of all pages.
func all[P, O, T any](ctx context.Context, p pages[P, O], items func(*P) []T) ([]T, error) {
	var list []T
	for p.HasMorePages() {
		page, err := p.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		list = append(list, items(page)...)
	}
	return list, nil
}

func (l *live) add(class, id string, tags []types.Tag, isDefault bool) {
	l.items[class] = append(l.items[class], item{id, tag(tags, graph.TagName), isDefault})
}

func attributes(ctx context.Context, client *ec2.Client, vpc *string) (vpcAttributes, error) {
	var a vpcAttributes
	out, err := client.DescribeVpcAttribute(ctx, &ec2.DescribeVpcAttributeInput{VpcId: vpc, Attribute: types.VpcAttributeNameEnableDnsSupport})
	if err != nil {
		return a, explain("read DNS support of "+aws.ToString(vpc), err)
	}
	a.dnsSupport = out.EnableDnsSupport != nil && aws.ToBool(out.EnableDnsSupport.Value)
	out, err = client.DescribeVpcAttribute(ctx, &ec2.DescribeVpcAttributeInput{VpcId: vpc, Attribute: types.VpcAttributeNameEnableDnsHostnames})
	if err != nil {
		return a, explain("read DNS names of "+aws.ToString(vpc), err)
	}
	a.dnsHostnames = out.EnableDnsHostnames != nil && aws.ToBool(out.EnableDnsHostnames.Value)
	return a, nil
}

func (l *live) readSubnets(ctx context.Context, client *ec2.Client, vpcs []string) (err error) {
	l.subnets, err = all(ctx, ec2.NewDescribeSubnetsPaginator(client, &ec2.DescribeSubnetsInput{Filters: filter("vpc-id", vpcs...)}),
		func(p *ec2.DescribeSubnetsOutput) []types.Subnet { return p.Subnets })
	for _, s := range l.subnets {
		l.add("subnet", aws.ToString(s.SubnetId), s.Tags, false)
	}
	return err
}

func (l *live) readTables(ctx context.Context, client *ec2.Client, vpcs []string) (err error) {
	l.tables, err = all(ctx, ec2.NewDescribeRouteTablesPaginator(client, &ec2.DescribeRouteTablesInput{Filters: filter("vpc-id", vpcs...)}),
		func(p *ec2.DescribeRouteTablesOutput) []types.RouteTable { return p.RouteTables })
	for _, t := range l.tables {
		l.add("route table", aws.ToString(t.RouteTableId), t.Tags, isMain(t))
	}
	return err
}

func isMain(t types.RouteTable) bool {
	for _, a := range t.Associations {
		if aws.ToBool(a.Main) {
			return true
		}
	}
	return false
}

func (l *live) readGroups(ctx context.Context, client *ec2.Client, vpcs []string) (err error) {
	l.groups, err = all(ctx, ec2.NewDescribeSecurityGroupsPaginator(client, &ec2.DescribeSecurityGroupsInput{Filters: filter("vpc-id", vpcs...)}),
		func(p *ec2.DescribeSecurityGroupsOutput) []types.SecurityGroup { return p.SecurityGroups })
	for _, s := range l.groups {
		l.add("security group", aws.ToString(s.GroupId), s.Tags, aws.ToString(s.GroupName) == "default")
	}
	return err
}

// maxFilter is the number of values that AWS accepts in one filter.
const maxFilter = 200

func (l *live) readRules(ctx context.Context, client *ec2.Client, _ []string) error {
	var ids []string
	for _, s := range l.groups {
		ids = append(ids, aws.ToString(s.GroupId))
	}
	for some := range slices.Chunk(ids, maxFilter) {
		rules, err := all(ctx, ec2.NewDescribeSecurityGroupRulesPaginator(client, &ec2.DescribeSecurityGroupRulesInput{Filters: filter("group-id", some...)}),
			func(p *ec2.DescribeSecurityGroupRulesOutput) []types.SecurityGroupRule { return p.SecurityGroupRules })
		if err != nil {
			return err
		}
		l.rules = append(l.rules, rules...)
	}
	return nil
}

func (l *live) readACLs(ctx context.Context, client *ec2.Client, vpcs []string) (err error) {
	l.acls, err = all(ctx, ec2.NewDescribeNetworkAclsPaginator(client, &ec2.DescribeNetworkAclsInput{Filters: filter("vpc-id", vpcs...)}),
		func(p *ec2.DescribeNetworkAclsOutput) []types.NetworkAcl { return p.NetworkAcls })
	for _, a := range l.acls {
		l.add("network ACL", aws.ToString(a.NetworkAclId), a.Tags, aws.ToBool(a.IsDefault))
	}
	return err
}

func (l *live) readEndpoints(ctx context.Context, client *ec2.Client, vpcs []string) error {
	endpoints, err := all(ctx, ec2.NewDescribeVpcEndpointsPaginator(client, &ec2.DescribeVpcEndpointsInput{Filters: filter("vpc-id", vpcs...)}),
		func(p *ec2.DescribeVpcEndpointsOutput) []types.VpcEndpoint { return p.VpcEndpoints })
	for _, e := range endpoints {
		if state := strings.ToLower(string(e.State)); state != "deleted" && state != "deleting" {
			l.endpoints = append(l.endpoints, e)
			l.add("endpoint", aws.ToString(e.VpcEndpointId), e.Tags, false)
		}
	}
	return err
}

// readGateways reads everything that leads out of a VPC.
func (l *live) readGateways(ctx context.Context, client *ec2.Client, vpcs []string) error {
	gateways, err := client.DescribeInternetGateways(ctx, &ec2.DescribeInternetGatewaysInput{Filters: filter("attachment.vpc-id", vpcs...)})
	if err != nil {
		return err
	}
	l.gateways = gateways.InternetGateways
	for _, g := range l.gateways {
		l.add("internet gateway", aws.ToString(g.InternetGatewayId), g.Tags, false)
	}
	nats, err := client.DescribeNatGateways(ctx, &ec2.DescribeNatGatewaysInput{Filter: filter("vpc-id", vpcs...)})
	if err != nil {
		return err
	}
	for _, n := range nats.NatGateways {
		if n.State != types.NatGatewayStateDeleted && n.State != types.NatGatewayStateDeleting {
			l.nats = append(l.nats, n)
			l.add("NAT gateway", aws.ToString(n.NatGatewayId), n.Tags, false)
		}
	}
	for _, side := range []string{"requester-vpc-info.vpc-id", "accepter-vpc-info.vpc-id"} {
		out, err := client.DescribeVpcPeeringConnections(ctx, &ec2.DescribeVpcPeeringConnectionsInput{Filters: filter(side, vpcs...)})
		if err != nil {
			return err
		}
		for _, p := range out.VpcPeeringConnections {
			if p.Status == nil || p.Status.Code != types.VpcPeeringConnectionStateReasonCodeDeleted {
				l.peerings = append(l.peerings, p)
			}
		}
	}
	transits, err := client.DescribeTransitGatewayVpcAttachments(ctx, &ec2.DescribeTransitGatewayVpcAttachmentsInput{Filters: filter("vpc-id", vpcs...)})
	if err != nil {
		return err
	}
	for _, t := range transits.TransitGatewayVpcAttachments {
		if t.State != types.TransitGatewayAttachmentStateDeleted {
			l.transits = append(l.transits, t)
		}
	}
	egressOnly, err := client.DescribeEgressOnlyInternetGateways(ctx, &ec2.DescribeEgressOnlyInternetGatewaysInput{})
	if err != nil {
		return err
	}
	l.egressOnly = egressOnly.EgressOnlyInternetGateways // AWS has no filter by VPC
	vpns, err := client.DescribeVpnGateways(ctx, &ec2.DescribeVpnGatewaysInput{Filters: filter("attachment.vpc-id", vpcs...)})
	if err != nil {
		return err
	}
	l.vpns = vpns.VpnGateways
	return nil
}

func (l *live) readInterfaces(ctx context.Context, client *ec2.Client, vpcs []string) (err error) {
	l.interfaces, err = all(ctx, ec2.NewDescribeNetworkInterfacesPaginator(client, &ec2.DescribeNetworkInterfacesInput{Filters: filter("vpc-id", vpcs...)}),
		func(p *ec2.DescribeNetworkInterfacesOutput) []types.NetworkInterface { return p.NetworkInterfaces })
	return err
}

func (l *live) readInstances(ctx context.Context, client *ec2.Client, vpcs []string) error {
	reservations, err := all(ctx, ec2.NewDescribeInstancesPaginator(client, &ec2.DescribeInstancesInput{Filters: filter("vpc-id", vpcs...)}),
		func(p *ec2.DescribeInstancesOutput) []types.Reservation { return p.Reservations })
	for _, r := range reservations {
		for _, i := range r.Instances {
			if i.State == nil || i.State.Name != types.InstanceStateNameTerminated {
				l.instances = append(l.instances, i)
			}
		}
	}
	return err
}

// readLists looks up the prefix lists of the gateway endpoints that rules of
// the plan refer to.
func (a *Account) readLists(ctx context.Context, g *graph.Graph, l *live) error {
	client := ec2.NewFromConfig(a.cfg)
	for _, token := range []string{egressRule, ingressRule} {
		for _, r := range g.OfType(token) {
			endpoint := g.Refers(r, "prefixListId", "aws:ec2/vpcEndpoint:VpcEndpoint")
			if endpoint == nil || l.lists[endpoint.String("serviceName")] != "" {
				continue
			}
			name := endpoint.String("serviceName")
			out, err := client.DescribeManagedPrefixLists(ctx, &ec2.DescribeManagedPrefixListsInput{Filters: filter("prefix-list-name", name)})
			if err != nil {
				return explain("look up the prefix list of "+name, err)
			}
			for _, p := range out.PrefixLists {
				if aws.ToString(p.OwnerId) == "AWS" {
					l.lists[name] = aws.ToString(p.PrefixListId)
				}
			}
		}
	}
	return nil
}
