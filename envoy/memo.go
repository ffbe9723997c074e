package envoy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

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
	// scopes are those of the destinations, by agent, sorted as they are.
	scopes map[string][]*madeScopes
	// sizes are how many resources of a type there were.
	sizes map[string]int
}

// made is a resource, and what it was made of.
type made struct {
	identity
	resource *discoveryv3.Resource
}

// madeScopes are the scopes of one destination, which has a copy of its rules:
// theirs is all of a plan.
type madeScopes struct {
	destination
	resources []*discoveryv3.Resource
}

// Packed is one plan as it goes over the wire, by type URL. The version of a
// resource is the hash of its bytes. Resources that are in two plans are shared:
// nobody may change them.
type Packed map[string][]*discoveryv3.Resource

// Build returns what [Build] does, packed. What is in two plans is in the same
// order in both.
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
	next := Memo{common: m.common, made: make(map[part]*made, len(m.made)), scopes: make(map[string][]*madeScopes, len(m.scopes)), sizes: map[string]int{}}
	out := Packed{}
	for _, url := range []string{resource.ClusterType, resource.ScopedRouteType, resource.ListenerType} {
		out[url] = make([]*discoveryv3.Resource, 0, m.sizes[url]+8)
	}
	b := newBuilder(p, o)
	b.take = func(id identity, build func() proto.Message) {
		if next.made[id.part] != nil {
			return // there is one already
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
	scopes := scopesMemo{b: b, of: m.scopes}
	b.takeScopes = func(agent string, d *destination) {
		if scopes.agent != agent {
			scopes.begin(agent)
		}
		one := scopes.one(d)
		next.scopes[agent] = scopes.next
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

// scopesMemo goes through the destinations of one agent after the other, beside
// those that there were.
type scopesMemo struct {
	b  *builder
	of map[string][]*madeScopes

	agent string
	// old are those that there were and have not come yet, next those that have.
	old, next []*madeScopes
}

func (s *scopesMemo) begin(agent string) {
	s.agent, s.old = agent, s.of[agent]
	s.next = make([]*madeScopes, 0, len(s.old)+8)
}

func (s *scopesMemo) one(d *destination) *madeScopes {
	for len(s.old) > 0 && s.old[0].before(d) {
		s.old = s.old[1:]
	}
	var one *madeScopes
	if len(s.old) > 0 && s.old[0].Host == d.Host && s.old[0].Port == d.Port && plan.EqualRules(s.old[0].Rules, d.Rules) {
		one = s.old[0]
	} else {
		one = &madeScopes{destination: *d}
		one.Rules = slices.Clone(d.Rules)
		for _, r := range s.b.scopesOf(s.agent, one.destination) {
			one.resources = append(one.resources, s.b.pack(r))
		}
	}
	s.next = append(s.next, one)
	return one
}

// before reports whether d comes before o in an agent's destinations.
func (d *destination) before(o *destination) bool {
	c := strings.Compare(d.Host, o.Host)
	return c < 0 || c == 0 && d.Port < o.Port
}

// pack validates m and hashes its bytes.
func (b *builder) pack(m proto.Message) *discoveryv3.Resource {
	packed := b.any(m)
	sum := sha256.Sum256(packed.GetValue())
	return &discoveryv3.Resource{Name: m.(interface{ GetName() string }).GetName(), Version: hex.EncodeToString(sum[:8]), Resource: packed}
}
