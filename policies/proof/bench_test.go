package proof_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/policies/guardrail"
	"github.com/postern/postern/policies/proof"
)

// ofMany returns a state of 5,000 resources, of which most are of a company's other things.
func ofMany(b *testing.B) []byte {
	b.Helper()
	g := reference(b, "minimal")
	const group = "urn:pulumi:prod::postern::aws:ec2/securityGroup:SecurityGroup::others"
	add := func(token, name string, inputs map[string]any, deps map[string][]string) string {
		urn := "urn:pulumi:prod::postern::" + token + "::" + name
		g.Resources = append(g.Resources, graph.Resource{
			URN: urn, Type: token, Name: name, Role: "other", Custom: true, Inputs: inputs, PropertyDependencies: deps,
		})
		return urn
	}
	add("aws:ec2/securityGroup:SecurityGroup", "others", map[string]any{"description": "of others"}, nil)
	for n := 0; len(g.Resources) < 5000; n++ {
		name := fmt.Sprint("other-", n)
		bucket := add("aws:s3/bucketV2:BucketV2", name, map[string]any{}, nil)
		if len(g.Resources) > 5000-4 {
			continue
		}
		add("aws:s3/bucketVersioningV2:BucketVersioningV2", name, map[string]any{
			"bucket": graph.Unknown, "versioningConfiguration": map[string]any{"status": "Enabled"},
		}, map[string][]string{"bucket": {bucket}})
		add("aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule", name, map[string]any{
			"securityGroupId": graph.Unknown, "cidrIpv4": "10.0.0.0/8", "ipProtocol": "tcp", "description": "of others",
			"fromPort": float64(n % 60000), "toPort": float64(n % 60000),
		}, map[string][]string{"securityGroupId": {group}})
		role := add("aws:iam/role:Role", name, map[string]any{"assumeRolePolicy": `{"Statement":[]}`}, nil)
		add("aws:iam/rolePolicy:RolePolicy", name, map[string]any{
			"role":   graph.Unknown,
			"policy": `{"Statement":[{"Effect":"Allow","Action":"s3:GetObject","Resource":"x"}]}`,
		}, map[string][]string{"role": {role}})
	}
	require.NoError(b, g.Complete())
	return exported(b, g)
}

// BenchmarkState reads a state of 5,000 resources, checks the guardrails, and proves it with every
// mistake. It is to take less than 5 s.
func BenchmarkState(b *testing.B) {
	state := ofMany(b)
	for b.Loop() {
		g, err := graph.Read(bytes.NewReader(state))
		require.NoError(b, err)
		if n := len(g.Resources); n != 5000 {
			b.Fatalf("the state has %d resources", n)
		}
		require.Positive(b, guardrail.Check(g, guardrail.Options{Production: true}).Resources)
		r, err := proof.Of(nil, g, nil)
		require.NoError(b, err)
		require.NotEmpty(b, r.Network.Verdicts)
	}
}
