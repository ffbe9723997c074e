package envoy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	dfpclusterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dynamic_forward_proxy/v3"
	dfpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/dynamic_forward_proxy/v3"
	caresv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/network/dns_resolver/cares/v3"
	internalv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/internal_upstream/v3"
	rawv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/plan/network"
)

// kindIntercept begins the names of the clusters and internal listeners that terminate an agent's
// TLS. For hosts below wildcards, kindWildcard does.
const (
	kindIntercept = "intercept"
	kindWildcard  = "intercept-wildcard"
)

// clusterDynamic is the name in statistics of all clusters for hosts that are found by DNS. Each
// agent has such a cluster, so that its requests in progress count for no other agent.
const clusterDynamic = "dynamic"

func dynamicName(agent string) string { return clusterDynamic + "/" + agent }

// connectTimeout bounds one attempt to reach an upstream.
const connectTimeout = 5 * time.Second

// keepalive keeps a quiet connection known to what is on its way. NAT gateways and load balancers
// forget a connection after 350 seconds without a packet, and tell neither end. A model may think
// for longer.
func keepalive() *corev3.TcpKeepalive {
	return &corev3.TcpKeepalive{
		KeepaliveTime: wrapperspb.UInt32(60), KeepaliveInterval: wrapperspb.UInt32(20), KeepaliveProbes: wrapperspb.UInt32(6),
	}
}

func (b *builder) clusters() {
	internal := func(name string) {
		b.one(part{kind: "cluster", name: name}, nil, "internal", func() proto.Message { return b.internalCluster(name) })
	}
	for _, a := range b.plan.Agents {
		dynamic, names := dynamicName(a.Name), map[string]bool{}
		for i := range a.Rules {
			if !a.Rules[i].Deny {
				names[b.upstreamCluster(a.Rules[i])] = true
			}
		}
		names[dynamic] = true
		share := upstreamShare(len(names))
		beside := strconv.Itoa(int(share))
		b.one(part{kind: "cluster", name: dynamic}, nil, beside, func() proto.Message { return b.dynamicCluster(dynamic, a.Name, share) })
		for _, d := range b.destinations[a.Name] {
			internal(d.cluster(a.Name))
		}
		for i := range a.Rules {
			r := &a.Rules[i] // a closure would put a copy on the heap
			if name := b.upstreamCluster(*r); !r.Deny && name != dynamic {
				b.one(part{kind: "cluster", name: name}, a.Rules[i:i+1], beside, func() proto.Message { return b.upstream(name, *r, share) })
			}
		}
	}
}

// upstreamCluster returns the name of the cluster to which a rule forwards.
func (b *builder) upstreamCluster(r plan.Rule) string {
	agent := plan.AgentOf(r.ID)
	name := dynamicName(agent)
	if r.Upstream != nil {
		name = strings.Join([]string{"pinned", agent, hostPort(r.Host, r.Port), digest(pinned(r.Upstream)...)}, "/")
	}
	if r.Mode == plan.ModeTunnel {
		return "tcp/" + name
	}
	if r.Limits != nil && r.Limits.Concurrent > 0 {
		name = strings.Join([]string{"limited", hostPort(r.Host, r.Port), name}, "/")
	}
	return b.signedName(r, name)
}

// upstream builds the cluster of that name, with at most share connections.
func (b *builder) upstream(name string, r plan.Rule, share uint32) *clusterv3.Cluster {
	var c *clusterv3.Cluster
	switch u := r.Upstream; {
	case u == nil:
		c = b.dynamicCluster(name, plan.AgentOf(r.ID), share)
	case u.Address == "": // somebody else vouches for it
		c = b.dynamicCluster(name, plan.AgentOf(r.ID), share)
		c.TransportSocket = b.upstreamTLS(u.CA)
	default:
		c = b.pinnedCluster(name, u, share)
	}
	if r.Mode == plan.ModeTunnel {
		// The agent's own TLS passes through.
		c.TransportSocket, c.TypedExtensionProtocolOptions = nil, nil
		return c
	}
	if r.Limits != nil && r.Limits.Concurrent > 0 {
		// Over HTTP/1.1, Envoy refuses a request beyond the limit only if a connection is free for
		// it. With as few connections as requests, the request would wait for one instead.
		c.CircuitBreakers = breakers(r.Limits.Concurrent, share)
	}
	b.sign(c, r)
	return c
}

