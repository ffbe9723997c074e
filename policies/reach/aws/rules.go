package aws

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/policies/packet"
	"github.com/postern/postern/policies/reach"
)

// mostRules is more than AWS takes: 1,000 rules for an interface, 1,000 routes, 40 rules of an ACL.
// It bounds the time of a proof.
const mostRules = 1000

func (r *reader) tooMany(x *graph.Resource, n int) {
	r.unknown(x, "it has %d rules, and AWS takes no more than %d", n, mostRules)
}

func everything(name string) []*reach.ACLRule {
	return []*reach.ACLRule{{Name: name, Allow: true, Packets: packet.All()}}
}

// ports returns the packets of a rule's protocol and ports. It reports false if they are not known.
func ports(in map[string]any, protocol, from, to string) (packet.Set, bool) {
	name, _ := in[protocol].(string)
	var number uint8
	switch name {
	case "-1", "all":
		return packet.All(), true
	case "tcp":
		number = packet.TCP
	case "udp":
		number = packet.UDP
	case "icmp":
		number = 1
	case "icmpv6":
		number = 58
	default:
		n, err := strconv.ParseUint(name, 10, 8)
		if err != nil {
			return packet.All(), false
		}
		number = uint8(n)
	}
	span := packet.Span[uint8]{First: number, Last: number}
	if number != packet.TCP && number != packet.UDP {
		return packet.On(span, packet.AnyPort), true
	}
	first, ok1 := in[from].(float64)
	last, ok2 := in[to].(float64)
	if !ok1 || !ok2 || first < 0 || last > 65535 || first > last {
		return packet.On(span, packet.AnyPort), false
	}
	return packet.On(span, packet.Span[uint16]{First: uint16(first), Last: uint16(last)}), true
}

// side returns the packets to prefixes (out) or from them.
func side(out bool, prefixes ...netip.Prefix) packet.Set {
	if out {
		return packet.To(prefixes...)
	}
	return packet.From(prefixes...)
}

// whom returns the packets to (out) or from the networks that are written in the properties. It
// reports false if one of them is not known.
func whom(in map[string]any, out bool, properties ...string) (packet.Set, bool) {
	var found packet.Set
	for _, property := range properties {
		items, isList := in[property].([]any)
		if v, ok := in[property]; ok && v != nil && v != "" && !isList {
			items = []any{v}
		}
		for _, item := range items {
			text, _ := item.(string)
			p, err := netip.ParsePrefix(text)
			if err != nil {
				return packet.All(), false
			}
			found = found.Union(side(out, p))
		}
	}
	return found, true
}

// objects returns the objects of a list in the inputs. It reports false if the list is not known.
func objects(x *graph.Resource, property string) ([]map[string]any, bool) {
	v := x.Inputs[property]
	if v == nil {
		return nil, true
	}
	list, ok := v.([]any)
	var out []map[string]any
	for _, item := range list {
		m, isObject := item.(map[string]any)
		ok = ok && isObject
		out = append(out, m)
	}
	return out, ok
}

func (r *reader) group(x *graph.Resource) {
	r.groups[x] = &reach.Group{Name: x.Name}
	if strings.HasSuffix(x.Type, ":SecurityGroup") {
		one(r, x, "vpcId", r.vpcs)
	}
}

// inlines reads the rules that are written in a group. All groups are known by then.
func (r *reader) inlines(x *graph.Resource) {
	g := r.groups[x]
	for _, property := range []string{"ingress", "egress"} {
		rules, ok := objects(x, property)
		if !ok {
			r.unknown(x, "%s is not known", property)
		}
		if len(rules) > mostRules {
			r.tooMany(x, len(rules))
			continue
		}
		for i, in := range rules {
			r.inline(x, g, property, i, in)
		}
	}
}

