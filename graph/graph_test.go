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
		`{"format":1,`:                "decode graph: unexpected EOF",
		`{"format":2,"stack":"prod"}`: "its format is 2, this program reads 1",
		`{"format":1,"stack":"prod","resources":[{"urn":"b"},{"urn":"a"}]}`: "not sorted",
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
