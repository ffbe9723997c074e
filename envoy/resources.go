// Package envoy turns a plan into Envoy resources. Its functions are pure: the
// same plan gives the same resources on every replica of the control plane,
// so that a resource's version can be the hash of its bytes.
//
// The path of a request (docs/architecture.md has the picture):
//
//	agent/<name>   listener on the agent's own Unix socket; CONNECT, gateways
//	connect/<host:port>  scope: where a CONNECT leads, by agent
//	connect/* <name>  scope: CONNECT below wildcards and to other hosts, gateways
//	intercept/<name>  internal listener; TLS with an on-demand leaf certificate
//	l7/...         scope: methods, paths and credential of one host, by agent
//	intercept-wildcard/<name>, wild/...  the same for the names below a wildcard
//	tunnel/<name>/...  internal listener; TLS that is passed on after a look at its server name
//	dynamic/<name>  cluster: TLS to the host that the scope names, found by DNS
//	pinned/...     cluster: TLS to a destination whose place the operator gave
package envoy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/postern/postern/plan"
)

// Options are what the resources depend on beside the plan.
type Options struct {
	// Roots is the PEM file, on the nodes, of the certificate authorities
	// that upstream certificates are verified against.
	Roots string
	// Generations name, by agent, the generation of its connections: one
	// that changes cuts those that are open.
	Generations map[string]string
	// Killed are the agents that may do nothing, whatever the plan says.
	Killed []string
}

// Resources is one plan as Envoy sees it. Secrets are not part of it: the
// control plane adds those that [SecretName] and [Leaves] name.
type Resources struct {
	Clusters  []*clusterv3.Cluster
	Scopes    []*routev3.ScopedRouteConfiguration
	Listeners []*listenerv3.Listener
}

// Build returns the resources of p, sorted by name: those of [Memo.Build], to be looked at. On an
// error it returns none: half an allowlist is never served.
func Build(p *plan.Plan, o Options) (*Resources, error) {
	packed, err := new(Memo).Build(p, o)
	if err != nil {
		return nil, err
	}
	r := &Resources{}
	for _, resources := range packed {
		for _, one := range resources {
			m, err := one.GetResource().UnmarshalNew()
			if err != nil {
				return nil, fmt.Errorf("resource %q: %w", one.GetName(), err)
			}
			switch m := m.(type) {
			case *clusterv3.Cluster:
				r.Clusters = append(r.Clusters, m)
			case *routev3.ScopedRouteConfiguration:
				r.Scopes = append(r.Scopes, m)
			case *listenerv3.Listener:
				r.Listeners = append(r.Listeners, m)
			}
		}
	}
	slices.SortFunc(r.Clusters, byName[*clusterv3.Cluster])
	slices.SortFunc(r.Scopes, byName[*routev3.ScopedRouteConfiguration])
	slices.SortFunc(r.Listeners, byName[*listenerv3.Listener])
	return r, nil
}

func byName[M interface{ GetName() string }](a, b M) int {
	return strings.Compare(a.GetName(), b.GetName())
}

// SecretName is the xDS name of the secret of a credential. The zero byte
// keeps it apart from every server name that an agent could send: TLS refuses
// names with one, and the certificate selector asks for secrets by server name.
func SecretName(credential string) string { return "credential\x00" + credential }

// builder carries what the builders of one plan share. Errors are collected,
// so that all of them are reported at once.
type builder struct {
	plan    *plan.Plan
	options Options
	// destinations are those of each agent.
	destinations map[string][]destination
	credentials  map[string]plan.Credential
	// take is given every part, some more than once, and how to build it.
	take func(identity, func() proto.Message)
	// takeSite is given every site, sorted.
	takeSite func(*site)
	errs     []error
}

// part names a resource.
type part struct{ kind, agent, name string }

// identity is all that a part is made of, beside what all share (see [Memo]):
// two of the same identity have the same bytes.
type identity struct {
	part
	// rules are those that it is made of.
	rules []plan.Rule
	// beside is what else it is made of, as text.
	beside string
}

func newBuilder(p *plan.Plan, o Options) *builder {
	b := &builder{plan: p, options: o, credentials: map[string]plan.Credential{}, destinations: map[string][]destination{}}
	for _, c := range p.Credentials {
		b.credentials[c.Name] = c
	}
	for _, a := range p.Agents {
		all := a.Destinations()
		wrapped := make([]destination, len(all))
		for i, d := range all {
			wrapped[i].Destination = d
		}
		b.destinations[a.Name] = wrapped
	}
	return b
}

// build makes every resource, in no particular order.
func (b *builder) build() error {
	b.clusters()
	b.scopes()
	b.listeners()
	if err := errors.Join(b.errs...); err != nil {
		return fmt.Errorf("build the Envoy resources of stack %q: %w", b.plan.Stack, err)
	}
	return nil
}

// one makes a part that is a single resource.
func (b *builder) one(p part, rules []plan.Rule, beside string, build func() proto.Message) {
	b.take(identity{p, rules, beside}, build)
}

func (b *builder) validate(m proto.Message) {
	if v, ok := m.(interface{ ValidateAll() error }); ok {
		if err := v.ValidateAll(); err != nil {
			b.errs = append(b.errs, err)
		}
	}
}

// any packs m after validating it.
func (b *builder) any(m proto.Message) *anypb.Any {
	b.validate(m)
	a := &anypb.Any{}
	// Deterministic, as the bytes are hashed.
	if err := anypb.MarshalFrom(a, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		b.errs = append(b.errs, err)
	}
	return a
}

// ads says that a resource comes over the one stream to the control plane.
func ads() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		ResourceApiVersion:    corev3.ApiVersion_V3,
	}
}

// authority is the canonical Host header of a rule's destination.
func authority(r plan.Rule) string {
	if r.Port == 443 {
		return r.Host
	}
	return hostPort(r.Host, r.Port)
}

func hostPort(host string, port uint16) string { return host + ":" + strconv.Itoa(int(port)) }

func isWildcard(host string) bool { return strings.HasPrefix(host, "*.") }
