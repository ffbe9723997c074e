package envoy

import (
	"errors"
	"fmt"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	internallistenerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/bootstrap/internal_listener/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// AdminSocket is the path of Envoy's admin interface, relative to the node's working folder.
const AdminSocket = "admin.sock"

// counted selects the statistics that Envoy keeps: those that a node serves (node.EnvoyFamilies).
// Envoy has thousands more, e.g. eleven for each certificate, and each request would pay for them.
func counted() []*matcherv3.StringMatcher {
	var ms []*matcherv3.StringMatcher
	for _, prefix := range []string{"server.", "control_plane.", "cluster_manager.", "listener_manager.", "dns.cares.", "cluster.xds.", "overload."} {
		ms = append(ms, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: prefix}})
	}
	for _, regex := range []string{
		`http\.(agent|intercept|intercept-wildcard)\.downstream_(cx_active|cx_total|rq_active|rq_total|rq_[1-5]xx|rq_time)`,
		`cluster\.dynamic\.upstream_(cx_active|cx_connect_fail|rq_total|rq_timeout)`,
	} {
		ms = append(ms, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: regex}}})
	}
	return ms
}

// releasedBytes is the amount of unused memory that Envoy returns to the machine in a second.
const releasedBytes = 64 << 20

// Node describes a node to [Bootstrap].
type Node struct {
	// ID is the node's name at the control plane.
	ID    string
	Stack string
	// XDS is the path of the control plane's Unix socket, if Remote is nil.
	XDS    string
	Remote *Remote
	// Descriptors is the number of descriptors that Envoy may have open.
	Descriptors uint64
	// Heap bounds Envoy's memory, in bytes.
	Heap uint64
}

// Bootstrap returns the JSON with which a node's Envoy starts. It opens only the admin socket: a
// node that has never heard from its control plane does not listen.
func Bootstrap(n Node) ([]byte, error) {
	b := &builder{}
	xds := b.controlCluster(n)
	if err := errors.Join(b.errs...); err != nil {
		return nil, fmt.Errorf("build the bootstrap of node %q: %w", n.ID, err)
	}
	boot := &bootstrapv3.Bootstrap{
		Node: &corev3.Node{Id: n.ID, Cluster: n.Stack},
		Admin: &bootstrapv3.Admin{Address: &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{
			Path: AdminSocket, Mode: 0o600,
		}}}},
		BootstrapExtensions: []*corev3.TypedExtensionConfig{{
			Name: "envoy.bootstrap.internal_listener", TypedConfig: b.any(&internallistenerv3.InternalListener{BufferSizeKb: wrapperspb.UInt32(maxBuffered >> 10)}),
		}},
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{
			AdsConfig: &corev3.ApiConfigSource{
				ApiType:             corev3.ApiConfigSource_DELTA_GRPC,
				TransportApiVersion: corev3.ApiVersion_V3,
				GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
					EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
						ClusterName: "xds",
						// A restarted control plane is back in milliseconds. By default Envoy
						// waits up to 30 s between attempts.
						RetryPolicy: &corev3.RetryPolicy{RetryBackOff: &corev3.BackoffStrategy{
							BaseInterval: durationpb.New(50 * time.Millisecond), MaxInterval: durationpb.New(2 * time.Second),
						}},
					},
				}}},
			},
			CdsConfig: ads(),
			LdsConfig: ads(),
		},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{xds}},
		// The policy's patterns become regular expressions. RE2 runs them in linear time, whatever
		// their size, but Envoy's default bound is 100.
		LayeredRuntime: &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{{
			Name: "static",
			LayerSpecifier: &bootstrapv3.RuntimeLayer_StaticLayer{StaticLayer: &structpb.Struct{Fields: map[string]*structpb.Value{
				"re2.max_program_size.error_level": structpb.NewNumberValue(100000),
				"re2.max_program_size.warn_level":  structpb.NewNumberValue(100000),
				// A connection with many requests waits for other connections after each request.
				"http.max_requests_per_io_cycle": structpb.NewNumberValue(1),
			}}},
		}}},
		StatsConfig: &metricsv3.StatsConfig{StatsMatcher: &metricsv3.StatsMatcher{StatsMatcher: &metricsv3.StatsMatcher_InclusionList{
			InclusionList: &matcherv3.ListStringMatcher{Patterns: counted()},
		}}},
		OverloadManager: b.overload(n),
		// Reading a large policy takes memory that is not needed afterwards.
		MemoryAllocatorManager: &bootstrapv3.MemoryAllocatorManager{BytesToRelease: releasedBytes},
	}
	if err := errors.Join(append(b.errs, boot.ValidateAll())...); err != nil {
		return nil, fmt.Errorf("build the bootstrap of node %q: %w", n.ID, err)
	}
	return protojson.Marshal(boot)
}
