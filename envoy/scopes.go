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

// Keys of the route scopes. An agent's name has no slash in it.

// connectScope is for what an agent sends to its own socket: a CONNECT to one
// authority, or everything else (restOfHosts).
func connectScope(agent, authority string) string { return "connect/" + agent + "/" + authority }

// restOfHosts stands in a connectScope for whatever has no scope of its own:
// hosts below wildcards, hosts that are not allowed, and the agent's gateways.
const restOfHosts = "*"

// l7Scope is for the requests of one agent to one host: agent, SNI and CONNECT
// authority, as the internal listener sees them. Names that do not agree have
// no scope, and so no route.
func l7Scope(agent string, d destination) string {
	return strings.Join([]string{"l7", agent, d.Host, d.authority()}, "/")
}

// wildScope is for the requests of one agent to the hosts below its wildcards,
// of which there is no list. The last part is what wildScopeFormat says of the names.
func wildScope(agent string) string { return "wild/" + agent + "/true" }

// scopes makes one scope for each destination, as small as it can be: Envoy reads
// no other one anew when one is added.
func (b *builder) scopes() {
	for _, a := range b.plan.Agents {
		rest := part{kind: "rest", agent: a.Name}
		if b.killed(a.Name) {
			b.one(rest, nil, "killed", func() proto.Message {
				return b.connectRoutes(a.Name, restOfHosts, []*routev3.VirtualHost{b.defaultHost(a.Name, plan.ReasonKilled)})
			})
			continue
		}
		var wild group
		all := b.destinations[a.Name]
		for i := range all {
			if d := &all[i]; d.wildcard() {
				wild.add(d.authority(), d.Rules)
			} else {
				b.takeScopes(a.Name, d)
			}
		}
		if hosts := b.wildHosts(a.Name); len(hosts) > 0 {
			b.one(part{kind: "wild", agent: a.Name}, wild.rules, wild.names, func() proto.Message {
				vhosts := make([]*routev3.VirtualHost, 0, len(hosts)+1)
				for _, d := range hosts {
					vhosts = append(vhosts, b.requestHost(a.Name, d.authority(), d.domains(), d.Rules))
				}
				return scopedRoute(wildScope(a.Name), append(vhosts, b.defaultHost(a.Name, plan.ReasonName)))
			})
		}
		others := wild
		for _, port := range gateways(a) {
			others.add("gateway:"+strconv.Itoa(int(port)), a.Behind(port))
		}
		b.one(rest, others.rules, others.names, func() proto.Message {
			return b.connectRoutes(a.Name, restOfHosts, b.restHosts(a))
		})
	}
}

// scopesOf are those of a destination that is one host: where a CONNECT to it
// leads, and what may be requested of it then.
func (b *builder) scopesOf(agent string, d destination) []*routev3.ScopedRouteConfiguration {
	out := []*routev3.ScopedRouteConfiguration{b.connectRoutes(agent, d.authority(), []*routev3.VirtualHost{{
		Name: d.authority(), Domains: []string{"*"}, Routes: []*routev3.Route{b.connectRoute(agent, d)},
	}})}
	if d.tunnel() {
		return out
	}
	// Another Host than the one that CONNECT and server name agree on has no route, and
	// is answered as names without a scope are.
	return append(out, scopedRoute(l7Scope(agent, d), []*routev3.VirtualHost{b.requestHost(agent, d.authority(), d.domains(), d.Rules)}))
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

// connectRoutes is a connectScope. Whatever finds one needs no other.
func (b *builder) connectRoutes(agent, authority string, hosts []*routev3.VirtualHost) *routev3.ScopedRouteConfiguration {
	s := scopedRoute(connectScope(agent, authority), hosts)
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
		h := b.requestHost(a.Name, "gateway:"+port, []string{"localhost:" + port, "127.0.0.1:" + port}, a.Behind(gateway))
		// A CONNECT to a gateway's own address is one to a host that is not allowed.
		h.Routes[0] = deny(a.Name, plan.ReasonHost, "", connectMatch())
		// For nobody: a gateway's requests go no further inside. It would be a
		// fifth of what they cost (docs/performance.md).
		h.TypedPerFilterConfig[filterState] = b.any(&routev3.FilterConfig{Disabled: true})
		hosts = append(hosts, h)
	}
	sort.Slice(hosts, func(i, j int) bool { return hosts[i].Name < hosts[j].Name })
	return append(hosts, &routev3.VirtualHost{
		Name: "default", Domains: []string{"*"},
		Routes: []*routev3.Route{deny(a.Name, plan.ReasonHost, "", connectMatch()), deny(a.Name, plan.ReasonScheme, "", anyPath())},
	})
}

