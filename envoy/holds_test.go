package envoy

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/postern/postern/plan"
)

// manifold is a plan with a destination of every kind, for two agents.
func manifold() *plan.Plan {
	any, all := []string{plan.AnyMethod}, []string{plan.AnyPath}
	p := &plan.Plan{Stack: "test", Credentials: []plan.Credential{
		{Name: "key", Kind: plan.KindHeader, Header: "x-api-key", Secret: "env://KEY"}, {Name: "q", Kind: plan.KindQuery, Parameter: "key", Secret: "env://KEY"},
	}}
	for i, name := range []string{"a", "b"} {
		p.Agents = append(p.Agents, plan.Agent{Name: name, Port: uint16(20000 * i), Rules: []plan.Rule{
			{ID: name + "/api", Host: "api.test", Port: 443, Methods: any, Paths: all, Credential: "key", Gateway: 8080},
			{ID: name + "/never", Deny: true, Host: "api.test", Port: 443, Methods: []string{"DELETE", "PUT"}, Paths: []string{"/admin/**"}},
			{ID: name + "/q", Host: "q.test", Port: 443, Methods: []string{"GET", "POST"}, Paths: []string{"/v1/*"}, Credential: "q", Limits: &plan.Limits{Requests: 5, Per: 60, Concurrent: 2, Body: 7}},
			{ID: name + "/pin", Host: "pin.test", Port: 8443, Methods: any, Paths: all, Upstream: &plan.Upstream{Address: "192.0.2.7:443", CA: "pem"}},
			{ID: name + "/wild", Host: "*.wild.test", Port: 443, Methods: any, Paths: all},
			{ID: name + "/tun", Host: "tun.test", Port: 443, Mode: plan.ModeTunnel, Methods: any, Paths: all},
		}})
	}
	return p
}

// object is a part of a resource as JSON.
type object = map[string]any

// each calls visit with every object in v that has the key.
func each(v any, key string, visit func(object)) {
	switch v := v.(type) {
	case object:
		if _, ok := v[key]; ok {
			visit(v)
		}
		for _, part := range v {
			each(part, key, visit)
		}
	case []any:
		for _, part := range v {
			each(part, key, visit)
		}
	}
}

// shown is a message as JSON, with all that is packed in it.
func shown(t *testing.T, m proto.Message) object {
	t.Helper()
	b, err := protojson.Marshal(m)
	require.NoError(t, err)
	var v object
	require.NoError(t, json.Unmarshal(b, &v))
	return v
}

func at(v any, path string) any {
	for key := range strings.SplitSeq(path, ".") {
		o, _ := v.(object)
		v = o[key]
	}
	return v
}

// TestNoEcho: where every method is allowed, those are not that make a server send back
// what it was sent.
func TestNoEcho(t *testing.T) {
	t.Parallel()
	m := methods([]string{plan.AnyMethod})
	require.True(t, m.GetInvertMatch())
	not := regexp.MustCompile("^(?:" + m.GetStringMatch().GetSafeRegex().GetRegex() + ")$")
	for method, want := range map[string]bool{"CONNECT": false, "TRACE": false, "TRACK": false, "GET": true, "DELETE": true, "TRACEX": true, "X": true} {
		require.Equal(t, want, !not.MatchString(method), method)
	}
	require.Equal(t, "GET", methods([]string{"GET"}).GetStringMatch().GetExact())
	require.Equal(t, "GET|POST", methods([]string{"GET", "POST"}).GetStringMatch().GetSafeRegex().GetRegex())
	require.False(t, methods([]string{"GET", "POST"}).GetInvertMatch())
	// What denies takes a method in any case.
	for _, ms := range [][]string{{"GET"}, {"GET", "POST"}} {
		match := denyMatch(plan.Rule{Methods: ms}, plan.AnyPath).GetHeaders()[0]
		require.Equal(t, ":method", match.GetName())
		require.True(t, match.GetStringMatch().GetIgnoreCase() || strings.HasPrefix(match.GetStringMatch().GetSafeRegex().GetRegex(), "(?i)"))
	}
}