// inline reads a rule that is written in its group.
func (r *reader) inline(x *graph.Resource, g *reach.Group, property string, i int, in map[string]any) {
	for _, key := range []string{"cidrBlocks", "ipv6CidrBlocks", "securityGroups", "prefixListIds"} {
		if list, _ := in[key].([]any); len(list) > mostRules {
			r.tooMany(x, len(list))
			return
		}
	}
	out := property == "egress"
	on, sure := ports(in, "protocol", "fromPort", "toPort")
	to, known := whom(in, out, "cidrBlocks", "ipv6CidrBlocks")
	rule := reach.GroupRule{
		Name: x.Name + " " + property + " " + strconv.Itoa(i), Packets: on.Intersect(to),
		Unsure: !sure || !known,
	}
	add := func(rule reach.GroupRule) {
		if out {
			g.Out = append(g.Out, &rule)
		} else {
			g.In = append(g.In, &rule)
		}
	}
	if !rule.Packets.Empty() {
		add(rule)
	}
	rule.Packets = on
	if self := in["self"]; self != nil && self != false && self != "false" { // it may not be known
		rule.Peer = g
		add(rule)
	}
	given := func(key string) bool {
		list, ok := in[key].([]any)
		return in[key] != nil && (!ok || len(list) > 0)
	}
	if given("securityGroups") { // which of them is not in the plan: all
		peers := all(r, x, property, r.groups)
		for _, rule.Peer = range peers {
			add(rule)
		}
		if r.strange(x, property, peersOf(x, property, in), len(peers)) {
			rule.Peer, rule.Unsure = nil, true
			add(rule)
		}
	}
	if given("prefixListIds") {
		rule.Peer, rule.Unsure = nil, true
		add(rule)
	}
}

