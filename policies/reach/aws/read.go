// Package aws reads the network of a captured plan for AWS into the neutral model of package
// reach. A resource that it does not know is reported as unknown: nothing is left out.
package aws

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/plan/cloud"
	"github.com/postern/postern/policies/reach"
)

// Prove proves what can reach what in the plan: see [reach.Prove]. policy is the stack's, or nil if
// it is not known. Prove returns nil if the plan has no network.
func Prove(g *graph.Graph, policy *plan.Plan, certify bool) *reach.Proof {
	if len(g.OfType("aws:ec2/vpc:Vpc")) == 0 {
		return nil
	}
	return reach.Prove(g.Stack, Read(g, policy), certify)
}

// reader holds what was read so far, by resource.
type reader struct {
	g       *graph.Graph
	n       *reach.Network
	vpcs    map[*graph.Resource]*reach.VPC
	tables  map[*graph.Resource]*reach.Table
	acls    map[*graph.Resource]*reach.ACL
	groups  map[*graph.Resource]*reach.Group
	subnets map[*graph.Resource]*reach.Subnet
	nodes   map[*graph.Resource]*reach.Interface
	doors   map[*graph.Resource]*reach.Door
	// targets are the target groups.
	targets map[*graph.Resource]bool
	// account is that of the plan, or "" if it is not known.
	account string
	// numbered are the rules of ACLs that are resources of their own.
	numbered map[*reach.ACL][]numbered
	// places are the numbers of the rules that are written in an ACL.
	places map[*reach.ACLRule]float64
}

// inert are the types that carry no packet of an agent: a prefix for each.
var inert = []string{
	"pulumi:", "postern:", "aws:iam/", "aws:kms/", "aws:s3/", "aws:secretsmanager/",
	"aws:cloudwatch/log", "aws:cloudwatch/metric", "aws:cloudwatch/queryDefinition:", "aws:cloudwatch/dashboard:",
	"aws:cloudwatch/compositeAlarm:", "aws:cloudwatch/eventRule:",
	"aws:kinesis/firehose",
	"aws:sns/", "aws:appautoscaling/", "aws:autoscaling/policy:", "aws:servicediscovery/",
	"aws:route53/resolverQueryLog",
	"aws:ec2/flowLog:",
	"aws:ec2/vpcBlockPublicAccess", "aws:ecs/cluster:",
	// These lead nowhere until a route does.
	"aws:ec2/vpcPeeringConnection", "aws:ec2/egressOnlyInternetGateway:", "aws:ec2transitgateway/transitGateway:",
	"aws:ec2/vpnGateway:", "aws:ec2/vpnGatewayAttachment:",
}

// parts are the types that the reader reads as a part of another resource.
var parts = []string{
	"aws:ecs/taskDefinition:", "aws:ec2/launchTemplate:", "aws:lb/targetGroup:",
	"aws:route53/resolverFirewallDomainList:", "aws:route53/resolverFirewallRuleGroup:",
}

