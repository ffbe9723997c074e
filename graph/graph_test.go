package graph_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/graph"
)

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"format":1,`:                "decode graph: not JSON: unexpected EOF",
		`{"format":2,"stack":"prod"}`: "its format is 2, this program reads 1",
		`{"format":1,"stack":"prod","resources":[{"urn":"b"},{"urn":"a"}]}`:             "not sorted",
		`{"format":1,"resources":[{"urn":"a","type":"aws:ec2/natGateway:NatGateway"}]}`: "a is not a component",
	} {
		_, err := graph.Decode(strings.NewReader(text))
		require.ErrorContains(t, err, want)
	}
}

func TestRoleOf(t *testing.T) {
	t.Parallel()
	tagged := func(role string) map[string]any { return map[string]any{"tags": map[string]any{graph.TagRole: role}} }
	for _, c := range []struct {
		token  string
		inputs map[string]any
		parent string
		want   string
	}{
		{"postern:aws:Network", nil, "", "network"},
		{"postern:aws:ControlPlane", nil, "other", "control"},
		{"aws:ec2/vpc:Vpc", nil, "network", "network"},
		{"aws:ec2/vpc:Vpc", tagged("audit"), "network", "audit"},
		{"aws:autoscaling/group:Group", map[string]any{"tags": []any{
			map[string]any{"key": "Name", "value": "a"}, map[string]any{"key": graph.TagRole, "value": "agents"},
		}}, "", "agents"},
		{"aws:ec2/securityGroup:SecurityGroup", nil, "proxies", "fence"},
		{"aws:iam/role:Role", nil, "control", "iam"},
		{"aws:ec2/vpc:Vpc", nil, "", "other"},
		{"pulumi:providers:aws", nil, "network", "other"},
		{"postern:local:Node", nil, "", "proxies"},
		// Not what a part of the name says.
		{"aws:ec2/vpc:Vpc", tagged("reagents"), "network", "network"},
		{"acme:index:Diamond", nil, "", "other"},
		{"acme:index:NodeModules", nil, "audit", "audit"},
		{"postern:aws:Environment", nil, "", "other"},
	} {
		require.Equal(t, c.want, graph.RoleOf(c.token, c.inputs, c.parent), c.token)
	}
}

// TestWhatIsStarted: what a workload is made of has the workload's role, whatever it says itself.
func TestWhatIsStarted(t *testing.T) {
	t.Parallel()
	const template, group = "aws:ec2/launchTemplate:LaunchTemplate", "aws:autoscaling/group:Group"
	const definition, service = "aws:ecs/taskDefinition:TaskDefinition", "aws:ecs/service:Service"
	g := &graph.Graph{}
	add := func(token, name, role string, refers map[string][]string) {
		g.Resources = append(g.Resources, graph.Resource{
			URN: name, Type: token, Name: name, Custom: true, PropertyDependencies: refers,
			Inputs: map[string]any{"tags": map[string]any{graph.TagRole: role}},
		})
	}
	add(template, "a", "", nil)
	add(group, "ag", "agents", map[string][]string{"launchTemplate": {"a"}})
	add(template, "b", "proxies", nil)
	add(group, "bg", "agents", map[string][]string{"mixedInstancesPolicy": {"b"}})
	add(group, "bh", "control", map[string][]string{"launchTemplate": {"b"}})
	add(definition, "c", "", nil)
	add(service, "cs", "control", map[string][]string{"taskDefinition": {"c"}})
	add(definition, "d", "proxies", nil)
	add(service, "ds", "other", map[string][]string{"taskDefinition": {"d"}})
	require.NoError(t, g.Complete())
	for name, role := range map[string]string{"a": "agents", "b": "agents", "c": "control", "d": "proxies"} {
		require.Equal(t, role, g.ByURN(name).Role, name)
	}
}
