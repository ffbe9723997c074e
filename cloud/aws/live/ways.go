package live

import (
	"cmp"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

const (
	tokenEndpoint = "aws:ec2/vpcEndpoint:VpcEndpoint"
	tokenDoor     = "aws:ec2/vpcEndpointService:VpcEndpointService"
)

// gone are the states of what no longer carries packets, in lower case.
var gone = []string{"deleted", "deleting", "failed", "rejected", "expired", "detached"}

func is(state string, of []string) bool { return slices.Contains(of, strings.ToLower(state)) }

// gateways reads what leads out of a network. Most of it leads nowhere until a route does.
func (r *reader) gateways() {
	for _, g := range every(r, "ec2:DescribeNatGateways",
		ec2.NewDescribeNatGatewaysPaginator(r.ec2, &ec2.DescribeNatGatewaysInput{Filter: r.inside()}),
		func(p *ec2.DescribeNatGatewaysOutput) []types.NatGateway { return p.NatGateways }) {
		if is(string(g.State), gone) {
			continue
		}
		for _, a := range g.NatGatewayAddresses {
			r.explained[aws.ToString(a.NetworkInterfaceId)] = true
		}
		tags := tagsOf(g.Tags)
		r.add("aws:ec2/natGateway:NatGateway", aws.ToString(g.NatGatewayId), called(tags), object{
			"subnetId": value(g.SubnetId), "connectivityType": string(g.ConnectivityType), "tags": tags,
		})
	}
	for _, g := range every(r, "ec2:DescribeInternetGateways",
		ec2.NewDescribeInternetGatewaysPaginator(r.ec2, &ec2.DescribeInternetGatewaysInput{
			Filters: filter("attachment.vpc-id", r.vpcs...),
		}), func(p *ec2.DescribeInternetGatewaysOutput) []types.InternetGateway { return p.InternetGateways }) {
		r.add("aws:ec2/internetGateway:InternetGateway", aws.ToString(g.InternetGatewayId), called(tagsOf(g.Tags)),
			object{})
	}
	for _, g := range every(r, "ec2:DescribeTransitGatewayVpcAttachments",
		ec2.NewDescribeTransitGatewayVpcAttachmentsPaginator(r.ec2, &ec2.DescribeTransitGatewayVpcAttachmentsInput{
			Filters: r.inside(),
		}), func(p *ec2.DescribeTransitGatewayVpcAttachmentsOutput) []types.TransitGatewayVpcAttachment {
			return p.TransitGatewayVpcAttachments
		}) {
		if !is(string(g.State), gone) {
			r.add("aws:ec2transitgateway/vpcAttachment:VpcAttachment", aws.ToString(g.TransitGatewayAttachmentId),
				called(tagsOf(g.Tags)), object{"vpcId": value(g.VpcId), "transitGatewayId": value(g.TransitGatewayId)})
		}
	}
	for _, side := range []string{"requester-vpc-info.vpc-id", "accepter-vpc-info.vpc-id"} {
		for _, p := range every(r, "ec2:DescribeVpcPeeringConnections",
			ec2.NewDescribeVpcPeeringConnectionsPaginator(r.ec2, &ec2.DescribeVpcPeeringConnectionsInput{
				Filters: filter(side, r.vpcs...),
			}), func(p *ec2.DescribeVpcPeeringConnectionsOutput) []types.VpcPeeringConnection {
				return p.VpcPeeringConnections
			}) {
			if p.Status == nil || !is(string(p.Status.Code), gone) {
				r.add("aws:ec2/vpcPeeringConnection:VpcPeeringConnection", aws.ToString(p.VpcPeeringConnectionId),
					called(tagsOf(p.Tags)), object{})
			}
		}
	}
	for _, g := range every(r, "ec2:DescribeEgressOnlyInternetGateways", // AWS has no filter by VPC
		ec2.NewDescribeEgressOnlyInternetGatewaysPaginator(r.ec2, &ec2.DescribeEgressOnlyInternetGatewaysInput{}),
		func(p *ec2.DescribeEgressOnlyInternetGatewaysOutput) []types.EgressOnlyInternetGateway {
			return p.EgressOnlyInternetGateways
		}) {
		if slices.ContainsFunc(g.Attachments, func(a types.InternetGatewayAttachment) bool {
			return slices.Contains(r.vpcs, aws.ToString(a.VpcId))
		}) {
			r.add("aws:ec2/egressOnlyInternetGateway:EgressOnlyInternetGateway",
				aws.ToString(g.EgressOnlyInternetGatewayId), called(tagsOf(g.Tags)), object{})
		}
	}
	out, err := r.ec2.DescribeVpnGateways(r.ctx, &ec2.DescribeVpnGatewaysInput{
		Filters: filter("attachment.vpc-id", r.vpcs...),
	})
	if r.answered("ec2:DescribeVpnGateways", err) {
		for _, g := range out.VpnGateways {
			r.add("aws:ec2/vpnGateway:VpnGateway", aws.ToString(g.VpnGatewayId), called(tagsOf(g.Tags)), object{})
		}
	}
}

// endpoints reads endpoints, what they let through, and the services of the account that they lead
// to.
func (r *reader) endpoints() {
	found := every(r, "ec2:DescribeVpcEndpoints",
		ec2.NewDescribeVpcEndpointsPaginator(r.ec2, &ec2.DescribeVpcEndpointsInput{Filters: r.inside()}),
		func(p *ec2.DescribeVpcEndpointsOutput) []types.VpcEndpoint { return p.VpcEndpoints })
	doors := r.doors(found)
	lists := map[string]string{} // prefix lists by the name of their service
	for i := range found {
		e := &found[i]
		if is(string(e.State), gone) {
			continue
		}
		tags, service := tagsOf(e.Tags), aws.ToString(e.ServiceName)
		x := r.add(tokenEndpoint, aws.ToString(e.VpcEndpointId), called(tags), object{
			"vpcId": value(e.VpcId), "vpcEndpointType": string(e.VpcEndpointType), "serviceName": service,
			"subnetIds": e.SubnetIds, "routeTableIds": append([]string{}, e.RouteTableIds...),
			"securityGroupIds": pick(e.Groups, func(g types.SecurityGroupIdentifier) string {
				return aws.ToString(g.GroupId)
			}), "policy": value(e.PolicyDocument), "tags": tags,
		})
		x.refers("serviceName", doors[service])
		if e.VpcEndpointType == types.VpcEndpointTypeGateway {
			if _, asked := lists[service]; !asked {
				lists[service] = r.listOf(service)
			}
			if list := lists[service]; list != "" {
				x.Outputs["prefixListId"] = list
			}
			continue
		}
		r.pins(x, e.NetworkInterfaceIds)
	}
}

// pins gives an endpoint the addresses of its interfaces.
func (r *reader) pins(x *resource, ids []string) {
	for some := range slices.Chunk(ids, maxFilter) {
		var pins []any
		if had, ok := x.Inputs["subnetConfigurations"].([]any); ok {
			pins = had
		}
		for _, n := range every(r, "ec2:DescribeNetworkInterfaces",
			ec2.NewDescribeNetworkInterfacesPaginator(r.ec2, &ec2.DescribeNetworkInterfacesInput{
				Filters: filter("network-interface-id", some...),
			}), func(p *ec2.DescribeNetworkInterfacesOutput) []types.NetworkInterface { return p.NetworkInterfaces }) {
			r.explained[aws.ToString(n.NetworkInterfaceId)] = true
			pins = append(pins, object{"subnetId": value(n.SubnetId), "ipv4": value(n.PrivateIpAddress)})
		}
		x.Inputs["subnetConfigurations"] = pins
	}
}

// listOf returns the ID of the prefix list of a service of AWS, or "".
func (r *reader) listOf(service string) string {
	for _, list := range every(r, "ec2:DescribeManagedPrefixLists",
		ec2.NewDescribeManagedPrefixListsPaginator(r.ec2, &ec2.DescribeManagedPrefixListsInput{
			Filters: filter("prefix-list-name", service),
		}), func(p *ec2.DescribeManagedPrefixListsOutput) []types.ManagedPrefixList { return p.PrefixLists }) {
		if aws.ToString(list.OwnerId) == "AWS" {
			return aws.ToString(list.PrefixListId)
		}
	}
	return ""
}

// doors reads the account's own services that the endpoints lead to, with who may ask for a
// connection and who has one, by name.
func (r *reader) doors(endpoints []types.VpcEndpoint) map[string]*resource {
	out := map[string]*resource{}
	for _, s := range every(r, "ec2:DescribeVpcEndpointServiceConfigurations",
		ec2.NewDescribeVpcEndpointServiceConfigurationsPaginator(r.ec2,
			&ec2.DescribeVpcEndpointServiceConfigurationsInput{}),
		func(p *ec2.DescribeVpcEndpointServiceConfigurationsOutput) []types.ServiceConfiguration {
			return p.ServiceConfigurations
		}) {
		name, id, tags := aws.ToString(s.ServiceName), aws.ToString(s.ServiceId), tagsOf(s.Tags)
		if !slices.ContainsFunc(endpoints, func(e types.VpcEndpoint) bool {
			return aws.ToString(e.ServiceName) == name
		}) {
			continue
		}
		x := r.add(tokenDoor, id, called(tags), object{
			"acceptanceRequired":      aws.ToBool(s.AcceptanceRequired),
			"networkLoadBalancerArns": append([]string{}, s.NetworkLoadBalancerArns...), "tags": tags,
			"allowedPrincipals": pick(every(r, "ec2:DescribeVpcEndpointServicePermissions",
				ec2.NewDescribeVpcEndpointServicePermissionsPaginator(r.ec2,
					&ec2.DescribeVpcEndpointServicePermissionsInput{ServiceId: s.ServiceId}),
				func(p *ec2.DescribeVpcEndpointServicePermissionsOutput) []types.AllowedPrincipal {
					return p.AllowedPrincipals
				}), func(p types.AllowedPrincipal) string { return aws.ToString(p.Principal) }),
		})
		if len(s.GatewayLoadBalancerArns) > 0 {
			x.Inputs["gatewayLoadBalancerArns"] = s.GatewayLoadBalancerArns
		}
		x.Outputs["serviceName"] = name
		out[name] = x
		r.connections(id, endpoints)
	}
	return out
}

// connections reads who else is connected to a service.
func (r *reader) connections(service string, endpoints []types.VpcEndpoint) {
	for _, c := range every(r, "ec2:DescribeVpcEndpointConnections",
		ec2.NewDescribeVpcEndpointConnectionsPaginator(r.ec2, &ec2.DescribeVpcEndpointConnectionsInput{
			Filters: filter("service-id", service),
		}), func(p *ec2.DescribeVpcEndpointConnectionsOutput) []types.VpcEndpointConnection {
			return p.VpcEndpointConnections
		}) {
		id := aws.ToString(c.VpcEndpointId)
		if !is(string(c.VpcEndpointState), append(gone, "pendingacceptance")) && !slices.ContainsFunc(endpoints,
			func(e types.VpcEndpoint) bool { return aws.ToString(e.VpcEndpointId) == id }) {
			r.add("aws:ec2/vpcEndpointConnection:VpcEndpointConnection",
				cmp.Or(aws.ToString(c.VpcEndpointConnectionId), id), "of account "+aws.ToString(c.VpcEndpointOwner),
				object{})
		}
	}
}