// Read returns the network of a plan. Without a policy, the proxies need what the components of the
// plan were told.
func Read(g *graph.Graph, policy *plan.Plan) *reach.Network {
	r := &reader{
		g: g, n: &reach.Network{}, vpcs: map[*graph.Resource]*reach.VPC{}, tables: map[*graph.Resource]*reach.Table{},
		acls: map[*graph.Resource]*reach.ACL{}, groups: map[*graph.Resource]*reach.Group{},
		subnets: map[*graph.Resource]*reach.Subnet{}, nodes: map[*graph.Resource]*reach.Interface{},
		doors: map[*graph.Resource]*reach.Door{}, targets: map[*graph.Resource]bool{}, account: Account(g),
		numbered: map[*reach.ACL][]numbered{}, places: map[*reach.ACLRule]float64{},
	}
	for _, x := range g.OfType("aws:lb/targetGroup:TargetGroup") {
		r.targets[x] = true
	}
	readers := []struct {
		token string
		read  func(*graph.Resource)
	}{ // what others refer to comes first
		{"aws:ec2/vpc:Vpc", r.vpc},
		{"aws:ec2/vpcIpv4CidrBlockAssociation:VpcIpv4CidrBlockAssociation", r.block},
		{"aws:ec2/securityGroup:SecurityGroup", r.group},
		{"aws:ec2/defaultSecurityGroup:DefaultSecurityGroup", r.group},
		{"aws:ec2/securityGroup:SecurityGroup", r.inlines},
		{"aws:ec2/defaultSecurityGroup:DefaultSecurityGroup", r.inlines},
		{"aws:ec2/defaultSecurityGroup:DefaultSecurityGroup", r.ofVPC("vpcId")},
		{"aws:ec2/subnet:Subnet", r.subnet},
		{"aws:ec2/networkAcl:NetworkAcl", r.acl},
		{"aws:ec2/defaultNetworkAcl:DefaultNetworkAcl", r.acl},
		{"aws:ec2/defaultNetworkAcl:DefaultNetworkAcl", r.ofVPC("defaultNetworkAclId")},
		{"aws:ec2/networkAclAssociation:NetworkAclAssociation", r.aclOf},
		{"aws:ec2/natGateway:NatGateway", r.nat},
		{"aws:ec2/routeTable:RouteTable", r.table},
		{"aws:ec2/defaultRouteTable:DefaultRouteTable", r.table},
		{"aws:ec2/defaultRouteTable:DefaultRouteTable", r.ofVPC("defaultRouteTableId")},
		{"aws:ec2/routeTableAssociation:RouteTableAssociation", r.tableOf},
		{"aws:lb/loadBalancer:LoadBalancer", r.balancer},
		{"aws:ec2/vpcEndpoint:VpcEndpoint", r.endpoint},
		{"aws:ec2/vpcEndpointService:VpcEndpointService", r.service},
		{"aws:ec2/vpcEndpointServiceAllowedPrinciple:VpcEndpointServiceAllowedPrinciple", r.mayAsk},
		{"aws:ec2/vpcEndpointConnectionAccepter:VpcEndpointConnectionAccepter", r.accepted},
		{"aws:autoscaling/group:Group", r.machines},
		{"aws:ec2/instance:Instance", r.instance},
		{"aws:ec2/networkInterface:NetworkInterface", r.networkInterface},
		{"aws:ecs/service:Service", r.tasks},
		{"aws:ec2/eip:Eip", r.address},
		{"aws:ec2/eipAssociation:EipAssociation", r.address},
		{"aws:ec2/internetGateway:InternetGateway", r.internet},
		{"aws:ec2/internetGatewayAttachment:InternetGatewayAttachment", r.internet},
		{"aws:lb/listener:Listener", r.listener},
		{"aws:ec2/route:Route", r.route},
		{"aws:ec2/vpcEndpointRouteTableAssociation:VpcEndpointRouteTableAssociation", r.serviceRoute},
		{"aws:ec2/networkAclRule:NetworkAclRule", r.aclRule},
		{"aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule", r.groupRule},
		{"aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule", r.groupRule},
		{"aws:route53/resolverFirewallRuleGroupAssociation:ResolverFirewallRuleGroupAssociation", r.firewall},
		{"aws:route53/resolverFirewallRule:ResolverFirewallRule", r.firewallRule},
		{"aws:route53/resolverFirewallConfig:ResolverFirewallConfig", r.skip},
	}
	known := map[string]bool{}
	for _, x := range readers {
		known[x.token] = true
		for _, resource := range g.OfType(x.token) {
			x.read(resource)
		}
	}
	for i := range g.Resources {
		switch x := &g.Resources[i]; {
		case !x.Custom || startsWith(x.Type, inert):
		case !known[x.Type] && !startsWith(x.Type, parts):
			r.unknown(x, "the model does not know this type: it may carry packets")
		case x.External:
			r.unknown(x, "it exists already, and the plan does not say how it is")
		}
	}
	for _, i := range r.n.Interfaces {
		for _, s := range i.Subnets {
			r.defaults(s)
		}
	}
	r.gateways()
	r.gates()
	r.endpoints()
	if r.wayOut(); policy != nil {
		r.n.Out = &reach.Out{
			Ports: cloud.Ports(policy), Resolvers: cloud.Resolvers(policy), Control: cloud.ControlGoesOut(policy),
		}
	}
	if r.n.Out != nil {
		r.n.Out.Services = []string{"secretsmanager", "s3", "logs", "ecr.api", "ecr.dkr"}
	}
	r.order()
	r.answers()
	r.impostors()
	return r.n
}

func startsWith(token string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(token, prefix) })
}

func (r *reader) skip(*graph.Resource) {}

