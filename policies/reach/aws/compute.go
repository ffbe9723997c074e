package aws

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/policies/reach"
)

var (
	instanceMetadata = netip.MustParseAddr("169.254.169.254")
	taskMetadata     = netip.MustParseAddr("169.254.170.2")
)

// place gives an interface its subnets and groups, and adds it to the network.
func (r *reader) place(x *graph.Resource, i *reach.Interface, subnets []*reach.Subnet, groups []*reach.Group) {
	i.Name, i.Subnets, i.Groups = x.Name, subnets, groups
	if len(subnets) == 0 {
		r.unknown(x, "the model does not know in which subnets it is")
	}
	if len(groups) == 0 && !i.Unfiltered { // AWS gives it the default group of the VPC
		for _, d := range r.g.OfType("aws:ec2/defaultSecurityGroup:DefaultSecurityGroup") {
			for _, v := range all(r, d, "vpcId", r.vpcs) {
				if len(subnets) > 0 && v == subnets[0].VPC {
					i.Groups = []*reach.Group{r.groups[d]}
				}
			}
		}
		if len(i.Groups) == 0 {
			r.unknown(x, "the model does not know its security groups")
		}
	}
	r.nodes[x] = i
	r.n.Interfaces = append(r.n.Interfaces, i)
}

func (r *reader) nat(x *graph.Resource) {
	i := &reach.Interface{
		Kind: reach.NAT, Unfiltered: true, Forwards: false,
		Public: x.String("connectivityType") != "private",
	}
	r.place(x, i, listed(r, x, "subnetId", x.Inputs["subnetId"], r.subnets), nil)
}

func (r *reader) balancer(x *graph.Resource) {
	i := &reach.Interface{Kind: reach.Gate, Public: !boolean(x, "internal", false, false)}
	if !set(x, "securityGroups") {
		i.Unfiltered = true // it takes everything, and can never have a group
	}
	subnets := append(listed(r, x, "subnets", x.Inputs["subnets"], r.subnets),
		listed(r, x, "subnetMappings", part(x, "subnetMappings", "subnetId"), r.subnets)...)
	r.place(x, i, subnets, listed(r, x, "securityGroups", x.Inputs["securityGroups"], r.groups))
	i.Addresses = r.pinned(x, "subnetMappings", "privateIpv4Address")
}

// pinned returns the addresses that a resource is given, or nil if it is not given all of them.
func (r *reader) pinned(x *graph.Resource, property, key string) []netip.Prefix {
	list, _ := objects(x, property)
	var out []netip.Prefix
	for _, in := range list {
		text, _ := in[key].(string)
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil
		}
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out
}

func (r *reader) endpoint(x *graph.Resource) {
	if kind := x.String("vpcEndpointType"); kind == "Gateway" || !set(x, "vpcEndpointType") {
		for _, t := range listed(r, x, "routeTableIds", x.Inputs["routeTableIds"], r.tables) {
			t.Routes = append(t.Routes, toService(x, x))
		}
		return
	}
	i := &reach.Interface{Kind: reach.Service, Pinned: r.pinnedPolicy(x), Service: serviceOf(x)}
	if r.g.Refers(x, "serviceName", "aws:ec2/vpcEndpointService:VpcEndpointService") != nil {
		i.Kind = reach.Gate
	} else if name := x.String("serviceName"); name == "" || strings.Contains(name, ".vpce-svc-") {
		i.Kind = reach.Stranger // somebody's service, perhaps
	}
	subnets := listed(r, x, "subnetIds", x.Inputs["subnetIds"], r.subnets)
	of := part(x, "subnetConfigurations", "subnetId")
	for _, s := range listed(r, x, "subnetConfigurations", of, r.subnets) {
		if !slices.Contains(subnets, s) {
			subnets = append(subnets, s)
		}
	}
	r.place(x, i, subnets, listed(r, x, "securityGroupIds", x.Inputs["securityGroupIds"], r.groups))
	i.Addresses = r.pinned(x, "subnetConfigurations", "ipv4")
}

// gates joins each endpoint that leads to one of the stack's own services with the load balancer of
// that service.
func (r *reader) gates() {
	for _, x := range r.g.OfType("aws:ec2/vpcEndpoint:VpcEndpoint") {
		service := r.g.Refers(x, "serviceName", "aws:ec2/vpcEndpointService:VpcEndpointService")
		if service == nil || r.nodes[x] == nil {
			continue
		}
		listed(r, service, "networkLoadBalancerArns", service.Inputs["networkLoadBalancerArns"], r.nodes)
		if set(service, "gatewayLoadBalancerArns") {
			r.unknown(service, "the model does not know gateway load balancers")
		}
		for _, urn := range service.PropertyDependencies["networkLoadBalancerArns"] {
			lb := r.g.ByURN(urn)
			to := r.nodes[lb]
			if to == nil {
				continue
			}
			for _, l := range to.Listeners {
				r.nodes[x].Listeners = append(r.nodes[x].Listeners, &reach.Listener{
					Name: x.Name, Port: l.Port, To: []*reach.Interface{to}, Direct: true,
					Asked: lb.String("enforceSecurityGroupInboundRulesOnPrivateLinkTraffic") == "on",
				})
			}
		}
	}
}

