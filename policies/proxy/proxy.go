// Package proxy judges what a policy makes of Envoy: the very configuration that the control plane
// serves. It asks what no single rule of the policy tells: that whoever is not allowed is refused
// before a name is resolved, and that every destination is verified.
package proxy

import (
	"fmt"
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	dfpfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/dynamic_forward_proxy/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	snidfpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/sni_dynamic_forward_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/postern/postern/envoy"
	"github.com/postern/postern/guard"
	"github.com/postern/postern/plan"
)

// Check says what is wrong with what the policy makes of Envoy. With order, that a name may be
// resolved, or a connection made, before the policy decided; otherwise that nobody verifies a
// destination.
func Check(p *plan.Plan, order bool) (out []string) {
	memo := envoy.Memo{}
	config, err := memo.Build(p, envoy.Options{Roots: "/roots.pem"})
	switch {
	case err != nil && order:
		return []string{"the proxies cannot serve it: " + err.Error()}
	case err != nil:
		return nil
	}
	plain := map[string]bool{}
	for i := range p.Agents {
		for j := range p.Agents[i].Rules {
			if u := p.Agents[i].Rules[j].Upstream; u != nil && u.Plain {
				plain[u.Address] = true
			}
		}
	}
	for _, resources := range config {
		for _, r := range resources {
			m, err := r.GetResource().UnmarshalNew()
			if err != nil {
				return []string{fmt.Sprintf("Envoy's resource %s cannot be read: %v", r.GetName(), err)}
			}
			for _, what := range judge(m, plain, order) {
				out = append(out, fmt.Sprintf("Envoy's resource %s: %s", r.GetName(), what))
			}
		}
	}
	slices.Sort(out)
	return out
}

// judge judges one resource. plain are the addresses that somebody wants without TLS.
func judge(m proto.Message, plain map[string]bool, order bool) (out []string) {
	add := func(what string) {
		if what != "" {
			out = append(out, what)
		}
	}
	c, isCluster := m.(*clusterv3.Cluster)
	if isCluster != order {
		switch m := m.(type) {
		case *routev3.ScopedRouteConfiguration:
			for _, v := range m.GetRouteConfiguration().GetVirtualHosts() {
				add(unrefused(v))
			}
		case *listenerv3.Listener:
			for _, chain := range append(slices.Clone(m.GetFilterChains()), m.GetDefaultFilterChain()) {
				for _, f := range chain.GetFilters() {
					add(early(m, f.GetTypedConfig()))
				}
			}
		case *clusterv3.Cluster:
			add(unverified(c, plain))
		}
	}
	return out
}

// passed begins the names of clusters that pass an agent's own TLS on. The agent verifies who
// answers. No route may lead there.
const passed = "tcp/"

// unrefused says why a virtual host does not refuse what no rule allows. One that takes nothing but
// a CONNECT for a host of its own refuses the rest by having no route.
func unrefused(v *routev3.VirtualHost) string {
	routes, everybody := v.GetRoutes(), slices.Contains(v.GetDomains(), "*")
	if len(routes) == 0 {
		return ""
	}
	connects := !slices.ContainsFunc(routes, func(r *routev3.Route) bool {
		return r.GetMatch().GetConnectMatcher() == nil
	})
	last := routes[len(routes)-1]
	all := last.GetMatch().GetPrefix() == "/" && len(last.GetMatch().GetHeaders()) == 0
	switch {
	case slices.ContainsFunc(routes, func(r *routev3.Route) bool {
		return strings.HasPrefix(r.GetRoute().GetCluster(), passed)
	}):
		return "a request leads to where only an agent's own TLS may"
	case everybody && slices.ContainsFunc(routes, func(r *routev3.Route) bool { return r.GetRoute() != nil }):
		return "a route for every host leads somewhere"
	case connects && !everybody:
	case last.GetDirectResponse() == nil || !all:
		return "its last route does not refuse everything"
	}
	return ""
}

// early says what is resolved before the policy has decided.
func early(l *listenerv3.Listener, config *anypb.Any) string {
	m, err := config.UnmarshalNew()
	if err != nil {
		return "a filter that cannot be read"
	}
	switch m := m.(type) {
	case *snidfpv3.FilterConfig:
		// The CONNECT decided a tunnel's name, and only our clusters reach the tunnel's listener.
		if l.GetInternalListener() == nil || l.GetFilterChainMatcher() == nil {
			return "whoever connects has a server name of his own resolved"
		}
	case *hcmv3.HttpConnectionManager:
		guarded := false
		for _, f := range m.GetHttpFilters() {
			guarded = guarded || f.GetName() == guard.Filter && !f.GetDisabled()
			if f.GetTypedConfig().MessageIs(&dfpfilterv3.FilterConfig{}) && !guarded {
				return "a name is resolved before the guard looks at the request"
			}
		}
	}
	return ""
}

// unverified says why nobody verifies who answers at a cluster's destination.
func unverified(c *clusterv3.Cluster, plain map[string]bool) string {
	if strings.HasPrefix(c.GetName(), passed) {
		return ""
	}
	internal := c.GetTransportSocket().GetName() == "envoy.transport_sockets.internal_upstream"
	for _, e := range c.GetLoadAssignment().GetEndpoints() {
		for _, x := range e.GetLbEndpoints() {
			at := x.GetEndpoint().GetAddress()
			ours := at.GetEnvoyInternalAddress() != nil
			address := fmt.Sprintf("%s:%d", at.GetSocketAddress().GetAddress(), at.GetSocketAddress().GetPortValue())
			if pipe := at.GetPipe(); pipe != nil {
				address = "unix:" + pipe.GetPath()
			}
			if ours || plain[address] {
				return "" // it does not leave this proxy, or somebody has said so
			}
		}
	}
	if internal {
		return "it is as for this proxy itself, and leads elsewhere"
	}
	tls := &tlsv3.UpstreamTlsContext{}
	if c.GetTransportSocket().GetTypedConfig().UnmarshalTo(tls) != nil {
		return "it does not speak TLS"
	}
	common := tls.GetCommonTlsContext()
	options := &httpv3.HttpProtocolOptions{}
	for _, o := range c.GetTypedExtensionProtocolOptions() {
		if o.MessageIs(options) && o.UnmarshalTo(options) != nil {
			return "its options cannot be read"
		}
	}
	http := options.GetUpstreamHttpProtocolOptions()
	switch validation := common.GetValidationContext(); {
	case validation.GetTrustedCa() == nil || validation.GetTrustChainVerification() != 0:
		return "it trusts every authority"
	case common.GetTlsParams().GetTlsMinimumProtocolVersion() < tlsv3.TlsParameters_TLSv1_2:
		return "it speaks TLS before 1.2"
	case !http.GetAutoSni() || !http.GetAutoSanValidation():
		return "it does not ask for, and verify, the name of the request"
	}
	return ""
}
