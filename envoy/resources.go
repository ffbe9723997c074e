// Package envoy turns a plan into Envoy resources. Its functions are pure: the
// same plan gives the same resources on every replica of the control plane,
// so that a resource's version can be the hash of its bytes.
//
// The way of a request (docs/architecture.md has the picture):
//
//	agent/<name>   listener on the agent's own Unix socket; CONNECT, gateways
//	connect/<name> scope: where the agent may CONNECT to, its gateways
//	intercept      internal listener; TLS with an on-demand leaf certificate
//	l7/...         scope: methods, paths and credential of one agent and host
//	intercept-wildcard, wild/...  the same for the names below a wildcard
//	tunnel/...     internal listener; TLS that is passed on after a look at its server name
//	dynamic        cluster: TLS to the host that the scope names, found by DNS
//	pinned/...     cluster: TLS to a destination whose place the operator gave
package envoy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
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

// Build returns the resources of p, sorted by name. On an error it returns
// none: half an allowlist is never served.
func Build(p *plan.Plan, o Options) (*Resources, error) {
	b := &builder{plan: p, options: o, credentials: map[string]plan.Credential{}, destinations: map[string][]destination{}}
	for _, c := range p.Credentials {
		b.credentials[c.Name] = c
	}
	for _, a := range p.Agents {
		for _, d := range a.Destinations() {
			b.destinations[a.Name] = append(b.destinations[a.Name], destination{d})
		}
	}
	r := &Resources{Clusters: b.clusters(), Scopes: b.scopes(), Listeners: b.listeners()}
	for _, m := range r.all() {
		if v, ok := m.(interface{ ValidateAll() error }); ok {
			if err := v.ValidateAll(); err != nil {
				b.errs = append(b.errs, err)
			}
		}
	}
	if err := errors.Join(b.errs...); err != nil {
		return nil, fmt.Errorf("build the Envoy resources of stack %q: %w", p.Stack, err)
	}
	return r, nil
}

func (r *Resources) all() []proto.Message {
	var ms []proto.Message
	for _, m := range r.Clusters {
		ms = append(ms, m)
	}
	for _, m := range r.Scopes {
		ms = append(ms, m)
	}
	for _, m := range r.Listeners {
		ms = append(ms, m)
	}
	return ms
}

// SecretName is the xDS name of the secret of a credential. The zero byte
// keeps it apart from every server name that an agent could send: TLS refuses
// names with one, and the certificate selector asks for secrets by server name.
func SecretName(credential string) string { return "credential\x00" + credential }

// LeafHosts are the names that a node may present a certificate for.
type LeafHosts struct {
	exact map[string]bool
	// suffixes are those of wildcards, with their leading dot.
	suffixes []string
}

// Leaves returns the names whose TLS the plan intercepts.
func Leaves(p *plan.Plan) LeafHosts {
	h := LeafHosts{exact: map[string]bool{}}
	for _, a := range p.Agents {
		for _, r := range a.Rules {
			switch {
			case r.Deny || r.Mode == plan.ModeTunnel:
			case isWildcard(r.Host):
				h.suffixes = append(h.suffixes, r.Host[1:])
			default:
				h.exact[r.Host] = true
			}
		}
	}
	return h
}

// Allow reports whether there may be a certificate for name. Below a wildcard
// only canonical names count: the others are endless.
func (h LeafHosts) Allow(name string) bool {
	if h.exact[name] {
		return true
	}
	for _, s := range h.suffixes {
		if len(name) > len(s) && strings.HasSuffix(name, s) {
			canonical, err := plan.CanonicalHost(name)
			return err == nil && canonical == name
		}
	}
	return false
}

// Or returns the names of both.
func (h LeafHosts) Or(o LeafHosts) LeafHosts {
	u := LeafHosts{exact: map[string]bool{}, suffixes: append(slices.Clone(h.suffixes), o.suffixes...)}
	maps.Copy(u.exact, h.exact)
	maps.Copy(u.exact, o.exact)
	return u
}

// builder carries what the builders of one plan share. Errors are collected,
// so that all of them are reported at once.
type builder struct {
	plan    *plan.Plan
	options Options
	// destinations are those of each agent.
	destinations map[string][]destination
	credentials  map[string]plan.Credential
	errs         []error
}

// any packs m after validating it.
func (b *builder) any(m proto.Message) *anypb.Any {
	if v, ok := m.(interface{ ValidateAll() error }); ok {
		if err := v.ValidateAll(); err != nil {
			b.errs = append(b.errs, err)
		}
	}
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

func hostPort(host string, port uint16) string { return fmt.Sprintf("%s:%d", host, port) }

func isWildcard(host string) bool { return strings.HasPrefix(host, "*.") }
