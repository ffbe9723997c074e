package envoy

import (
	"fmt"
	"math"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	bandwidthv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/bandwidth_share/v3"
	bodysizev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/body_size_limit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	listenerratev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/local_ratelimit/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/postern/postern/plan"
)

// filterRate is the HTTP filter that virtual hosts configure to limit requests.
const filterRate = "rate"

// rateFilter limits only the virtual hosts that configure it.
func (b *builder) rateFilter() *hcmv3.HttpFilter {
	return b.filter(filterRate, &ratelimitv3.LocalRateLimit{StatPrefix: filterRate})
}

// limitHost bounds the requests to a virtual host: in each node, one bucket for all of its routes.
// Denied requests count too, so that an agent cannot try out quickly what it may not do.
func (b *builder) limitHost(h *routev3.VirtualHost, rules []plan.Rule) {
	l := plan.RequestLimit(rules)
	if l.Requests == 0 {
		return
	}
	for _, r := range h.GetRoutes() {
		if r.GetMetadata() == nil { // the answer beyond the limit names the rule
			r.Metadata = metadata(map[string]string{"rule": plan.DefaultName})
		}
	}
	h.TypedPerFilterConfig[filterRate] = b.rate(&typev3.TokenBucket{
		MaxTokens: l.Requests, TokensPerFill: wrapperspb.UInt32(l.Requests), FillInterval: durationpb.New(time.Duration(l.Per) * time.Second),
	})
}

// rate turns rateFilter on.
func (b *builder) rate(bucket *typev3.TokenBucket) *anypb.Any {
	all := &corev3.RuntimeFractionalPercent{DefaultValue: &typev3.FractionalPercent{Numerator: 100}}
	return b.any(&ratelimitv3.LocalRateLimit{StatPrefix: filterRate, TokenBucket: bucket, FilterEnabled: all, FilterEnforced: all})
}

// connectionRate closes an agent's connections that come faster than any client opens them. The
// gate bounds what comes on a connection, but not connections that are closed at once.
func (b *builder) connectionRate() *listenerv3.ListenerFilter {
	return &listenerv3.ListenerFilter{
		Name: "envoy.filters.listener.local_ratelimit",
		ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: b.any(&listenerratev3.LocalRateLimit{
			StatPrefix: "agent",
			TokenBucket: &typev3.TokenBucket{
				MaxTokens: connectionBurst, TokensPerFill: wrapperspb.UInt32(connectionRate / 10), FillInterval: durationpb.New(100 * time.Millisecond),
			},
		})},
	}
}

// limitFilters returns the filters for the limits on the bodies of a rule's requests.
func (b *builder) limitFilters(r plan.Rule) []*corev3.TypedExtensionConfig {
	if r.Limits == nil {
		return nil
	}
	var filters []*corev3.TypedExtensionConfig
	if r.Limits.Body > 0 {
		filters = append(filters, &corev3.TypedExtensionConfig{
			Name:        "envoy.filters.http.body_size_limit",
			TypedConfig: b.any(&bodysizev3.BodySizeLimit{MaxRequestBytes: wrapperspb.UInt64(r.Limits.Body)}),
		})
	}
	if r.Limits.Upload+r.Limits.Download > 0 {
		filters = append(filters, &corev3.TypedExtensionConfig{
			Name: "envoy.filters.http.bandwidth_share",
			TypedConfig: b.any(&bandwidthv3.BandwidthShare{
				RequestLimit: bandwidth(r, "upload", r.Limits.Upload), ResponseLimit: bandwidth(r, "download", r.Limits.Download),
			}),
		})
	}
	return filters
}

// bandwidth returns a limit that all routes of an agent's destination share, with those of its
// gateway. A bucket cannot change, so another limit gets another bucket.
func bandwidth(r plan.Rule, way string, bytes uint64) *bandwidthv3.BandwidthShare_Limit {
	if bytes == 0 {
		return nil
	}
	// Envoy counts in KiB.
	kbps := uint32(min(max(1, bytes/1024), math.MaxUint32))
	return &bandwidthv3.BandwidthShare_Limit{
		BucketId: fmt.Sprintf("%s/%s/%s/%d", plan.AgentOf(r.ID), hostPort(r.Host, r.Port), way, kbps),
		Kbps:     &corev3.RuntimeUInt32{DefaultValue: kbps, RuntimeKey: "postern.unused"},
	}
}

// What one agent may have of a node. Each connection takes a descriptor, and each request in
// progress takes memory.
const (
	// maxAgentConnections bounds an agent's connections to its listener, and its open CONNECTs to
	// each of its internal listeners.
	maxAgentConnections = 1024
	// maxUpstreamConnections bounds an agent's connections to upstreams, of all its clusters
	// together, if these are no more than maxUpstreamConnections/minShare.
	maxUpstreamConnections = 2048
	// minShare bounds the connections of one cluster if there are more clusters.
	minShare = 8
	// maxRequests bounds the requests in progress at one cluster, AgentMemory those at all clusters.
	maxRequests = 4096
	// maxStreams bounds those on one connection of HTTP/2.
	maxStreams = 100
	// maxNames bounds the host names that are kept resolved.
	maxNames = 5000
	// maxResolving bounds the requests that wait for a name.
	maxResolving = 256
	// madeUpRate bounds an agent's CONNECTs per second below each wildcard in mode tunnel, and
	// below all other wildcards together, after the first madeUpBurst. So no agent uses up the
	// certificates that the control plane mints for several agents (package mint).
	madeUpRate, madeUpBurst = 20, 500
	// connectionRate bounds the connections per second to an agent's listener, after
	// the first connectionBurst.
	connectionRate, connectionBurst = 500, 2000
	// maxHeaders bounds a request's headers and path, in KiB: Node.js takes as much.
	maxHeaders = 16
	// maxBuffered bounds what Envoy holds, in bytes, of a connection of either side, and of what an
	// agent sends by one stream of HTTP/2. cmd/libguard counts with it and with maxAhead.
	maxBuffered = 64 << 10
	// maxAhead bounds what an upstream may send by one stream of HTTP/2 before the agent
	// has taken it, and what Envoy holds for an upstream to take, in bytes.
	maxAhead = 256 << 10
	// maxSigned bounds a body whose digest is signed: it is in memory as a whole while it is computed.
	maxSigned = 16 << 20
)

// AgentMemory is the part of Envoy's memory that one agent can make it hold (cmd/libguard).
const AgentMemory = 1. / 4

// AgentDescriptors is how many descriptors one agent can make a node open.
const AgentDescriptors = maxAgentConnections + maxUpstreamConnections

// breakers bounds the concurrent requests to a cluster, and its connections.
func breakers(requests, connections uint32) *clusterv3.CircuitBreakers {
	n := wrapperspb.UInt32(requests)
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
		MaxRequests: n, MaxPendingRequests: n, MaxConnections: wrapperspb.UInt32(connections),
	}}}
}

// breakersOfHosts returns the breakers of a cluster of many hosts. Whatever the cluster's limit,
// each pool, of one host and worker, may have a connection. So half of the share is for pools.
func breakersOfHosts(connections uint32) *clusterv3.CircuitBreakers {
	c := breakers(maxRequests, connections/2)
	c.Thresholds[0].MaxConnectionPools = wrapperspb.UInt32(connections / 2)
	return c
}

// upstreamShare is how many connections each of an agent's clusters may have. It is
// halved when there are twice as many, so that one more changes few of them.
func upstreamShare(clusters int) uint32 {
	share := uint32(maxUpstreamConnections)
	for n := 1; n < clusters && share > minShare; n *= 2 {
		share /= 2
	}
	return share
}
