package envoy

import (
	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	setstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	listenerstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/set_filter_state/v3"
	celformatterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/formatter/cel/v3"
	inputsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// serverNames matches the server names for which a certificate may be requested, and the empty
// name. An agent can send any bytes but NUL, and they become the name of an xDS resource. With "*",
// which means all resources, the node would refuse every later secret; "xdstp://" ends Envoy 1.40.0
// (docs/envoy.md). TLS inspection has made the name lower-case before.
const serverNames = `(?:[a-z0-9-]+(?:\.[a-z0-9-]+)*)?`

// stateAgrees is "true" if a connection's server name is the host of the CONNECT around it.
const stateAgrees = "postern.agrees"

// compareNames sets stateAgrees. So a certificate is requested only for a host to which the agent
// may CONNECT, and the agent cannot find out whether there is one for another agent's host.
func (b *builder) compareNames() *listenerv3.ListenerFilter {
	return &listenerv3.ListenerFilter{
		Name: "envoy.filters.listener.set_filter_state",
		ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: b.any(&listenerstatev3.Config{OnAccept: []*setstatev3.FilterStateValue{{
			Key:        &setstatev3.FilterStateValue_ObjectKey{ObjectKey: stateAgrees},
			FactoryKey: "envoy.string",
			Value: &setstatev3.FilterStateValue_FormatString{FormatString: &corev3.SubstitutionFormatString{
				Format: textFormat(`%CEL(connection.requested_server_name == string(filter_state["` + stateHost + `"]))%`),
				Formatters: []*corev3.TypedExtensionConfig{{
					Name:        "envoy.formatter.cel",
					TypedConfig: b.any(&celformatterv3.Cel{CelConfig: &corev3.CelExpressionConfig{EnableStringConversion: true}}),
				}},
			}},
		}}})},
	}
}

// byServerName leads TLS whose server name matches serverNames and is the CONNECT's host to the
// given filter chain. Every other connection finds no chain and is closed.
func (b *builder) byServerName(chain string) *xdsmatcherv3.Matcher {
	single := func(input string, config proto.Message, value *xdsmatcherv3.StringMatcher) *xdsmatcherv3.Matcher_MatcherList_Predicate {
		return &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{
			SinglePredicate: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
				Input:   &xdscorev3.TypedExtensionConfig{Name: "envoy.matching.inputs." + input, TypedConfig: b.any(config)},
				Matcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{ValueMatch: value},
			},
		}}
	}
	return &xdsmatcherv3.Matcher{MatcherType: &xdsmatcherv3.Matcher_MatcherList_{MatcherList: &xdsmatcherv3.Matcher_MatcherList{
		Matchers: []*xdsmatcherv3.Matcher_MatcherList_FieldMatcher{{
			Predicate: &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_AndMatcher{
				AndMatcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: []*xdsmatcherv3.Matcher_MatcherList_Predicate{
					single("transport_protocol", &inputsv3.TransportProtocolInput{}, &xdsmatcherv3.StringMatcher{
						MatchPattern: &xdsmatcherv3.StringMatcher_Exact{Exact: "tls"},
					}),
					single("filter_state", &inputsv3.FilterStateInput{Key: stateAgrees}, &xdsmatcherv3.StringMatcher{
						MatchPattern: &xdsmatcherv3.StringMatcher_Exact{Exact: "true"},
					}),
					single("server_name", &inputsv3.ServerNameInput{}, &xdsmatcherv3.StringMatcher{
						MatchPattern: &xdsmatcherv3.StringMatcher_SafeRegex{SafeRegex: &xdsmatcherv3.RegexMatcher{
							EngineType: &xdsmatcherv3.RegexMatcher_GoogleRe2{GoogleRe2: &xdsmatcherv3.RegexMatcher_GoogleRE2{}},
							Regex:      serverNames,
						}},
					}),
				}},
			}},
			OnMatch: &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{
				Action: &xdscorev3.TypedExtensionConfig{Name: "chain", TypedConfig: b.any(wrapperspb.String(chain))},
			}},
		}},
	}}}
}
