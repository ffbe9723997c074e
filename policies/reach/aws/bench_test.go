package aws_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/policies/reach/aws"
)

// larger returns the reference with as many more agents as it takes to have that many resources.
// Each has a group, rules, a machine, a listener and a port of its own.
func larger(t testing.TB, name string, resources int) *graph.Graph {
	t.Helper()
	c := reference(t, name)
	var own []graph.Resource
	for _, r := range c.Resources {
		if strings.Contains(r.Name, "coder") {
			own = append(own, r)
		}
	}
	port := c.port("coder")
	for n := 1; len(c.Resources) < resources; n++ {
		as := strings.NewReplacer("coder", fmt.Sprintf("coder%d", n))
		for _, r := range own {
			r.URN, r.Name, r.Parent = as.Replace(r.URN), as.Replace(r.Name), as.Replace(r.Parent)
			deps := map[string][]string{}
			for property, urns := range r.PropertyDependencies {
				for _, urn := range urns {
					deps[property] = append(deps[property], as.Replace(urn))
				}
			}
			r.PropertyDependencies = deps
			inputs := map[string]any{}
			for k, v := range r.Inputs {
				if v == port {
					v = 10001 + float64(n)
				}
				inputs[k] = v
			}
			r.Inputs = inputs
			c.Resources = append(c.Resources, r)
		}
	}
	slices.SortFunc(c.Resources, func(a, b graph.Resource) int { return strings.Compare(a.URN, b.URN) })
	// The proxies serve every listener.
	for i := range c.Resources {
		r := &c.Resources[i]
		for property, urns := range r.PropertyDependencies {
			if r.Type == "aws:ecs/service:Service" && property == "loadBalancers" {
				for _, g := range c.Resources {
					if g.Type == "aws:lb/targetGroup:TargetGroup" && !slices.Contains(urns, g.URN) {
						urns = append(urns, g.URN)
					}
				}
				r.PropertyDependencies[property] = urns
				serves := r.Inputs[property].([]any)
				for n := range len(urns) {
					serves = append(serves, map[string]any{"containerPort": 10001 + float64(n)})
				}
				r.Inputs[property] = serves
			}
		}
	}
	return c.Graph
}

// BenchmarkProve measures a proof alone, and one with every single mistake and the controls that
// keep each assertion. It is to be read on a machine that does nothing else: a proof of 300
// resources in less than 0.1 s, with every mistake in less than 2 s, and a state of 5,000
// resources, of which 300 are a network, in less than 5 s.
func BenchmarkProve(b *testing.B) {
	small, isolated := larger(b, "shared", 300), larger(b, "minimal", 300)
	for name, of := range map[string]struct {
		g       *graph.Graph
		certify bool
	}{
		"resources=300":                {small, false},
		"resources=300/every mistake":  {isolated, true},
		"resources=5000/every mistake": {filled(larger(b, "minimal", 300), 5000), true},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				require.True(b, aws.Prove(of.g, nil, of.certify).Holds())
			}
		})
	}
}

// filled returns a plan with that many resources, of which the others carry no packet.
func filled(g *graph.Graph, resources int) *graph.Graph {
	for n := len(g.Resources); n < resources; n++ {
		name := fmt.Sprintf("other-%d", n)
		g.Resources = append(g.Resources, graph.Resource{
			URN: "urn:pulumi:prod::postern::aws:s3/bucketObject:BucketObject::" + name, Custom: true, Name: name,
			Type: "aws:s3/bucketObject:BucketObject", Role: "other", Inputs: map[string]any{"key": name},
		})
	}
	slices.SortFunc(g.Resources, func(a, b graph.Resource) int { return strings.Compare(a.URN, b.URN) })
	return g
}
