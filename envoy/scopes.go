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
type destination struct {
	host  string
	port  uint16
	rules []plan.Rule
}

func (d destination) authority() string { return hostPort(d.host, d.port) }

func (d destination) wildcard() bool { return isWildcard(d.host) }

// domains are the Host headers of the destination.
func (d destination) domains() []string {
	if d.port == 443 {
		return []string{d.host, d.authority()}
	}
	return []string{d.authority()}
}

// destinations are all hosts that an agent's rules name, sorted, as far as
// something about them is allowed. A host that only a rule that denies names
// is one too: it is an exception to a wildcard.
func destinations(a plan.Agent) []destination {
	seen := map[string]bool{}
	var out []destination
	for _, r := range a.Rules {
		d := destination{host: r.Host, port: r.Port}
		if seen[d.authority()] {
			continue
		}
		seen[d.authority()] = true
		d.rules = a.Covering(r.Host, r.Port)
		for _, r := range d.rules {
			if !r.Deny {
				out = append(out, d)
				break
			}
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].authority() < out[j].authority() })
	return out
}

// Keys of the route scopes. An agent's name has no slash in it.
func connectScope(agent string) string { return "connect/" + agent }

// l7Scope is for the requests of one agent to one host: agent, SNI and CONNECT
// authority, as the internal listener sees them. Names that do not agree have
// no scope, and so no route.
func l7Scope(agent string, d destination) string {
	return strings.Join([]string{"l7", agent, d.host, d.authority()}, "/")
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
		for _, d := range destinations(a) {
			switch {
			case plan.ModeOf(d.rules) == plan.ModeTunnel:
			case d.wildcard():
				wild = append(wild, b.requestHost(a.Name, d.authority(), d.domains(), d.rules))
			default:
				out = append(out, scopedRoute(l7Scope(a.Name, d), []*routev3.VirtualHost{
					b.requestHost(a.Name, d.authority(), d.domains(), d.rules), other,
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
func (b *builder) connectHosts(a plan.Agent) []*routev3.VirtualHost {
	var hosts []*routev3.VirtualHost
	for _, d := range destinations(a) {
		hosts = append(hosts, &routev3.VirtualHost{
			Name: d.authority(), Domains: []string{d.authority()},
			Routes: []*routev3.Route{b.connectRoute(a.Name, d), deny(a.Name, plan.ReasonScheme, d.authority(), anyPath())},
		})
	}
	seen := map[uint16]bool{}
	for _, r := range a.Rules {
		if r.Gateway == 0 || r.Deny || seen[r.Gateway] {
			continue
		}
		seen[r.Gateway] = true
		port := strconv.Itoa(int(r.Gateway))
		hosts = append(hosts, b.requestHost(a.Name, "gateway:"+port, []string{"localhost:" + port, "127.0.0.1:" + port}, a.Behind(r.Gateway)))
	}
	// A CONNECT to a gateway's own address is one to a host that is not allowed.
	for _, h := range hosts {
		if strings.HasPrefix(h.Name, "gateway:") {
			h.Routes[0] = deny(a.Name, plan.ReasonHost, "", connectMatch())
		}
	}
	sort.Slice(hosts, func(i, j int) bool { return hosts[i].Name < hosts[j].Name })
	return append(hosts, &routev3.VirtualHost{
		Name: "default", Domains: []string{"*"},
		Routes: []*routev3.Route{deny(a.Name, plan.ReasonHost, "", connectMatch()), deny(a.Name, plan.ReasonScheme, "", anyPath())},
	})
}

// connectRoute leads an accepted CONNECT to where its TLS is looked at.
func (b *builder) connectRoute(agent string, d destination) *routev3.Route {
	cluster, said := clusterIntercept, map[string]string{}
	if d.wildcard() {
		cluster = clusterIntercept + "-wildcard"
	} else {
		said["host"] = d.authority()
	}
	if plan.ModeOf(d.rules) == plan.ModeTunnel {
		r := plan.TunnelRules(d.rules)[0]
		if r.Deny {
			return deniedBy(r, connectMatch())
		}
		cluster, said["rule"] = tunnelName(d), r.ID
	}
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
