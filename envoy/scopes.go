package envoy

import (
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/postern/postern/accesslog"
	"github.com/postern/postern/plan"
)

// destination is one host, or wildcard, and port of an agent, with the rules
// that decide on it.
type destination struct{ plan.Destination }

func (d destination) authority() string { return hostPort(d.Host, d.Port) }

func (d destination) wildcard() bool { return isWildcard(d.Host) }

func (d destination) tunnel() bool { return plan.ModeOf(d.Rules) == plan.ModeTunnel }

// last is a rule of the destination that allows something.
func (d destination) last() plan.Rule { return d.Rules[len(d.Rules)-1] }

// domains are the Host headers of the destination.
func (d destination) domains() []string {
	if d.Port == 443 {
		return []string{d.Host, d.authority()}
	}
	return []string{d.authority()}
}

// A site is a host and port that agents may go to, and what each of them may do there: what there
// is many of. Its scopes serve all of the agents. An agent costs a site little more than its name,
// unless the agent has rules there that no other agent has.
type site struct {
	host string
	port uint16
	// visitors are in the order of the plan's agents.
	visitors []visitor
}

// visitor is an agent, and its destination at a site.
type visitor struct {
	agent string
	destination
}

func (s *site) before(o *site) bool {
	c := strings.Compare(s.host, o.host)
	return c < 0 || c == 0 && s.port < o.port
}

// equal reports whether both are the same, and so have the same scopes.
func (s *site) equal(o *site) bool {
	return s.host == o.host && s.port == o.port && slices.EqualFunc(s.visitors, o.visitors, func(v, w visitor) bool {
		return v.agent == w.agent && plan.EqualRules(v.Rules, w.Rules)
	})
}

// sites are the hosts of all agents that may do anything, without wildcards, sorted.
func (b *builder) sites() []*site {
	type place struct {
		host string
		port uint16
	}
	at := map[place]*site{}
	var sites []*site
	for _, a := range b.plan.Agents {
		if b.killed(a.Name) {
			continue
		}
		for _, d := range b.destinations[a.Name] {
			if d.wildcard() {
				continue
			}
			s := at[place{d.Host, d.Port}]
			if s == nil {
				s = &site{host: d.Host, port: d.Port}
				at[place{d.Host, d.Port}] = s
				sites = append(sites, s)
			}
			s.visitors = append(s.visitors, visitor{a.Name, d})
		}
	}
	slices.SortFunc(sites, func(s, o *site) int {
		if s.before(o) {
			return -1
		}
		return 1
	})
	return sites
}

// scopesOf are those of a site: where a CONNECT of an agent to it leads, and what the agent may
// request of it then. Agents whose rules are the same share a virtual host, which has a domain
// for each of them.
func (b *builder) scopesOf(s *site) []*routev3.ScopedRouteConfiguration {
	led := &routev3.VirtualHost{Name: kindIntercept, Routes: []*routev3.Route{connectTo(byHeader, plan.DefaultName)}}
	var connects, requests []*routev3.VirtualHost
	var shared []visitor
	hosts := map[string]*routev3.VirtualHost{}
	for _, v := range s.visitors {
		domain := ofAgent(v.agent, connectScope(v.authority()))
		if v.tunnel() {
			connects = append(connects, &routev3.VirtualHost{Name: v.agent, Domains: []string{domain}, Routes: []*routev3.Route{b.connectRoute(v.agent, v.destination)}})
			continue
		}
		led.Domains = append(led.Domains, domain)
		domains := v.siteDomains(v.agent)
		common := b.common(v)
		if i := slices.IndexFunc(shared, func(o visitor) bool { return common != nil && plan.EqualRules(o.Rules, common) }); i >= 0 {
			h := hosts[shared[i].agent]
			h.Domains = append(h.Domains, domains...)
			continue
		}
		// Another Host than the one that CONNECT and server name agree on has no route, and
		// is answered as names without a scope are.
		h := b.requestHost(v.agent, domains, v.Rules, common != nil)
		requests = append(requests, h)
		if common != nil {
			hosts[v.agent] = h
			v.Rules = common
			shared = append(shared, v)
		}
	}
	if len(led.GetDomains()) > 0 {
		connects = append(connects, led)
	}
	d := s.visitors[0].destination
	out := []*routev3.ScopedRouteConfiguration{byAgent(b.connectRoutes(connectScope(d.authority()), connects))}
	if len(requests) > 0 {
		out = append(out, byAgent(scopedRoute(l7Scope(d), requests)))
	}
	return out
}

