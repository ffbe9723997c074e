package envoy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	proxyprotocolv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/proxy_protocol/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	connectionlimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/connection_limit/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	snidfpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/sni_dynamic_forward_proxy/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	sniv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/cert_mappers/sni/v3"
	ondemandv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/cert_selectors/on_demand_secret/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/postern/postern/plan"
)

// noServerName is the name of the certificate that is requested if a client sends no server name.
// The control plane refuses it like every name outside the plan.
const noServerName = "no-server-name.invalid"

// AgentSocket returns the path of an agent's socket, relative to the node's working folder. So the
// same resources serve every node, and the path is short enough for a socket address wherever the
// state folder is.
func AgentSocket(agent string) string { return "agents/" + agent + "/proxy.sock" }

func (b *builder) listeners() {
	ports := map[uint16]string{}
	for _, a := range b.plan.Agents {
		if other := ports[a.Port]; a.Port != 0 && other != "" {
			b.errs = append(b.errs, fmt.Errorf("agents %q and %q have the same port %d: an agent's port is its identity", other, a.Name, a.Port))
		}
		ports[a.Port] = a.Name
		if strings.ContainsAny(a.Name, "/ "+scopeSeparator) || strings.ToLower(a.Name) != a.Name {
			// Envoy would find another agent's routes by such a name: see ofAgent.
			b.errs = append(b.errs, fmt.Errorf("agent %q: the name of an agent has no upper-case letter, slash, space or %q", a.Name, scopeSeparator))
		}
		b.one(part{kind: "listener", agent: a.Name}, nil, fmt.Sprintf("%d/%s", a.Port, b.generation(a.Name)), func() proto.Message { return b.agentListener(a) })
		for _, d := range b.destinations[a.Name] {
			switch name := d.cluster(a.Name); {
			case d.tunnel():
				b.one(part{kind: "listener", name: name}, d.Rules, "", func() proto.Message { return b.tunnelListener(a.Name, d) })
			case d.wildcard():
				b.one(part{kind: "listener", name: name}, nil, "", func() proto.Message {
					return b.interceptListener(kindWildcard, a.Name, wildScopeFormat,
						overwrite(connectHeader, "%FILTER_STATE("+stateConnect+":PLAIN)%"),
						overwrite(hostHeader, "%FILTER_STATE("+stateHost+":PLAIN)%"))
				})
			default:
				b.one(part{kind: "listener", name: name}, nil, "", func() proto.Message {
					return b.interceptListener(kindIntercept, a.Name, l7ScopeFormat)
				})
			}
		}
	}
}

// agentListener returns the listener that identifies an agent: whoever can connect to it is the
// agent, whatever they send.
func (b *builder) agentListener(a plan.Agent) *listenerv3.Listener {
	agent := a.Name
	hcm := b.connectionManager("agent", ofAgent(agent, connectScope(connectScopeFormat)), kindIntercept+"/"+agent, otherThanConnect(agent)...)
	b.setFilters(hcm, agent, b.restFilter(), b.connectState(agent))
	hcm.UpgradeConfigs = append(hcm.UpgradeConfigs, &hcmv3.HttpConnectionManager_UpgradeConfig{UpgradeType: "CONNECT", Filters: b.connectFilters(hcm.HttpFilters)})
	// Python's http.client sends CONNECT as HTTP/1.0.
	hcm.HttpProtocolOptions = &corev3.Http1ProtocolOptions{AcceptHttp_10: true}
	hcm.AccessLog = []*accesslogv3.AccessLog{b.agentLog(agent)}
	hcm.LocalReplyConfig = b.localReplies(agent)
	l := &listenerv3.Listener{
		Name: "agent/" + agent,
		// A node that stops closes the listeners of this direction, and finishes requests inside.
		TrafficDirection:              corev3.TrafficDirection_INBOUND,
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(maxBuffered),
		// So that other agents' connections get their turn.
		MaxConnectionsToAcceptPerSocketEvent: wrapperspb.UInt32(1),
		FilterChains: []*listenerv3.FilterChain{{
			// A chain with a new name replaces the chain before. Envoy does not drain, so it closes
			// that chain's connections at once.
			Name: b.generation(agent),
			Filters: []*listenerv3.Filter{
				b.networkFilter("connection_limit", &connectionlimitv3.ConnectionLimit{StatPrefix: "agent", MaxConnections: wrapperspb.UInt64(maxAgentConnections)}),
				b.gate(agent), // after the limit, so that at most so many wait
				b.networkFilter("http_connection_manager", hcm),
			},
		}},
	}
	// The first filter, because it is the cheapest.
	l.ListenerFilters = append(l.ListenerFilters, b.connectionRate())
	b.agentAddress(l, a)
	return l
}