// machines reads an Auto Scaling group.
func (r *reader) machines(x *graph.Resource) {
	t := r.g.Refers(x, "launchTemplate", "aws:ec2/launchTemplate:LaunchTemplate")
	if t == nil {
		r.unknown(x, "the model does not know its launch template")
		return
	}
	r.beyond(x, x.Inputs, "mixedInstancesPolicy", "launchConfiguration", "availabilityZones", "loadBalancers",
		"trafficSources")
	listed(r, x, "targetGroupArns", x.Inputs["targetGroupArns"], r.targets)
	if !r.latest(x, t) {
		r.unknown(x, "the model knows only the latest version of its launch template")
	}
	i, subnets := r.workload(x), listed(r, x, "vpcZoneIdentifiers", x.Inputs["vpcZoneIdentifiers"], r.subnets)
	if set(t, "securityGroupNames") {
		r.unknown(t, "the model does not know groups by their names")
	}
	groups := listed(r, t, "vpcSecurityGroupIds", t.Inputs["vpcSecurityGroupIds"], r.groups)
	nics, known := objects(t, "networkInterfaces")
	if !known || len(nics) > 1 {
		r.unknown(t, "its network interfaces are not known, or more than one")
	}
	for _, nic := range nics {
		if nic["networkInterfaceId"] != nil || nic["subnetId"] != nil {
			r.unknown(t, "the model does not know network interfaces that exist, or their subnets")
		}
		groups = append(groups, listed(r, t, "networkInterfaces", nic["securityGroups"], r.groups)...)
		r.beyond(t, nic, "associateCarrierIpAddress")
		r.sixth(t, nic, subnets)
	}
	i.Public = !known
	for _, nic := range nics {
		i.Public = i.Public || nic["associatePublicIpAddress"] != nil && nic["associatePublicIpAddress"] != "false"
	}
	i.Public = i.Public || r.mapsPublic(x, "vpcZoneIdentifiers") && (len(nics) == 0 ||
		nics[0]["associatePublicIpAddress"] == nil)
	options, _ := t.Inputs["metadataOptions"].(map[string]any)
	i.Metadata = &reach.Metadata{Address: instanceMetadata, Off: options["httpEndpoint"] == "disabled", Role: set(t,
		"iamInstanceProfile")}
	r.place(x, i, subnets, groups)
}

// sixth reports IPv6 addresses that a machine is given where no subnet of its own has any.
func (r *reader) sixth(x *graph.Resource, in map[string]any, subnets []*reach.Subnet) {
	for _, s := range subnets {
		if slices.ContainsFunc(s.Prefixes, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
			return
		}
	}
	r.beyond(x, in, "ipv6AddressCount", "ipv6Addresses", "ipv6PrefixCount", "ipv6Prefixes", "primaryIpv6",
		"enablePrimaryIpv6")
}

// latest reports whether machines have what their launch template says now. A version that is not
// known yet was computed from the template.
func (r *reader) latest(x, template *graph.Resource) bool {
	launch, _ := x.Inputs["launchTemplate"].(map[string]any)
	switch version := launch["version"]; version {
	case graph.Unknown, "$Latest":
		return true
	case nil, "", "$Default":
		return boolean(template, "updateDefaultVersion", false, false)
	default:
		n, ok := template.Number("latestVersion")
		return ok && version == strconv.FormatFloat(n, 'f', -1, 64)
	}
}

// mapsPublic reports whether a subnet gives its interfaces public addresses.
func (r *reader) mapsPublic(x *graph.Resource, property string) bool {
	return slices.ContainsFunc(x.PropertyDependencies[property], func(urn string) bool {
		s := r.g.ByURN(urn)
		return s != nil && boolean(s, "mapPublicIpOnLaunch", false, true)
	})
}

