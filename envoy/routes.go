package envoy

import (
	"regexp"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	dfpfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/dynamic_forward_proxy/v3"
	chainv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/filter_chain/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/postern/postern/accesslog"
	"github.com/postern/postern/guard"
	"github.com/postern/postern/plan"
)

// metadataNamespace is the namespace of what Envoy's own answers say about a route's decision.
const metadataNamespace = guard.Namespace

// leadTo makes a route lead to the cluster with that name or, for byHeader, to the cluster that
// viaHeader names.
func leadTo(action *routev3.RouteAction, cluster string) {
	if cluster == byHeader {
		action.ClusterSpecifier = &routev3.RouteAction_ClusterHeader{ClusterHeader: viaHeader}
		return
	}
	action.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: cluster}
}

// byHeader stands for the cluster that viaHeader names.
const byHeader = ""

// allow forwards what matches to a cluster, with the rule's credential. For restricted see
// [plan.Restricted].
func (b *builder) allow(r plan.Rule, cluster string, restricted bool, match *routev3.RouteMatch) *routev3.Route {
	action := &routev3.RouteAction{
		// A stream of events may last as long as it is used.
		Timeout: durationpb.New(0),
		// Clients in the sandbox do not retry, so that a denial fails at once. So requests that
		// never reached the upstream are retried here.
		RetryPolicy: &routev3.RetryPolicy{RetryOn: "connect-failure,refused-stream", NumRetries: wrapperspb.UInt32(2)},
	}
	leadTo(action, cluster)
	if r.Gateway != 0 {
		// Agents' listeners know this upgrade, and Envoy ignores the method: a GET with
		// "Upgrade: CONNECT" asks for it, too.
		action.UpgradeConfigs = []*routev3.RouteAction_UpgradeConfig{{UpgradeType: "CONNECT", Enabled: wrapperspb.Bool(false)}}
	}
	per := map[string]*anypb.Any{}
	if !isWildcard(r.Host) {
		// Envoy resolves, greets (SNI) and verifies the policy's spelling of the name, not the
		// agent's. Below a wildcard it uses the name on which CONNECT, SNI and Host agree.
		action.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: authority(r)}
		per[filterDNS] = b.any(&dfpfilterv3.PerRouteConfig{
			HostRewriteSpecifier: &dfpfilterv3.PerRouteConfig_HostRewriteLiteral{HostRewriteLiteral: authority(r)},
		})
	}
	fields := map[string]string{"rule": plan.NameOf(r.ID)}
	rule := b.guardRule(r)
	rule.Check = r.Check(restricted)
	if s := rule.String(); s != "" {
		fields[guard.Key] = s
	}
	if rule.Parameter != "" || rule.Signs {
		// An empty configuration turns the filter on.
		per[guard.FilterPut] = b.any(&routev3.FilterConfig{Config: &anypb.Any{}})
	}
	if filters := append(b.limitFilters(r), b.credentialFilters(r)...); len(filters) > 0 {
		per[filterCredential] = b.any(&chainv3.FilterChainConfigPerRoute{FilterChain: &chainv3.FilterChain{Filters: filters}})
	}
	route := &routev3.Route{
		Name: accesslog.Route{Reason: plan.ReasonAllowed, Host: said(r), Credential: r.Credential, Rule: r.ID}.String(), Match: match, Metadata: metadata(fields),
		Action: &routev3.Route_Route{Route: action}, TypedPerFilterConfig: per,
	}
	if c, ok := b.credential(r); ok && signsBody(c) {
		route.RequestBodyBufferLimit = wrapperspb.UInt64(maxSigned)
	}
	return route
}

// deny answers 403 by the agent's default rule. localReplies makes the body from the metadata. The
// log has the host that the client sent.
func (b *builder) deny(agent string, reason plan.Reason, match *routev3.RouteMatch) *routev3.Route {
	return &routev3.Route{
		Name:  accesslog.Route{Reason: reason, Rule: plan.DefaultRule(agent)}.String(),
		Match: match,
		Metadata: metadata(map[string]string{
			"rule": plan.DefaultName, "reason": string(reason), "hint": b.words(agent).In(accesslog.Advice[reason].Hint),
		}),
		Action: directResponse(403),
	}
}

// briefly holds a status for each reason for which a destination denies. localReplies turns each
// into a 403 with a body. A route with metadata for the body would take twice the memory, and could
// not be shared, because the body names the agent.
var briefly = map[plan.Reason]uint32{plan.ReasonMethod: 590, plan.ReasonPath: 591, plan.ReasonCondition: 592, plan.ReasonDenied: 593}

// denyBriefly answers 403 for one of the reasons of briefly: by r if it denies, and otherwise by
// the default rule of r's agent.
func denyBriefly(r plan.Rule, reason plan.Reason, match *routev3.RouteMatch) *routev3.Route {
	rule := plan.DefaultRule(plan.AgentOf(r.ID))
	var fields map[string]string
	if r.Deny {
		rule, fields = r.ID, map[string]string{"rule": plan.NameOf(r.ID)}
	}
	return &routev3.Route{
		Name: accesslog.Route{Reason: reason, Host: said(r), Rule: rule}.String(), Match: match, Metadata: metadata(fields),
		Action: directResponse(briefly[reason]),
	}
}

