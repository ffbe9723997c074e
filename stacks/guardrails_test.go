package stacks

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGuardrails(t *testing.T) {
	t.Parallel()
	parse := func(text string) (*Stack, error) {
		f := &File{Path: "stacks/prod.yaml", Real: "/etc/postern/stacks/prod.yaml", Ask: fakeClients}
		return f.Parse([]byte("version: 1\ntarget: local\n" + text))
	}
	s, err := parse("")
	require.NoError(t, err)
	require.Equal(t, Guardrails{}, s.Guardrails, "a stack on this machine is not for production unless it says so")

	s, err = parse(`guardrails:
  production: true
  policies: ../policies
  waivers:
    - guardrail: LOC-01
      resource: prod-control
      owner: ops@example.test
      reason: the machine has one user
      expires: "2027-03-31"
`)
	require.NoError(t, err)
	require.Equal(t, Guardrails{Production: true, Policies: "/etc/postern/policies", Waivers: []Waiver{{
		Rail: "LOC-01", Resource: "prod-control", Owner: "ops@example.test", Reason: "the machine has one user",
		Expires: "2027-03-31", At: "stacks/prod.yaml:7:7",
	}}}, s.Guardrails)

	_, err = parse(`guardrails:
  production: maybe
  waivers:
    - {guardrail: net-5, resource: " ", expires: tomorrow}
    - {guardrail: NET-05, resource: x, owner: me, reason: y, expires: "2027-02-30", until: never}
`)
	for _, want := range []string{
		"stacks/prod.yaml:4:15: production is", "stacks/prod.yaml:6:19: guardrail is not valid",
		"stacks/prod.yaml:6:7: a waiver has no owner", "stacks/prod.yaml:6:7: a waiver has no reason",
		"stacks/prod.yaml:6:50: expires is not valid", "until",
	} {
		require.ErrorContains(t, err, want)
	}
}