// common returns what other agents may have in common with a visitor: its rules, but not whose
// they are and what they are for. It returns nil if the rules have something that is the agent's
// own: a cluster, or a limit.
func (b *builder) common(v visitor) []plan.Rule {
	rules := slices.Clone(v.Rules)
	for i := range rules {
		r := &rules[i]
		if r.Limits != nil || !r.Deny && b.upstreamCluster(*r) != dynamicName(v.agent) {
			return nil
		}
		r.ID, r.Expires, r.Reason, r.Owner = plan.NameOf(r.ID), "", "", ""
	}
	return rules
}

// byAgent has virtual hosts found by the agent, and not by the Host alone.
func byAgent(s *routev3.ScopedRouteConfiguration) *routev3.ScopedRouteConfiguration {
	s.RouteConfiguration.VhostHeader = scopeHeader
	return s
}

// siteDomains are the values of scopeHeader for requests of the agent to the destination.
func (d destination) siteDomains(agent string) []string {
	domains := d.domains()
	for i, host := range domains {
		domains[i] = ofAgent(agent, l7Scope(d)) + scopeSeparator + host
	}
	return domains
}

// ofAgent is a value of scopeHeader: an agent, and the key of a scope.
func ofAgent(agent, key string) string { return agent + scopeSeparator + key }

// Keys of the route scopes. An agent's name has neither a slash nor scopeSeparator in it.

// connectScope is for the CONNECTs of all agents to one authority.
func connectScope(authority string) string { return "connect/" + authority }

// restScope is for what an agent sends to its own socket and has no connectScope: requests to its
// gateways, and CONNECTs to hosts below wildcards and to hosts that are not allowed.
func restScope(agent string) string { return connectScope(restOfHosts + agent) }

// restOfHosts begins the authority that stands for all others in the key of restScope. No
// authority that a client can send has a space.
const restOfHosts = "* "

// l7Scope is for the requests of all agents to one host: SNI and CONNECT authority, as the
// internal listener sees them. Names that do not agree have no scope, and so no route.
func l7Scope(d destination) string { return "l7/" + d.Host + "/" + d.authority() }

// wildScope is for the requests of one agent to the hosts below its wildcards,
// of which there is no list. The last part is what wildScopeFormat says of the names.
func wildScope(agent string) string { return "wild/" + agent + "/true" }

// scopes makes the scopes of each site, as small as they can be: Envoy reads no other one anew
// when one is added. And it makes those that each agent has for itself.
func (b *builder) scopes() {
	for _, a := range b.plan.Agents {
		rest := part{kind: "rest", agent: a.Name}
		if b.killed(a.Name) {
			b.one(rest, nil, "killed", func() proto.Message {
				return b.connectRoutes(restScope(a.Name), []*routev3.VirtualHost{b.defaultHost(a.Name, plan.ReasonKilled)})
			})
			continue
		}
		var wild group
		all := b.destinations[a.Name]
		for i := range all {
			if d := &all[i]; d.wildcard() {
				wild.add(d.authority(), d.Rules)
			}
		}
		if hosts := b.wildHosts(a.Name); len(hosts) > 0 {
			b.one(part{kind: "wild", agent: a.Name}, wild.rules, wild.names, func() proto.Message {
				vhosts := make([]*routev3.VirtualHost, 0, len(hosts)+1)
				for _, d := range hosts {
					vhosts = append(vhosts, b.requestHost(d.authority(), d.domains(), d.Rules, false))
				}
				return scopedRoute(wildScope(a.Name), append(vhosts, b.defaultHost(a.Name, plan.ReasonName)))
			})
		}
		others := wild
		for _, port := range gateways(a) {
			others.add("gateway:"+strconv.Itoa(int(port)), a.Behind(port))
		}
		b.one(rest, others.rules, others.names, func() proto.Message {
			return b.connectRoutes(restScope(a.Name), b.restHosts(a))
		})
	}
	for _, s := range b.sites() {
		b.takeSite(s)
	}
}

// group is what a scope of several destinations is made of.
type group struct {
	rules []plan.Rule
	names string
}

func (g *group) add(name string, rules []plan.Rule) {
	g.rules = append(g.rules[:len(g.rules):len(g.rules)], rules...)
	g.names += fmt.Sprintf("%s %d,", name, len(rules))
}

