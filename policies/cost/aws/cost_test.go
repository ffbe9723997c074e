package aws_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/graph"
	cost "github.com/postern/postern/policies/cost/aws"
)

func resource(token, name string, inputs map[string]any, deps map[string][]string) graph.Resource {
	return graph.Resource{URN: "urn:" + token + "::" + name, Type: token, Name: name, Role: "agents", Custom: true, Inputs: inputs, PropertyDependencies: deps}
}

func TestLines(t *testing.T) {
	t.Parallel()
	const template, task = "aws:ec2/launchTemplate:LaunchTemplate", "aws:ecs/taskDefinition:TaskDefinition"
	e := cost.Of(&graph.Graph{Resources: []graph.Resource{
		resource("aws:autoscaling/group:Group", "a", map[string]any{"desiredCapacity": 3.0}, map[string][]string{"launchTemplate": {"urn:" + template + "::t"}}),
		resource(template, "t", map[string]any{"instanceType": "m7g.large", "blockDeviceMappings": []any{map[string]any{"ebs": map[string]any{"volumeSize": 10.0}}}}, nil),
		resource("aws:ec2/vpcEndpoint:VpcEndpoint", "interface", map[string]any{"vpcEndpointType": "Interface", "subnetIds": []any{graph.Unknown, graph.Unknown, graph.Unknown}}, nil),
		resource("aws:ec2/vpcEndpoint:VpcEndpoint", "gateway", map[string]any{}, nil),
		resource("aws:ecs/service:Service", "s", map[string]any{"desiredCount": 2.0}, map[string][]string{"taskDefinition": {"urn:" + task + "::d"}}),
		resource(task, "d", map[string]any{"cpu": "512", "memory": "1024"}, nil),
		resource("aws:rds/instance:Instance", "db", nil, nil),
	}})
	got := map[string]float64{}
	for _, l := range e.Lines {
		require.NotEmpty(t, l.Assuming, l.What)
		require.InDelta(t, l.Count*l.Unit, l.Total, 1e-9)
		got[l.What] = l.Count
	}
	require.Equal(t, map[string]float64{"agents: m7g.large": 3, "GB of disk": 30, "interface endpoint, per zone": 3, "agents: Fargate task, 0.5 vCPU and 1 GB": 2}, got)
	require.InDelta(t, 3*0.0816*730+30*0.08+3*7.3+2*730*(0.5*0.04048+0.004445), e.Total, 1e-6)
	require.Equal(t, []string{"aws:rds/instance:Instance"}, e.Unpriced, "what has no price is said")

	var b strings.Builder
	require.NoError(t, e.Print(&b))
	require.Contains(t, b.String(), "approximate and unchecked, as of "+cost.AsOf)
	require.Contains(t, b.String(), "not in the sum: data transfer to the internet and between zones, Container Insights, detailed monitoring")
	require.Contains(t, b.String(), "not in the sum: aws:rds/instance:Instance")
}