// internalCluster leads an accepted CONNECT, with its shared filter state, into the internal
// listener of the same name.
func (b *builder) internalCluster(name string) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name: name,
		// The limit is the agent's own: other agents have clusters of their own.
		CircuitBreakers:               breakers(maxAgentConnections, maxAgentConnections),
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(maxBuffered),
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		TransportSocket: b.socket("envoy.transport_sockets.internal_upstream", b.any(&internalv3.InternalUpstreamTransport{
			TransportSocket: b.socket("envoy.transport_sockets.raw_buffer", b.any(&rawv3.RawBuffer{})),
		})),
		LoadAssignment: assignment(name, &corev3.Address{Address: &corev3.Address_EnvoyInternalAddress{
			EnvoyInternalAddress: &corev3.EnvoyInternalAddress{
				AddressNameSpecifier: &corev3.EnvoyInternalAddress_ServerListenerName{ServerListenerName: name},
			},
		}}),
	}
}

// dynamicCluster reaches all of an agent's hosts that are found by DNS. A cluster for each host
// would cost 55 KB each.
func (b *builder) dynamicCluster(name, agent string, share uint32) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                          name,
		AltStatName:                   clusterDynamic,
		CircuitBreakers:               breakersOfHosts(share),
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(maxBuffered),
		ConnectTimeout:                durationpb.New(connectTimeout),
		UpstreamConnectionOptions:     &clusterv3.UpstreamConnectionOptions{TcpKeepalive: keepalive()},
		LbPolicy:                      clusterv3.Cluster_CLUSTER_PROVIDED,
		ClusterDiscoveryType: &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{
			Name: "envoy.clusters.dynamic_forward_proxy",
			TypedConfig: b.any(&dfpclusterv3.ClusterConfig{
				ClusterImplementationSpecifier: &dfpclusterv3.ClusterConfig_DnsCacheConfig{DnsCacheConfig: b.dnsCache(agent)},
			}),
		}},
		TransportSocket:               b.upstreamTLS(""),
		TypedExtensionProtocolOptions: b.upstreamHTTP(),
	}
}

// pinnedCluster reaches one destination at the address that the operator has set.
func (b *builder) pinnedCluster(name string, u *plan.Upstream, share uint32) *clusterv3.Cluster {
	c := &clusterv3.Cluster{
		Name:                          name,
		CircuitBreakers:               breakers(maxRequests, share),
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(maxBuffered),
		ConnectTimeout:                durationpb.New(connectTimeout),
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		TransportSocket:               b.upstreamTLS(u.CA),
		TypedExtensionProtocolOptions: b.upstreamHTTP(),
		LoadAssignment:                assignment(name, b.address(u.Address)),
	}
	if !strings.HasPrefix(u.Address, "unix:") {
		c.UpstreamConnectionOptions = &clusterv3.UpstreamConnectionOptions{TcpKeepalive: keepalive()}
	}
	if u.Plain {
		// The loader has said so with the line. Nothing that is published may go round it.
		ap, err := netip.ParseAddrPort(u.Address)
		if near := err == nil && network.Near(ap.Addr()) && !network.Metadata(ap.Addr()); !near && !strings.HasPrefix(u.Address, "unix:") {
			b.errs = append(b.errs, fmt.Errorf("%s: plain HTTP to %s would leave this network", name, u.Address))
		}
		c.TransportSocket, c.TypedExtensionProtocolOptions = nil, nil // HTTP/1.1
	}
	return c
}

// pinned returns what distinguishes upstreams.
func pinned(u *plan.Upstream) []string {
	of := []string{u.Address, u.CA}
	if u.Plain {
		of = append(of, "plain")
	}
	return of
}

