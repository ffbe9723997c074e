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
	made   map[part]*made
	// builds counts, so that what is not needed any more can be told.
	builds int
}

// made is a part that was built, what it was made of, and in which build it was
// last in the plan.
type made struct {
	identity
	resources []*discoveryv3.Resource
	build     int
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
		m.common, m.made = string(common), map[part]*made{}
	}
	m.builds++
	out := Packed{resource.ClusterType: nil, resource.ScopedRouteType: nil, resource.ListenerType: nil}
	var b *builder
	b = newBuilder(p, o, func(id identity, build func() []proto.Message) {
		one := m.made[id.part]
		switch {
		case one != nil && one.build == m.builds:
			return // there is one already
		case one == nil || one.beside != id.beside || !plan.EqualRules(one.rules, id.rules):
			// Its own copy of the rules: theirs is all of a plan.
			id.rules = slices.Clone(id.rules)
			one = &made{identity: id}
			wrong := len(b.errs)
			for _, message := range build() {
				one.resources = append(one.resources, b.pack(message))
			}
			if len(b.errs) > wrong {
				return
			}
			m.made[id.part] = one
		}
		one.build = m.builds
		for _, r := range one.resources {
			url := r.GetResource().GetTypeUrl()
			out[url] = append(out[url], r)
		}
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

// pack validates m and hashes its bytes.
func (b *builder) pack(m proto.Message) *discoveryv3.Resource {
	packed := b.any(m)
	sum := sha256.Sum256(packed.GetValue())
	return &discoveryv3.Resource{Name: m.(interface{ GetName() string }).GetName(), Version: hex.EncodeToString(sum[:8]), Resource: packed}
}