func (r *reader) instance(x *graph.Resource) {
	i := r.workload(x)
	i.Public = boolean(x, "associatePublicIpAddress", r.mapsPublic(x, "subnetId"), true) || set(x, "publicIp")
	i.Forwards = !boolean(x, "sourceDestCheck", true, false)
	options, _ := x.Inputs["metadataOptions"].(map[string]any)
	i.Metadata = &reach.Metadata{Address: instanceMetadata, Off: options["httpEndpoint"] == "disabled", Role: set(x,
		"iamInstanceProfile")}
	if set(x, "launchTemplate") {
		r.unknown(x, "the model does not read an instance's launch template")
	}
	if set(x, "securityGroups") || set(x, "networkInterfaces") || set(x, "primaryNetworkInterface") ||
		set(x, "secondaryNetworkInterfaces") {
		r.unknown(x, "the model does not know groups by their names, and network interfaces that exist")
	}
	groups := listed(r, x, "vpcSecurityGroupIds", x.Inputs["vpcSecurityGroupIds"], r.groups)
	subnets := listed(r, x, "subnetId", x.Inputs["subnetId"], r.subnets)
	r.sixth(x, x.Inputs, subnets)
	r.place(x, i, subnets, groups)
}

// networkInterface reads an interface that something has which is not in the plan. In a plan it may
// be part of a machine that is, and the model does not know such machines.
func (r *reader) networkInterface(x *graph.Resource) {
	if set(x, "attachments") {
		r.unknown(x, "the model does not know interfaces that a machine is given")
	}
	i := r.workload(x)
	i.Public, i.Forwards = set(x, "publicIp"), !boolean(x, "sourceDestCheck", true, false)
	subnets := listed(r, x, "subnetId", x.Inputs["subnetId"], r.subnets)
	r.sixth(x, x.Inputs, subnets)
	r.place(x, i, subnets, listed(r, x, "securityGroups", x.Inputs["securityGroups"], r.groups))
}

// tasks reads an ECS service.
func (r *reader) tasks(x *graph.Resource) {
	i := r.workload(x)
	definition := r.g.Refers(x, "taskDefinition", "aws:ecs/taskDefinition:TaskDefinition")
	if definition == nil || x.String("launchType") != "FARGATE" {
		r.unknown(x, "the model knows only services of Fargate with a task definition in the plan")
		return
	}
	r.beyond(x, x.Inputs, "capacityProviderStrategies", "vpcLatticeConfigurations")
	listed(r, x, "loadBalancers", part(x, "loadBalancers", "targetGroupArn"), r.targets)
	network, _ := x.Inputs["networkConfiguration"].(map[string]any)
	i.Public = network["assignPublicIp"] != nil && network["assignPublicIp"] != false
	i.Metadata = &reach.Metadata{Address: taskMetadata, Role: set(definition, "taskRoleArn")}
	r.place(x, i, listed(r, x, "networkConfiguration", network["subnets"], r.subnets),
		listed(r, x, "networkConfiguration", network["securityGroups"], r.groups))
}

// listener leads a port of a load balancer to the targets of its group.
func (r *reader) listener(x *graph.Resource) {
	lb, ok := one(r, x, "loadBalancerArn", r.nodes)
	port, known := x.Number("port")
	if !ok || !known {
		r.unknown(x, "its load balancer or port is not known")
		return
	}
	if p := x.String("protocol"); !slices.Contains([]string{"TCP", "TLS", "HTTP", "HTTPS"}, p) {
		r.unknown(x, "the model does not know listeners of protocol %q", p)
	}
	l := &reach.Listener{Name: x.Name, Port: uint16(port)}
	lb.Listeners = append(lb.Listeners, l)
	found := 0
	for _, urn := range x.PropertyDependencies["defaultActions"] {
		target := r.g.ByURN(urn)
		if target == nil || target.Type != "aws:lb/targetGroup:TargetGroup" {
			continue
		}
		found++
		for _, x := range r.g.Resources {
			for property, urns := range x.PropertyDependencies {
				if to := r.nodes[r.g.ByURN(x.URN)]; to != nil && slices.Contains(urns, target.URN) {
					r.target(l, target, r.g.ByURN(x.URN), property, to)
				}
			}
		}
	}
	actions, ok := objects(x, "defaultActions")
	if found == 0 || !ok || r.strange(x, "defaultActions", arnsIn(actions), found) {
		r.unknown(x, "the model does not know where it leads")
	}
}

// arnsIn returns the target groups to which actions forward.
func arnsIn(actions []map[string]any) (out []any) {
	for _, a := range actions {
		if a["targetGroupArn"] != nil && a["targetGroupArn"] != "" {
			out = append(out, a["targetGroupArn"])
		}
		if a["forward"] == nil {
			continue
		}
		forward, _ := a["forward"].(map[string]any)
		groups, ok := forward["targetGroups"].([]any)
		if !ok {
			out = append(out, nil) // of another shape
		}
		for _, g := range groups {
			group, _ := g.(map[string]any)
			out = append(out, group["arn"])
		}
	}
	return out
}

