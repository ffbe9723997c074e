package aws

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/policies/reach"
)

// fleetType is our component that says which ports and resolvers the policy has.
const fleetType = "postern:aws:Fleet"

// wayOut reads what the components were told of the policy. What they say is not read in part.
func (r *reader) wayOut() {
	for _, x := range r.g.OfType(fleetType) {
		out := r.n.Out
		if out == nil {
			out = &reach.Out{}
		}
		numbers, ok := x.Inputs["ports"].([]any)
		for _, v := range numbers {
			n, isNumber := v.(float64)
			ok = ok && isNumber && n >= 1 && n <= 65535
			if ok && !slices.Contains(out.Ports, uint16(n)) {
				out.Ports = append(out.Ports, uint16(n))
			}
		}
		goes, isBool := x.Inputs["controlOut"].(bool)
		out.Control, ok = out.Control || goes, ok && isBool
		texts, isList := x.Inputs["resolvers"].([]any)
		for _, v := range texts {
			text, _ := v.(string)
			a, err := netip.ParseAddrPort(text)
			if ok = ok && err == nil; ok && !slices.Contains(out.Resolvers, a) {
				out.Resolvers = append(out.Resolvers, a)
			}
		}
		if !ok || !isList && x.Inputs["resolvers"] != nil {
			r.n.Out = nil
			return
		}
		r.n.Out = out
	}
}

// internet reads an internet gateway, or that one is attached.
func (r *reader) internet(x *graph.Resource) {
	if !set(x, "vpcId") {
		return // it leads nowhere until it is attached
	}
	if v, ok := one(r, x, "vpcId", r.vpcs); ok {
		v.Gateway = true
	}
}

// gateways finds the internet gateways of which only a route tells.
func (r *reader) gateways() {
	for _, s := range r.subnets {
		if s.Table == nil {
			continue
		}
		for _, route := range s.Table.Routes {
			s.VPC.Gateway = s.VPC.Gateway || route.Via == reach.ViaInternet && route.To.Addr().Is4()
		}
	}
}

// address reads an Elastic IP address, or that it is given to something.
func (r *reader) address(x *graph.Resource) {
	for _, property := range []string{"instance", "instanceId"} {
		if set(x, property) {
			if i, ok := one(r, x, property, r.nodes); ok {
				i.Public = true
			}
		}
	}
	for _, property := range []string{"networkInterface", "networkInterfaceId"} {
		if set(x, property) {
			r.unknown(x, "the model does not know to which interface the Elastic IP address belongs")
		}
	}
}

// public are services that answer the internet at an address of the cloud's if a property does not
// say otherwise. What is not said of the first ones is false, and of the others true.
var public = []struct {
	kind, block, property string
	absent                bool
}{
	{"aws:rds/instance:", "", "publiclyAccessible", false},
	{"aws:rds/clusterInstance:", "", "publiclyAccessible", false},
	{"aws:mq/broker:", "", "publiclyAccessible", false},
	{"aws:neptune/clusterInstance:", "", "publiclyAccessible", false},
	{"aws:dms/replicationInstance:", "", "publiclyAccessible", false},
	{"aws:redshift/cluster:", "", "publiclyAccessible", true},
	{"aws:redshiftserverless/workgroup:", "", "publiclyAccessible", false},
	{"aws:eks/cluster:", "vpcConfig", "endpointPublicAccess", true},
	{"aws:lambda/functionUrl:", "", "", true},
	{"aws:apigateway/restApi:", "", "", true},
	{"aws:apigatewayv2/api:", "", "", true},
	{"aws:apprunner/service:", "", "", true},
	{"aws:cloudfront/distribution:", "", "", true},
	{"aws:globalaccelerator/accelerator:", "", "", true},
	{"aws:transfer/server:", "", "", true},
}

// endpoints adds the services that answer the internet. The model does not know where else their
// packets go: each is reported as unknown, too.
func (r *reader) endpoints() {
	for i := range r.g.Resources {
		x := &r.g.Resources[i]
		for _, p := range public {
			if !x.Custom || !strings.HasPrefix(x.Type, p.kind) {
				continue
			}
			of := x
			if p.block != "" {
				block, _ := x.Inputs[p.block].(map[string]any)
				of = &graph.Resource{Inputs: block}
			}
			if !boolean(of, p.property, p.absent, true) {
				continue
			}
			d := &reach.Door{Name: x.Name, Internet: true, Open: "it has a public address"}
			if graph.HasUnknown(of.Inputs[p.property]) {
				d.Open, d.Unsure = "", "whether it has a public address is not known"
			}
			r.n.Doors = append(r.n.Doors, d)
		}
	}
}