func directResponse(status uint32) *routev3.Route_DirectResponse {
	return &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: status}}
}

// denyMatch matches whatever some server could read as what the rule denies.
func denyMatch(r plan.Rule, path string) *routev3.RouteMatch {
	m := anyPath()
	if path != plan.AnyPath {
		m = &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: plan.DeniedPath(path)}}}
	}
	method := methods(r.Methods)
	if sm := method.GetStringMatch(); sm.GetExact() != "" {
		sm.IgnoreCase = true
	} else if re := sm.GetSafeRegex(); !method.GetInvertMatch() {
		re.Regex = "(?i)" + re.GetRegex()
	}
	m.Headers = []*routev3.HeaderMatcher{method}
	for _, c := range r.Query {
		m.Headers = append(m.Headers, &routev3.HeaderMatcher{Name: ":path", HeaderMatchSpecifier: like(`[^?]*\?(?:` + plan.DeniedQuery(c) + `)`)})
	}
	for _, c := range r.Headers {
		m.Headers = append(m.Headers, headerMatch(c, like(plan.DeniedHeader(c))))
	}
	return m
}

// headerMatch matches if one of the header's values meets the condition: Envoy looks at each value
// of a repeated header.
func headerMatch(c plan.Condition, value *routev3.HeaderMatcher_StringMatch) *routev3.HeaderMatcher {
	if c.Present {
		return &routev3.HeaderMatcher{Name: c.Name, HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}}
	}
	return &routev3.HeaderMatcher{Name: c.Name, HeaderMatchSpecifier: value}
}

// allowMatch matches what a rule allows. Every value of a repeated header must meet a condition:
// the client must not choose which of them counts. The guard refuses a repeated parameter.
func allowMatch(r plan.Rule, path string) *routev3.RouteMatch {
	m := methodMatch(r, path)
	for _, c := range r.Query {
		m.Headers = append(m.Headers, &routev3.HeaderMatcher{Name: ":path", HeaderMatchSpecifier: like(`[^?]*\?(?:` + plan.AllowedQuery(c) + `)`)})
	}
	for _, c := range r.Headers {
		m.Headers = append(m.Headers, headerMatch(c, exactly(c.Value)))
		if !c.Present {
			m.Headers = append(m.Headers, &routev3.HeaderMatcher{Name: c.Name, HeaderMatchSpecifier: like(otherThan(c.Value)), InvertMatch: true})
		}
	}
	return m
}

// otherThan returns an expression that matches every string but s. RE2 has no negation, so the
// expression lists the ways to differ: a shorter string, another byte at some place, a longer
// string.
func otherThan(s string) string {
	ways := make([]string, 0, len(s)+1)
	for i := range len(s) {
		ways = append(ways, regexp.QuoteMeta(s[:i])+"(?:[^"+regexp.QuoteMeta(s[i:i+1])+"](?s:.*))?")
	}
	return strings.Join(append(ways, regexp.QuoteMeta(s)+"(?s:.+)"), "|")
}

func methodMatch(r plan.Rule, path string) *routev3.RouteMatch {
	m := pathMatch(path)
	m.Headers = []*routev3.HeaderMatcher{methods(r.Methods)}
	return m
}

func methods(ms []string) *routev3.HeaderMatcher {
	if slices.Equal(ms, []string{plan.AnyMethod}) {
		// TRACE and TRACK make a server send the request back, with the credential.
		not := methods([]string{"CONNECT", "TRACE", "TRACK"})
		not.InvertMatch = true
		return not
	}
	if len(ms) == 1 {
		return &routev3.HeaderMatcher{Name: ":method", HeaderMatchSpecifier: exactly(ms[0])}
	}
	return &routev3.HeaderMatcher{Name: ":method", HeaderMatchSpecifier: like(strings.Join(ms, "|"))}
}

func exactly(s string) *routev3.HeaderMatcher_StringMatch {
	return &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}}}
}

func like(regex string) *routev3.HeaderMatcher_StringMatch {
	return &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
		MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: regex}},
	}}
}

func pathMatch(pattern string) *routev3.RouteMatch {
	switch {
	case pattern == plan.AnyPath:
		return anyPath()
	case !strings.Contains(pattern, "*"):
		return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Path{Path: pattern}}
	default:
		return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: plan.PathRegex(pattern)}}}
	}
}

func anyPath() *routev3.RouteMatch {
	return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}
}

func connectMatch() *routev3.RouteMatch {
	return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_ConnectMatcher_{ConnectMatcher: &routev3.RouteMatch_ConnectMatcher{}}}
}

func metadata(said map[string]string) *corev3.Metadata {
	if len(said) == 0 {
		return nil
	}
	fields := make(map[string]*structpb.Value, len(said))
	for k, v := range said {
		fields[k] = structpb.NewStringValue(v)
	}
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{metadataNamespace: {Fields: fields}}}
}
