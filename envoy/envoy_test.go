package envoy

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/postern/postern/plan"
)

// all are the resources, type by type.
func (r *Resources) all() []proto.Message {
	var ms []proto.Message
	for _, m := range r.Clusters {
		ms = append(ms, m)
	}
	for _, m := range r.Scopes {
		ms = append(ms, m)
	}
	for _, m := range r.Listeners {
		ms = append(ms, m)
	}
	return ms
}

// genPlan draws a plan that the loader could have made.
func genPlan(rt *rapid.T) *plan.Plan {
	p := &plan.Plan{
		Stack:       "test",
		Resolvers:   rapid.SampledFrom([][]string{nil, {"192.0.2.53:53"}, {"[2001:db8::53]:53", "192.0.2.53:5353"}}).Draw(rt, "resolvers"),
		Credentials: []plan.Credential{{Name: "key", Kind: "header", Header: "x-api-key", Secret: "env://KEY"}},
	}
	for _, name := range []string{"a", "b"} {
		a := plan.Agent{Name: name}
		for i := range rapid.IntRange(0, 4).Draw(rt, "rules") {
			r := plan.Rule{
				ID:         name + "/d" + string(rune('0'+i)),
				Host:       rapid.SampledFrom([]string{"a.test", "b.test", "xn--bcher-kva.test"}).Draw(rt, "host"),
				Port:       rapid.SampledFrom([]uint16{443, 8443, 1}).Draw(rt, "port"),
				Methods:    rapid.SampledFrom([][]string{{"*"}, {"GET"}, {"GET", "POST"}, {"M-SEARCH"}}).Draw(rt, "methods"),
				Paths:      rapid.SampledFrom([][]string{{"/**"}, {"/v1/*"}, {"/v1/x", "/v1/y/**"}}).Draw(rt, "paths"),
				Credential: rapid.SampledFrom([]string{"", "key"}).Draw(rt, "credential"),
				Gateway:    rapid.SampledFrom([]uint16{0, 8080, 8081}).Draw(rt, "gateway"),
				Upstream: rapid.SampledFrom([]*plan.Upstream{nil, {Address: "unix:/x.sock"}, {Address: "192.0.2.7:9443", CA: "pem"}, {Address: "[2001:db8::7]:443"}}).
					Draw(rt, "upstream"),
			}
			a.Rules = append(a.Rules, r)
		}
		p.Agents = append(p.Agents, a)
	}
	return p
}

// TestBuildIsPure: every plan builds, passes Envoy's own validation, gives the
// same resources each time, has unique names, and refers to nothing it lacks.
func TestBuildIsPure(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		p := genPlan(rt)
		one, err := Build(p, Options{Roots: "/roots.pem"})
		require.NoError(t, err)
		two, err := Build(p, Options{Roots: "/roots.pem"})
		require.NoError(t, err)
		same := two.all()
		for i, m := range one.all() {
			require.True(t, proto.Equal(m, same[i]))
		}

		clusters := map[string]bool{}
		for _, c := range one.Clusters {
			require.False(t, clusters[c.GetName()], c.GetName())
			clusters[c.GetName()] = true
		}
		scopes := map[string]bool{}
		for _, s := range one.Scopes {
			require.False(t, scopes[s.GetName()], s.GetName())
			scopes[s.GetName()] = true
			domains := map[string]bool{}
			for _, h := range s.GetRouteConfiguration().GetVirtualHosts() {
				for _, d := range h.GetDomains() {
					require.False(t, domains[d], "%s: %s twice", s.GetName(), d)
					domains[d] = true
				}
				for _, r := range h.GetRoutes() {
					if c := r.GetRoute().GetCluster(); c != "" {
						require.True(t, clusters[c], "%s: no cluster %s", s.GetName(), c)
					}
					said := r.GetMetadata().GetFilterMetadata()[metadataNamespace].GetFields()
					require.True(t, r.GetRoute() != nil || said["reason"] != nil && said["rule"] != nil || r.GetDirectResponse().GetStatus() != 403, "a denial says why: %s", r)
				}
			}
			require.True(t, domains["*"] || s.GetRouteConfiguration().GetVhostHeader() != "", "%s has no default", s.GetName())
		}
	})
}

