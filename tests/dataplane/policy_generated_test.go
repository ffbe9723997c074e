package dataplane

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

// The names of generated policies: a host, its parent's wildcards, and others.
var (
	generatedHosts     = []string{"a.x.test", "b.x.test", "c.b.x.test", "y.test"}
	generatedWildcards = []string{"*.x.test", "*.b.x.test"}
	generatedPaths     = []string{
		"/", "/v1/x", "/v1/y/z", "/v2", "/v1/%2e%2e/v2", "/v1/a%2Fb", "/v1//x", "/v1/x/", "/v1/x;y", "/v1;y/x", "/;/v1/x", "/v1%2Fx", "/v1%5cx", "/x/..%2fv2", "/V2", "/v1",
		"/x/..;/v2", "/v1%252fx", "/v2%3by", "/v2%3fy/z", "/v1/%23x", "/v2.", "/%c0%afv2", "/a+b", "/@scope%2fname",
		"/v1/%252e%252e", "/v1/%c0%ae", "/v1/..%ef%bc%8f", "/v1/%09x", "/v1/(S(x))", "/v1/...", "/v1/caf%C3%A9", "/v1/%E9", "/v1/..%20/x", "/v1/x%3fk=1",
	}
	generatedQueries = []string{"", "k=1", "k=2", "k=1&k=2", "%6b=1", "j=1&k=1", "j=1;k=1", "k[]=1", "K=1", "k=+1", "k=%31", "k=%2531", "k", "k=1;j", "j[k]=1", "%20k=1", "k=1&k[]=2", "k=1&K=2", "k=1&%256b=2", "k=1&+k", "_method=DELETE", "k=1&%5fmethod=PUT"}
	generatedHeaders = [][]string{nil, {"1"}, {"2"}, {"1", "2"}, {"2, 1"}, {"1;q=1"}, {`"1"`}, {"\xff, 1"}, {"\xff"}, {"11"}, {"1", "\xff"}}
)

// generatePlan draws rules as the loader could have made them: the mode of a
// destination is that of its host.
func generatePlan(rt *rapid.T, up *fleet.Upstream, secret string) *plan.Plan {
	a := plan.Agent{Name: "a"}
	for i := range rapid.IntRange(0, 6).Draw(rt, "rules") {
		r := plan.Rule{
			ID:   fmt.Sprintf("a/d%d", i),
			Deny: rapid.IntRange(0, 3).Draw(rt, "deny") == 0,
			Host: rapid.SampledFrom(append(slices.Clone(generatedHosts), generatedWildcards...)).Draw(rt, "host"),
			Port: rapid.SampledFrom([]uint16{443, 443, 8443}).Draw(rt, "port"),
		}
		if !r.Deny {
			r.Upstream = up.Pin()
			if r.Host == "y.test" {
				r.Mode = plan.ModeTunnel
				a.Rules = append(a.Rules, r)
				continue
			}
		}
		r.Methods = rapid.SampledFrom([][]string{{plan.AnyMethod}, {"GET"}, {"GET", "POST"}, {"DELETE"}}).Draw(rt, "methods")
		r.Paths = rapid.SampledFrom([][]string{{plan.AnyPath}, {"/v1/*"}, {"/v1/**"}, {"/v2"}, {"/", "/v1/x"}}).Draw(rt, "paths")
		if rapid.IntRange(0, 3).Draw(rt, "conditional") == 0 {
			r.Query = []plan.Condition{{Name: "k", Value: "1"}}
		}
		if rapid.IntRange(0, 4).Draw(rt, "headers") == 0 {
			r.Headers = []plan.Condition{{Name: "x-h", Value: "1"}}
		}
		if rapid.IntRange(0, 5).Draw(rt, "operation") == 0 {
			r.Headers = []plan.Condition{{Name: "x-amz-target", Present: true}}
		}
		if !r.Deny && r.Port == 443 && r.Host == "a.x.test" {
			r.Gateway = 8080
		}
		if !r.Deny && rapid.Bool().Draw(rt, "credential") {
			r.Credential = "k"
		}
		a.Rules = append(a.Rules, r)
	}
	// Another agent has some of the rules too, and rules of its own for the same hosts.
	b := plan.Agent{Name: "b"}
	for _, r := range a.Rules {
		r.ID = "b/" + plan.NameOf(r.ID)
		if r.Mode == plan.ModeIntercept {
			switch rapid.IntRange(0, 3).Draw(rt, "as") {
			case 0:
				continue
			case 1:
				r.Methods, r.Paths = []string{plan.AnyMethod}, []string{"/v2"}
			}
		}
		r.Gateway = 0
		b.Rules = append(b.Rules, r)
	}
	return &plan.Plan{
		Stack: "test", Agents: []plan.Agent{a, b},
		Credentials: []plan.Credential{{Name: "k", Kind: plan.KindHeader, Header: "x-api-key", Secret: secret}},
	}
}

