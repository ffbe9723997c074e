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
	"github.com/postern/postern/guard"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/target"
)

// destination is a host or wildcard, a port, and the rules of one agent that decide there.
type destination struct{ plan.Destination }

func (d destination) authority() string { return hostPort(d.Host, d.Port) }

func (d destination) wildcard() bool { return isWildcard(d.Host) }

func (d destination) tunnel() bool { return plan.ModeOf(d.Rules) == plan.ModeTunnel }

// last returns a rule of the destination that allows something.
func (d destination) last() plan.Rule { return d.Rules[len(d.Rules)-1] }

// domains returns the Host headers of the destination.
func (d destination) domains() []string {
	if d.Port == 443 {
		return []string{d.Host, d.authority()}
	}
	return []string{d.authority()}
}

// A site is a host and port, with what each agent may do there. Its scopes serve all of these
// agents. An agent costs a site little more than a name, unless its rules are unlike every other
// agent's.
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

// equal reports whether both sites have the same scopes.
func (s *site) equal(o *site) bool {
	return s.host == o.host && s.port == o.port && slices.EqualFunc(s.visitors, o.visitors, func(v, w visitor) bool {
		return v.agent == w.agent && plan.EqualRules(v.Rules, w.Rules)
	})
}

// sites returns the sites of all agents that are not killed, sorted. A wildcard has no site.
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

