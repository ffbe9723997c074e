// Package envoy turns a plan into Envoy resources. The same plan gives the same bytes on every
// replica of the control plane. So a resource's version can be the hash of its bytes.
//
// The path of a request (docs/architecture.md has the picture):
//
//	agent/<name>   listener on the agent's own Unix socket; CONNECT, gateways
//	connect/<host:port>  scope: where a CONNECT leads, by agent
//	connect/* <name>  scope: an agent's gateways, and its CONNECTs to all other hosts
//	intercept/<name>  internal listener; TLS with an on-demand leaf certificate
//	l7/...         scope: methods, paths and credential of one host, by agent
//	intercept-wildcard/<name>, wild/...  the same two for hosts below a wildcard
//	tunnel/<name>/...  internal listener; checks the server name and passes TLS on
//	dynamic/<name>  cluster: TLS to the host that the route names, found by DNS
//	pinned/...     cluster: TLS to a destination whose address the operator has set
package envoy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/postern/postern/plan"
)

// Options are the inputs besides the plan.
type Options struct {
	// Roots is the path, on the nodes, of the PEM file with the authorities against which upstream
	// certificates are verified.
	Roots string
	// Generations names the generation of each agent's connections. A new name closes the agent's
	// open connections.
	Generations map[string]string
	// Killed are the agents that may do nothing, whatever the plan says.
	Killed []string
}

// SecretName returns the xDS name of a credential's secret. The certificate selector also requests
// secrets, by server name. So the name has a zero byte, with which TLS refuses server names.
func SecretName(credential string) string { return "credential\x00" + credential }

// builder holds what the builders of one plan share. It collects errors, so that all are reported
// at once.
type builder struct {
	plan    *plan.Plan
	options Options
	// destinations are by agent.
	destinations map[string][]destination
	credentials  map[string]plan.Credential
	// take gets every part, some more than once, and the function that builds it.
	take func(identity, func() proto.Message)
	// takeSite gets every site, sorted.
	takeSite func(*site)
	errs     []error
}

// part names a resource.
type part struct{ kind, agent, name string }

// identity is all that a part is made of, besides what all parts share (see Memo.common). Parts
// with the same identity have the same bytes.
type identity struct {
	part
	rules []plan.Rule
	// beside has everything else, as text.
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

// one passes a part that is a single resource to take.
func (b *builder) one(p part, rules []plan.Rule, beside string, build func() proto.Message) {
	b.take(identity{p, rules, beside}, build)
}

// any packs m after validating it.
func (b *builder) any(m proto.Message) *anypb.Any {
	if v, ok := m.(interface{ ValidateAll() error }); ok {
		if err := v.ValidateAll(); err != nil {
			b.errs = append(b.errs, err)
		}
	}
	a := &anypb.Any{}
	if err := pack(a, m); err != nil {
		b.errs = append(b.errs, err)
	}
	return a
}

// ads says that a resource comes over the stream from the control plane.
func ads() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		ResourceApiVersion:    corev3.ApiVersion_V3,
	}
}

// authority returns the canonical Host header of a rule's destination.
func authority(r plan.Rule) string {
	if r.Port == 443 {
		return r.Host
	}
	return hostPort(r.Host, r.Port)
}

func hostPort(host string, port uint16) string { return host + ":" + strconv.Itoa(int(port)) }

func isWildcard(host string) bool { return strings.HasPrefix(host, "*.") }
