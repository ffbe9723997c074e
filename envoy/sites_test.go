package envoy

import (
	"fmt"
	"strings"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/postern/postern/plan"
)

// hostOf returns the virtual host that a request of the agent finds, and nil if there is none.
func hostOf(s *routev3.ScopedRouteConfiguration, domain string) *routev3.VirtualHost {
	for _, h := range s.GetRouteConfiguration().GetVirtualHosts() {
		for _, d := range h.GetDomains() {
			if d == domain {
				return h
			}
		}
	}
	return nil
}

func scopeOf(r *Resources, name string) *routev3.ScopedRouteConfiguration {
	for _, s := range r.Scopes {
		if s.GetName() == name {
			return s
		}
	}
	return nil
}

// TestAgentsShareRoutes: agents whose rules for a host are the same have one virtual host, which
// says nothing of any of them; what is an agent's own stays the agent's.
func TestAgentsShareRoutes(t *testing.T) {
	t.Parallel()
	build := func(change func(*plan.Rule)) *Resources {
		p := &plan.Plan{Stack: "test", Credentials: []plan.Credential{
			{Name: "aws", Kind: plan.KindAWSSigV4, Service: "s3", Region: "r1"}, {Name: "key", Kind: plan.KindHeader, Header: "x-api-key"},
		}}
		for _, name := range []string{"alpha", "beta", "gamma"} {
			r := plan.Rule{ID: name + "/api", Host: "api.test", Port: 443, Methods: []string{"GET"}, Paths: []string{"/v1/**"}, Credential: "key", Owner: "for " + name, Reason: "for " + name}
			if name == "gamma" {
				change(&r)
			}
			p.Agents = append(p.Agents, plan.Agent{Name: name, Rules: []plan.Rule{r}})
		}
		r, err := Build(p, Options{Roots: "/roots.pem"})
		require.NoError(t, err)
		return r
	}
	const l7, connect = "l7/api.test/api.test:443", "connect/api.test:443"
	for of, c := range map[string]struct {
		change func(*plan.Rule)
		// hosts and led are how many virtual hosts there are inside a CONNECT and outside.
		hosts, led int
	}{
		"same rules":           {func(*plan.Rule) {}, 1, 1},
		"other methods":        {func(r *plan.Rule) { r.Methods = []string{"GET", "POST"} }, 2, 1},
		"other paths":          {func(r *plan.Rule) { r.Paths = []string{"/v2/**"} }, 2, 1},
		"other name":           {func(r *plan.Rule) { r.ID += "/x" }, 2, 1},
		"other credential":     {func(r *plan.Rule) { r.Credential = "" }, 2, 1},
		"own credentials":      {func(r *plan.Rule) { r.Credential, r.OwnCredentials = "", true }, 2, 1},
		"signed":               {func(r *plan.Rule) { r.Credential = "aws" }, 2, 1},
		"limits":               {func(r *plan.Rule) { r.Limits = &plan.Limits{Requests: 1, Per: 1} }, 2, 1},
		"an end":               {func(r *plan.Rule) { r.Expires = "2098-01-01T00:00:00Z" }, 2, 1},
		"condition":            {func(r *plan.Rule) { r.Query = []plan.Condition{{Name: "k", Value: "v"}} }, 2, 1},
		"own place":            {func(r *plan.Rule) { r.Upstream = &plan.Upstream{Address: "192.0.2.7:443"} }, 2, 1},
		"tunnel":               {func(r *plan.Rule) { r.Mode, r.Credential = plan.ModeTunnel, "" }, 1, 2},
		"another host, though": {func(r *plan.Rule) { r.Host = "other.test" }, 1, 1},
	} {
		t.Run(of, func(t *testing.T) {
			t.Parallel()
			r := build(c.change)
			inside, outside := scopeOf(r, l7), scopeOf(r, connect)
			require.Len(t, inside.GetRouteConfiguration().GetVirtualHosts(), c.hosts)
			require.Len(t, outside.GetRouteConfiguration().GetVirtualHosts(), c.led)
			require.Equal(t, []string{"x-postern-scope", "x-postern-scope"}, []string{inside.GetRouteConfiguration().GetVhostHeader(), outside.GetRouteConfiguration().GetVhostHeader()})
			for _, domain := range []string{"|l7/api.test/api.test:443|api.test", "|l7/api.test/api.test:443|api.test:443"} {
				require.Same(t, hostOf(inside, "alpha"+domain), hostOf(inside, "beta"+domain))
				require.NotNil(t, hostOf(inside, "alpha"+domain))
				if own := hostOf(inside, "gamma"+domain); of == "same rules" {
					require.Same(t, hostOf(inside, "alpha"+domain), own)
				} else {
					require.NotSame(t, hostOf(inside, "alpha"+domain), own)
				}
			}
			h := proto.CloneOf(hostOf(inside, "alpha|l7/api.test/api.test:443|api.test"))
			require.Equal(t, "alpha", h.GetName())
			h.Name, h.Domains = "", nil
			text := prototext.Format(h)
			for _, name := range []string{"alpha", "beta", "gamma"} {
				require.NotContains(t, text, name)
			}
		})
	}
}