// TestNames: names are looked up as they are written, lead to no private address, and each
// agent looks for its own.
func TestNames(t *testing.T) {
	t.Parallel()
	r, err := Build(manifold(), Options{Roots: "/roots.pem"})
	require.NoError(t, err)
	names := map[string]int{}
	for _, m := range r.all() {
		each(shown(t, m), "dnsCacheConfig", func(o object) {
			names[at(o, "dnsCacheConfig.name").(string)[:6]]++
			require.Equal(t, true, at(o, "dnsCacheConfig.typedDnsResolverConfig.typedConfig.dnsResolverOptions.noDefaultSearchDomain"))
			require.Len(t, at(o, "dnsCacheConfig.resolvedAddressFilter.ranges"), 22)
			require.Nil(t, at(o, "dnsCacheConfig.resolvedAddressFilter.invertMatch"))
		})
	}
	require.Len(t, names, 2)
	require.Equal(t, names["dns/a/"], names["dns/b/"])
}

// TestUpstreams: every upstream whose TLS is ours is verified by the name that the policy has.
func TestUpstreams(t *testing.T) {
	t.Parallel()
	r, err := Build(manifold(), Options{Roots: "/roots.pem"})
	require.NoError(t, err)
	trusted := map[any]int{}
	for _, c := range r.Clusters {
		v := shown(t, c)
		socket := at(v, "transportSocket.typedConfig")
		switch kind, _, _ := strings.Cut(c.GetName(), "/"); kind {
		case "tcp": // the TLS is the agent's own
			require.Nil(t, socket, c.GetName())
		case kindIntercept, kindWildcard, "tunnel":
			require.Contains(t, at(socket, "@type"), "InternalUpstreamTransport", c.GetName())
		default:
			context := at(socket, "commonTlsContext.validationContext")
			from, _ := at(context, "trustedCa").(object)
			require.Len(t, from, 1, c.GetName())
			for _, place := range from {
				trusted[place]++
			}
			require.Nil(t, at(context, "trustChainVerification"))
			require.Equal(t, "TLSv1_2", at(socket, "commonTlsContext.tlsParams.tlsMinimumProtocolVersion"))
			http, _ := v["typedExtensionProtocolOptions"].(object)
			require.Equal(t, object{"autoSni": true, "autoSanValidation": true}, at(http["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"], "upstreamHttpProtocolOptions"), c.GetName())
		}
	}
	require.Equal(t, map[any]int{"/roots.pem": 4, "pem": 2}, trusted)
}

// TestNamesAgree: what is inside a CONNECT finds a filter chain only by its server name, and
// only if CONNECT has named the same; and the requests in it a scope only by all three names.
func TestNamesAgree(t *testing.T) {
	t.Parallel()
	require.Equal(t, `%FILTER_STATE(postern.agent:PLAIN)%|l7/%REQUESTED_SERVER_NAME%/%FILTER_STATE(postern.connect:PLAIN)%|%REQ(:AUTHORITY)%`, l7ScopeFormat)
	require.Equal(t, `%FILTER_STATE(postern.agent:PLAIN)%|wild/%FILTER_STATE(postern.agent:PLAIN)%/%CEL(connection.requested_server_name == request.headers["x-postern-host"] && `+
		`(request.host == request.headers["x-postern-connect"] || request.host == request.headers["x-postern-host"] && request.headers["x-postern-connect"].endsWith(":443")))%`, wildScopeFormat)
	r, err := Build(manifold(), Options{Roots: "/roots.pem"})
	require.NoError(t, err)
	inside := 0
	for _, l := range r.Listeners {
		v := shown(t, l)
		require.Nil(t, v["defaultFilterChain"], l.GetName())
		require.Len(t, v["filterChains"], 1)
		if strings.HasPrefix(l.GetName(), "agent/") {
			continue
		}
		inside++
		var filters []any
		for _, f := range v["listenerFilters"].([]any) {
			filters = append(filters, at(f, "name"))
		}
		require.Equal(t, []any{"envoy.filters.listener.tls_inspector", "envoy.filters.listener.set_filter_state"}, filters)
		each(v["listenerFilters"], "onAccept", func(o object) {
			states := o["onAccept"].([]any)
			require.Len(t, states, 1)
			require.Equal(t, "postern.agrees", at(states[0], "objectKey"))
			require.Equal(t, `%CEL(connection.requested_server_name == string(filter_state["postern.host"]))%`, at(states[0], "formatString.textFormatSource.inlineString"))
		})
		require.Nil(t, at(v, "filterChainMatcher.onNoMatch"))
		found := map[any]any{}
		each(v["filterChainMatcher"], "singlePredicate", func(o object) {
			p := o["singlePredicate"]
			value := at(p, "valueMatch.exact")
			if value == nil {
				value = at(p, "valueMatch.safeRegex.regex")
			}
			found[at(p, "input.name")] = value
		})
		require.Equal(t, map[any]any{
			"envoy.matching.inputs.transport_protocol": "tls", "envoy.matching.inputs.filter_state": "true", "envoy.matching.inputs.server_name": `(?:[a-z0-9-]+(?:\.[a-z0-9-]+)*)?`,
		}, found)
		each(v["filterChainMatcher"], "andMatcher", func(o object) { require.Len(t, at(o, "andMatcher.predicate"), 3) })
	}
	require.Equal(t, 2*3, inside, "intercepted, below wildcards, tunnelled")
}