// agentAddress puts the agent's listener on its Unix socket, or on a port behind a load balancer.
// If the connection has no PROXY header of the load balancer, which alone tells who connects, Envoy
// closes it.
func (b *builder) agentAddress(l *listenerv3.Listener, a plan.Agent) {
	if a.Port == 0 {
		// The agent may be another user. The modes of the folders decide who gets here.
		l.Address = &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: AgentSocket(a.Name), Mode: 0o666}}}
		return
	}
	l.Address = &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: "0.0.0.0", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(a.Port)},
	}}}
	l.TcpKeepalive = keepalive()
	l.ListenerFilters = append(l.ListenerFilters, &listenerv3.ListenerFilter{
		Name: "envoy.filters.listener.proxy_protocol",
		ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: b.any(&proxyprotocolv3.ProxyProtocol{
			// Version 1 is text, which an agent could make an HTTP client send.
			DisallowedVersions: []corev3.ProxyProtocolConfig_Version{corev3.ProxyProtocolConfig_V1},
		})},
	})
	l.ListenerFiltersTimeout = durationpb.New(5 * time.Second)
}

// generation names the agent's filter chain.
func (b *builder) generation(agent string) string {
	if b.killed(agent) {
		return "killed"
	}
	return "generation/" + b.options.Generations[agent]
}

func (b *builder) killed(agent string) bool { return slices.Contains(b.options.Killed, agent) }

// connectScopeFormat gives the last part of the keys of connectScope and restScope.
const connectScopeFormat = "%REQ(" + restHeader + "?:AUTHORITY)%"

// otherThanConnect sets restHeader on every request but a CONNECT. A CONNECT has no path, and an
// empty value makes no header. An expression would cost a gateway's request a tenth more
// (docs/performance.md). A CONNECT with a path, or another method without a path, finds a scope
// that denies it.
func otherThanConnect(agent string) []*mutationv3.HeaderMutation {
	return []*mutationv3.HeaderMutation{
		overwrite(restHeader, "%REQ(:PATH):1%"),
		{Action: &mutationv3.HeaderMutation_Append{Append: &corev3.HeaderValueOption{
			Header:       &corev3.HeaderValue{Key: restHeader, Value: restOfHosts + agent},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS,
		}}},
	}
}

// agentFormat gives the agent inside a CONNECT.
const agentFormat = "%FILTER_STATE(" + stateAgent + ":PLAIN)%"

// l7ScopeFormat gives one of the siteDomains, with the key of l7Scope. The key contains the server
// name and the CONNECT's authority: if they name different destinations, no scope has the key.
const l7ScopeFormat = agentFormat + scopeSeparator +
	"l7/%REQUESTED_SERVER_NAME%/%FILTER_STATE(" + stateConnect + ":PLAIN)%" + scopeSeparator + "%REQ(:AUTHORITY)%"

// wildScopeFormat gives the agent and the key of wildScope. The names below a wildcard cannot be
// listed, so an expression compares them for each request.
const wildScopeFormat = agentFormat + scopeSeparator + "wild/" + agentFormat + "/" +
	`%CEL(connection.requested_server_name == request.headers["` + hostHeader + `"] && ` +
	`(request.host == request.headers["` + connectHeader + `"] || ` +
	`request.host == request.headers["` + hostHeader + `"] && request.headers["` + connectHeader + `"].endsWith(":443")))%`

// handshakeTime bounds a TLS handshake. A client in a virtual machine without KVM may need several
// seconds, and what waits for it counts for its agent.
const handshakeTime = 20 * time.Second

