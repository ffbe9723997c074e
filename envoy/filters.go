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

// Filter state that a CONNECT passes to the connection inside it.
const (
	stateAgent   = "postern.agent"
	stateConnect = "postern.connect"
	stateHost    = "postern.host"
	stateRule    = "postern.rule"
)

// scopeHeader tells the route lookup who asks for what: the agent, the key of the scope and, inside
// a CONNECT, the Host, with scopeSeparator in between. The listener always overwrites it, and it is
// removed before a request leaves. The key finds the scope, and the whole value finds the virtual
// host: see siteDomains.
const (
	scopeHeader    = "x-postern-scope"
	scopeSeparator = "|"
)

// viaHeader names the agent's cluster, to which shared routes lead. It is overwritten and removed
// like scopeHeader.
const viaHeader = "x-postern-via"

// nowHeader has the time at which a request began, in seconds of Unix time. By it a route stops
// matching when its rule ends: see inTurn. It is overwritten and removed like scopeHeader.
const nowHeader = "x-postern-now"

// restHeader is set while a request that is not a CONNECT looks for its scope.
const restHeader = "x-postern-rest"

// Headers that show filter state to the expression of wildScopeFormat.
const (
	connectHeader = "x-postern-connect"
	hostHeader    = "x-postern-host"
)

// setFilters gives a connection manager its HTTP filters, beginning with first. Each filter costs a
// request some thousand instructions (docs/performance.md). So a filter that only some requests
// need is off, until a route or virtual host that configures it turns it on.
//
// WebSockets pass one filter more. Envoy chooses the list by the header Upgrade, for any method, so
// each list must have what the others have.
func (b *builder) setFilters(hcm *hcmv3.HttpConnectionManager, agent string, first ...*hcmv3.HttpFilter) {
	filters := append(first,
		// Before the injector: afterwards it would remove the injected credential.
		b.guardFilter(guard.Filter, agent),
		off(b.rateFilter()),
		// Holds the filters that a route configures: its limits, and the injector.
		off(b.filter(filterCredential, &chainv3.FilterChainConfig{})),
		off(b.guardFilter(guard.FilterPut, agent)),
		// Resolves only the host that the route names.
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

// connectFilters returns filters with the limit of requests on: rest.lua finds the routes of hosts
// below wildcards too late for them to turn it on.
func (b *builder) connectFilters(filters []*hcmv3.HttpFilter) []*hcmv3.HttpFilter {
	filters = slices.Clone(filters)
	for i, f := range filters {
		if f.GetName() == filterRate {
			filters[i] = b.rateFilter()
		}
	}
	return filters
}

// upgradeFilter sends a WebSocket to the upstream over HTTP/1.1. HTTP/2 would need an extended
// CONNECT (RFC 8441), which few servers with HTTP/2 accept.
func (b *builder) upgradeFilter() *hcmv3.HttpFilter {
	return b.filter("upgrade", &httpstatev3.Config{OnRequestHeaders: []*setstatev3.FilterStateValue{{
		Key: &setstatev3.FilterStateValue_ObjectKey{ObjectKey: "envoy.network.application_protocols"},
		Value: &setstatev3.FilterStateValue_FormatString{FormatString: &corev3.SubstitutionFormatString{
			Format: textFormat("http/1.1"),
		}},
	}}})
}

// router is the last filter, as Envoy requires. It would count by status, which is not among the
// statistics that a node keeps, and finding that out costs a twentieth of a request.
func (b *builder) router() *hcmv3.HttpFilter {
	return b.filter("envoy.filters.http.router", &routerv3.Router{SuppressEnvoyHeaders: true, DynamicStats: wrapperspb.Bool(false)})
}

// off disables f, except on routes that enable it.
func off(f *hcmv3.HttpFilter) *hcmv3.HttpFilter {
	f.Disabled = true
	return f
}

// connectState records which agent connects where, for the internal listener.
func (b *builder) connectState(agent string) *hcmv3.HttpFilter {
	value := func(key, text string, formatters ...*corev3.TypedExtensionConfig) *setstatev3.FilterStateValue {
		return &setstatev3.FilterStateValue{
			Key: &setstatev3.FilterStateValue_ObjectKey{ObjectKey: key},
			// Hashable: Envoy pools connections to the internal listener by the hash of their
			// shared state. With a plain string all agents would share a pool, and with it the
			// state of the agent that opened it (docs/envoy.md).
			FactoryKey: "envoy.hashable_string",
			Value: &setstatev3.FilterStateValue_FormatString{FormatString: &corev3.SubstitutionFormatString{
				Format:     textFormat(text),
				Formatters: formatters,
			}},
			// Once: only with the internal listener. Otherwise each request inside would look again
			// at what it shares with its upstream.
			SharedWithUpstream: setstatev3.FilterStateValue_ONCE,
		}
	}
	cel := &corev3.TypedExtensionConfig{
		Name:        "envoy.formatter.cel",
		TypedConfig: b.any(&celformatterv3.Cel{CelConfig: &corev3.CelExpressionConfig{EnableStringFunctions: true}}),
	}
	return b.filter(filterState, &httpstatev3.Config{OnRequestHeaders: []*setstatev3.FilterStateValue{
		value(stateAgent, agent),
		// In lower case, because scope keys are compared byte by byte.
		value(stateConnect, "%CEL(request.host.lowerAscii())%", cel),
		value(stateHost, `%CEL(request.host.lowerAscii().split(":")[0])%`, cel),
		value(stateRule, agent+"/%METADATA(ROUTE:"+metadataNamespace+":rule)%"),
	}})
}

// early sets the scope, the cluster to which shared routes lead, and the time, before Envoy looks
// for a route. First it removes our own and Envoy's own headers that the client has sent.
func (b *builder) early(scope, via string, before ...*mutationv3.HeaderMutation) *corev3.TypedExtensionConfig {
	ms := append([]*mutationv3.HeaderMutation{
		removePrefix("x-postern-"), removePrefix("x-envoy-"), overwrite(viaHeader, via),
		overwrite(nowHeader, "%START_TIME(%s)%"),
	}, before...)
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
