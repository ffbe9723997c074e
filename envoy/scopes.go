package envoy

import (
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/postern/postern/plan"
)

// metadataNamespace holds, on every route, what the access log says of the
// decision: rule, reason, and for an allowed request host and credential.
const metadataNamespace = "postern"

func connectScope(agent string) string { return "connect/" + agent }

// l7Scope is the key of the requests of one agent to one destination: agent,
// SNI and CONNECT authority, as the internal listener sees them.
func l7Scope(agent string, r plan.Rule) string {
	return strings.Join([]string{"l7", agent, r.Host, hostPort(r)}, "/")
}

func (b *builder) scopes() []*routev3.ScopedRouteConfiguration {
	var out []*routev3.ScopedRouteConfiguration
	for _, a := range b.plan.Agents {
		out = append(out, scopedRoute(connectScope(a.Name), b.connectHosts(a)))
		for _, rules := range byHost(a) {
			r := rules[0]
			domains := []string{hostPort(r)}
			if r.Port == 443 {
				domains = append(domains, r.Host)
			}
			out = append(out, scopedRoute(l7Scope(a.Name, r), []*routev3.VirtualHost{
				{Name: hostPort(r), Domains: domains, Routes: b.ruleRoutes(a.Name, rules)},
				{Name: "default", Domains: []string{"*"}, Routes: denyAll(a.Name, plan.ReasonName)},
			}))
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// connectHosts says where an agent may CONNECT to, and what its gateways are.
func (b *builder) connectHosts(a plan.Agent) []*routev3.VirtualHost {
	var hosts []*routev3.VirtualHost
	gateways := map[uint16][]plan.Rule{}
	for _, rules := range byHost(a) {
		r := rules[0]
		hosts = append(hosts, &routev3.VirtualHost{
			Name: hostPort(r), Domains: []string{hostPort(r)},
			Routes: []*routev3.Route{
				{
					Name:     r.ID,
					Match:    connectMatch(),
					Metadata: metadata(map[string]string{"host": hostPort(r)}),
					Action: &routev3.Route_Route{Route: &routev3.RouteAction{
						ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: clusterIntercept},
						// A tunnel lasts as long as it is used.
						Timeout:        durationpb.New(0),
						UpgradeConfigs: []*routev3.RouteAction_UpgradeConfig{{UpgradeType: "CONNECT", ConnectConfig: &routev3.RouteAction_UpgradeConfig_ConnectConfig{}}},
					}},
				},
				deny(a.Name, plan.ReasonScheme, hostPort(r), anyPath()),
			},
		})
	}
	for _, r := range a.Rules {
		if r.Gateway != 0 {
			gateways[r.Gateway] = append(gateways[r.Gateway], r)
		}
	}
	var ports []int
	for p := range gateways {
		ports = append(ports, int(p))
	}
	sort.Ints(ports)
	for _, p := range ports {
		port := strconv.Itoa(p)
		hosts = append(hosts, &routev3.VirtualHost{
			Name: "gateway:" + port, Domains: []string{"localhost:" + port, "127.0.0.1:" + port},
			Routes: append([]*routev3.Route{deny(a.Name, plan.ReasonHost, "", connectMatch())}, b.ruleRoutes(a.Name, gateways[uint16(p)])...),
		})
	}
	return append(hosts, &routev3.VirtualHost{
		Name: "default", Domains: []string{"*"},
		Routes: []*routev3.Route{deny(a.Name, plan.ReasonHost, "", connectMatch()), deny(a.Name, plan.ReasonScheme, "", anyPath())},
	})
}

// ruleRoutes are the routes of rules for one destination, in the order of
// plan.Decide: what is allowed, then the denials from the most to the least
// telling, so that each names its reason.
func (b *builder) ruleRoutes(agent string, rules []plan.Rule) []*routev3.Route {
	// A tunnel inside a tunnel is nothing that a rule can allow.
	routes := []*routev3.Route{deny(agent, plan.ReasonMethod, hostPort(rules[0]), connectMatch())}
	for _, r := range rules {
		for _, p := range r.Paths {
			routes = append(routes, b.allow(r, p))
		}
	}
	for _, r := range rules {
		for _, p := range r.Paths {
			d := deny(agent, plan.ReasonMethod, hostPort(r), pathMatch(p))
			d.Name += "/" + r.ID
			routes = append(routes, d)
		}
	}
	return append(routes, deny(agent, plan.ReasonPath, hostPort(rules[0]), anyPath()))
}

func (b *builder) allow(r plan.Rule, path string) *routev3.Route {
	match := pathMatch(path)
	match.Headers = []*routev3.HeaderMatcher{methods(r.Methods)}
	cluster := clusterDynamic
	if r.Upstream != nil {
		cluster = pinned(r)
	}
	said := map[string]string{"rule": r.ID, "reason": string(plan.ReasonAllowed), "host": hostPort(r)}
	if r.Credential != "" {
		said["credential"] = r.Credential
	}
	return &routev3.Route{
		Name:     r.ID,
		Match:    match,
		Metadata: metadata(said),
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster},
			// The policy's spelling of the name, not the agent's, decides
			// whom Envoy resolves, greets (SNI) and verifies.
			HostRewriteSpecifier: &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: authority(r)},
			// Streams of events last as long as they are used.
			Timeout: durationpb.New(0),
			// Clients do not retry inside the sandbox: a denial must fail
			// at once. What never reached the upstream is retried here.
			RetryPolicy: &routev3.RetryPolicy{RetryOn: "connect-failure,refused-stream", NumRetries: wrapperspb.UInt32(2)},
		}},
		TypedPerFilterConfig: b.perRoute(r),
	}
}

func methods(ms []string) *routev3.HeaderMatcher {
	if slices.Equal(ms, []string{plan.AnyMethod}) {
		// These make a server send back what it was sent, with the credential.
		not := methods([]string{"CONNECT", "TRACE", "TRACK"})
		not.InvertMatch = true
		return not
	}
	m := &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: ms[0]}}
	if len(ms) > 1 {
		m = &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: strings.Join(ms, "|")}}}
	}
	return &routev3.HeaderMatcher{Name: ":method", HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: m}}
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

func denyAll(agent string, reason plan.Reason) []*routev3.Route {
	return []*routev3.Route{deny(agent, reason, "", connectMatch()), deny(agent, reason, "", anyPath())}
}

// deny answers 403. The body is made by localReplies from the metadata. The
// host is set where the policy knows it; otherwise the log takes the client's.
func deny(agent string, reason plan.Reason, host string, match *routev3.RouteMatch) *routev3.Route {
	said := map[string]string{"rule": plan.DefaultRule(agent), "reason": string(reason)}
	if host != "" {
		said["host"] = host
	}
	return &routev3.Route{
		Name:     fmt.Sprintf("deny/%s", reason),
		Match:    match,
		Metadata: metadata(said),
		Action:   &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 403}},
	}
}

func metadata(said map[string]string) *corev3.Metadata {
	fields := make(map[string]*structpb.Value, len(said))
	for k, v := range said {
		fields[k] = structpb.NewStringValue(v)
	}
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{metadataNamespace: {Fields: fields}}}
}