// interceptListener terminates the TLS inside an accepted CONNECT.
func (b *builder) interceptListener(kind, agent, scope string, before ...*mutationv3.HeaderMutation) *listenerv3.Listener {
	hcm := b.connectionManager(kind, scope, dynamicName(agent), before...)
	b.setFilters(hcm, agent)
	hcm.AccessLog = []*accesslogv3.AccessLog{b.interceptLog()}
	hcm.LocalReplyConfig = b.localReplies(agentFormat)
	return b.internalListener(kind+"/"+agent, &listenerv3.FilterChain{
		TransportSocket:               b.socket("envoy.transport_sockets.tls", b.any(b.onDemandTLS())),
		TransportSocketConnectTimeout: durationpb.New(handshakeTime),
		Filters:                       []*listenerv3.Filter{b.networkFilter("http_connection_manager", hcm)},
	})
}

// tunnelName returns the name of the internal listener and cluster of an agent's tunnel.
func tunnelName(agent string, d destination) string {
	return "tunnel/" + agent + "/" + d.authority() + "/" + digest(tunnelUpstream(d))
}

// tunnelUpstream distinguishes tunnels that lead to different places.
func tunnelUpstream(d destination) string {
	if r := d.last(); r.Upstream != nil {
		return r.Upstream.Address
	}
	return ""
}

// tunnelListener passes TLS on to the address of the server name, which was checked before.
func (b *builder) tunnelListener(agent string, d destination) *listenerv3.Listener {
	r := d.last()
	proxy := &tcpproxyv3.TcpProxy{
		StatPrefix:       "tunnel",
		ClusterSpecifier: &tcpproxyv3.TcpProxy_Cluster{Cluster: b.upstreamCluster(r)},
		AccessLog:        []*accesslogv3.AccessLog{b.tunnelLog()},
		AccessLogOptions: &tcpproxyv3.TcpProxy_TcpAccessLogOptions{AccessLogFlushInterval: durationpb.New(flushInterval)},
	}
	var filters []*listenerv3.Filter
	if r.Upstream == nil {
		filters = append(filters, b.networkFilter("sni_dynamic_forward_proxy", &snidfpv3.FilterConfig{
			DnsCacheConfig: b.dnsCache(agent), PortSpecifier: &snidfpv3.FilterConfig_PortValue{PortValue: uint32(d.Port)},
		}))
	}
	return b.internalListener(tunnelName(agent, d), &listenerv3.FilterChain{
		Filters: append(filters, b.networkFilter("tcp_proxy", proxy)),
	})
}

// internalListener returns a listener that only our own clusters can reach. A connection that is
// not TLS, or whose server name is not the CONNECT's host, finds no filter chain and is closed.
func (b *builder) internalListener(name string, chain *listenerv3.FilterChain) *listenerv3.Listener {
	chain.Name = "tls"
	return &listenerv3.Listener{
		Name:              name,
		ListenerSpecifier: &listenerv3.Listener_InternalListener{InternalListener: &listenerv3.Listener_InternalListenerConfig{}},
		ListenerFilters: []*listenerv3.ListenerFilter{{
			Name:       "envoy.filters.listener.tls_inspector",
			ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: b.any(&tlsinspectorv3.TlsInspector{})},
		}, b.compareNames()},
		FilterChainMatcher:            b.byServerName(chain.Name),
		IgnoreGlobalConnLimit:         true, // the connection around each one counts
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(maxBuffered),
		ListenerFiltersTimeout:        durationpb.New(5 * time.Second),
		AccessLog:                     []*accesslogv3.AccessLog{b.connectionLog()},
		FilterChains:                  []*listenerv3.FilterChain{chain},
	}
}

// onDemandTLS requests, during the handshake, the leaf certificate of the server name that the
// client has sent.
func (b *builder) onDemandTLS() *tlsv3.DownstreamTlsContext {
	return &tlsv3.DownstreamTlsContext{
		// Envoy refuses on-demand certificates if either kind of resumption is on.
		DisableStatefulSessionResumption: true,
		SessionTicketKeysType:            &tlsv3.DownstreamTlsContext_DisableStatelessSessionResumption{DisableStatelessSessionResumption: true},
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsParams:     &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2},
			AlpnProtocols: []string{"h2", "http/1.1"},
			CustomTlsCertificateSelector: &corev3.TypedExtensionConfig{
				Name: "envoy.tls.certificate_selectors.on_demand_secret",
				TypedConfig: b.any(&ondemandv3.Config{
					ConfigSource: ads(),
					CertificateMapper: &corev3.TypedExtensionConfig{
						Name:        "envoy.tls.certificate_mappers.sni",
						TypedConfig: b.any(&sniv3.SNI{DefaultValue: noServerName}),
					},
				}),
			},
		},
	}
}