// TestLimitsAreEachAgents: a bucket of requests is a virtual host's, and a breaker a cluster's.
func TestLimitsAreEachAgents(t *testing.T) {
	t.Parallel()
	for _, limits := range []plan.Limits{{Requests: 5, Per: 60}, {Concurrent: 2}, {Body: 7}, {Upload: 1 << 20}} {
		p := &plan.Plan{Stack: "test"}
		for _, name := range []string{"a", "b"} {
			p.Agents = append(p.Agents, plan.Agent{Name: name, Rules: []plan.Rule{{
				ID: name + "/api", Host: "api.test", Port: 443, Methods: []string{"GET"}, Paths: []string{"/v1/**"}, Limits: &limits,
			}}})
		}
		r, err := Build(p, Options{Roots: "/roots.pem"})
		require.NoError(t, err)
		require.Len(t, scopeOf(r, "l7/api.test/api.test:443").GetRouteConfiguration().GetVirtualHosts(), 2, "%+v", limits)
	}
}

// TestAnotherAgentCostsItsName: what goes to a node, and stays there, for one more agent with the
// same rules.
func TestAnotherAgentCostsItsName(t *testing.T) {
	t.Parallel()
	size := func(agents int) int {
		p := &plan.Plan{Stack: "test"}
		for i := range agents {
			name := fmt.Sprintf("agent-%03d", i)
			p.Agents = append(p.Agents, plan.Agent{Name: name, Rules: []plan.Rule{{
				ID: name + "/api", Host: "api.test", Port: 443, Methods: []string{"GET", "POST"}, Paths: []string{"/v1/**", "/v2/**"},
			}}})
		}
		r, err := Build(p, Options{Roots: "/roots.pem"})
		require.NoError(t, err)
		return proto.Size(scopeOf(r, "l7/api.test/api.test:443")) + proto.Size(scopeOf(r, "connect/api.test:443"))
	}
	one := size(1)
	require.Greater(t, one, 1000)
	require.Less(t, size(101)-one, 100*one/8)
}

// TestSitesAreForTheirAgents: each agent finds routes to each host that it may go to, and they are
// made of its own rules; there are no others.
func TestSitesAreForTheirAgents(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		p := genAnyPlan(rt)
		if rapid.Bool().Draw(rt, "alike") { // both agents have the rules of one, or nearly
			var rules []plan.Rule
			for _, r := range p.Agents[0].Rules {
				r.ID = "b/" + plan.NameOf(r.ID)
				rules = append(rules, r)
			}
			p.Agents[1].Rules = append(rules, p.Agents[1].Rules[:len(p.Agents[1].Rules)/3]...)
		}
		r, err := Build(p, Options{Roots: "/roots.pem"})
		if err != nil {
			rt.Skip("not a plan that any loader makes")
		}
		found := map[string]int{}
		for _, s := range r.Scopes {
			for _, h := range s.GetRouteConfiguration().GetVirtualHosts() {
				for _, d := range h.GetDomains() {
					found[d]++
				}
			}
		}
		for _, a := range p.Agents {
			alone, err := Build(&plan.Plan{Stack: p.Stack, Resolvers: p.Resolvers, Credentials: p.Credentials, Agents: []plan.Agent{a}}, Options{Roots: "/roots.pem"})
			require.NoError(rt, err)
			for _, s := range alone.Scopes {
				same := scopeOf(r, s.GetName())
				require.NotNil(rt, same, s.GetName())
				for _, want := range s.GetRouteConfiguration().GetVirtualHosts() {
					for _, d := range want.GetDomains() {
						got := hostOf(same, d)
						require.NotNil(rt, got, d)
						if strings.Contains(d, scopeSeparator) {
							require.Equal(rt, 1, found[d], d)
							delete(found, d)
						}
						require.Len(rt, got.GetRoutes(), len(want.GetRoutes()))
						for i := range want.GetRoutes() {
							require.True(rt, proto.Equal(want.GetRoutes()[i], got.GetRoutes()[i]), "%s: %s", d, want.GetRoutes()[i].GetName())
						}
						require.Empty(rt, len(got.GetTypedPerFilterConfig())-len(want.GetTypedPerFilterConfig()))
					}
				}
			}
		}
		for d := range found {
			require.NotContains(rt, d, scopeSeparator, "nobody may go there")
		}
	})
}
