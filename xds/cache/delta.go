package cache

import (
	"reflect"
	"slices"
	"strings"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// maxDeltas bounds the deltas that a table keeps. The nodes of a fleet are at one version, or two.
// A node that comes from another control plane states what it has.
const maxDeltas = 8

// delta is the difference between a node's state and a table, in wire form. It is made once and
// sent to every node with the same state.
type delta struct {
	// from is kept so that no other map gets its address.
	from map[string]string
	body []byte
	// removes means that some resource loses something.
	removes bool
}

func newDelta(from map[string]string, send []*discoveryv3.Resource, removed []string) *delta {
	return &delta{from: from, body: encode(send, removed), removes: len(removed) > 0}
}

// address returns a number that no other map has at the same time, or 0 for an empty map.
func address(m map[string]string) uintptr {
	if len(m) == 0 {
		return 0
	}
	return reflect.ValueOf(m).Pointer()
}

func (d *delta) empty() bool { return len(d.body) == 0 }

// deltaFrom returns the delta from what a node has to t. Nodes that were sent the same share one
// map, whose address identifies it.
func (t *Table) deltaFrom(known map[string]string) *delta {
	at := address(known)
	if d := t.deltas[at]; d != nil {
		return d
	}
	d := &delta{from: known}
	if at != address(t.versions) {
		var send []*discoveryv3.Resource
		var removed []string
		kept := 0
		for name, r := range t.resources {
			version, ok := known[name]
			if ok {
				kept++
			}
			if version != r.Version {
				send = append(send, r)
			}
		}
		if kept < len(known) {
			for name := range known {
				if t.resources[name] == nil {
					removed = append(removed, name)
				}
			}
		}
		d = newDelta(known, send, removed)
	}
	if at == 0 || len(t.deltas) < maxDeltas {
		t.deltas[at] = d
	}
	return d
}

// encode returns the wire form of a response that has only these, sorted.
func encode(send []*discoveryv3.Resource, removed []string) []byte {
	slices.SortFunc(send, func(a, b *discoveryv3.Resource) int { return strings.Compare(a.GetName(), b.GetName()) })
	slices.Sort(removed)
	b, err := proto.Marshal(&discoveryv3.DeltaDiscoveryResponse{Resources: send, RemovedResources: removed})
	if err != nil {
		panic(err) // the names came out of messages: they are valid UTF-8
	}
	return b
}

// ServerOption makes a gRPC server send messages unchanged that are already in wire form. Without
// it the same bytes are sent, after a copy for each node.
func ServerOption() grpc.ServerOption {
	return grpc.ForceServerCodecV2(codec{encoding.GetCodecV2(protocodec.Name)})
}

// codec is the codec of protocol buffers, except that it ignores fields that a response does not
// know.
type codec struct{ encoding.CodecV2 }

// Marshal implements [encoding.CodecV2].
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	r, ok := v.(*discoveryv3.DeltaDiscoveryResponse)
	if !ok || len(r.GetResources())+len(r.GetRemovedResources())+len(r.GetRemovedResourceNames()) > 0 {
		return c.CodecV2.Marshal(v)
	}
	head, err := c.CodecV2.Marshal(&discoveryv3.DeltaDiscoveryResponse{
		SystemVersionInfo: r.GetSystemVersionInfo(), TypeUrl: r.GetTypeUrl(), Nonce: r.GetNonce(),
		ControlPlane: r.GetControlPlane(),
	})
	if err != nil {
		return nil, err
	}
	return append(head, mem.SliceBuffer(r.ProtoReflect().GetUnknown())), nil
}

// Between returns the parts of two lists that are left without their common beginning and end.
func Between[T any](a, b []T, equal func(a, b *T) bool) (x, y []T) {
	for len(a) > 0 && len(b) > 0 && equal(&a[0], &b[0]) {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && equal(&a[len(a)-1], &b[len(b)-1]) {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	return a, b
}