// peersOf returns the groups that a rule names, and those that the other rules of the property
// name: all have the same references. Groups that are not known yet may be one group.
func peersOf(x *graph.Resource, property string, in map[string]any) any {
	names, ok := in["securityGroups"].([]any)
	if !ok {
		return in["securityGroups"]
	}
	rules, _ := objects(x, property)
	names = slices.Clone(names)
	for _, other := range rules {
		list, _ := other["securityGroups"].([]any)
		for _, name := range list {
			if name != graph.Unknown || !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

func (r *reader) groupRule(x *graph.Resource) {
	g, ok := one(r, x, "securityGroupId", r.groups)
	if !ok {
		return
	}
	out := x.Type == "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule"
	on, sure := ports(x.Inputs, "ipProtocol", "fromPort", "toPort")
	rule := &reach.GroupRule{Name: x.Name, Unsure: !sure}
	switch to, known := whom(x.Inputs, out, "cidrIpv4", "cidrIpv6"); {
	case set(x, "referencedSecurityGroupId"):
		peer, ok := one(r, x, "referencedSecurityGroupId", r.groups)
		if !ok {
			return
		}
		rule.Peer, rule.Packets = peer, on
	case set(x, "prefixListId"): // a cloud's own public addresses, or not known
		rule.Packets = on
		if r.g.Refers(x, "prefixListId", "aws:ec2/vpcEndpoint:VpcEndpoint") != nil {
			rule.Packets, rule.Listed = on.Minus(side(out, reach.Nobodys()...)), true
		} else {
			rule.Unsure = true
		}
	default:
		rule.Packets, rule.Unsure = on.Intersect(to), rule.Unsure || !known
	}
	if out {
		g.Out = append(g.Out, rule)
	} else {
		g.In = append(g.In, rule)
	}
}

// numbered is a rule and its place in an ACL.
type numbered struct {
	number float64
	out    bool
	rule   *reach.ACLRule
}

func (r *reader) acl(x *graph.Resource) {
	a := &reach.ACL{Name: x.Name}
	r.acls[x] = a
	for _, s := range listed(r, x, "subnetIds", x.Inputs["subnetIds"], r.subnets) {
		r.guards(x, a, s)
	}
	for _, property := range []string{"ingress", "egress"} {
		rules, ok := objects(x, property)
		if !ok {
			r.unknown(x, "%s is not known", property)
		}
		for _, in := range rules {
			if _, ok := in["ruleNo"].(float64); !ok {
				r.unknown(x, "the number of a rule of %s is not known", property)
			}
		}
		if len(rules) > mostRules {
			r.tooMany(x, len(rules))
			continue
		}
		slices.SortStableFunc(rules, func(a, b map[string]any) int {
			m, _ := a["ruleNo"].(float64)
			n, _ := b["ruleNo"].(float64)
			return cmp.Compare(m, n)
		})
		for i, in := range rules {
			rule := entry(x.Name+" "+property+" "+strconv.Itoa(i), in, property == "egress", "action", "ipv6CidrBlock")
			r.places[rule], _ = in["ruleNo"].(float64)
			if property == "egress" {
				a.Out = append(a.Out, rule)
			} else {
				a.In = append(a.In, rule)
			}
		}
	}
}

// entry reads one rule of an ACL.
func entry(name string, in map[string]any, out bool, action, ip6 string) *reach.ACLRule {
	on, sure := ports(in, "protocol", "fromPort", "toPort")
	to, known := whom(in, out, "cidrBlock", ip6)
	rule := &reach.ACLRule{Name: name, Allow: in[action] != "deny", Packets: on.Intersect(to), Unsure: !sure || !known}
	protocol := in["protocol"]
	ofICMP := protocol == "icmp" || protocol == "1" || protocol == "icmpv6" || protocol == "58"
	if icmp := in["icmpType"]; !rule.Allow && icmp != -1.0 && (icmp != nil || ofICMP) {
		rule.Unsure = true // it denies only some
	}
	return rule
}

// aclRule reads a rule that is a resource of its own.
func (r *reader) aclRule(x *graph.Resource) {
	a, ok := one(r, x, "networkAclId", r.acls)
	if !ok {
		return
	}
	number, known := x.Number("ruleNumber")
	out, isBool := x.Inputs["egress"].(bool)
	if !known || x.Inputs["egress"] != nil && !isBool {
		r.unknown(x, "its number or direction is not known")
		return
	}
	r.numbered[a] = append(r.numbered[a], numbered{number, out, entry(x.Name, x.Inputs, out, "ruleAction",
		"ipv6CidrBlock")})
}

// order puts the rules into their ACLs in the order in which they are asked, and leaves out what
// nobody could make.
func (r *reader) order() {
	for i := range r.g.Resources {
		x := &r.g.Resources[i]
		if g := r.groups[x]; g != nil && max(len(g.In), len(g.Out)) > mostRules {
			r.tooMany(x, max(len(g.In), len(g.Out)))
			g.In, g.Out = nil, nil
		}
		if a := r.acls[x]; a != nil && len(r.numbered[a]) > mostRules {
			r.tooMany(x, len(r.numbered[a]))
			delete(r.numbered, a)
		}
		if t := r.tables[x]; t != nil && len(t.Routes) > mostRules {
			r.tooMany(x, len(t.Routes))
			t.Routes = nil
		}
		if a := r.acls[x]; a != nil && len(r.numbered[a]) > 0 && len(a.In)+len(a.Out) > 0 {
			// A state has the rules that are resources in the outputs of their ACL too.
			a.In, a.Out = r.others(a, a.In, false), r.others(a, a.Out, true)
			if len(a.In)+len(a.Out) > 0 {
				r.unknown(x, "it has rules of its own, and rules that are resources")
			}
		}
	}
	for a, rules := range r.numbered {
		slices.SortStableFunc(rules, func(x, y numbered) int { return cmp.Compare(x.number, y.number) })
		for _, n := range rules {
			if n.out {
				a.Out = append(a.Out, n.rule)
			} else {
				a.In = append(a.In, n.rule)
			}
		}
	}
}

// others returns the rules of an ACL that are not resources.
func (r *reader) others(a *reach.ACL, rules []*reach.ACLRule, out bool) []*reach.ACLRule {
	return slices.DeleteFunc(rules, func(rule *reach.ACLRule) bool {
		return slices.ContainsFunc(r.numbered[a], func(n numbered) bool {
			return n.out == out && n.number == r.places[rule] && n.rule.Allow == rule.Allow &&
				slices.Equal(n.rule.Packets, rule.Packets)
		})
	})
}

func (r *reader) table(x *graph.Resource) {
	t := &reach.Table{Name: x.Name}
	r.tables[x] = t
	if v := x.Inputs["propagatingVgws"]; v != nil {
		if list, ok := v.([]any); !ok || len(list) > 0 {
			t.Routes = append(t.Routes, anywhere(x.Name+" (propagated)", reach.ViaNetwork)...)
		}
	}
	routes, ok := objects(x, "routes")
	if !ok {
		r.unknown(x, "routes is not known")
	}
	if len(routes) > mostRules {
		r.tooMany(x, len(routes))
		return
	}
	for i, in := range routes {
		r.addRoute(x, t, x.Name+" "+strconv.Itoa(i), in, "routes", "cidrBlock", "ipv6CidrBlock")
	}
}

func anywhere(name string, via reach.Via) []*reach.Route {
	return []*reach.Route{
		{Name: name, To: netip.MustParsePrefix("0.0.0.0/0"), Via: via}, {
			Name: name,
			To:   netip.MustParsePrefix("::/0"), Via: via,
		},
	}
}

func (r *reader) route(x *graph.Resource) {
	if t, ok := one(r, x, "routeTableId", r.tables); ok {
		r.addRoute(x, t, x.Name, x.Inputs, "", "destinationCidrBlock", "destinationIpv6CidrBlock")
	}
}

// addRoute reads a route from its inputs. property holds the route's references, or "" if each of
// its inputs has its own.
func (r *reader) addRoute(x *graph.Resource, t *reach.Table, name string, in map[string]any, property, ip4,
	ip6 string,
) {
	via := reach.ViaNetwork
	refers := func(own, token string) *graph.Resource {
		if property != "" {
			own = property
		}
		return r.g.Refers(x, own, token)
	}
	is := func(key string) bool { return in[key] != nil && in[key] != "" }
	var gateway *reach.Interface
	switch {
	case is("egressOnlyGatewayId"):
		via = reach.ViaInternet
	case is("gatewayId"): // some other gateway, perhaps
		id, _ := in["gatewayId"].(string)
		ofInternet := refers("gatewayId", "aws:ec2/internetGateway:InternetGateway") != nil &&
			refers("gatewayId", "aws:ec2/vpnGateway:VpnGateway") == nil
		if strings.HasPrefix(id, "igw-") || ofInternet && id == graph.Unknown {
			via = reach.ViaInternet
		}
	case is("natGatewayId"):
		if gateway = r.nodes[refers("natGatewayId", "aws:ec2/natGateway:NatGateway")]; gateway != nil {
			via = reach.ViaNAT
		}
	}
	found := false
	for _, key := range []string{ip4, ip6} {
		text, _ := in[key].(string)
		if text == "" {
			continue
		}
		if p, err := netip.ParsePrefix(text); err == nil {
			found = true
			t.Routes = append(t.Routes, &reach.Route{Name: name, To: p, Via: translated(via, p), NAT: gateway})
		}
	}
	if !found { // a list of prefixes, or not known yet
		for _, route := range anywhere(name, via) {
			route.NAT, route.Unsure, route.Via = gateway, true, translated(via, route.To)
			t.Routes = append(t.Routes, route)
		}
	}
}

// translated returns the way that packets to the prefix take. A NAT gateway has IPv6 packets leave
// as IPv4 packets (NAT64), which the model does not follow.
func translated(via reach.Via, to netip.Prefix) reach.Via {
	if via == reach.ViaNAT && to.Addr().Is6() {
		return reach.ViaNetwork
	}
	return via
}

func (r *reader) serviceRoute(x *graph.Resource) {
	if t, ok := one(r, x, "routeTableId", r.tables); ok {
		to := r.g.Refers(x, "vpcEndpointId", "aws:ec2/vpcEndpoint:VpcEndpoint")
		t.Routes = append(t.Routes, toService(x, to))
	}
}

// toService returns the route of x that leads to a gateway endpoint, which may not be in the plan.
func toService(x, endpoint *graph.Resource) *reach.Route {
	route := anywhere(x.Name, reach.ViaService)[0]
	if endpoint != nil {
		route.Service = serviceOf(endpoint)
	}
	return route
}

// serviceOf returns the service of the cloud to which an endpoint leads: s3 for
// com.amazonaws.eu-west-1.s3.
func serviceOf(endpoint *graph.Resource) string {
	_, rest, _ := strings.Cut(endpoint.String("serviceName"), "amazonaws.")
	_, service, _ := strings.Cut(rest, ".")
	return service
}
