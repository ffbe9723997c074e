package graph_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/graph"
)

const (
	stackURN = `urn:pulumi:prod::web::pulumi:pulumi:Stack::web-prod`
	vpcURN   = `urn:pulumi:prod::web::aws:ec2/vpc:Vpc::main`
	agentURN = `urn:pulumi:prod::web::postern:aws:AgentPool::coder`
	groupURN = `urn:pulumi:prod::web::postern:aws:AgentPool$aws:autoscaling/group:Group::coder::machines`
)

// resources are those of a state or of a preview's steps.
var resources = []string{
	`{"urn":"` + stackURN + `","type":"pulumi:pulumi:Stack","custom":false}`,
	`{"urn":"` + vpcURN + `","type":"aws:ec2/vpc:Vpc","custom":true,"id":"vpc-1","parent":"` + stackURN + `",
		"provider":"urn:pulumi:prod::web::pulumi:providers:aws::default::b1","protect":true,
		"inputs":{"cidrBlock":"10.0.0.0/16","key":` + secret + `,"nested":{"list":[` + secret + `,"[secret]"]},
			"asset":{"4dabf18193072939515e22adb298388d":"c44067f5952c0a294b673a41bacd8c17","text":"x"},
			"other":{"4dabf18193072939515e22adb298388d":"new"}},
		"outputs":{"password":"hunter2-hunter2"}}`,
	`{"urn":"` + agentURN + `","type":"postern:aws:AgentPool","custom":false,"parent":"` + stackURN + `"}`,
	`{"urn":"` + groupURN + `","type":"aws:autoscaling/group:Group","custom":true,"parent":"` + agentURN + `",
		"inputs":{"vpc":"04da6b54-80e4-46f7-96ec-b56ff0331ba9"},
		"propertyDependencies":{"vpc":["` + vpcURN + `"]}}`,
}

const secret = `{"4dabf18193072939515e22adb298388d":"1b47061264138c4ac30d75fd1eb44270","plaintext":"hunter2-hunter2"}`

func state(resources ...string) string {
	return `{"version":3,"deployment":{"manifest":{},"resources":[` + strings.Join(resources, ",") + `]}}`
}

func preview(op string, resources ...string) string {
	var steps []string
	for _, r := range resources {
		steps = append(steps, fmt.Sprintf(`{"op":%q,"newState":%s}`, op, r))
	}
	return fmt.Sprintf(`{"steps":[%s],"changeSummary":{%q:%d}}`, strings.Join(steps, ","), op, len(steps))
}

func TestReadsStatesAndPreviews(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"state": state(resources...), "preview": preview("create", resources...), "same": preview("same", resources...),
		"replaced": strings.Replace(preview("create-replacement", resources...), `"steps":[`,
			`"steps":[{"op":"delete-replaced","urn":"`+vpcURN+`"},`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, err := graph.Read(strings.NewReader(text))
			require.NoError(t, err)
			require.Equal(t, "prod", g.Stack)
			require.Len(t, g.Resources, 3, "the stack itself is not a resource")

			vpc := g.ByURN(vpcURN)
			require.Equal(t, "main", vpc.Name)
			require.True(t, vpc.Custom && vpc.Protect)
			require.Empty(t, vpc.Parent)
			require.Equal(t, "urn:pulumi:prod::web::pulumi:providers:aws::default", vpc.Provider)
			require.True(t, graph.IsSecret(vpc.Inputs["key"]))
			require.True(t, graph.IsSecret(vpc.Inputs["nested"].(map[string]any)["list"].([]any)[1]))
			require.Equal(t, "(a file)", vpc.Inputs["asset"])
			require.Equal(t, graph.Unknown, vpc.Inputs["other"], "a mark that nobody knows")

			machines := g.ByURN(groupURN)
			require.Equal(t, "coder::machines", machines.Name)
			require.Equal(t, "agents", machines.Role, "by its parent")
			require.Same(t, vpc, g.Refers(machines, "vpc", "aws:ec2/vpc:Vpc"))

			var out bytes.Buffer
			require.NoError(t, g.Encode(&out))
			require.NotContains(t, out.String(), "hunter2")
			again, err := graph.Read(&out)
			require.NoError(t, err)
			require.Equal(t, g, again)
		})
	}
}

