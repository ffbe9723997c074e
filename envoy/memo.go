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

// Memo builds the resources of one plan of a stack after another. It makes only what the plan
// before did not have. So one more destination in a policy of 10,000 costs that destination, and a
// comparison of the other rules. Only one goroutine may use a Memo at a time. The zero value is
// ready to use.
type Memo struct {
	// common holds what every resource depends on.
	common string
	made   map[part]*made
	// sites are sorted.
	sites []*madeSite
	// sizes are the numbers of resources, by type URL.
	sizes map[string]int
}

// made is a resource, and what it was made of.
type made struct {
	identity
	resource *discoveryv3.Resource
}

// madeSite is a site with its scopes. Its rules are a copy, so that it does not keep a whole plan.
type madeSite struct {
	site
	resources []*discoveryv3.Resource
}

// Packed is one plan as it is sent, by type URL. A resource's version is the hash of its bytes.
// Plans share resources: do not change them.
type Packed map[string][]*discoveryv3.Resource

// Build returns the resources of p. If there is an error it returns none, because half an allow
// list must never be served. Resources that two plans share have the same order in both.
func (m *Memo) Build(p *plan.Plan, o Options) (Packed, error) {
	common, err := json.Marshal(struct {
		Stack, Roots string
		Resolvers    []string
		Credentials  []plan.Credential
	}{p.Stack, o.Roots, p.Resolvers, p.Credentials})
	if err != nil {
		return nil, fmt.Errorf("encode plan %q: %w", p.Stack, err)
	}
	if m.common != string(common) {
		*m = Memo{common: string(common)}
	}
	next := Memo{common: m.common, made: make(map[part]*made, len(m.made)), sites: make([]*madeSite, 0, len(m.sites)+8), sizes: map[string]int{}}
	out := Packed{}
	for _, url := range []string{resource.ClusterType, resource.ScopedRouteType, resource.ListenerType} {
		out[url] = make([]*discoveryv3.Resource, 0, m.sizes[url]+8)
	}
	b := newBuilder(p, o)
	b.take = func(id identity, build func() proto.Message) {
		if next.made[id.part] != nil {
			return // several destinations need it
		}
		one := m.made[id.part]
		if one == nil || one.beside != id.beside || !plan.EqualRules(one.rules, id.rules) {
			id.rules = slices.Clone(id.rules)
			one = &made{identity: id, resource: b.pack(build())}
		}
		next.made[id.part] = one
		url := one.resource.GetResource().GetTypeUrl()
		out[url] = append(out[url], one.resource)
	}
	old := m.sites
	b.takeSite = func(s *site) {
		for len(old) > 0 && old[0].before(s) {
			old = old[1:]
		}
		var one *madeSite
		if len(old) > 0 && old[0].equal(s) {
			one = old[0]
		} else {
			one = &madeSite{site: *s}
			for i := range one.visitors {
				v := &one.visitors[i]
				v.Rules = slices.Clone(v.Rules)
			}
			for _, r := range b.scopesOf(&one.site) {
				one.resources = append(one.resources, b.pack(r))
			}
		}
		next.sites = append(next.sites, one)
		out[resource.ScopedRouteType] = append(out[resource.ScopedRouteType], one.resources...)
	}
	if err := b.build(); err != nil {
		return nil, err
	}
	for url, rs := range out {
		next.sizes[url] = len(rs)
	}
	*m = next
	return out, nil
}

func (b *builder) pack(m proto.Message) *discoveryv3.Resource {
	packed := b.any(m)
	sum := sha256.Sum256(packed.GetValue())
	return &discoveryv3.Resource{Name: m.(interface{ GetName() string }).GetName(), Version: hex.EncodeToString(sum[:8]), Resource: packed}
}