// wildHost is for the CONNECTs below a wildcard. Each could be to a name that nobody has
// asked for before, which takes a certificate or an answer of a name server.
func (b *builder) wildHost(agent, name string, d destination) *routev3.VirtualHost {
	return &routev3.VirtualHost{
		Name: name, Domains: []string{d.authority()}, Routes: []*routev3.Route{b.connectRoute(agent, d), deny(agent, plan.ReasonScheme, "", anyPath())},
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
	if !d.tunnel() {
		return connectTo(d.cluster(agent), nil)
	}
	r := plan.TunnelRules(d.Rules)[0]
	if r.Deny {
		return deniedBy(r, connectMatch())
	}
	return connectTo(d.cluster(agent), map[string]string{"rule": r.ID})
}

// connectTo leads an accepted CONNECT to an internal listener.
func connectTo(cluster string, said map[string]string) *routev3.Route {
	return &routev3.Route{
		Name:     accesslog.Leads,
		Match:    connectMatch(),
		Metadata: metadata(said),
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster},
			// A tunnel lasts as long as it is used.
			Timeout: durationpb.New(0),
			UpgradeConfigs: []*routev3.RouteAction_UpgradeConfig{
				{UpgradeType: "CONNECT", ConnectConfig: &routev3.RouteAction_UpgradeConfig_ConnectConfig{}},
				{UpgradeType: "websocket", Enabled: wrapperspb.Bool(false)},
			},
		}},
	}
}

// defaultHost denies whatever no other host of its scope takes.
func (b *builder) defaultHost(agent string, reason plan.Reason) *routev3.VirtualHost {
	return &routev3.VirtualHost{
		Name: "default", Domains: []string{"*"},
		Routes: []*routev3.Route{deny(agent, reason, "", connectMatch()), deny(agent, reason, "", anyPath())},
	}
}

// requestHost decides on requests: first what is denied, then what is allowed,
// in the order of plan.Decide, then the denials from the most to the least
// telling, so that each names its reason. If all rules have the same methods, a
// path is asked for once: expressions of paths are much of what a node holds.
func (b *builder) requestHost(agent, name string, domains []string, rules []plan.Rule) *routev3.VirtualHost {
	h := &routev3.VirtualHost{Name: name, Domains: domains, TypedPerFilterConfig: map[string]*anypb.Any{}}
	host := said(rules[len(rules)-1])
	h.Routes = append(h.Routes, denyBriefly(agent, plan.ReasonMethod, host, connectMatch()))
	each := func(make func(plan.Rule, *routev3.RouteMatch) *routev3.Route, match func(plan.Rule, string) *routev3.RouteMatch, keep func(plan.Rule) bool) {
		for _, r := range rules {
			for _, p := range r.Paths {
				if keep(r) {
					h.Routes = append(h.Routes, make(r, match(r, p)))
				}
			}
		}
	}
	denies := func(r plan.Rule) bool { return r.Deny }
	allows := func(r plan.Rule) bool { return !r.Deny }
	conditional := func(r plan.Rule) bool { return !r.Deny && len(r.Query)+len(r.Headers) > 0 }
	each(deniedBy, denyMatch, denies)
	restricted := plan.Restricted(rules)
	each(func(r plan.Rule, m *routev3.RouteMatch) *routev3.Route { return b.allow(r, restricted, m) }, allowMatch, allows)
	each(func(r plan.Rule, m *routev3.RouteMatch) *routev3.Route {
		return deny(agent, plan.ReasonCondition, said(r), m)
	}, methodMatch, conditional)
	union := plan.Methods(rules)
	each(func(r plan.Rule, m *routev3.RouteMatch) *routev3.Route {
		return denyBriefly(agent, plan.ReasonMethod, said(r), m)
	}, func(_ plan.Rule, p string) *routev3.RouteMatch { return pathMatch(p) }, func(r plan.Rule) bool {
		return allows(r) && !slices.Equal(plan.Methods([]plan.Rule{r}), union)
	})
	if slices.ContainsFunc(rules, func(r plan.Rule) bool { return allows(r) && !slices.Contains(r.Paths, plan.AnyPath) || conditional(r) }) {
		other := anyPath()
		other.Headers = []*routev3.HeaderMatcher{methods(union)}
		h.Routes = append(h.Routes, denyBriefly(agent, plan.ReasonPath, host, other))
	}
	h.Routes = append(h.Routes, denyBriefly(agent, plan.ReasonMethod, host, anyPath()))
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