// scopesOf returns the scopes of a site: one for CONNECTs to it, and one for the requests inside.
// Agents with the same rules share a virtual host, which has domains for each of them.
func (b *builder) scopesOf(s *site) []*routev3.ScopedRouteConfiguration {
	led := &routev3.VirtualHost{Name: kindIntercept, Routes: []*routev3.Route{connectRoute(byHeader, plan.DefaultName)}}
	var connects, requests []*routev3.VirtualHost
	var shared []visitor
	hosts := map[string]*routev3.VirtualHost{}
	for _, v := range s.visitors {
		domain := ofAgent(v.agent, connectScope(v.authority()))
		if v.tunnel() {
			connects = append(connects, &routev3.VirtualHost{Name: v.agent, Domains: []string{domain}, Routes: b.connectTo(v.agent, v.destination)})
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
		// If the Host is not the name on which CONNECT and server name agree, there is no route.
		// The answer is the same as for a name without a scope.
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

// common returns the visitor's rules in the form in which other agents may have them too: without
// agent, reason and owner. It returns nil if the rules have a cluster, a limit or an end, which the
// agent cannot share.
func (b *builder) common(v visitor) []plan.Rule {
	rules := slices.Clone(v.Rules)
	for i := range rules {
		r := &rules[i]
		if r.Limits != nil || r.Expires != "" && !r.Deny || !r.Deny && b.upstreamCluster(*r) != dynamicName(v.agent) {
			return nil
		}
		r.ID, r.Expires, r.Reason, r.Owner = plan.NameOf(r.ID), "", "", ""
	}
	return rules
}

// byAgent makes Envoy find virtual hosts by scopeHeader, which begins with the agent.
func byAgent(s *routev3.ScopedRouteConfiguration) *routev3.ScopedRouteConfiguration {
	s.RouteConfiguration.VhostHeader = scopeHeader
	return s
}

// siteDomains returns the values of scopeHeader for the agent's requests to the destination.
func (d destination) siteDomains(agent string) []string {
	domains := d.domains()
	for i, host := range domains {
		domains[i] = ofAgent(agent, l7Scope(d)) + scopeSeparator + host
	}
	return domains
}

// ofAgent returns the value of scopeHeader for an agent and the key of a scope.
func ofAgent(agent, key string) string { return agent + scopeSeparator + key }

// Keys of the route scopes. An agent's name contains neither a slash nor scopeSeparator.

// connectScope is the key for all agents' CONNECTs to one authority.
func connectScope(authority string) string { return "connect/" + authority }

// restScope is the key for all else that an agent sends to its own socket: requests to its
// gateways, and CONNECTs to hosts that are below wildcards or not allowed.
func restScope(agent string) string { return connectScope(restOfHosts + agent) }

// restOfHosts stands for all other hosts in the key of restScope. No authority that a client can
// send contains a space.
const restOfHosts = "* "

// l7Scope is the key for all agents' requests to one host: the server name, and the CONNECT's
// authority. If these do not agree, no scope has the key, so there is no route.
func l7Scope(d destination) string { return "l7/" + d.Host + "/" + d.authority() }

// wildScope is the key for an agent's requests to hosts below its wildcards. Its last part is the
// result of wildScopeFormat's expression: whether the names agree.
func wildScope(agent string) string { return "wild/" + agent + "/true" }

// scopes makes each agent's own scopes, and the scopes of each site. These are small: when a site
// is added, Envoy does not read other sites again.
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

// group is what a scope for several destinations is made of.
type group struct {
	rules []plan.Rule
	names string
}

func (g *group) add(name string, rules []plan.Rule) {
	g.rules = append(g.rules[:len(g.rules):len(g.rules)], rules...)
	g.names += fmt.Sprintf("%s %d,", name, len(rules))
}

// wildHosts returns the wildcards of an agent whose requests are inspected.
func (b *builder) wildHosts(agent string) []destination {
	var out []destination
	for _, d := range b.destinations[agent] {
		if d.wildcard() && !d.tunnel() {
			out = append(out, d)
		}
	}
	return out
}

// gateways returns the ports of an agent's gateways.
func gateways(a plan.Agent) []uint16 {
	var ports []uint16
	for i := range a.Rules {
		if r := &a.Rules[i]; r.Gateway != 0 && !r.Deny && !slices.Contains(ports, r.Gateway) {
			ports = append(ports, r.Gateway)
		}
	}
	return ports
}

// connectRoutes returns a connectScope or a restScope. It turns off the filter that looks for
// another scope.
func (b *builder) connectRoutes(key string, hosts []*routev3.VirtualHost) *routev3.ScopedRouteConfiguration {
	s := scopedRoute(key, hosts)
	s.RouteConfiguration.TypedPerFilterConfig = map[string]*anypb.Any{filterRest: b.any(&routev3.FilterConfig{Disabled: true})}
	return s
}

// restHosts returns virtual hosts for an agent's gateways, and for its CONNECTs below wildcards.
// All wildcards that lead to the same cluster share a virtual host.
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
		// A gateway's own address is not an allowed host for CONNECT.
		h.Routes[0] = b.deny(a.Name, plan.ReasonHost, connectMatch())
		// No internal listener follows that needs the state, which would be a fifth of the cost of
		// a gateway's request (docs/performance.md).
		h.TypedPerFilterConfig[filterState] = b.any(&routev3.FilterConfig{Disabled: true})
		hosts = append(hosts, h)
	}
	sort.Slice(hosts, func(i, j int) bool { return hosts[i].Name < hosts[j].Name })
	return append(hosts, &routev3.VirtualHost{
		Name: "default", Domains: []string{"*"},
		Routes: []*routev3.Route{b.deny(a.Name, plan.ReasonHost, connectMatch()), b.deny(a.Name, plan.ReasonScheme, anyPath())},
	})
}

// wildHost returns the virtual host for CONNECTs below a wildcard, with a bound on their rate. Each
// may name a new host, which costs a certificate or an answer of a name server.
func (b *builder) wildHost(agent, name string, d destination) *routev3.VirtualHost {
	return &routev3.VirtualHost{
		Name: name, Domains: []string{d.authority()}, Routes: append(b.connectTo(agent, d), b.deny(agent, plan.ReasonScheme, anyPath())),
		TypedPerFilterConfig: map[string]*anypb.Any{filterRate: b.rate(&typev3.TokenBucket{
			MaxTokens: madeUpBurst, TokensPerFill: wrapperspb.UInt32(madeUpRate), FillInterval: durationpb.New(time.Second),
		})},
	}
}

// cluster returns the name of the cluster and internal listener for the TLS of an agent's
// destination. Agents share neither: an agent's connections and names are its own.
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

// connectTo leads a CONNECT to the listener that inspects what is inside. A tunnel is not inspected,
// so it is decided here.
func (b *builder) connectTo(agent string, d destination) []*routev3.Route {
	if !d.tunnel() {
		route := connectRoute(d.cluster(agent), plan.DefaultName)
		if d.wildcard() {
			route.Metadata = metadata(map[string]string{"rule": plan.DefaultName, guard.Key: guard.Below})
		}
		return []*routev3.Route{route}
	}
	decide := plan.TunnelRules(d.Rules)
	if decide[0].Deny {
		return []*routev3.Route{denyBriefly(decide[0], plan.ReasonDenied, connectMatch())}
	}
	if i := slices.IndexFunc(decide, func(r plan.Rule) bool { return until(r) == 0 }); i >= 0 {
		decide = decide[:i+1] // no other one decides
	}
	return inTurn(decide, func(r plan.Rule) []*routev3.Route {
		rule := plan.NameOf(r.ID)
		route := connectRoute(d.cluster(agent), rule)
		route.Name = accesslog.Route{Host: said(r), Rule: r.ID}.String()
		g := guard.Rule{Check: target.Check{Open: true}, Until: until(r)}
		if said := g.String(); said != "" {
			route.Metadata = metadata(map[string]string{"rule": rule, guard.Key: said})
		}
		return []*routev3.Route{route}
	})
}

// connectRoute leads an accepted CONNECT to an internal listener; for cluster see leadTo. The name of
// the rule is without the agent.
func connectRoute(cluster, rule string) *routev3.Route {
	action := &routev3.RouteAction{
		// A tunnel may last as long as it is used.
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

// defaultHost denies whatever no other virtual host of its scope matches.
func (b *builder) defaultHost(agent string, reason plan.Reason) *routev3.VirtualHost {
	return &routev3.VirtualHost{
		Name: "default", Domains: []string{"*"},
		Routes: []*routev3.Route{b.deny(agent, reason, connectMatch()), b.deny(agent, reason, anyPath())},
	}
}

// requestHost decides on requests in the order of [plan.Plan.Decide]: rules that deny, then rules
// that allow. Then come denials for the reasons, the most specific first. If all rules have the
// same methods, each path has one route, because expressions for paths take much of a node's
// memory.
//
// If shared, the routes name no agent, because several have these rules.
func (b *builder) requestHost(name string, domains []string, rules []plan.Rule, shared bool) *routev3.VirtualHost {
	h := &routev3.VirtualHost{Name: name, Domains: domains, TypedPerFilterConfig: map[string]*anypb.Any{}}
	last := rules[len(rules)-1] // it allows something
	h.Routes = append(h.Routes, denyBriefly(last, plan.ReasonMethod, connectMatch()))
	of := func(
		r plan.Rule, make func(plan.Rule, *routev3.RouteMatch) *routev3.Route,
		match func(plan.Rule, string) *routev3.RouteMatch,
	) (all []*routev3.Route) {
		for _, p := range r.Paths {
			all = append(all, make(r, match(r, p)))
		}
		return all
	}
	each := func(make func(plan.Rule, *routev3.RouteMatch) *routev3.Route, match func(plan.Rule, string) *routev3.RouteMatch, keep func(plan.Rule) bool) {
		for _, r := range rules {
			if keep(r) {
				h.Routes = append(h.Routes, of(r, make, match)...)
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
	allow := func(r plan.Rule, m *routev3.RouteMatch) *routev3.Route {
		cluster := byHeader
		if !shared {
			cluster = b.upstreamCluster(r)
		}
		return b.allow(r, cluster, restricted, m)
	}
	allowing := slices.DeleteFunc(slices.Clone(rules), denies)
	h.Routes = append(h.Routes, inTurn(allowing, func(r plan.Rule) []*routev3.Route {
		return of(r, allow, allowMatch)
	})...)
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

// said returns the host of a rule for the log, or "" if only the request has it.
func said(r plan.Rule) string {
	if isWildcard(r.Host) {
		return ""
	}
	return hostPort(r.Host, r.Port)
}