// A reference may be written as an ID, or as an ARN, of which the engine knows nothing.
func TestReadsReferencesThatAreIDs(t *testing.T) {
	t.Parallel()
	resource := func(kind, name, more string) string {
		return fmt.Sprintf(`{"urn":"urn:pulumi:prod::web::%s::%s","type":%q,"custom":true,%s}`, kind, name, kind, more)
	}
	const vpcType, roleType, subnetType = "aws:ec2/vpc:Vpc", "aws:iam/role:Role", "aws:ec2/subnet:Subnet"
	g, err := graph.Read(strings.NewReader(state(
		resource(vpcType, "net", `"id":"vpc-0123456789abcdef0"`),
		resource(roleType, "role", `"id":"web","outputs":{"arn":"arn:aws:iam::123456789012:role/web"}`),
		resource(subnetType, "sub", `"inputs":{"vpcId":"vpc-0123456789abcdef0","tags":{"Name":"web"},
			"list":[{"role":"arn:aws:iam::123456789012:role/web"}],"other":"vpc-0123456789abcdef1"}`),
	)))
	require.NoError(t, err)
	sub := g.OfType(subnetType)[0]
	require.Equal(t, "net", g.Refers(sub, "vpcId", vpcType).Name)
	require.Equal(t, "role", g.Refers(sub, "list", roleType).Name)
	require.Len(t, sub.PropertyDependencies, 2, "a name is not a reference")
}

func TestReadRefuses(t *testing.T) {
	t.Parallel()
	parent := func(of, is string) string {
		const urn = "urn:pulumi:prod::web::a:b:C::"
		return fmt.Sprintf(`{"urn":%q,"type":"a:b:C","parent":%q}`, urn+of, urn+is)
	}
	for name, c := range map[string]struct{ text, want string }{
		"not JSON":        {`resources:`, "not JSON"},
		"something else":  {`{"name":"web"}`, "neither a graph, a state nor a preview"},
		"a list":          {`[]`, "the file has a JSON array at byte 1, which neither a graph, a"},
		"an old state":    {`{"version":1,"deployment":{}}`, "its version is 1"},
		"another's state": {`{"version":3,"deployment":{"resources":{}}}`, "resources has a JSON object at byte 40"},
		"interrupted": {
			`{"version":3,"deployment":{"pending_operations":[{"resource":` + resources[1] + `,"type":"creating"}]}}`,
			"an operation on " + vpcURN + " was interrupted",
		},
		"to be deleted": {state(strings.Replace(resources[1], `"custom"`, `"delete":true,"custom"`, 1)), "still exists"},
		"twice":         {state(resources[1], resources[1]), vpcURN + " is declared twice"},
		"no URN":        {state(`{"urn":"main","type":"a:b:C"}`), `"main" (type "a:b:C") is not a valid resource`},
		"two stacks": {
			state(resources[1], strings.ReplaceAll(resources[2], ":prod:", ":dev:")), "two stacks, prod and dev",
		},
		"its own child": {state(parent("a", "b"), parent("b", "a")), "::a is its own ancestor"},
		"itself":        {state(parent("a", "a")), "is its own ancestor"},
		"without those that stay": {
			`{"steps":[],"changeSummary":{"same":1}}`, "leaves out 1 resource that would not change",
		},
		"an unknown operation": {preview("conjure", resources[1]), `does not know the operation "conjure"`},
		"without a state":      {`{"steps":[{"op":"create","urn":"x"}],"changeSummary":{}}`, "create of x has no newState"},
		"a name that acts":     {state(`{"urn":"urn:pulumi:p::web::a:b:C::x\u001b[2J","type":"a:b:C"}`), "nobody sees"},
		"a name that hides":    {state(`{"urn":"urn:pulumi:prod::web::a:b:C::x\u3164","type":"a:b:C"}`), "nobody sees"},
		"two lines":            {state(`{"urn":"urn:pulumi:prod::web::a:b:C::x\nok","type":"a:b:C"}`), "nobody sees"},
		"not finished":         {`{"steps":[]}`, "it did not end"},
		"failed": {
			`{"steps":[],"changeSummary":{},"diagnostics":[{"severity":"error","message":"no such zone"}]}`, "no such zone",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := graph.Read(strings.NewReader(c.text))
			require.ErrorContains(t, err, c.want)
		})
	}
}

// TestWhatTheProgramDoesNotSay: the cloud's answer counts, unless the program says something or
// the answer is not known yet.
func TestWhatTheProgramDoesNotSay(t *testing.T) {
	t.Parallel()
	const urn = `urn:pulumi:prod::web::aws:ec2/securityGroup:SecurityGroup::g`
	const open = `"outputs":{"egress":[{"protocol":"-1"}],"ingress":"` + graph.Unknown + `","vpcId":"vpc-1"}`
	for inputs, want := range map[string]map[string]any{
		`{}`:            {"egress": []any{map[string]any{"protocol": "-1"}}},
		`{"egress":[]}`: {"egress": []any{}},
	} {
		text := state(`{"urn":"` + urn + `","custom":true,"inputs":` + inputs + `,` + open +
			`,"type":"aws:ec2/securityGroup:SecurityGroup"}`)
		g, err := graph.Read(strings.NewReader(text))
		require.NoError(t, err)
		require.Equal(t, want, g.ByURN(urn).Inputs, inputs)
	}
}