// connectionManager returns what all connection managers have in common. The formats scope and via
// give the values of scopeHeader and viaHeader. The mutations before change the headers first.
func (b *builder) connectionManager(name, scope, via string, before ...*mutationv3.HeaderMutation) *hcmv3.HttpConnectionManager {
	return &hcmv3.HttpConnectionManager{
		StatPrefix:       name,
		AccessLogOptions: &hcmv3.HttpConnectionManager_HcmAccessLogOptions{AccessLogFlushInterval: durationpb.New(flushInterval)},
		RouteSpecifier: &hcmv3.HttpConnectionManager_ScopedRoutes{ScopedRoutes: &hcmv3.ScopedRoutes{
			Name: name,
			ScopeKeyBuilder: &hcmv3.ScopedRoutes_ScopeKeyBuilder{Fragments: []*hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder{{
				Type: &hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor_{
					HeaderValueExtractor: &hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor{
						Name: scopeHeader, ElementSeparator: scopeSeparator,
						ExtractType: &hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor_Index{Index: 1},
					},
				},
			}}},
			RdsConfigSource: ads(),
			ConfigSpecifier: &hcmv3.ScopedRoutes_ScopedRds{ScopedRds: &hcmv3.ScopedRds{ScopedRdsConfigSource: ads()}},
		}},
		EarlyHeaderMutationExtensions: []*corev3.TypedExtensionConfig{b.early(scope, via, before...)},
		// Envoy forwards the path that it matches. Escaped slashes stay as they are, because npm
		// needs them. Patterns other than AnyPath refuse them (plan.PathRegex), and rules that deny
		// take them for slashes (plan.DeniedPath).
		NormalizePath:                wrapperspb.Bool(true),
		MergeSlashes:                 true,
		PathWithEscapedSlashesAction: hcmv3.HttpConnectionManager_KEEP_UNCHANGED,
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
			HeadersWithUnderscoresAction: corev3.HttpProtocolOptions_REJECT_REQUEST,
		},
		Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
			MaxConcurrentStreams:        wrapperspb.UInt32(maxStreams),
			InitialStreamWindowSize:     wrapperspb.UInt32(maxBuffered),
			InitialConnectionWindowSize: wrapperspb.UInt32(2 * maxBuffered),
		},
		MaxRequestHeadersKb: wrapperspb.UInt32(maxHeaders),
		// Envoy's default is five minutes. A model may think longer before its first byte, and a
		// WebSocket may be quiet. An hour is Envoy's default for connections.
		StreamIdleTimeout:               durationpb.New(time.Hour),
		RequestHeadersTimeout:           durationpb.New(10 * time.Second),
		GenerateRequestId:               wrapperspb.Bool(false),
		ServerHeaderTransformation:      hcmv3.HttpConnectionManager_PASS_THROUGH,
		StreamErrorOnInvalidHttpMessage: wrapperspb.Bool(false),
	}
}

func (b *builder) networkFilter(name string, config proto.Message) *listenerv3.Filter {
	return &listenerv3.Filter{
		Name:       "envoy.filters.network." + name,
		ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: b.any(config)},
	}
}

// scopedRoute returns a scope that contains its routes: so a missing secret fails its own route and
// not the whole update.
func scopedRoute(key string, hosts []*routev3.VirtualHost) *routev3.ScopedRouteConfiguration {
	return &routev3.ScopedRouteConfiguration{
		Name: key,
		Key: &routev3.ScopedRouteConfiguration_Key{Fragments: []*routev3.ScopedRouteConfiguration_Key_Fragment{{
			Type: &routev3.ScopedRouteConfiguration_Key_Fragment_StringKey{StringKey: key},
		}}},
		RouteConfiguration: &routev3.RouteConfiguration{Name: key, VirtualHosts: hosts},
	}
}