// answers reports agents to which somebody else may connect. A group remembers connections: an
// agent could send its data as an answer, which no rule for what the agent sends refuses.
func (r *reader) answers() {
	for j := range r.g.Resources {
		x := &r.g.Resources[j]
		i := r.nodes[r.g.ByURN(x.URN)]
		if i == nil || i.Kind != reach.Agent {
			continue
		}
		for _, g := range i.Groups {
			if len(g.In) > 0 {
				r.unknown(x, "its security group %s lets somebody connect to the agent, and the model does not follow "+
					"answers", g.Name)
			}
		}
	}
}

func (r *reader) unknown(x *graph.Resource, why string, a ...any) {
	r.n.Unknown = append(r.n.Unknown, reach.Unknown{Resource: x.Name, Type: x.Type, Why: fmt.Sprintf(why, a...)})
}

// one returns what a property of x refers to, or reports that it is unknown.
func one[T any](r *reader, x *graph.Resource, property string, of map[*graph.Resource]T) (T, bool) {
	found := all(r, x, property, of)
	if len(found) == 1 {
		return found[0], true
	}
	r.unknown(x, "%s refers to %d resources that the model knows, not to one", property, len(found))
	var none T
	return none, false
}

// listed is all for names: one, or a list, in the property or in a part of it. What is not in the
// plan is reported.
func listed[T any](r *reader, x *graph.Resource, property string, names any, of map[*graph.Resource]T) []T {
	found := all(r, x, property, of)
	if r.strange(x, property, names, len(found)) {
		r.unknown(x, "%s names something that is not in the plan", property)
	}
	return found
}

// strange reports whether names, which have found references, name something else too.
func (r *reader) strange(x *graph.Resource, property string, names any, found int) bool {
	items, ok := names.([]any)
	if !ok && names != nil && names != "" {
		items = []any{names}
	}
	distinct, unknown := map[string]bool{}, 0
	for _, item := range items {
		switch text, ok := item.(string); {
		case !ok: // a secret, or of another shape
			return true
		case text == graph.Unknown:
			unknown++
		default:
			distinct[text] = true
		}
	}
	// What is not known yet may be any output of something else, e.g. the main table of a VPC.
	return len(distinct)+unknown > found || unknown > 0 && slices.ContainsFunc(x.PropertyDependencies[property],
		func(urn string) bool { return !r.named(r.g.ByURN(urn)) })
}

// named reports whether resources are named by nothing but their own IDs.
func (r *reader) named(x *graph.Resource) bool {
	return x != nil && (r.subnets[x] != nil || r.groups[x] != nil || r.tables[x] != nil || r.nodes[x] != nil ||
		r.targets[x])
}

// part returns what each object of a list in the inputs has below a key.
func part(x *graph.Resource, property, key string) any {
	list, ok := objects(x, property)
	if !ok {
		return x.Inputs[property]
	}
	var out []any
	for _, in := range list {
		if in[key] != nil && in[key] != "" {
			out = append(out, in[key])
		}
	}
	return out
}

// all returns everything that a property of x refers to.
func all[T any](r *reader, x *graph.Resource, property string, of map[*graph.Resource]T) []T {
	var found []T
	for _, urn := range x.PropertyDependencies[property] {
		if t, ok := of[r.g.ByURN(urn)]; ok {
			found = append(found, t)
		}
	}
	return found
}

// boolean returns an input, or worst if the input is not known yet.
func boolean(x *graph.Resource, property string, absent, worst bool) bool {
	switch v := x.Inputs[property].(type) {
	case nil:
		return absent
	case bool:
		return v
	case string:
		if v == "true" || v == "false" {
			return v == "true"
		}
	}
	return worst
}

func set(x *graph.Resource, property string) bool {
	v, ok := x.Inputs[property]
	return ok && v != nil && v != ""
}

// unnamed is every address that an IPv6 network may have: those that AWS gives, and private ones.
var unnamed = []netip.Prefix{netip.MustParsePrefix("2000::/3"), netip.MustParsePrefix("fc00::/7")}

func (r *reader) vpc(x *graph.Resource) {
	v := &reach.VPC{Name: x.Name, Resolver: boolean(x, "enableDnsSupport", true, true)}
	if p, err := netip.ParsePrefix(x.String("cidrBlock")); err == nil {
		v.Prefixes = append(v.Prefixes, p)
	} else {
		r.unknown(x, "cidrBlock is not a known network")
	}
	r.vpcs[x] = v
}