// TestFiltersInOrder: an agent's own keys and our own headers are gone before a credential is
// put in, by every way in; and what is put in takes the place of what there was.
func TestFiltersInOrder(t *testing.T) {
	t.Parallel()
	r, err := Build(manifold(), Options{Roots: "/roots.pem"})
	require.NoError(t, err)
	managers := 0
	for _, l := range r.Listeners {
		each(shown(t, l), "httpFilters", func(manager object) {
			managers++
			ways := []any{manager["httpFilters"]}
			for _, u := range manager["upgradeConfigs"].([]any) {
				ways = append(ways, at(u, "filters"))
			}
			for _, way := range ways {
				var order []string
				for _, f := range way.([]any) {
					order = append(order, at(f, "name").(string))
				}
				require.Less(t, slices.Index(order, "guard"), slices.Index(order, filterCredential), "%s: %v", l.GetName(), order)
				require.Less(t, slices.Index(order, filterCredential), slices.Index(order, "put"), "%s: %v", l.GetName(), order)
				require.Less(t, slices.Index(order, "put"), slices.Index(order, filterDNS))
				require.NotEqual(t, -1, slices.Index(order, "guard"))
				require.Equal(t, "envoy.filters.http.router", order[len(order)-1])
				require.NotEqual(t, true, at(way.([]any)[slices.Index(order, "guard")], "disabled"))
			}
			mutations := at(manager["earlyHeaderMutationExtensions"].([]any)[0], "typedConfig.mutations").([]any)
			for i, prefix := range []string{"x-postern-", "x-envoy-"} {
				require.Equal(t, prefix, at(mutations[i], "removeOnMatch.keyMatcher.prefix"))
				require.Equal(t, true, at(mutations[i], "removeOnMatch.keyMatcher.ignoreCase"))
			}
			require.Equal(t, "x-postern-scope", at(mutations[len(mutations)-1], "append.header.key"), "the last one decides")
			require.Equal(t, "OVERWRITE_IF_EXISTS_OR_ADD", at(mutations[len(mutations)-1], "append.appendAction"))
			require.Equal(t, []any{true, true, "REJECT_REQUEST"}, []any{manager["normalizePath"], manager["mergeSlashes"], at(manager, "commonHttpProtocolOptions.headersWithUnderscoresAction")})
		})
	}
	require.Equal(t, 2*3, managers)
	injected := 0
	for _, s := range r.Scopes {
		each(shown(t, s), "credential", func(o object) {
			if kind, _ := o["@type"].(string); strings.HasSuffix(kind, ".CredentialInjector") {
				injected++
				require.Equal(t, true, o["overwrite"])
			}
		})
	}
	require.Equal(t, 1+2*2, injected, "the API by its name, for both; by each one's gateway; and the key in a query, which has limits")
}

// TestKilledAgentHasNothing: one scope that denies, whatever its rules say; another agent's
// stay as they are.
func TestKilledAgentHasNothing(t *testing.T) {
	t.Parallel()
	before, err := Build(manifold(), Options{Roots: "/roots.pem"})
	require.NoError(t, err)
	r, err := Build(manifold(), Options{Roots: "/roots.pem", Killed: []string{"a"}, Generations: map[string]string{"a": "7", "b": "8"}})
	require.NoError(t, err)
	scopes := map[string]*routev3.ScopedRouteConfiguration{}
	for _, s := range before.Scopes {
		scopes[s.GetName()] = s
	}
	for _, s := range r.Scopes {
		one := scopes[s.GetName()]
		require.NotNil(t, one, s.GetName())
		delete(scopes, s.GetName())
		if s.GetName() != "connect/* a" {
			// Without the domains of a, it is what it was.
			var hosts []*routev3.VirtualHost
			for _, h := range one.GetRouteConfiguration().GetVirtualHosts() {
				h.Domains = slices.DeleteFunc(h.Domains, func(d string) bool { return strings.HasPrefix(d, "a|") })
				if len(h.Domains) > 0 {
					h.Name = strings.ReplaceAll(h.Name, "a", "b")
					hosts = append(hosts, h)
				}
			}
			one.RouteConfiguration.VirtualHosts = hosts
			for _, h := range s.GetRouteConfiguration().GetVirtualHosts() {
				h.Name = strings.ReplaceAll(h.Name, "a", "b")
			}
			require.Empty(t, cmp.Diff(one, s, protocmp.Transform()))
			continue
		}
		for _, h := range s.GetRouteConfiguration().GetVirtualHosts() {
			for _, route := range h.GetRoutes() {
				require.EqualValues(t, 403, route.GetDirectResponse().GetStatus())
				require.True(t, strings.HasPrefix(route.GetName(), "agent_killed "), route.GetName())
			}
		}
	}
	require.Equal(t, []string{"wild/a/true"}, slices.Collect(maps.Keys(scopes)))
	chains := map[string]string{}
	for _, l := range r.Listeners {
		if name, ok := strings.CutPrefix(l.GetName(), "agent/"); ok {
			chains[name] = l.GetFilterChains()[0].GetName()
		}
	}
	require.Equal(t, map[string]string{"a": "killed", "b": "generation/8"}, chains)
}