// wildHosts are the wildcards of an agent whose requests are inspected.
func (b *builder) wildHosts(agent string) []destination {
	var out []destination
	for _, d := range b.destinations[agent] {
		if d.wildcard() && !d.tunnel() {
			out = append(out, d)
		}
	}
	return out
}

// gateways are the ports of an agent's gateways.
func gateways(a plan.Agent) []uint16 {
	var ports []uint16
	for i := range a.Rules {
		if r := &a.Rules[i]; r.Gateway != 0 && !r.Deny && !slices.Contains(ports, r.Gateway) {
			ports = append(ports, r.Gateway)
		}
	}
	return ports
}

// connectRoutes is a connectScope or a restScope. Whatever finds one needs no other.
func (b *builder) connectRoutes(key string, hosts []*routev3.VirtualHost) *routev3.ScopedRouteConfiguration {
	s := scopedRoute(key, hosts)
	s.RouteConfiguration.TypedPerFilterConfig = map[string]*anypb.Any{filterRest: b.any(&routev3.FilterConfig{Disabled: true})}
	return s
}

// restHosts says where an agent may CONNECT to below wildcards, and what its
// gateways are. All wildcards that are led to the same place share a virtual host.
func (b *builder) restHosts(a plan.Agent) []*routev3.VirtualHost {
	var hosts []*routev3.VirtualHost
	shared := map[string]*routev3.VirtualHost{}
	for _, d := range b.destinations[a.Name] {
		switch cluster := d.cluster(a.Name); {
		case !d.wildcard():
		case d.tunnel():
			hosts = append(hosts, b.wildHost(a.Name, d.authority(), d))
		case shared[cluster] != nil:
			shared[cluster].Domains = append(shared[cluster].Domains, d.authority())
		default:
			shared[cluster] = b.wildHost(a.Name, cluster, d)
			hosts = append(hosts, shared[cluster])
		}
	}
	for _, gateway := range gateways(a) {
		port := strconv.Itoa(int(gateway))
		h := b.requestHost("gateway:"+port, []string{"localhost:" + port, "127.0.0.1:" + port}, a.Behind(gateway), false)
		// A CONNECT to a gateway's own address is one to a host that is not allowed.
		h.Routes[0] = deny(a.Name, plan.ReasonHost, connectMatch())
		// For nobody: a gateway's requests go no further inside. It would be a
		// fifth of what they cost (docs/performance.md).
		h.TypedPerFilterConfig[filterState] = b.any(&routev3.FilterConfig{Disabled: true})
		hosts = append(hosts, h)
	}
	sort.Slice(hosts, func(i, j int) bool { return hosts[i].Name < hosts[j].Name })
	return append(hosts, &routev3.VirtualHost{
		Name: "default", Domains: []string{"*"},
		Routes: []*routev3.Route{deny(a.Name, plan.ReasonHost, connectMatch()), deny(a.Name, plan.ReasonScheme, anyPath())},
	})
}

// wildHost is for the CONNECTs below a wildcard. Each could be to a name that nobody has
// asked for before, which takes a certificate or an answer of a name server.
func (b *builder) wildHost(agent, name string, d destination) *routev3.VirtualHost {
	return &routev3.VirtualHost{
		Name: name, Domains: []string{d.authority()}, Routes: []*routev3.Route{b.connectRoute(agent, d), deny(agent, plan.ReasonScheme, anyPath())},
		TypedPerFilterConfig: map[string]*anypb.Any{filterRate: b.rate(&typev3.TokenBucket{
			MaxTokens: madeUpBurst, TokensPerFill: wrapperspb.UInt32(madeUpRate), FillInterval: durationpb.New(time.Second),
		})},
	}
}

// cluster returns the name of the cluster, and of the internal listener, that looks at
// the TLS of an agent's destination. No agent shares one: neither its connections nor
// the names that it resolves.
func (d destination) cluster(agent string) string {
	switch {
	case d.tunnel():
		return tunnelName(agent, d)
	case d.wildcard():
		return kindWildcard + "/" + agent
	default:
		return kindIntercept + "/" + agent
	}
}

// connectRoute leads a CONNECT to where more can be seen of it. Of a tunnel
// nothing more will be seen: it is decided on here.
func (b *builder) connectRoute(agent string, d destination) *routev3.Route {
	rule := plan.DefaultName
	if d.tunnel() {
		r := plan.TunnelRules(d.Rules)[0]
		if r.Deny {
			return denyBriefly(r, plan.ReasonDenied, connectMatch())
		}
		rule = plan.NameOf(r.ID)
	}
	return connectTo(d.cluster(agent), rule)
}

