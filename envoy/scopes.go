package envoy

import (
	"sort"
	"strconv"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

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
func connectScope(agent string) string { return "connect/" + agent }

// l7Scope is for the requests of one agent to one host: agent, SNI and CONNECT
// authority, as the internal listener sees them. Names that do not agree have
// no scope, and so no route.
func l7Scope(agent string, d destination) string {
	return strings.Join([]string{"l7", agent, d.Host, d.authority()}, "/")
}

// wildScope is for the requests of one agent to the hosts below its wildcards,
// of which there is no list. The last part is what wildScopeFormat says of the names.
func wildScope(agent string) string { return "wild/" + agent + "/true" }

func (b *builder) scopes() []*routev3.ScopedRouteConfiguration {
	var out []*routev3.ScopedRouteConfiguration
	for _, a := range b.plan.Agents {
		if b.killed(a.Name) {
			out = append(out, scopedRoute(connectScope(a.Name), []*routev3.VirtualHost{b.defaultHost(a.Name, plan.ReasonKilled)}))
			continue
		}
		other := b.defaultHost(a.Name, plan.ReasonName)
		var wild []*routev3.VirtualHost
		for _, d := range b.destinations[a.Name] {
			switch {
			case d.tunnel():
			case d.wildcard():
				wild = append(wild, b.requestHost(a.Name, d.authority(), d.domains(), d.Rules))
			default:
				out = append(out, scopedRoute(l7Scope(a.Name, d), []*routev3.VirtualHost{
					b.requestHost(a.Name, d.authority(), d.domains(), d.Rules), other,
				}))
			}
		}
		if wild != nil {
			out = append(out, scopedRoute(wildScope(a.Name), append(wild, other)))
		}
		out = append(out, scopedRoute(connectScope(a.Name), b.connectHosts(a)))
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// connectHosts says where an agent may CONNECT to, and what its gateways are.
// All destinations that are led to the same place share a virtual host: Envoy
// reads the whole scope anew for each one that is added.
func (b *builder) connectHosts(a plan.Agent) []*routev3.VirtualHost {
	var hosts []*routev3.VirtualHost
	shared := map[string]*routev3.VirtualHost{}
	for _, d := range b.destinations[a.Name] {
		switch cluster := d.cluster(); {
		case d.tunnel():
			hosts = append(hosts, connectHost(a.Name, d.authority(), b.tunnelRoute(d), d.authority()))
		case shared[cluster] != nil:
			shared[cluster].Domains = append(shared[cluster].Domains, d.authority())
		default:
			shared[cluster] = connectHost(a.Name, cluster, connectTo(cluster, nil), d.authority())
			hosts = append(hosts, shared[cluster])
		}
	}
	seen := map[uint16]bool{}
	for _, r := range a.Rules {
		if r.Gateway == 0 || r.Deny || seen[r.Gateway] {
			continue
		}
		seen[r.Gateway] = true
		port := strconv.Itoa(int(r.Gateway))
		h := b.requestHost(a.Name, "gateway:"+port, []string{"localhost:" + port, "127.0.0.1:" + port}, a.Behind(r.Gateway))
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

func connectHost(agent, name string, connect *routev3.Route, domain string) *routev3.VirtualHost {
	return &routev3.VirtualHost{
		Name: name, Domains: []string{domain}, Routes: []*routev3.Route{connect, deny(agent, plan.ReasonScheme, "", anyPath())},
	}
}

// cluster is that of the internal listener which looks at the destination's TLS.
func (d destination) cluster() string {
	switch {
	case d.tunnel():
		return tunnelName(d)
	case d.wildcard():
		return clusterIntercept + "-wildcard"
	default:
		return clusterIntercept
	}
}

// tunnelRoute decides on a tunnel, of which nothing more will be seen.
func (b *builder) tunnelRoute(d destination) *routev3.Route {
	r := plan.TunnelRules(d.Rules)[0]
	if r.Deny {
		return deniedBy(r, connectMatch())
	}
	return connectTo(d.cluster(), map[string]string{"rule": r.ID})
}

// connectTo leads an accepted CONNECT to an internal listener.
func connectTo(cluster string, said map[string]string) *routev3.Route {
	return &routev3.Route{
		Name:     "connect",
		Match:    connectMatch(),
		Metadata: metadata(said),
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster},
			// A tunnel lasts as long as it is used.
			Timeout:        durationpb.New(0),
			UpgradeConfigs: []*routev3.RouteAction_UpgradeConfig{{UpgradeType: "CONNECT", ConnectConfig: &routev3.RouteAction_UpgradeConfig_ConnectConfig{}}},
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
// telling, so that each names its reason.
func (b *builder) requestHost(agent, name string, domains []string, rules []plan.Rule) *routev3.VirtualHost {
	h := &routev3.VirtualHost{Name: name, Domains: domains, TypedPerFilterConfig: map[string]*anypb.Any{}}
	host := rules[len(rules)-1]
	h.Routes = append(h.Routes, deny(agent, plan.ReasonMethod, said(host), connectMatch()))
	each := func(make func(plan.Rule, *routev3.RouteMatch) *routev3.Route, match func(plan.Rule, string) *routev3.RouteMatch, keep func(plan.Rule) bool) {
		for _, r := range rules {
			for _, p := range r.Paths {
				if keep(r) {
					h.Routes = append(h.Routes, make(r, match(r, p)))
				}
			}
		}
	}
	because := func(reason plan.Reason) func(plan.Rule, *routev3.RouteMatch) *routev3.Route {
		return func(r plan.Rule, m *routev3.RouteMatch) *routev3.Route { return deny(agent, reason, said(r), m) }
	}
	denies := func(r plan.Rule) bool { return r.Deny }
	allows := func(r plan.Rule) bool { return !r.Deny }
	conditional := func(r plan.Rule) bool { return !r.Deny && len(r.Query)+len(r.Headers) > 0 }
	each(deniedBy, fullMatch, denies)
	each(b.allow, fullMatch, allows)
	each(because(plan.ReasonCondition), methodMatch, conditional)
	each(because(plan.ReasonMethod), func(_ plan.Rule, p string) *routev3.RouteMatch { return pathMatch(p) }, allows)
	h.Routes = append(h.Routes, deny(agent, plan.ReasonPath, said(host), anyPath()))
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