// TestOtherThan: every value but one.
func TestOtherThan(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"", "a", "ab", "a.b", "a\nb", "[x]"} {
		other := regexp.MustCompile("^(?:" + otherThan(value) + ")$")
		for _, v := range []string{"", "a", "b", "ab", "abc", "a.b", "axb", "a\nb", "a\nbc", "[x]", "x", "\xff", "aa"} {
			if value != "" || v != "" { // an empty header is not there
				require.Equal(t, v != value, other.MatchString(v), "%q and %q", value, v)
			}
		}
	}
	m := headerMatch(plan.Condition{Name: "h", Present: true}, exactly("x"))
	require.True(t, m.GetPresentMatch())
	require.IsType(t, &matcherv3.StringMatcher{}, headerMatch(plan.Condition{Name: "h", Value: "x"}, exactly("x")).GetStringMatch())
}

// TestQuietConnectionsAreKept: whatever forgets a connection after 350 seconds without a packet sees
// one, on every connection over a network: to upstreams, in every way, and from agents.
func TestQuietConnectionsAreKept(t *testing.T) {
	t.Parallel()
	p := manifold()
	p.Agents[0].Rules = append(p.Agents[0].Rules, plan.Rule{
		ID: "a/local", Host: "local.test", Port: 443, Methods: []string{plan.AnyMethod}, Paths: []string{plan.AnyPath},
		Upstream: &plan.Upstream{Address: "unix:/run/local.sock", Plain: true},
	})
	r, err := Build(p, Options{Roots: "/roots.pem"})
	require.NoError(t, err)
	kept := func(v any, what string) {
		t.Helper()
		idle, _ := at(v, "keepaliveTime").(float64)
		require.NotZero(t, idle, what)
		probes := at(v, "keepaliveInterval").(float64) * at(v, "keepaliveProbes").(float64)
		require.Less(t, idle+probes, 350.0, "%s: whether the other end lives is known before it is forgotten", what)
	}
	seen := map[string]int{}
	for _, c := range r.Clusters {
		v := shown(t, c)
		kind, _, _ := strings.Cut(c.GetName(), "/")
		if slices.Contains([]string{kindIntercept, kindWildcard, "tunnel"}, kind) || strings.Contains(c.String(), "local.sock") {
			require.Nil(t, v["upstreamConnectionOptions"], "%s has no network", c.GetName())
			seen["none"]++
			continue
		}
		kept(at(v, "upstreamConnectionOptions.tcpKeepalive"), c.GetName())
		seen[kind]++
		http, _ := v["typedExtensionProtocolOptions"].(object)
		if http == nil {
			continue
		}
		options := at(http[optionsHTTP], "autoConfig.http2ProtocolOptions.connectionKeepalive")
		require.Equal(t, object{"interval": "310s", "timeout": "20s"}, options, "%s: not more often than a server of gRPC takes it", c.GetName())
	}
	require.Equal(t, []string{"dynamic", "limited", "none", "pinned", "tcp"}, slices.Sorted(maps.Keys(seen)))
	for _, l := range r.Listeners {
		v := shown(t, l)
		if at(v, "address.socketAddress") == nil {
			require.Nil(t, v["tcpKeepalive"], l.GetName())
			continue
		}
		kept(v["tcpKeepalive"], l.GetName())
		seen["agents"]++
	}
	require.Equal(t, 1, seen["agents"])
}
