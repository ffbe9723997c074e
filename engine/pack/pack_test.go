package pack

import (
	"testing"

	"github.com/pulumi/pulumi/sdk/v3/go/common/apitype"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource/plugin"
	"github.com/pulumi/pulumi/sdk/v3/go/common/tokens"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/policies/guardrail"
)

// TestWhatIsNotLookedAtAgain: before a rule is made, nobody says which group it is of. So where an
// agent may go fails at the preview if it is not known; what is judged alone does not.
func TestWhatIsNotLookedAtAgain(t *testing.T) {
	t.Parallel()
	const group = "aws:ec2/securityGroup:SecurityGroup"
	const rule = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
	a := &analyzer{
		options: guardrail.Options{Production: true}, seen: map[string]graph.Resource{}, said: map[string]bool{},
		preview: true,
	}
	unknown := resource.MakeComputed(resource.NewProperty(""))
	made := func(token, name string, inputs resource.PropertyMap) plugin.AnalyzerStackResource {
		return plugin.AnalyzerStackResource{AnalyzerResource: plugin.AnalyzerResource{
			URN: resource.URN("urn:pulumi:prod::web::" + token + "::" + name), Type: tokens.Type(token), Name: name,
			Properties: inputs, Provider: &plugin.AnalyzerProviderResource{},
		}}
	}
	g := made(group, "g", resource.PropertyMap{"description": resource.NewProperty("x")})
	r := made(rule, "r", resource.PropertyMap{
		"securityGroupId": unknown, "cidrIpv4": unknown, "ipProtocol": resource.NewProperty("tcp"),
		"fromPort": resource.NewProperty(22.0), "toPort": resource.NewProperty(22.0),
		"description": resource.NewProperty("x"),
	})
	r.PropertyDependencies = map[resource.PropertyKey][]resource.URN{"securityGroupId": {g.URN}}
	s := made("aws:ec2/subnet:Subnet", "s", resource.PropertyMap{"mapPublicIpOnLaunch": unknown})
	out := made("aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule", "out", r.Properties)
	out.PropertyDependencies = r.PropertyDependencies
	m := made("aws:ec2/instance:Instance", "m", resource.NewPropertyMapFromMap(map[string]any{
		"tags": map[string]any{graph.TagRole: "agents"},
	}))
	m.PropertyDependencies = map[resource.PropertyKey][]resource.URN{"vpcSecurityGroupIds": {g.URN}}
	all := []plugin.AnalyzerStackResource{g, r, out, s, m}
	for _, x := range all {
		answer, err := a.Analyze(t.Context(), x.AnalyzerResource)
		require.NoError(t, err)
		require.Empty(t, answer.Diagnostics)
	}
	answer, err := a.AnalyzeStack(t.Context(), all)
	require.NoError(t, err)
	levels := map[string]apitype.EnforcementLevel{}
	for _, d := range answer.Diagnostics {
		levels[d.PolicyName+" "+d.URN.Name()] = d.EnforcementLevel
	}
	require.Equal(t, apitype.Mandatory, levels["NET-15 out"], levels)
	require.Equal(t, apitype.Advisory, levels["NET-24 r"], levels)
	require.Equal(t, apitype.Advisory, levels["NET-04 s"], levels)

	a.preview = false
	r.Properties["cidrIpv4"] = resource.NewProperty("0.0.0.0/0")
	answer, err = a.Analyze(t.Context(), r.AnalyzerResource)
	require.NoError(t, err)
	require.Len(t, answer.Diagnostics, 1)
	require.Equal(t, "NET-24", answer.Diagnostics[0].PolicyName)
	require.Equal(t, apitype.Mandatory, answer.Diagnostics[0].EnforcementLevel)
}
