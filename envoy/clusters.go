package envoy

import (
	"crypto/sha256"
	"encoding/hex"
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
)

// kindIntercept begins the names of the clusters, and of the internal listeners, that
// terminate an agent's TLS; below wildcards it is kindWildcard.
const (
	kindIntercept = "intercept"
	kindWildcard  = "intercept-wildcard"
)

// clusterDynamic is what the clusters for hosts that are found by DNS are called
// in statistics. Each agent has its own, with its own circuit breakers: what one has
// under way is no other's limit.
const clusterDynamic = "dynamic"

func dynamicName(agent string) string { return clusterDynamic + "/" + agent }

// connectTimeout bounds one attempt to reach an upstream.
const connectTimeout = 5 * time.Second

// privateRanges are the addresses that a name may never resolve to: private,
// loopback, link-local (metadata), shared, benchmark, multicast and reserved
// space, and the IPv6 forms that embed an IPv4 address.
// RFC 6890, RFC 4291, RFC 6052, RFC 3056, RFC 4380.
//
// 168.63.129.16, 100.100.100.200 (in 100.64/10) and 192.0.0.192 are metadata
// services outside the link-local range.
var privateRanges = []string{
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16", "172.16.0.0/12",
	"192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
	"::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
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
			r := &a.Rules[i] // a rule that a closure has by itself is one more on the heap
			if name := b.upstreamCluster(*r); !r.Deny && name != dynamic {
				b.one(part{kind: "cluster", name: name}, a.Rules[i:i+1], beside, func() proto.Message { return b.upstream(name, *r, share) })
			}
		}
	}
}

// upstreamCluster is the name of the cluster that a rule forwards to.
func (b *builder) upstreamCluster(r plan.Rule) string {
	agent := plan.AgentOf(r.ID)
	name := dynamicName(agent)
	if r.Upstream != nil {
		name = strings.Join([]string{"pinned", agent, hostPort(r.Host, r.Port), digest(r.Upstream.Address, r.Upstream.CA)}, "/")
	}
	if r.Mode == plan.ModeTunnel {
		return "tcp/" + name
	}
	if r.Limits != nil && r.Limits.Concurrent > 0 {
		name = strings.Join([]string{"limited", hostPort(r.Host, r.Port), name}, "/")
	}
	return b.signedName(r, name)
}

// upstream builds the cluster of that name, which may have share connections.
func (b *builder) upstream(name string, r plan.Rule, share uint32) *clusterv3.Cluster {
	var c *clusterv3.Cluster
	if r.Upstream != nil {
		c = b.pinnedCluster(name, r.Upstream.Address, r.Upstream.CA, share)
	} else {
		c = b.dynamicCluster(name, plan.AgentOf(r.ID), share)
	}
	if r.Mode == plan.ModeTunnel {
		// The TLS is the agent's own.
		c.TransportSocket, c.TypedExtensionProtocolOptions = nil, nil
		return c
	}
	if r.Limits != nil && r.Limits.Concurrent > 0 {
		// Envoy refuses an HTTP/1.1 request beyond the limit when there is a connection for
		// it. With as many connections as requests, it would wait for another one's.
		c.CircuitBreakers = breakers(r.Limits.Concurrent, share)
	}
	b.sign(c, r)
	return c
}

// internalCluster leads an accepted CONNECT into the internal listener of the
// same name; the filter state marked as shared travels along.
func (b *builder) internalCluster(name string) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name: name,
		// Whoever has as many CONNECTs open as it can leaves the others theirs.
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

// dynamicCluster reaches every host that is found by DNS. One cluster for all of
// an agent's: a cluster each costs 55 KB (envoy.md, section I).
func (b *builder) dynamicCluster(name, agent string, share uint32) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                          name,
		AltStatName:                   clusterDynamic,
		CircuitBreakers:               breakersOfHosts(share),
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(maxBuffered),
		ConnectTimeout:                durationpb.New(connectTimeout),
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

// pinnedCluster reaches one destination at the place that the operator gave.
func (b *builder) pinnedCluster(name, address, ca string, share uint32) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                          name,
		CircuitBreakers:               breakers(requestShare(share), share),
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(maxBuffered),
		ConnectTimeout:                durationpb.New(connectTimeout),
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		TransportSocket:               b.upstreamTLS(ca),
		TypedExtensionProtocolOptions: b.upstreamHTTP(),
		LoadAssignment:                assignment(name, b.address(address)),
	}
}

// dnsCache is the same in the clusters and the filters of an agent, as Envoy requires.
// Each agent has a resolver and a cache of its own: names that one makes up below its
// wildcards take no other's place. The address filter refuses names that lead to
// private addresses.
func (b *builder) dnsCache(agent string) *dfpv3.DnsCacheConfig {
	resolver := &caresv3.CaresDnsResolverConfig{
		// A search domain would turn an allowed name into another one.
		DnsResolverOptions: &corev3.DnsResolverOptions{NoDefaultSearchDomain: true},
	}
	for _, r := range b.plan.Resolvers {
		resolver.Resolvers = append(resolver.Resolvers, b.address(r))
	}
	ranges := make([]*xdscorev3.CidrRange, 0, len(privateRanges))
	for _, r := range privateRanges {
		p := netip.MustParsePrefix(r)
		ranges = append(ranges, &xdscorev3.CidrRange{AddressPrefix: p.Addr().String(), PrefixLen: wrapperspb.UInt32(uint32(p.Bits()))})
	}
	return &dfpv3.DnsCacheConfig{
		// A cache of the same name with other settings is refused while the
		// one before is in use.
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
		ResolvedAddressFilter: &matcherv3.AddressMatcher{Ranges: ranges},
	}
}

// upstreamTLS verifies the upstream against ca, or the node's roots if empty.
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

// upstreamHTTP takes the server name and the name to verify from the Host
// header, which the route has rewritten to the policy's own.
func (b *builder) upstreamHTTP() map[string]*anypb.Any {
	return map[string]*anypb.Any{
		"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": b.any(&httpv3.HttpProtocolOptions{
			UpstreamHttpProtocolOptions: &corev3.UpstreamHttpProtocolOptions{AutoSni: true, AutoSanValidation: true},
			UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_AutoConfig{AutoConfig: &httpv3.HttpProtocolOptions_AutoHttpConfig{
				HttpProtocolOptions: &corev3.Http1ProtocolOptions{},
				Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
					InitialStreamWindowSize:     wrapperspb.UInt32(maxAhead),
					InitialConnectionWindowSize: wrapperspb.UInt32(4 * maxAhead),
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