// TestGeneratedPolicies: Envoy decides on generated requests under generated
// policies as plan.Decide does, by every way in that ends at Envoy.
func TestGeneratedPolicies(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := f.NewUpstream(append(slices.Clone(generatedHosts), generatedWildcards...)...)
	secret := "file://" + f.Secret("k", "s3cr3t")
	events := 0
	rapid.Check(t, func(rt *rapid.T) {
		p := generatePlan(rt, up, secret)
		f.MustPublish(p)
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(f.CA.PEM)
		roots.AppendCertsFromPEM(f.UpstreamCA.PEM) // the one in a tunnel
		requests := make([]plan.Request, 5)
		for i := range requests {
			r := plan.Request{
				Agent: rapid.SampledFrom([]string{"a", "a", "b"}).Draw(rt, "agent"), Scheme: "https", Port: rapid.SampledFrom([]uint16{443, 443, 8443}).Draw(rt, "port"),
				Host:   rapid.SampledFrom(append(slices.Clone(generatedHosts), "x.test", "evil.test")).Draw(rt, "host"),
				Method: rapid.SampledFrom([]string{"GET", "POST", "DELETE", "TRACE"}).Draw(rt, "method"),
				Path:   rapid.SampledFrom(generatedPaths).Draw(rt, "path"),
				Query:  rapid.SampledFrom(generatedQueries).Draw(rt, "query"),
				Header: map[string][]string{"x-h": rapid.SampledFrom(generatedHeaders).Draw(rt, "header")},
			}
			if rapid.IntRange(0, 5).Draw(rt, "overridden") == 0 {
				r.Header[rapid.SampledFrom([]string{"x-http-method-override", "x-original-url", "x-amz-target"}).Draw(rt, "override")] = []string{"DELETE"}
			}
			if r.Agent == "a" && rapid.IntRange(0, 4).Draw(rt, "gateway") == 0 {
				r.Scheme, r.Host, r.Port = "http", "localhost", 8080
			} else if r.Host != "y.test" && rapid.IntRange(0, 4).Draw(rt, "fronted") == 0 {
				r.Authority = rapid.SampledFrom(generatedHosts).Draw(rt, "authority")
			}
			f.DoTrusting("n1", r, roots)
			requests[i] = r
			d, seen := p.Decide(r), up.Seen()
			require.Equal(rt, d.Allow, len(seen) == 1, "reached the upstream: %+v\n%+v", r, p)
			if d.Allow {
				require.Equal(rt, d.Credential != "", seen[0].Header.Get("X-Api-Key") == "s3cr3t", "the credential: %+v\n%+v", r, p)
			}
		}
		// The log is written a moment later, and of a tunnel when it has ended.
		before := events
		events += len(requests)
		got := f.Events(events)
		slices.SortFunc(got, func(a, b audit.Event) int { return cmp.Compare(a.Seq, b.Seq) })
		type verdict struct {
			allow        bool
			rule, reason string
		}
		var wanted, said []verdict
		for i, e := range got[before:] {
			d := p.Decide(requests[i])
			wanted = append(wanted, verdict{d.Allow, d.Rule, string(d.Reason)})
			said = append(said, verdict{e.Verdict == audit.Allow, e.Rule, string(e.Reason)})
		}
		require.ElementsMatch(rt, wanted, said, "%+v\n%+v", requests, p)
	})
	require.Len(t, f.Events(events), events, "one event for each decision")
}
