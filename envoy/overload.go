package envoy

import (
	"time"

	overloadv3 "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	downstreamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	fixedheapv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/fixed_heap/v3"
	injectedv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/injected_resource/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// PressurePath is the path of the file with the part of its descriptors that Envoy uses, from 0 to
// 1, relative to the node's working folder. Envoy reads the file when another is renamed over it.
const PressurePath = "pressure/descriptors"

// PressureInterval is the time between two writes of that file, and between two of Envoy's looks.
const PressureInterval = 100 * time.Millisecond

// ownDescriptors is the number of descriptors that a node needs for itself: listeners, workers,
// name servers, the control plane, the log.
const ownDescriptors = 1000

// MinDescriptors is the number of descriptors without which a node does not start: twice as many as
// one agent can make it open, so that some are left for other agents.
const MinDescriptors = ownDescriptors + 2*AgentDescriptors

// overload says what a node does when descriptors or memory run out. No single agent can bring it
// that far, but many together can, and Envoy crashes without descriptors or memory.
func (b *builder) overload(n Node) *overloadv3.OverloadManager {
	const heap, descriptors = "envoy.resource_monitors.fixed_heap", "envoy.resource_monitors.injected_resource"
	monitor := func(name string, config proto.Message) *overloadv3.ResourceMonitor {
		return &overloadv3.ResourceMonitor{Name: name, ConfigType: &overloadv3.ResourceMonitor_TypedConfig{TypedConfig: b.any(config)}}
	}
	from := func(resource string, part float64) *overloadv3.Trigger {
		return &overloadv3.Trigger{Name: resource, TriggerOneof: &overloadv3.Trigger_Threshold{Threshold: &overloadv3.ThresholdTrigger{Value: part}}}
	}
	between := func(resource string, low, high float64) *overloadv3.Trigger {
		return &overloadv3.Trigger{Name: resource, TriggerOneof: &overloadv3.Trigger_Scaled{Scaled: &overloadv3.ScaledTrigger{
			ScalingThreshold: low, SaturationThreshold: high,
		}}}
	}
	action := func(name string, when ...*overloadv3.Trigger) *overloadv3.OverloadAction {
		return &overloadv3.OverloadAction{Name: "envoy.overload_actions." + name, Triggers: when}
	}
	return &overloadv3.OverloadManager{
		RefreshInterval: durationpb.New(PressureInterval),
		ResourceMonitors: []*overloadv3.ResourceMonitor{
			monitor("envoy.resource_monitors.global_downstream_max_connections", &downstreamv3.DownstreamConnectionsConfig{
				MaxActiveDownstreamConnections: int64(n.Descriptors-ownDescriptors) / 2,
			}),
			monitor(descriptors, &injectedv3.InjectedResourceConfig{Filename: PressurePath}),
			monitor(heap, &fixedheapv3.FixedHeapConfig{MaxHeapSizeBytes: n.Heap}),
		},
		Actions: []*overloadv3.OverloadAction{
			action("shrink_heap", from(heap, 0.8)),
			action("close_idle_http_connections", from(descriptors, 0.6)),
			action("disable_http_keepalive", from(descriptors, 0.6), from(heap, 0.9)),
			// The requests that hold the most memory end first.
			action("reset_high_memory_stream", between(heap, 0.85, 0.95)),
			action("stop_accepting_connections", from(descriptors, 0.7), from(heap, 0.92)),
			action("stop_accepting_requests", from(descriptors, 0.75), from(heap, 0.95)),
		},
		BufferFactoryConfig: &overloadv3.BufferFactoryConfig{MinimumAccountToTrackPowerOfTwo: 16},
	}
}
