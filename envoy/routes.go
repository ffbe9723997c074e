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

// metadataNamespace holds, on every route, what Envoy's own answers say of the decision.
const metadataNamespace = guard.Namespace

// leadTo sets where a route leads: to the cluster of that name or, if it is byHeader, to the
// cluster that the listener has put into viaHeader.
func leadTo(action *routev3.RouteAction, cluster string) {
	if cluster == byHeader {
		action.ClusterSpecifier = &routev3.RouteAction_ClusterHeader{ClusterHeader: viaHeader}
		return
	}
	action.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: cluster}
}

// byHeader stands for the name of a cluster in leadTo.
const byHeader = ""

// allow forwards what matches to a cluster, with the rule's credential. The destination's rules
// are restricted, or not: see [plan.Restricted].
func (b *builder) allow(r plan.Rule, cluster string, restricted bool, match *routev3.RouteMatch) *routev3.Route {
	action := &routev3.RouteAction{
		// Streams of events last as long as they are used.
		Timeout: durationpb.New(0),
		// Clients do not retry inside the sandbox: a denial must fail
		// at once. What never reached the upstream is retried here.
		RetryPolicy: &routev3.RetryPolicy{RetryOn: "connect-failure,refused-stream", NumRetries: wrapperspb.UInt32(2)},
	}
	leadTo(action, cluster)
	if r.Gateway != 0 {
		// Agents' listeners know it, and Envoy asks for no method: a GET with
		// "Upgrade: CONNECT" is one, too.
		action.UpgradeConfigs = []*routev3.RouteAction_UpgradeConfig{{UpgradeType: "CONNECT", Enabled: wrapperspb.Bool(false)}}
	}
	per := map[string]*anypb.Any{}
	if !isWildcard(r.Host) {
		// The policy's spelling of the name, not the agent's, decides whom
		// Envoy resolves, greets (SNI) and verifies. Below a wildcard it is
		// the name that CONNECT, SNI and Host agree on.
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
		// An empty configuration turns a filter on.
		per[guard.FilterPut] = b.any(&routev3.FilterConfig{Config: &anypb.Any{}})
	}
	if filters := append(b.limitFilters(r), b.credentialFilters(r)...); len(filters) > 0 {
		per[filterCredential] = b.any(&chainv3.FilterChainConfigPerRoute{FilterChain: &chainv3.FilterChain{Filters: filters}})
	}
	route := &routev3.Route{
		Name: accesslog.Route{Reason: plan.ReasonAllowed, Host: said(r), Credential: r.Credential, Rule: r.ID}.String(), Match: match, Metadata: metadata(fields),
		Action: &routev3.Route_Route{Route: action}, TypedPerFilterConfig: per,
	}
	if rule.Signs {
		route.RequestBodyBufferLimit = wrapperspb.UInt64(maxSigned)
	}
	return route
}

// deny answers 403 by the agent's default rule. The body is made by localReplies from the
// metadata. The log takes the host that the client has asked for.
func deny(agent string, reason plan.Reason, match *routev3.RouteMatch) *routev3.Route {
	return &routev3.Route{
		Name:  accesslog.Route{Reason: reason, Rule: plan.DefaultRule(agent)}.String(),
		Match: match,
		Metadata: metadata(map[string]string{
			"rule": plan.DefaultName, "reason": string(reason), "hint": accesslog.Hint(reason, "", agent, "HOST"),
		}),
		Action: directResponse(403),
	}
}

// Statuses of denials that destinations have. localReplies makes each a 403 and says the rest,
// so that no route has to: the metadata of a route is half of what a denial takes of a node's
// memory, and a route that agents share cannot name one of them.
var briefly = map[plan.Reason]uint32{plan.ReasonMethod: 590, plan.ReasonPath: 591, plan.ReasonCondition: 592, plan.ReasonDenied: 593}

// denyBriefly answers 403 for one of those reasons. The rule is one that denies, or one of the
// destination, for which the agent's default rule denies.
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

// denyMatch is everything that some server could read as what a rule denies.
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

// headerMatch holds if one value of the header does what is asked for: Envoy
// looks at each value of a header that comes several times.
func headerMatch(c plan.Condition, value *routev3.HeaderMatcher_StringMatch) *routev3.HeaderMatcher {
	if c.Present {
		return &routev3.HeaderMatcher{Name: c.Name, HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}}
	}
	return &routev3.HeaderMatcher{Name: c.Name, HeaderMatchSpecifier: value}
}

// allowMatch is everything that a rule that allows asks of a request. It asks it of all
// occurrences of a header: who sends two must not choose which of them counts. The guard
// refuses a parameter that comes again.
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

// otherThan matches every string but s. RE2 has no negation, so the ways in which
// a string can differ are spelled out: it is shorter, or has another byte at one
// place, or is longer.
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
		// These make a server send back what it was sent, with the credential.
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
