package aws

import (
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/postern/postern/cloud"
	"github.com/postern/postern/graph"
)

// vpcs compares the VPCs' own settings, and their subnets'.
func (d *differ) vpcs() {
	for _, v := range d.live.vpcs {
		id := aws.ToString(v.VpcId)
		r, has := d.planned[id], d.live.attributes[id]
		if r == nil {
			d.report(cloud.Medium, id, "remove it, or its tags", "a VPC carries the stack's tags and is not in the plan")
			continue
		}
		if planned, said := r.Inputs["enableDnsSupport"].(bool); said && planned != has.dnsSupport {
			d.report(worst(!planned), id, again, "DNS support is %s, the plan has it %s", onOff(has.dnsSupport), onOff(planned))
		}
		if planned, said := r.Inputs["enableDnsHostnames"].(bool); said && planned != has.dnsHostnames {
			d.report(cloud.Medium, id, again, "DNS names are %s, the plan has them %s", onOff(has.dnsHostnames), onOff(planned))
		}
		for _, c := range v.CidrBlockAssociationSet {
			if cidr := aws.ToString(c.CidrBlock); cidr != r.String("cidrBlock") {
				d.report(cloud.High, id, "disassociate it", "it has the address range %s, which is not planned", cidr)
			}
		}
		for _, c := range v.Ipv6CidrBlockAssociationSet {
			if c.Ipv6CidrBlockState == nil || c.Ipv6CidrBlockState.State == types.VpcCidrBlockStateCodeAssociated {
				d.report(worst(d.closedVPC(id)), id, "disassociate it", "it has the IPv6 range %s, and no rule of the plan is about IPv6", aws.ToString(c.Ipv6CidrBlock))
			}
		}
	}
	for _, s := range d.live.subnets {
		id := aws.ToString(s.SubnetId)
		switch {
		case d.planned[id] == nil:
			d.report(cloud.High, id, "find out who made it, and remove it", "a subnet (%s) in %s is not in the plan", aws.ToString(s.CidrBlock), d.called(aws.ToString(s.VpcId)))
		case aws.ToBool(s.MapPublicIpOnLaunch) && d.planned[id].Inputs["mapPublicIpOnLaunch"] != true:
			d.report(worst(d.closed(id)), id, again, "machines in it get public addresses")
		}
		if aws.ToBool(s.AssignIpv6AddressOnCreation) && d.planned[id] != nil {
			d.report(worst(d.closed(id)), id, again, "machines in it get IPv6 addresses")
		}
	}
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// gatewayProperties are the inputs of a route that say where it leads.
var gatewayProperties = []string{
	"gatewayId", "natGatewayId", "egressOnlyGatewayId", "networkInterfaceId", "transitGatewayId", "vpcEndpointId", "vpcPeeringConnectionId",
	"localGatewayId", "carrierGatewayId", "coreNetworkArn",
}

// plannedRoutes returns the routes that the plan has in the table: target by destination.
func (d *differ) plannedRoutes(table *graph.Resource) map[string]string {
	routes := map[string]string{}
	for _, r := range d.g.OfType("aws:ec2/route:Route") {
		if !slices.Contains(r.PropertyDependencies["routeTableId"], table.URN) {
			continue
		}
		destination := r.String("destinationCidrBlock") + r.String("destinationIpv6CidrBlock") + r.String("destinationPrefixListId")
		for _, p := range gatewayProperties {
			if r.Inputs[p] != nil {
				routes[destination] = d.idOf(r, p)
			}
		}
	}
	return routes
}

// gateways returns the live IDs of the gateway endpoints that the plan puts into the table.
func (d *differ) gateways(table *graph.Resource) []string {
	var ids []string
	for _, a := range d.g.OfType("aws:ec2/vpcEndpointRouteTableAssociation:VpcEndpointRouteTableAssociation") {
		if slices.Contains(a.PropertyDependencies["routeTableId"], table.URN) {
			ids = append(ids, d.idOf(a, "vpcEndpointId"))
		}
	}
	for _, e := range d.g.OfType("aws:ec2/vpcEndpoint:VpcEndpoint") {
		if slices.Contains(e.PropertyDependencies["routeTableIds"], table.URN) {
			ids = append(ids, d.ids[e.URN])
		}
	}
	return ids
}

// routes compares route tables: their routes, and their subnets.
func (d *differ) routes() {
	for _, t := range d.live.tables {
		id := aws.ToString(t.RouteTableId)
		r := d.planned[id]
		if r == nil {
			if isMain(t) || len(t.Associations) > 0 {
				d.report(worst(slices.ContainsFunc(t.Associations, func(a types.RouteTableAssociation) bool { return d.closed(aws.ToString(a.SubnetId)) })), id,
					"find out who made it, and remove it", "a route table in use in %s is not in the plan", d.called(aws.ToString(t.VpcId)))
			}
			continue
		}
		d.table(t, r)
	}
	d.associations()
}

func (d *differ) table(t types.RouteTable, r *graph.Resource) {
	id := aws.ToString(t.RouteTableId)
	closed := d.closedTable(id)
	planned, endpoints := d.plannedRoutes(r), d.gateways(r)
	for _, route := range t.Routes {
		target := targetOf(route)
		destination := aws.ToString(route.DestinationCidrBlock) + aws.ToString(route.DestinationIpv6CidrBlock) + aws.ToString(route.DestinationPrefixListId)
		if target == "local" || route.DestinationPrefixListId != nil && slices.Contains(endpoints, target) {
			continue
		}
		want, ok := planned[destination]
		delete(planned, destination)
		switch {
		case !ok:
			d.report(worst(closed), id, "delete the route", "a route to %s through %s is not planned%s", destination, d.called(target), wayOut(closed))
		case want != target:
			d.report(cloud.High, id, again, "the route to %s leads through %s, planned is %s", destination, d.called(target), d.called(want))
		case route.State == types.RouteStateBlackhole:
			d.report(cloud.Medium, id, again, "the route to %s leads nowhere: %s is gone", destination, d.called(target))
		}
	}
	for destination, want := range planned {
		d.report(cloud.Medium, id, again, "the route to %s through %s is missing", destination, d.called(want))
	}
	if len(t.PropagatingVgws) > 0 {
		d.report(worst(closed), id, "disable the propagation", "a VPN gateway may put routes into it (%s)", aws.ToString(t.PropagatingVgws[0].GatewayId))
	}
}

func wayOut(closed bool) string {
	if closed {
		return ": agents may have a way out around the proxies"
	}
	return ""
}

// targetOf returns the ID to which the route leads.
func targetOf(r types.Route) string {
	for _, id := range []*string{
		r.GatewayId, r.NatGatewayId, r.EgressOnlyInternetGatewayId, r.NetworkInterfaceId, r.TransitGatewayId, r.VpcPeeringConnectionId,
		r.LocalGatewayId, r.CarrierGatewayId, r.CoreNetworkArn, r.InstanceId, r.OdbNetworkArn,
	} {
		if id != nil && *id != "" {
			return *id
		}
	}
	return "(nothing)"
}

// associations compares which table each subnet has.
func (d *differ) associations() {
	has := map[string]string{}
	for _, t := range d.live.tables {
		for _, a := range t.Associations {
			if a.SubnetId != nil {
				has[*a.SubnetId] = aws.ToString(t.RouteTableId)
			}
		}
	}
	for _, a := range d.g.OfType("aws:ec2/routeTableAssociation:RouteTableAssociation") {
		subnet, table := d.idOf(a, "subnetId"), d.idOf(a, "routeTableId")
		if !strings.HasPrefix(subnet, "subnet-") || has[subnet] == table {
			continue
		}
		switch got := has[subnet]; got {
		case "":
			d.report(worst(d.closedTable(table)), subnet, again, "it has no route table of its own, so the main one applies; planned is %s", d.called(table))
		default:
			d.report(worst(d.closedTable(table)), subnet, again, "it has route table %s, planned is %s", d.called(got), d.called(table))
		}
	}
}
