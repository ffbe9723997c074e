package envoy

import (
	"slices"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	setstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	dfpfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/dynamic_forward_proxy/v3"
	chainv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/filter_chain/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	httpstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_filter_state/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	celformatterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/formatter/cel/v3"
	earlyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/postern/postern/guard"
)

// Names of the HTTP filters that routes configure.
const (
	filterCredential = "credential"
	filterDNS        = "dns"
	filterState      = "connect-state"
)

// Filter state that a CONNECT hands to the connection inside it.
const (
	stateAgent   = "postern.agent"
	stateConnect = "postern.connect"
	stateHost    = "postern.host"
	stateRule    = "postern.rule"
)

// scopeHeader carries from the listener to the route lookup who asks for what: the agent, the
// key of the scope and, inside a CONNECT, the Host, with scopeSeparator in between. It is always
// overwritten on the way in and removed before a request leaves. The key finds the scope, and
// the whole value the virtual host: see [siteDomains].
const (
	scopeHeader    = "x-postern-scope"
	scopeSeparator = "|"
)

// viaHeader names the cluster of the agent that shared routes lead to. It is overwritten and
// removed as scopeHeader is.
const viaHeader = "x-postern-via"

// restHeader is there while a request that is no CONNECT looks for its scope.
const restHeader = "x-postern-rest"

// Headers through which the expression of wildScopeFormat sees filter state.
const (
	connectHeader = "x-postern-connect"
	hostHeader    = "x-postern-host"
)

// setFilters gives a connection manager its HTTP filters, some before the others.
// Each costs a request some thousand instructions, so what only some need is not
// there for all (docs/performance.md): what is off is turned on by the routes and
// virtual hosts that configure it.
//
// WebSockets pass one more. Which list it is, Envoy tells by the header Upgrade, for
// any method: no list may lack what another has.
func (b *builder) setFilters(hcm *hcmv3.HttpConnectionManager, agent string, first ...*hcmv3.HttpFilter) {
	filters := append(first,
		// Before the injector: what it removed afterwards would be the credential
		// itself (envoy.md, section A, trap 2).
		b.guardFilter(guard.Filter, agent),
		off(b.rateFilter()),
		// Does nothing but what a route configures: inject its credential.
		off(b.filter(filterCredential, &chainv3.FilterChainConfig{})),
		off(b.guardFilter(guard.FilterPut, agent)),
		// Resolves the host that the route's scope has bound, nothing else.
		b.filter(filterDNS, &dfpfilterv3.FilterConfig{
			ImplementationSpecifier: &dfpfilterv3.FilterConfig_DnsCacheConfig{DnsCacheConfig: b.dnsCache(agent)},
		}),
		b.router(),
	)
	hcm.HttpFilters = filters
	hcm.UpgradeConfigs = []*hcmv3.HttpConnectionManager_UpgradeConfig{{
		UpgradeType: "websocket", Filters: slices.Insert(slices.Clone(filters), len(filters)-1, b.upgradeFilter()),
	}}
}

// connectFilters are filters with the limit of requests on: the routes of hosts below
// wildcards are found too late to turn it on (rest.lua).
func (b *builder) connectFilters(filters []*hcmv3.HttpFilter) []*hcmv3.HttpFilter {
	filters = slices.Clone(filters)
	for i, f := range filters {
		if f.GetName() == filterRate {
			filters[i] = b.rateFilter()
		}
	}
	return filters
}

// upgradeFilter makes a WebSocket's connection to the upstream one of HTTP/1.1:
// over HTTP/2 it would have to be an extended CONNECT (RFC 8441), which few
// servers take that offer HTTP/2.
func (b *builder) upgradeFilter() *hcmv3.HttpFilter {
	return b.filter("upgrade", &httpstatev3.Config{OnRequestHeaders: []*setstatev3.FilterStateValue{{
		Key: &setstatev3.FilterStateValue_ObjectKey{ObjectKey: "envoy.network.application_protocols"},
		Value: &setstatev3.FilterStateValue_FormatString{FormatString: &corev3.SubstitutionFormatString{
			Format: textFormat("http/1.1"),
		}},
	}}})
}