// target adds an interface that registers itself with a target group.
func (r *reader) target(l *reach.Listener, group, x *graph.Resource, property string, to *reach.Interface) {
	if to.Kind == reach.Proxy && !boolean(group, "proxyProtocolV2", false, false) {
		r.unknown(group, "it sends no PROXY header, by which the proxies know who connects")
	}
	l.To = append(l.To, to)
	ports := []uint16{}
	if n, ok := group.Number("port"); ok {
		ports = append(ports, uint16(n))
	}
	// A task is registered with the port of its container. Which one belongs to this group is not
	// in the plan, unless one is the group's own.
	var containers []uint16
	if entries, _ := objects(x, property); x.Type == "aws:ecs/service:Service" {
		for _, in := range entries {
			if n, ok := in["containerPort"].(float64); ok {
				containers = append(containers, uint16(n))
			}
		}
		if len(ports) == 0 || !slices.Contains(containers, ports[0]) {
			ports = containers
		}
	}
	if len(ports) == 0 {
		r.unknown(group, "its port is not known")
	}
	l.Ports = append(l.Ports, ports...)
	if graph.HasUnknown(group.Inputs["healthCheck"]) {
		r.unknown(group, "its health check is not known")
	}
	check, _ := group.Inputs["healthCheck"].(map[string]any)
	text, _ := check["port"].(string)
	if n, err := strconv.ParseUint(text, 10, 16); err == nil && !slices.Contains(to.Admin, uint16(n)) {
		to.Admin = append(to.Admin, uint16(n))
	}
}

// firewallRule reports a rule of a group that the model does not know.
func (r *reader) firewallRule(x *graph.Resource) {
	if r.g.Refers(x, "firewallRuleGroupId", "aws:route53/resolverFirewallRuleGroup:ResolverFirewallRuleGroup") == nil {
		r.unknown(x, "the model does not know its rule group")
	}
}

// firewall reads which names the resolver of a VPC answers: those of the lists that are allowed
// before everything is blocked.
func (r *reader) firewall(x *graph.Resource) {
	v, ok := one(r, x, "vpcId", r.vpcs)
	group := r.g.Refers(x, "firewallRuleGroupId", "aws:route53/resolverFirewallRuleGroup:ResolverFirewallRuleGroup")
	if !ok || group == nil {
		return // the resolver answers everything
	}
	if v.Firewall != nil {
		r.unknown(x, "the VPC has several rule groups, and their order is not modelled")
		return
	}
	f := &reach.Firewall{Name: group.Name}
	v.Firewall = f
	var rules []*graph.Resource
	for _, rule := range r.g.OfType("aws:route53/resolverFirewallRule:ResolverFirewallRule") {
		if slices.Contains(rule.PropertyDependencies["firewallRuleGroupId"], group.URN) {
			rules = append(rules, rule)
		}
	}
	slices.SortStableFunc(rules, func(a, b *graph.Resource) int {
		m, _ := a.Number("priority")
		n, _ := b.Number("priority")
		return int(m - n)
	})
	for _, rule := range rules {
		if _, ok := rule.Number("priority"); !ok {
			r.unknown(rule, "its priority is not known")
		}
		list := r.g.Refers(rule, "firewallDomainListId",
			"aws:route53/resolverFirewallDomainList:ResolverFirewallDomainList")
		var names []string
		if list != nil {
			items, ok := list.Inputs["domains"].([]any)
			if !ok || graph.HasUnknown(items) {
				r.unknown(list, "its names are not known")
			}
			for _, item := range items {
				name, _ := item.(string)
				names = append(names, name)
			}
		}
		all := slices.Contains(names, "*") || slices.Contains(names, "*.")
		if rule.String("action") == "BLOCK" {
			if all && !set(rule, "qType") {
				f.Closed = true
				break
			}
			continue
		}
		if list == nil || all {
			f.Closed = false
			return // before anything is blocked, everything is allowed
		}
		f.Names = append(f.Names, names...)
		f.Aliases = f.Aliases || rule.String("firewallDomainRedirectionAction") == "TRUST_REDIRECTION_DOMAIN"
	}
	for _, c := range r.g.OfType("aws:route53/resolverFirewallConfig:ResolverFirewallConfig") {
		if len(all(r, c, "resourceId", r.vpcs)) == 0 {
			r.unknown(c, "the model does not know its VPC")
		}
		for _, of := range all(r, c, "resourceId", r.vpcs) {
			f.Closed = f.Closed && (of != v || c.String("firewallFailOpen") == "DISABLED")
		}
	}
}
