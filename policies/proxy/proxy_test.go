package proxy

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/postern/postern/envoy"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks"
)

// everyKind is a policy with every kind of destination.
func everyKind(t *testing.T) *plan.Plan {
	t.Helper()
	file := filepath.Join(t.TempDir(), "all.yaml")
	require.NoError(t, os.WriteFile(file, []byte(`version: 1
target: local
destinations:
  api: {host: api.example.test}
  below: {host: "*.example.test", reason: ours}
  passed: {host: pinned.example.test, mode: tunnel}
  near: {host: near.example.test, upstream: {address: "10.1.2.3:80", plain_http: true}, reason: in our network}
  fixed: {host: fixed.example.test, upstream: {address: "192.0.2.7:443"}}
agents:
  coder: {allow: [api, below, passed, near, fixed]}
  tester: {}
`), 0o600))
	stack, err := stacks.Load(file)
	require.NoError(t, err)
	return stack.Plan
}

// config returns what Envoy is told, by name and kind.
func configOf(t *testing.T, p *plan.Plan) map[string]proto.Message {
	t.Helper()
	out := map[string]proto.Message{}
	memo := envoy.Memo{}
	packed, err := memo.Build(p, envoy.Options{Roots: "/roots.pem"})
	require.NoError(t, err)
	for _, resources := range packed {
		for _, r := range resources {
			m, err := r.GetResource().UnmarshalNew()
			require.NoError(t, err)
			out[fmt.Sprintf("%s %T", r.GetName(), m)] = m
		}
	}
	return out
}

// packed changes what is packed in a resource.
func packed[M proto.Message](t *testing.T, in *anypb.Any, m M, change func(M)) {
	t.Helper()
	require.NoError(t, in.UnmarshalTo(m))
	change(m)
	require.NoError(t, in.MarshalFrom(m))
}

// manager changes the HTTP connection manager of a listener.
func manager(t *testing.T, m proto.Message, change func(*hcmv3.HttpConnectionManager)) {
	t.Helper()
	for _, f := range m.(*listenerv3.Listener).GetFilterChains()[0].GetFilters() {
		if f.GetTypedConfig().MessageIs(&hcmv3.HttpConnectionManager{}) {
			packed(t, f.GetTypedConfig(), &hcmv3.HttpConnectionManager{}, change)
		}
	}
}