// block reads a further network of a VPC.
func (r *reader) block(x *graph.Resource) {
	v, ok := one(r, x, "vpcId", r.vpcs)
	if !ok {
		return
	}
	p, err := netip.ParsePrefix(x.String("cidrBlock"))
	if err != nil {
		r.unknown(x, "cidrBlock is not a known network")
		return
	}
	v.Prefixes = append(v.Prefixes, p)
}

func (r *reader) subnet(x *graph.Resource) {
	v, ok := one(r, x, "vpcId", r.vpcs)
	if !ok {
		return
	}
	s := &reach.Subnet{Name: x.Name, VPC: v}
	if p, err := netip.ParsePrefix(x.String("cidrBlock")); err == nil {
		s.Prefixes = append(s.Prefixes, p)
	} else {
		r.unknown(x, "cidrBlock is not a known network")
	}
	if p, err := netip.ParsePrefix(x.String("ipv6CidrBlock")); err == nil {
		s.Prefixes = append(s.Prefixes, p)
	} else if set(x, "ipv6CidrBlock") || boolean(x, "assignIpv6AddressOnCreation", false, true) ||
		boolean(x, "ipv6Native", false, true) {
		s.Prefixes = append(s.Prefixes, unnamed...)
	}
	r.subnets[x] = s
}

func (r *reader) tableOf(x *graph.Resource) {
	if s, ok := one(r, x, "subnetId", r.subnets); ok {
		if t, ok := one(r, x, "routeTableId", r.tables); ok {
			if s.Table != nil && s.Table != t {
				r.unknown(x, "%s has another table too: %s", s.Name, s.Table.Name)
			}
			s.Table = t
		}
	}
}

func (r *reader) aclOf(x *graph.Resource) {
	if s, ok := one(r, x, "subnetId", r.subnets); ok {
		if a, ok := one(r, x, "networkAclId", r.acls); ok {
			r.guards(x, a, s)
		}
	}
}

// guards gives a subnet its ACL. A subnet has one.
func (r *reader) guards(x *graph.Resource, a *reach.ACL, s *reach.Subnet) {
	if s.ACL != nil && s.ACL != a {
		r.unknown(x, "%s has another ACL too: %s", s.Name, s.ACL.Name)
	}
	s.ACL = a
}

// beyond reports inputs that are given and that the model does not read: they may say something
// else of what it reads.
func (r *reader) beyond(x *graph.Resource, in map[string]any, properties ...string) {
	for _, property := range properties {
		switch v := in[property].(type) {
		case []any:
			if len(v) > 0 {
				r.unknown(x, "the model does not know %s", property)
			}
		default:
			if !slices.Contains([]any{nil, "", false, "false", 0.0}, v) {
				r.unknown(x, "the model does not know %s", property)
			}
		}
	}
}

// ofVPC reports a default of a VPC that the model does not know.
func (r *reader) ofVPC(property string) func(*graph.Resource) {
	return func(x *graph.Resource) { one(r, x, property, r.vpcs) }
}

// defaults gives a subnet the table and ACL of its VPC if it has no other.
func (r *reader) defaults(s *reach.Subnet) {
	find := func(token, property string) (found *graph.Resource) {
		for _, x := range r.g.OfType(token) {
			if slices.Contains(all(r, x, property, r.vpcs), s.VPC) {
				if found != nil {
					r.unknown(x, "%s of %s is another one too", property, s.VPC.Name)
				}
				found = x
			}
		}
		return found
	}
	if s.Table == nil {
		if s.Table = r.tables[find("aws:ec2/defaultRouteTable:DefaultRouteTable",
			"defaultRouteTableId")]; s.Table == nil {
			s.Table = &reach.Table{Name: "(main of " + s.VPC.Name + ")"}
		}
	}
	if s.ACL == nil {
		if s.ACL = r.acls[find("aws:ec2/defaultNetworkAcl:DefaultNetworkAcl", "defaultNetworkAclId")]; s.ACL == nil {
			s.ACL = &reach.ACL{Name: "(default of " + s.VPC.Name + ")"}
			s.ACL.In, s.ACL.Out = everything("(default)"), everything("(default)")
		}
	}
}
