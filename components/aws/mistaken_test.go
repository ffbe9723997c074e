package aws

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/graph"
)

// mistaken is the reference environment, in which a test makes somebody's mistake.
type mistaken struct {
	t *testing.T
	*graph.Graph
}

// get returns the resource of a type (ec2/vpc) whose name has that end.
func (c *mistaken) get(kind, end string) *graph.Resource {
	c.t.Helper()
	for i := range c.Resources {
		if r := &c.Resources[i]; strings.HasPrefix(r.Type, "aws:"+kind+":") && strings.HasSuffix(r.Name, end) {
			return r
		}
	}
	require.Failf(c.t, "no such resource", "%s %s", kind, end)
	return nil
}

// set writes an input of a resource.
func (c *mistaken) set(kind, end, property string, v any) {
	c.t.Helper()
	r := c.get(kind, end)
	r.Inputs[property] = v
	delete(r.Example, property)
}

// within writes a value into a block of a resource.
func (c *mistaken) within(kind, end, block, key string, v any) {
	c.t.Helper()
	in := c.get(kind, end).Inputs[block]
	if items, ok := in.([]any); ok {
		in = items[0]
	}
	in.(map[string]any)[key] = v
}

// refer is an input that refers to a resource.
type refer struct{ kind, end string }

// add declares a resource that is named mistake.
func (c *mistaken) add(kind string, inputs map[string]any) {
	c.t.Helper()
	last := kind[strings.LastIndexByte(kind, '/')+1:]
	token := "aws:" + kind + ":" + strings.ToUpper(last[:1]) + last[1:]
	r := graph.Resource{
		URN: "urn:pulumi:prod::postern::" + token + "::mistake", Type: token, Name: "mistake", Custom: true,
		Inputs: map[string]any{}, PropertyDependencies: map[string][]string{},
	}
	for key, v := range inputs {
		if to, ok := v.(refer); ok {
			r.PropertyDependencies[key], v = []string{c.get(to.kind, to.end).URN}, graph.Unknown
		}
		r.Inputs[key] = v
	}
	c.Resources = append(c.Resources, r)
	require.NoError(c.t, c.Complete())
}

// lose removes a resource.
func (c *mistaken) lose(kind, end string) {
	urn := c.get(kind, end).URN
	c.Resources = slices.DeleteFunc(c.Resources, func(r graph.Resource) bool { return r.URN == urn })
}

// rule adds a rule to the group of the agent coder.
func (c *mistaken) rule(inputs map[string]any) {
	all := map[string]any{
		"securityGroupId": refer{"ec2/securityGroup", "-fence-agent-coder"}, "ipProtocol": "tcp", "fromPort": 443.0,
		"toPort": 443.0, "description": "a mistake",
	}
	maps.Copy(all, inputs)
	c.add("vpc/securityGroupEgressRule", all)
}

var agentsVPC, agentsSubnet = refer{"ec2/vpc", "-network-agents"}, refer{"ec2/subnet", "-network-agents-a"}

const openPolicy = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*"}]}`

// forAnother is a policy that lets another account do everything.
const forAnother = `{"Statement":{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::999999999999:root"},` +
	`"Action":"kms:Decrypt","Resource":"*"}}`

// trusts lets somebody take a role for an account, and others without a condition.
func trusts(who, account string, others ...string) string {
	out := `{"Statement":[{"Effect":"Allow","Principal":` + who + `,"Action":"sts:AssumeRole",` +
		`"Condition":{"StringLike":{"aws:SourceAccount":"` + account + `"}}}`
	for _, o := range others {
		out += `,{"Effect":"Allow","Principal":` + o + `,"Action":"sts:AssumeRole"}`
	}
	return out + `]}`
}
