package envoy

import (
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	dynamicv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/dynamic_modules/v3"
	modulev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/dynamic_modules/v3"
	networkmodulev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/dynamic_modules/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/postern/postern/guard"
	"github.com/postern/postern/plan"
)

// guardFilter returns a filter of cmd/libguard. A node without the module refuses the listener.
func (b *builder) guardFilter(name, agent string) *hcmv3.HttpFilter {
	return b.filter(name, &modulev3.DynamicModuleFilter{
		// Go's runtime cannot be unloaded.
		DynamicModuleConfig: &dynamicv3.DynamicModuleConfig{Name: guard.Module, DoNotClose: true},
		FilterName:          name,
		// The module counts for the agent, whatever the listener.
		FilterConfig: b.any(wrapperspb.String(agent)),
	})
}

// gate returns the filter of cmd/libguard for connections. While other agents work, it reads from
// the agent's connections no faster than the agent's share of the node allows.
func (b *builder) gate(agent string) *listenerv3.Filter {
	return b.networkFilter("dynamic_modules", &networkmodulev3.DynamicModuleNetworkFilter{
		DynamicModuleConfig: &dynamicv3.DynamicModuleConfig{Name: guard.Module, DoNotClose: true},
		FilterName:          "gate",
		FilterConfig:        b.any(wrapperspb.String(agent)),
	})
}

// endPatience is how long after a rule's end the control plane has to take the rule away, before
// the guard refuses what the rule allows.
const endPatience = 5 * time.Second

// guardRule returns what the guard must know about a rule.
func (b *builder) guardRule(r plan.Rule) guard.Rule {
	g := b.guardCredential(r)
	g.Until = until(r)
	return g
}

// until is when the guard refuses what the rule allows, in seconds of Unix time, or 0.
func until(r plan.Rule) int64 {
	end, err := time.Parse(time.RFC3339, r.Expires)
	if err != nil {
		return 0
	}
	return end.Add(endPatience).Unix()
}

// inTurn returns routes of the rules, in their order. When a rule ends, the next one that matches
// decides. Only if there is none, a second route of the rule that has ended has the guard refuse
// the request: the second routes are the last ones.
func inTurn(rules []plan.Rule, routes func(plan.Rule) []*routev3.Route) (all []*routev3.Route) {
	var ended []*routev3.Route
	for _, r := range rules {
		of := routes(r)
		if end := until(r); end != 0 && !r.Deny {
			ended = append(ended, routes(r)...)
			for _, route := range of {
				route.Match.Headers = append(route.Match.Headers, &routev3.HeaderMatcher{
					Name: nowHeader, HeaderMatchSpecifier: &routev3.HeaderMatcher_RangeMatch{
						RangeMatch: &typev3.Int64Range{End: end},
					},
				})
			}
		}
		all = append(all, of...)
	}
	return append(all, ended...)
}

func (b *builder) guardCredential(r plan.Rule) guard.Rule {
	if r.OwnCredentials && r.Credential == "" {
		return guard.Rule{Own: true}
	}
	c, ok := b.credential(r)
	if !ok {
		return guard.Rule{}
	}
	slot := c.Slot()
	return guard.Rule{Header: slot.Header, Prefix: len(slot.Prefix), Parameter: slot.Parameter, Signs: slot.Signs}
}
