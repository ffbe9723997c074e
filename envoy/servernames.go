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

// serverNames are the only server names that a certificate is asked for, and
// none at all. An agent may send any bytes but NUL, and what it sends becomes the
// name of an xDS resource: "*" would be all of them, so that the node refuses
// every secret from then on, and Envoy 1.40.0 ends itself at "xdstp://"
// (docs/envoy.md). TLS inspection has made it lower-case by then.
const serverNames = `(?:[a-z0-9-]+(?:\.[a-z0-9-]+)*)?`

// stateAgrees is "true" if a connection's server name is the host of the CONNECT that
// it came in by.
const stateAgrees = "postern.agrees"

// compareNames sets stateAgrees. Only where an agent may CONNECT to is a certificate
// asked for then: not even whether there is one for another agent's host can be
// found out.
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

// byServerName leads TLS for one of serverNames, if it is what CONNECT has named, to
// the filter chain of that name; everything else finds no chain and is closed.
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