// connectTo leads an accepted CONNECT to the cluster of an internal listener: see leadTo. The
// rule is named without its agent.
func connectTo(cluster, rule string) *routev3.Route {
	action := &routev3.RouteAction{
		// A tunnel lasts as long as it is used.
		Timeout: durationpb.New(0),
		UpgradeConfigs: []*routev3.RouteAction_UpgradeConfig{
			{UpgradeType: "CONNECT", ConnectConfig: &routev3.RouteAction_UpgradeConfig_ConnectConfig{}},
			{UpgradeType: "websocket", Enabled: wrapperspb.Bool(false)},
		},
	}
	leadTo(action, cluster)
	return &routev3.Route{
		Name: accesslog.Leads, Match: connectMatch(), Metadata: metadata(map[string]string{"rule": rule}),
		Action: &routev3.Route_Route{Route: action},
	}
}

// defaultHost denies whatever no other host of its scope takes.
func (b *builder) defaultHost(agent string, reason plan.Reason) *routev3.VirtualHost {
	return &routev3.VirtualHost{
		Name: "default", Domains: []string{"*"},
		Routes: []*routev3.Route{deny(agent, reason, connectMatch()), deny(agent, reason, anyPath())},
	}
}

// requestHost decides on requests: first what is denied, then what is allowed,
// in the order of plan.Decide, then the denials from the most to the least
// telling, so that each names its reason. If all rules have the same methods, a
// path is asked for once: expressions of paths are much of what a node holds.
//
// If it is shared, it says nothing of the agent whose rules they are: others have the same.
func (b *builder) requestHost(name string, domains []string, rules []plan.Rule, shared bool) *routev3.VirtualHost {
	h := &routev3.VirtualHost{Name: name, Domains: domains, TypedPerFilterConfig: map[string]*anypb.Any{}}
	last := rules[len(rules)-1] // it allows something
	h.Routes = append(h.Routes, denyBriefly(last, plan.ReasonMethod, connectMatch()))
	each := func(make func(plan.Rule, *routev3.RouteMatch) *routev3.Route, match func(plan.Rule, string) *routev3.RouteMatch, keep func(plan.Rule) bool) {
		for _, r := range rules {
			for _, p := range r.Paths {
				if keep(r) {
					h.Routes = append(h.Routes, make(r, match(r, p)))
				}
			}
		}
	}
	denyFor := func(reason plan.Reason) func(plan.Rule, *routev3.RouteMatch) *routev3.Route {
		return func(r plan.Rule, m *routev3.RouteMatch) *routev3.Route { return denyBriefly(r, reason, m) }
	}
	denies := func(r plan.Rule) bool { return r.Deny }
	allows := func(r plan.Rule) bool { return !r.Deny }
	conditional := func(r plan.Rule) bool { return !r.Deny && len(r.Query)+len(r.Headers) > 0 }
	each(denyFor(plan.ReasonDenied), denyMatch, denies)
	restricted := plan.Restricted(rules)
	each(func(r plan.Rule, m *routev3.RouteMatch) *routev3.Route {
		cluster := byHeader
		if !shared {
			cluster = b.upstreamCluster(r)
		}
		return b.allow(r, cluster, restricted, m)
	}, allowMatch, allows)
	each(denyFor(plan.ReasonCondition), methodMatch, conditional)
	union := plan.Methods(rules)
	each(denyFor(plan.ReasonMethod), func(_ plan.Rule, p string) *routev3.RouteMatch { return pathMatch(p) }, func(r plan.Rule) bool {
		return allows(r) && !slices.Equal(plan.Methods([]plan.Rule{r}), union)
	})
	if slices.ContainsFunc(rules, func(r plan.Rule) bool { return allows(r) && !slices.Contains(r.Paths, plan.AnyPath) || conditional(r) }) {
		other := anyPath()
		other.Headers = []*routev3.HeaderMatcher{methods(union)}
		h.Routes = append(h.Routes, denyBriefly(last, plan.ReasonPath, other))
	}
	h.Routes = append(h.Routes, denyBriefly(last, plan.ReasonMethod, anyPath()))
	b.limitHost(h, rules)
	return h
}

// said is the host of a rule for the log, or "" if only the request tells it.
func said(r plan.Rule) string {
	if isWildcard(r.Host) {
		return ""
	}
	return hostPort(r.Host, r.Port)
}
