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
)

// AdminSocket is Envoy's admin interface, relative to the node's working folder.
const AdminSocket = "admin.sock"

// counted are the statistics that Envoy keeps: those that a node serves
// (node.EnvoyFamilies). It has some thousand more, eleven for each certificate among
// them, and counting what nobody reads is a part of what each request costs.
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

// releasedBytes is how much memory that it does not need Envoy gives back in a second.
const releasedBytes = 64 << 20

// Node is what a node's bootstrap depends on.
type Node struct {
	// ID is the node's name at the control plane.
	ID string
	// Stack is the name of the environment.
	Stack string
	// XDS is the path of the control plane's Unix socket, if Remote is nil.
	XDS    string
	Remote *Remote
	// Descriptors is how many Envoy may have open.
	Descriptors uint64
	// Heap bounds its memory, in bytes.
	Heap uint64
}

// Bootstrap is the JSON that a node's Envoy is started with. It opens nothing
// but the admin socket: a node that never heard from its control plane
// listens on nothing.
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
			Name: "envoy.bootstrap.internal_listener", TypedConfig: b.any(&internallistenerv3.InternalListener{}),
		}},
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{
			AdsConfig: &corev3.ApiConfigSource{
				ApiType:             corev3.ApiConfigSource_DELTA_GRPC,
				TransportApiVersion: corev3.ApiVersion_V3,
				GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
					EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
						ClusterName: "xds",
						// A control plane that was restarted is back in milliseconds;
						// Envoy's default is to look after up to 30 s.
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
		// Patterns of the policy become regular expressions, which RE2 runs in
		// linear time whatever their size. Envoy's bound is 100.
		LayeredRuntime: &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{{
			Name: "static",
			LayerSpecifier: &bootstrapv3.RuntimeLayer_StaticLayer{StaticLayer: &structpb.Struct{Fields: map[string]*structpb.Value{
				"re2.max_program_size.error_level": structpb.NewNumberValue(100000),
				"re2.max_program_size.warn_level":  structpb.NewNumberValue(100000),
				// Of many requests on one connection one at a time is looked at, the
				// connections of others in between.
				"http.max_requests_per_io_cycle": structpb.NewNumberValue(1),
			}}},
		}}},
		StatsConfig: &metricsv3.StatsConfig{StatsMatcher: &metricsv3.StatsMatcher{StatsMatcher: &metricsv3.StatsMatcher_InclusionList{
			InclusionList: &matcherv3.ListStringMatcher{Patterns: counted()},
		}}},
		OverloadManager: b.overload(n),
		// What a large policy took while it was read goes back to the machine.
		MemoryAllocatorManager: &bootstrapv3.MemoryAllocatorManager{BytesToRelease: releasedBytes},
	}
	if err := errors.Join(append(b.errs, boot.ValidateAll())...); err != nil {
		return nil, fmt.Errorf("build the bootstrap of node %q: %w", n.ID, err)
	}
	return protojson.Marshal(boot)
}
