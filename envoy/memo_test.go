package envoy

import (
	"slices"
	"strings"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postern/postern/plan"
)

// genAnyPlan draws a plan with everything in it that shapes a resource: it need
// not be one that the loader could have made.
func genAnyPlan(rt *rapid.T) *plan.Plan {
	p := &plan.Plan{
		Stack:     "test",
		Resolvers: rapid.SampledFrom([][]string{nil, nil, {"192.0.2.53:53"}}).Draw(rt, "resolvers"),
		Credentials: []plan.Credential{
			{Name: "aws", Kind: plan.KindAWSSigV4, Service: "s3", Region: "r1"},
			{Name: "key", Kind: plan.KindHeader, Header: rapid.SampledFrom([]string{"x-api-key", "x-api-key", "x-key"}).Draw(rt, "header")},
		},
	}
	for _, name := range []string{"a", "b"} {
		a := plan.Agent{Name: name}
		for i := range rapid.IntRange(0, 5).Draw(rt, "rules") {
			r := plan.Rule{
				ID:   name + "/d" + string(rune('0'+i)),
				Host: rapid.SampledFrom([]string{"a.x.test", "b.x.test", "*.x.test", "*.test", "t.test", "*.t.test"}).Draw(rt, "host"),
				Port: rapid.SampledFrom([]uint16{443, 8443}).Draw(rt, "port"),
				Deny: rapid.IntRange(0, 4).Draw(rt, "deny") == 0,
			}
			if strings.HasSuffix(r.Host, "t.test") && !strings.HasSuffix(r.Host, "x.test") && !r.Deny {
				r.Mode = plan.ModeTunnel
			}
			if r.Mode == plan.ModeIntercept {
				r.Methods = rapid.SampledFrom([][]string{{"*"}, {"GET"}, {"GET", "POST"}}).Draw(rt, "methods")
				r.Paths = rapid.SampledFrom([][]string{{"/**"}, {"/v1/*"}, {"/v1/x", "/v1/y/**"}}).Draw(rt, "paths")
			}
			if !r.Deny {
				r.Upstream = rapid.SampledFrom([]*plan.Upstream{nil, {Address: "192.0.2.7:9443", CA: "pem"}, {Address: "192.0.2.7:9443"}}).Draw(rt, "upstream")
			}
			if !r.Deny && r.Mode == plan.ModeIntercept {
				r.Credential = rapid.SampledFrom([]string{"", "key", "aws"}).Draw(rt, "credential")
				r.OwnCredentials = r.Credential == "" && rapid.Bool().Draw(rt, "own")
				r.Gateway = rapid.SampledFrom([]uint16{0, 0, 8080, 8081}).Draw(rt, "gateway")
				r.Limits = rapid.SampledFrom([]*plan.Limits{nil, {Requests: 5, Per: 60}, {Concurrent: 2}, {Body: 9}}).Draw(rt, "limits")
				r.Query = rapid.SampledFrom([][]plan.Condition{nil, {{Name: "k", Value: "1"}}}).Draw(rt, "query")
			}
			a.Rules = append(a.Rules, r)
		}
		p.Agents = append(p.Agents, a)
	}
	return p
}

// TestMemo: whatever was built before, a plan's resources are those that
// it has by itself, byte for byte, and those that did not change are shared.
func TestMemo(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		var m Memo
		var p *plan.Plan
		for range rapid.IntRange(1, 6).Draw(rt, "plans") {
			switch next := genAnyPlan(rt); {
			case p == nil || rapid.Bool().Draw(rt, "other"):
				p = next
			default: // a rule more or less, or another one
				q := *p
				q.Agents = slices.Clone(p.Agents)
				q.Agents[0].Rules = slices.Concat(p.Agents[0].Rules[:len(p.Agents[0].Rules)/2], next.Agents[0].Rules)
				p = &q
			}
			o := Options{
				Roots:       rapid.SampledFrom([]string{"/r1", "/r1", "/r2"}).Draw(rt, "roots"),
				Generations: map[string]string{"a": rapid.SampledFrom([]string{"", "1"}).Draw(rt, "generation")},
				Killed:      rapid.SampledFrom([][]string{nil, nil, {"a"}}).Draw(rt, "killed"),
			}
			got, err := m.Build(p, o)
			fresh, wrong := new(Memo).Build(p, o)
			require.Equal(rt, wrong == nil, err == nil, "%v", wrong)
			if err != nil {
				continue
			}
			alone, first := sorted(fresh), sorted(got)
			require.Len(rt, first, len(alone))
			for i, r := range first {
				require.Equal(rt, alone[i].GetName(), r.GetName())
				require.Equal(rt, alone[i].GetVersion(), r.GetVersion(), r.GetName())
				require.Equal(rt, alone[i].GetResource().GetValue(), r.GetResource().GetValue(), r.GetName())
			}
			again, err := m.Build(p, o)
			require.NoError(rt, err)
			for i, r := range sorted(again) {
				require.Same(rt, first[i], r, r.GetName())
			}
		}
	})
}

// sorted are the resources, by type and name.
func sorted(p Packed) []*discoveryv3.Resource {
	var out []*discoveryv3.Resource
	for _, url := range []string{
		"type.googleapis.com/envoy.config.cluster.v3.Cluster",
		"type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration",
		"type.googleapis.com/envoy.config.listener.v3.Listener",
	} {
		rs := slices.Clone(p[url])
		slices.SortFunc(rs, func(a, b *discoveryv3.Resource) int { return strings.Compare(a.GetName(), b.GetName()) })
		out = append(out, rs...)
	}
	return out
}
