package aws

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/postern/postern/cloud"
	"github.com/postern/postern/graph"
)

// Drift compares the account with the plan and returns every difference, the worst first, or nil.
// It also sees what `pulumi refresh` cannot: rules, routes, endpoints and policies that were added
// next to the plan's. It changes nothing.
func (a *Account) Drift(ctx context.Context, g *graph.Graph) ([]cloud.Difference, error) {
	l, err := a.read(ctx, g)
	if err != nil {
		return nil, err
	}
	d := &differ{g: g, live: l, planned: map[string]*graph.Resource{}, ids: map[string]string{}}
	d.match()
	d.vpcs()
	d.routes()
	d.rules()
	d.acls()
	d.endpoints()
	d.strangers()
	d.services()
	d.tasks()
	d.roles()
	d.secrets()
	d.keys()
	d.block()
	slices.SortStableFunc(d.found, func(x, y cloud.Difference) int {
		if n := slices.Index(cloud.Risks, x.Risk) - slices.Index(cloud.Risks, y.Risk); n != 0 {
			return n
		}
		if n := strings.Compare(x.Resource, y.Resource); n != 0 {
			return n
		}
		return strings.Compare(x.What, y.What)
	})
	return slices.Compact(d.found), nil
}

// differ compares what was read from the account with the plan. It sends no request.
type differ struct {
	g       *graph.Graph
	live    *live
	planned map[string]*graph.Resource // by live ID
	ids     map[string]string          // live ID by URN
	found   []cloud.Difference
}

func (d *differ) report(risk, id, do, what string, a ...any) {
	resource := id
	if r := d.planned[id]; r != nil {
		resource = r.Name
	} else {
		id = ""
	}
	d.found = append(d.found, cloud.Difference{Risk: risk, Resource: resource, ID: id, What: fmt.Sprintf(what, a...), Do: do})
}

// called returns the name that people use for a live ID: the plan's name, or the ID itself.
func (d *differ) called(id string) string {
	if r := d.planned[id]; r != nil {
		return r.Name + " (" + id + ")"
	}
	return id
}

const again = "bring the stack up again"

// classes are the types whose resources are identified by their tag Name, with the word for one.
var classes = []struct {
	name   string
	tokens []string
	// missing is the risk if one is missing.
	missing string
}{
	{"VPC", []string{"aws:ec2/vpc:Vpc"}, cloud.Medium},
	{"subnet", []string{"aws:ec2/subnet:Subnet"}, cloud.Medium},
	{"route table", []string{"aws:ec2/routeTable:RouteTable", "aws:ec2/defaultRouteTable:DefaultRouteTable"}, cloud.High},
	{"security group", []string{"aws:ec2/securityGroup:SecurityGroup", "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup"}, cloud.High},
	{"network ACL", []string{"aws:ec2/networkAcl:NetworkAcl", "aws:ec2/defaultNetworkAcl:DefaultNetworkAcl"}, cloud.High},
	{"endpoint", []string{"aws:ec2/vpcEndpoint:VpcEndpoint"}, cloud.Medium},
	{"internet gateway", []string{"aws:ec2/internetGateway:InternetGateway"}, cloud.Medium},
	{"NAT gateway", []string{"aws:ec2/natGateway:NatGateway"}, cloud.Medium},
	{"role", []string{"aws:iam/role:Role"}, cloud.High},
}

// match finds the live resource for every planned one, by name, and reports missing ones.
func (d *differ) match() {
	for _, class := range classes {
		for _, token := range class.tokens {
			for _, r := range d.g.OfType(token) {
				if r.Tag(graph.TagName) == "" {
					continue
				}
				id := ""
				for _, item := range d.live.items[class.name] {
					if item.name == r.Tag(graph.TagName) && item.isDefault == strings.Contains(token, "/default") {
						if id != "" {
							d.report(cloud.High, item.id, "remove the one that is not in the plan", "there are two %ss of the name %s", class.name, item.name)
						}
						id = item.id
					}
				}
				if id == "" {
					d.found = append(d.found, cloud.Difference{Risk: class.missing, Resource: r.Name, What: "the " + class.name + " is not there", Do: again})
					continue
				}
				d.ids[r.URN], d.planned[id] = id, r
			}
		}
	}
}

// idOf returns the live ID of the one resource of these types from which the input comes, or an ID
// that is written out, or "".
func (d *differ) idOf(r *graph.Resource, property string) string {
	for _, urn := range r.PropertyDependencies[property] {
		if id := d.ids[urn]; id != "" {
			return id
		}
	}
	return r.String(property)
}

// closed reports whether the plan gives the subnet no route to anywhere.
func (d *differ) closed(subnet string) bool {
	r := d.planned[subnet]
	if r == nil {
		return false
	}
	for _, a := range d.g.OfType("aws:ec2/routeTableAssociation:RouteTableAssociation") {
		if slices.Contains(a.PropertyDependencies["subnetId"], r.URN) {
			return d.closedTable(d.idOf(a, "routeTableId"))
		}
	}
	return false
}

// closedTable reports whether the plan has no route in the table.
func (d *differ) closedTable(id string) bool {
	table := d.planned[id]
	return table != nil && len(d.plannedRoutes(table)) == 0 && len(d.gateways(table)) == 0
}

// closedVPC reports whether the plan gives the VPC no internet gateway.
func (d *differ) closedVPC(id string) bool {
	vpc := d.planned[id]
	if vpc == nil {
		return false
	}
	for _, gateway := range d.g.OfType("aws:ec2/internetGateway:InternetGateway") {
		if slices.Contains(gateway.PropertyDependencies["vpcId"], vpc.URN) {
			return false
		}
	}
	return true
}

// worst is Critical if the condition holds, and High otherwise.
func worst(critical bool) string {
	if critical {
		return cloud.Critical
	}
	return cloud.High
}