// dnsCache returns the same cache for all clusters and filters of an agent, as Envoy requires. Each
// agent has a cache and a resolver of its own, so that names that it makes up below its wildcards
// do not displace another agent's. The address filter refuses names that lead to private addresses.
func (b *builder) dnsCache(agent string) *dfpv3.DnsCacheConfig {
	resolver := &caresv3.CaresDnsResolverConfig{
		// A search domain would turn an allowed name into another name.
		DnsResolverOptions: &corev3.DnsResolverOptions{NoDefaultSearchDomain: true},
		// The machine's name servers may be others by now, as after a change of networks.
		ReinitChannelOnTimeout: true,
	}
	for _, r := range b.plan.Resolvers {
		resolver.Resolvers = append(resolver.Resolvers, b.address(r))
	}
	var never []*xdscorev3.CidrRange
	for _, p := range network.NeverResolved() {
		bits := wrapperspb.UInt32(uint32(p.Bits()))
		never = append(never, &xdscorev3.CidrRange{AddressPrefix: p.Addr().String(), PrefixLen: bits})
	}
	return &dfpv3.DnsCacheConfig{
		// Envoy refuses a cache with the name and not the settings of one that is in use.
		Name:            "dns/" + agent + "/" + digest(b.plan.Resolvers...),
		DnsLookupFamily: clusterv3.Cluster_V4_PREFERRED,
		MaxHosts:        wrapperspb.UInt32(maxNames),
		DnsCacheCircuitBreaker: &dfpv3.DnsCacheCircuitBreakers{
			MaxPendingRequests: wrapperspb.UInt32(maxResolving),
		},
		TypedDnsResolverConfig: &corev3.TypedExtensionConfig{
			Name:        "envoy.network.dns_resolver.cares",
			TypedConfig: b.any(resolver),
		},
		ResolvedAddressFilter: &matcherv3.AddressMatcher{Ranges: never},
	}
}

// upstreamTLS verifies the upstream against ca, or, if ca is "", against the node's roots.
func (b *builder) upstreamTLS(ca string) *corev3.TransportSocket {
	trusted := &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: b.options.Roots}}
	if ca != "" {
		trusted = &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: ca}}
	}
	return b.socket("envoy.transport_sockets.tls", b.any(&tlsv3.UpstreamTlsContext{
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsParams: &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2},
			ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{
				ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: trusted},
			},
		},
	}))
}

// upstreamHTTP takes the server name, and the name to verify, from the Host header, which the route
// has rewritten to the policy's spelling.
func (b *builder) upstreamHTTP() map[string]*anypb.Any {
	return map[string]*anypb.Any{
		optionsHTTP: b.any(&httpv3.HttpProtocolOptions{
			UpstreamHttpProtocolOptions: &corev3.UpstreamHttpProtocolOptions{AutoSni: true, AutoSanValidation: true},
			UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_AutoConfig{AutoConfig: &httpv3.HttpProtocolOptions_AutoHttpConfig{
				HttpProtocolOptions: &corev3.Http1ProtocolOptions{},
				Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
					InitialStreamWindowSize:     wrapperspb.UInt32(maxAhead),
					InitialConnectionWindowSize: wrapperspb.UInt32(4 * maxAhead),
					// An upstream may be gone and its load balancer still there. More often than every
					// five minutes, servers of gRPC end the connection (ENHANCE_YOUR_CALM).
					ConnectionKeepalive: &corev3.KeepaliveSettings{
						Interval: durationpb.New(310 * time.Second), Timeout: durationpb.New(20 * time.Second),
					},
				},
			}},
		}),
	}
}

func (b *builder) socket(name string, config *anypb.Any) *corev3.TransportSocket {
	return &corev3.TransportSocket{Name: name, ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: config}}
}

// address parses "ip:port" or "unix:path".
func (b *builder) address(s string) *corev3.Address {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path}}}
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		b.errs = append(b.errs, err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		b.errs = append(b.errs, err)
	}
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       host,
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(n)},
	}}}
}

func assignment(cluster string, a *corev3.Address) *endpointv3.ClusterLoadAssignment {
	return &endpointv3.ClusterLoadAssignment{
		ClusterName: cluster,
		Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: a}},
		}}}},
	}
}

func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil)[:4])
}