// mistakes are those of section 4.1 of our design that Envoy's configuration could have.
var mistakes = []struct {
	trap, what, at string
	change         func(t *testing.T, m proto.Message)
	caught, says   string
}{
	{"A3", "a name is resolved first", "intercept/coder *listenerv3.Listener", func(t *testing.T, m proto.Message) {
		manager(t, m, func(h *hcmv3.HttpConnectionManager) {
			slices.SortStableFunc(h.HttpFilters, func(a, b *hcmv3.HttpFilter) int {
				return strings.Compare(b.GetName()[:1], a.GetName()[:1])
			})
			i := slices.IndexFunc(h.HttpFilters, func(f *hcmv3.HttpFilter) bool { return f.GetName() == "dns" })
			h.HttpFilters = slices.Insert(slices.Delete(slices.Clone(h.HttpFilters), i, i+1), 0, h.HttpFilters[i])
		})
	}, "PRX-03", "before the guard"},
	{"A3", "the guard is off", "intercept/coder *listenerv3.Listener", func(t *testing.T, m proto.Message) {
		manager(t, m, func(h *hcmv3.HttpConnectionManager) { h.HttpFilters[0].Disabled = true })
	}, "PRX-03", "before the guard"},
	{
		"A3", "every host leads somewhere", "connect/* coder *routev3.ScopedRouteConfiguration",
		func(_ *testing.T, m proto.Message) {
			all := m.(*routev3.ScopedRouteConfiguration).RouteConfiguration.VirtualHosts
			v := all[slices.IndexFunc(all, func(v *routev3.VirtualHost) bool {
				return slices.Contains(v.Domains, "*")
			})]
			v.Routes[0].Action = &routev3.Route_Route{Route: &routev3.RouteAction{
				ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: "dynamic/coder"},
			}}
		}, "PRX-03", "a route for every host leads somewhere",
	},
	{
		"A3", "what no rule allows is not refused",
		"l7/api.example.test/api.example.test:443 *routev3.ScopedRouteConfiguration",
		func(_ *testing.T, m proto.Message) {
			v := m.(*routev3.ScopedRouteConfiguration).RouteConfiguration.VirtualHosts[0]
			v.Routes = v.Routes[:len(v.Routes)-1]
		}, "PRX-03", "its last route does not refuse everything",
	},
	{
		"A3", "a tunnel that everybody reaches", "tunnel/coder/pinned.example.test:443/ *listenerv3.Listener",
		func(_ *testing.T, m proto.Message) { m.(*listenerv3.Listener).ListenerSpecifier = nil }, "PRX-03",
		"has a server name of his own resolved",
	},
	{
		"A3", "a request without TLS", "l7/api.example.test/api.example.test:443 *routev3.ScopedRouteConfiguration",
		func(_ *testing.T, m proto.Message) {
			for _, r := range m.(*routev3.ScopedRouteConfiguration).RouteConfiguration.VirtualHosts[0].Routes {
				if to := r.GetRoute(); to != nil {
					to.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: "tcp/dynamic/coder"}
				}
			}
		}, "PRX-03", "where only an agent's own TLS may",
	},
	{"A31", "nobody compares names", "dynamic/coder *clusterv3.Cluster", func(t *testing.T, m proto.Message) {
		for _, o := range m.(*clusterv3.Cluster).TypedExtensionProtocolOptions {
			packed(t, o, &httpv3.HttpProtocolOptions{}, func(o *httpv3.HttpProtocolOptions) {
				o.UpstreamHttpProtocolOptions.AutoSanValidation = false
			})
		}
	}, "PRX-04", "verify, the name of the request"},
	{"A31", "another name is asked for", "dynamic/coder *clusterv3.Cluster", func(t *testing.T, m proto.Message) {
		m.(*clusterv3.Cluster).TypedExtensionProtocolOptions = nil
	}, "PRX-04", "verify, the name of the request"},
	{"A31", "every authority is trusted", "dynamic/coder *clusterv3.Cluster", func(t *testing.T, m proto.Message) {
		packed(t, m.(*clusterv3.Cluster).TransportSocket.GetTypedConfig(), &tlsv3.UpstreamTlsContext{},
			func(c *tlsv3.UpstreamTlsContext) { c.CommonTlsContext.ValidationContextType = nil })
	}, "PRX-04", "it trusts every authority"},
	{"A31", "TLS 1.0", "dynamic/coder *clusterv3.Cluster", func(t *testing.T, m proto.Message) {
		packed(t, m.(*clusterv3.Cluster).TransportSocket.GetTypedConfig(), &tlsv3.UpstreamTlsContext{},
			func(c *tlsv3.UpstreamTlsContext) {
				c.CommonTlsContext.TlsParams.TlsMinimumProtocolVersion = tlsv3.TlsParameters_TLSv1_0
			})
	}, "PRX-04", "TLS before 1.2"},
	{"A31", "no TLS", "dynamic/coder *clusterv3.Cluster", func(_ *testing.T, m proto.Message) {
		m.(*clusterv3.Cluster).TransportSocket = nil
	}, "PRX-04", "it does not speak TLS"},
}

// TestEveryMistakeOfTheProxiesIsCaught: a configuration with one of them is refused, and what the
// control plane serves for every kind of destination is not.
func TestEveryMistakeOfTheProxiesIsCaught(t *testing.T) {
	t.Parallel()
	p := everyKind(t)
	require.Empty(t, Check(p, true))
	require.Empty(t, Check(p, false))
	table := "trap, caught by:\n"
	plain := map[string]bool{"10.1.2.3:80": true}
	for _, x := range mistakes {
		config := configOf(t, p)
		name := x.at
		for found := range config { // tunnels have a digest in their names
			prefix, kind, tunnel := strings.Cut(x.at, "/ *")
			if tunnel && strings.HasPrefix(found, prefix+"/") && strings.HasSuffix(found, kind) {
				name = found
			}
		}
		m := config[name]
		require.NotNil(t, m, "%s: %v", x.at, config)
		x.change(t, m)
		got := judge(m, plain, x.caught == "PRX-03")
		require.Len(t, got, 1, x.what)
		require.Contains(t, got[0], x.says)
		require.Empty(t, judge(m, plain, x.caught != "PRX-03"))
		table += fmt.Sprintf("  %-4s %-40s %s: %s\n", x.trap, x.what, x.caught, got[0])
	}
	t.Log(table)
}

// TestPlainHTTPIsSaid: only where the policy says it.
func TestPlainHTTPIsSaid(t *testing.T) {
	t.Parallel()
	for name, m := range configOf(t, everyKind(t)) {
		c, ok := m.(*clusterv3.Cluster)
		if ok && c.GetTransportSocket() == nil && !strings.HasPrefix(c.GetName(), passed) {
			require.Equal(t, []string{"it does not speak TLS"}, judge(m, nil, false), name)
			return
		}
	}
	require.Fail(t, "no cluster is without TLS")
}
