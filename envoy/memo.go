package envoy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/proto"

	"github.com/postern/postern/plan"
)

// Memo builds the plans of one stack, one after the other. Of a plan it makes
// only what is not in the one before: a policy of 10,000 destinations that gets
// one more costs as much as that one, and a comparison of the others' rules. It
// is for one caller at a time; the zero value is empty.
type Memo struct {
	// common is what every resource depends on.
	common string
	made   map[resourceName]*made
	// builds counts, so that what is not needed any more can be told.
	builds int
}

// made is a resource that was built, what it was made of, and in which build it
// was last part of the plan.
type made struct {
	identity
	resource *discoveryv3.Resource
	build    int
}

// Packed is one plan as it goes over the wire, by type URL. The version of a
// resource is the hash of its bytes. Resources that are in two plans are shared:
// nobody may change them.
type Packed map[string][]*discoveryv3.Resource

// Build returns what [Build] does, packed and in no particular order.
func (m *Memo) Build(p *plan.Plan, o Options) (Packed, error) {
	common, err := json.Marshal(struct {
		Stack, Roots string
		Resolvers    []string
		Credentials  []plan.Credential
	}{p.Stack, o.Roots, p.Resolvers, p.Credentials})
	if err != nil {
		return nil, fmt.Errorf("encode plan %q: %w", p.Stack, err)
	}
	if m.made == nil || m.common != string(common) {
		m.common, m.made = string(common), map[resourceName]*made{}
	}
	m.builds++
	out := Packed{resource.ClusterType: nil, resource.ScopedRouteType: nil, resource.ListenerType: nil}
	var b *builder
	b = newBuilder(p, o, func(id identity, build func() proto.Message) {
		one := m.made[id.resourceName]
		if one == nil || one.beside != id.beside || !slices.EqualFunc(one.rules, id.rules, plan.Rule.Equal) {
			wrong := len(b.errs)
			packed := b.any(build())
			if len(b.errs) > wrong {
				return
			}
			sum := sha256.Sum256(packed.GetValue())
			one = &made{identity: id, resource: &discoveryv3.Resource{Name: id.name, Version: hex.EncodeToString(sum[:8]), Resource: packed}}
			m.made[id.resourceName] = one
		}
		one.build = m.builds
		out[id.url] = append(out[id.url], one.resource)
	})
	if err := b.build(); err != nil {
		return nil, err
	}
	for name, one := range m.made {
		if one.build != m.builds {
			delete(m.made, name)
		}
	}
	return out, nil
}
