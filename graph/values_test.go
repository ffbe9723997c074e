package graph_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/graph"
)

// TestReferencesAreThoseOfTheValues: what a state says that an input was computed from does not
// count if the input is another resource's ID.
func TestReferencesAreThoseOfTheValues(t *testing.T) {
	t.Parallel()
	const urn = `urn:pulumi:prod::web::aws:ec2/subnet:Subnet::`
	subnet := func(name, id string) string {
		return `{"urn":"` + urn + name + `","type":"aws:ec2/subnet:Subnet","custom":true,"id":"` + id +
			`","outputs":{"arn":"arn:aws:ec2:::subnet/` + id + `"}}`
	}
	machine := func(inputs, deps string) *graph.Resource {
		g, err := graph.Read(strings.NewReader(state(subnet("a", "subnet-00000001"), subnet("b", "subnet-00000002"),
			`{"urn":"urn:pulumi:prod::web::aws:ec2/instance:Instance::m","type":"aws:ec2/instance:Instance","custom":true,
			"inputs":`+inputs+`,"propertyDependencies":`+deps+`}`)))
		require.NoError(t, err)
		return g.ByURN("urn:pulumi:prod::web::aws:ec2/instance:Instance::m")
	}
	ofA := `{"subnetId":["` + urn + `a"]}`
	for inputs, want := range map[string][]string{
		`{"subnetId":"subnet-00000001"}`:                                  {urn + "a"},
		`{"subnetId":"subnet-00000002"}`:                                  {urn + "b"},
		`{"subnetId":["subnet-00000001","subnet-00000002"]}`:              {urn + "a", urn + "b"},
		`{"subnetId":"subnet-00000009"}`:                                  nil,
		`{"subnetId":"04da6b54-80e4-46f7-96ec-b56ff0331ba9"}`:             {urn + "a"},
		`{"subnetId":"{\"r\":\"arn:aws:ec2:::subnet/subnet-00000001\"}"}`: {urn + "a"},
	} {
		require.Equal(t, want, machine(inputs, ofA).PropertyDependencies["subnetId"], inputs)
	}
	require.Equal(t, []string{urn + "b"}, machine(`{"subnetId":"arn:aws:ec2:::subnet/subnet-00000002"}`, "null").
		PropertyDependencies["subnetId"], "an ID that the program was told")
}

// TestARoleIsItsName: what gives a role policies may name it.
func TestARoleIsItsName(t *testing.T) {
	t.Parallel()
	const role, policies = `urn:pulumi:prod::web::aws:iam/role:Role::r`, `urn:pulumi:prod::web::aws:iam/x:X::p`
	g, err := graph.Read(strings.NewReader(state(
		`{"urn":"`+role+`","type":"aws:iam/role:Role","custom":true,"id":"agent"}`,
		`{"urn":"`+policies+`","type":"aws:iam/x:X","custom":true,"inputs":{"roles":["agent","b"],"name":"agent"}}`,
	)))
	require.NoError(t, err)
	require.Equal(t, map[string][]string{"roles": {role}}, g.ByURN(policies).PropertyDependencies)
}