// router is the last of all filters, by Envoy's rule. What it counts by status is
// not among the statistics that a node keeps; to find that out anew is a twentieth
// of what a request costs.
func (b *builder) router() *hcmv3.HttpFilter {
	return b.filter("envoy.filters.http.router", &routerv3.Router{SuppressEnvoyHeaders: true, DynamicStats: wrapperspb.Bool(false)})
}

// off is a filter for those only who turn it on.
func off(f *hcmv3.HttpFilter) *hcmv3.HttpFilter {
	f.Disabled = true
	return f
}

// connectState records who connects where, for the internal listener.
func (b *builder) connectState(agent string) *hcmv3.HttpFilter {
	value := func(key, text string, formatters ...*corev3.TypedExtensionConfig) *setstatev3.FilterStateValue {
		return &setstatev3.FilterStateValue{
			Key: &setstatev3.FilterStateValue_ObjectKey{ObjectKey: key},
			// Hashable: Envoy pools connections to the internal listener by the hash of what
			// they share. With a plain string, all agents would share the pool, and with it the state,
			// of whoever opened it first (docs/envoy.md).
			FactoryKey: "envoy.hashable_string",
			Value: &setstatev3.FilterStateValue_FormatString{FormatString: &corev3.SubstitutionFormatString{
				Format:     textFormat(text),
				Formatters: formatters,
			}},
			// Once: to the internal listener. Its requests would look at what they share
			// with the upstream, each anew.
			SharedWithUpstream: setstatev3.FilterStateValue_ONCE,
		}
	}
	cel := &corev3.TypedExtensionConfig{
		Name:        "envoy.formatter.cel",
		TypedConfig: b.any(&celformatterv3.Cel{CelConfig: &corev3.CelExpressionConfig{EnableStringFunctions: true}}),
	}
	return b.filter(filterState, &httpstatev3.Config{OnRequestHeaders: []*setstatev3.FilterStateValue{
		value(stateAgent, agent),
		// Lower case, because scope keys are compared byte by byte.
		value(stateConnect, "%CEL(request.host.lowerAscii())%", cel),
		value(stateHost, `%CEL(request.host.lowerAscii().split(":")[0])%`, cel),
		value(stateRule, agent+"/%METADATA(ROUTE:"+metadataNamespace+":rule)%"),
	}})
}

// early decides the scope, and the cluster that shared routes lead to, before Envoy looks for a
// route. Whatever the client sent in our or Envoy's own headers is gone by then.
func (b *builder) early(scope, via string, before ...*mutationv3.HeaderMutation) *corev3.TypedExtensionConfig {
	ms := append([]*mutationv3.HeaderMutation{removePrefix("x-postern-"), removePrefix("x-envoy-"), overwrite(viaHeader, via)}, before...)
	return &corev3.TypedExtensionConfig{
		Name:        "envoy.http.early_header_mutation.header_mutation",
		TypedConfig: b.any(&earlyv3.HeaderMutation{Mutations: append(ms, overwrite(scopeHeader, scope))}),
	}
}

func removePrefix(prefix string) *mutationv3.HeaderMutation {
	return &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_RemoveOnMatch_{RemoveOnMatch: &mutationv3.HeaderMutation_RemoveOnMatch{
		KeyMatcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: prefix}, IgnoreCase: true},
	}}}
}

func overwrite(header, format string) *mutationv3.HeaderMutation {
	return &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_Append{Append: &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: header, Value: format},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}}}
}

func (b *builder) filter(name string, config proto.Message) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: b.any(config)}}
}

func textFormat(text string) *corev3.SubstitutionFormatString_TextFormatSource {
	return &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{
		Specifier: &corev3.DataSource_InlineString{InlineString: text},
	}}
}