// TestPathIsCompiledOnce holds what one more host for one more agent takes of every
// node: an expression of a path takes 5 KB of Envoy's memory.
func TestPathIsCompiledOnce(t *testing.T) {
	t.Parallel()
	regexes := func(rules ...plan.Rule) int {
		for i := range rules {
			rules[i].ID, rules[i].Host, rules[i].Port = fmt.Sprintf("a/r%d", i), "x.test", 443
		}
		r, err := Build(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: rules}}}, Options{Roots: "/roots.pem"})
		require.NoError(t, err)
		n := 0
		for _, s := range r.Scopes {
			for _, h := range s.GetRouteConfiguration().GetVirtualHosts() {
				for _, route := range h.GetRoutes() {
					if route.GetMatch().GetSafeRegex() != nil {
						n++
					}
				}
			}
		}
		return n
	}
	read := plan.Rule{Methods: []string{"GET", "HEAD"}, Paths: []string{"/v1/**", "/v2/**"}}
	require.Equal(t, 2, regexes(read))
	write := plan.Rule{Methods: []string{"POST"}, Paths: []string{"/v3/**"}}
	require.Equal(t, 2*3, regexes(read, write), "which method is missing depends on the path")
	require.Zero(t, regexes(plan.Rule{Methods: []string{plan.AnyMethod}, Paths: []string{plan.AnyPath}}))
}

// TestBuildRefuses what no loader makes, with everything that is wrong at once.
func TestBuildRefuses(t *testing.T) {
	t.Parallel()
	p := &plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{
		{ID: "a/x", Host: "x.test", Port: 443, Methods: []string{"GET"}, Paths: []string{"/"}, Credential: "nobody"},
		{ID: "a/y", Host: "y.test", Port: 443, Methods: []string{"GET"}, Paths: []string{"/"}, Upstream: &plan.Upstream{Address: "nowhere"}},
	}}}}
	r, err := Build(p, Options{Roots: "/roots.pem"})
	require.Nil(t, r)
	require.ErrorContains(t, err, `no credential "nobody"`)
	require.ErrorContains(t, err, "nowhere")

	for address, refused := range map[string]bool{
		"127.0.0.1:80": false, "[::1]:80": false, "192.168.1.2:80": false, "unix:/x.sock": false,
		"192.0.2.7:80": true, "169.254.169.254:80": true, "[2001:db8::1]:80": true, "0.0.0.0:80": true,
	} {
		p.Agents[0].Rules = []plan.Rule{{
			ID: "a/p", Host: "p.test", Port: 443, Methods: []string{"GET"}, Paths: []string{"/"},
			Upstream: &plan.Upstream{Address: address, Plain: true},
		}}
		_, err := Build(p, Options{Roots: "/roots.pem"})
		if refused {
			require.ErrorContains(t, err, "plain HTTP to "+address)
		} else {
			require.NoError(t, err, address)
		}
	}
}

// TestBuildRefusesNames by which Envoy would find another agent's routes.
func TestBuildRefusesNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a|connect", "a b", "a/b", "A"} {
		_, err := Build(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: name}}}, Options{Roots: "/roots.pem"})
		require.ErrorContains(t, err, "the name of an agent", name)
	}
}

func TestBootstrapOpensNothing(t *testing.T) {
	t.Parallel()
	b, err := Bootstrap(Node{ID: "n1", Stack: "test", XDS: "../../control/xds.sock", Descriptors: MinDescriptors, Heap: 1 << 30})
	require.NoError(t, err)
	var boot struct {
		StaticResources struct{ Listeners []any }
		Admin           struct {
			Address struct{ Pipe struct{ Mode int } }
		}
	}
	require.NoError(t, json.Unmarshal(b, &boot))
	require.Empty(t, boot.StaticResources.Listeners)
	require.Equal(t, 0o600, boot.Admin.Address.Pipe.Mode)
}
