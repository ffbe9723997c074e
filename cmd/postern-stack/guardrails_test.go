package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/stacks"
)

// TestGuardrailsLeftOut: whatever a proposal says less of guardrails than what was is a line.
func TestGuardrailsLeftOut(t *testing.T) {
	t.Parallel()
	strict := stacks.Guardrails{Production: true, Policies: "/p"}
	const weak, none = "~ the guardrails are not those for production", "~ no policies of your own count"
	for _, c := range []struct {
		now  stacks.Guardrails
		was  *stacks.Guardrails
		want []string
	}{
		{strict, &strict, nil},
		{strict, nil, nil},
		{strict, &stacks.Guardrails{}, []string{"~ policies of your own count from /p, was nowhere"}},
		{stacks.Guardrails{}, &stacks.Guardrails{}, nil},
		{stacks.Guardrails{}, nil, []string{weak, none}},
		{stacks.Guardrails{}, &strict, []string{weak, "~ policies of your own count from nowhere, was /p"}},
		{
			stacks.Guardrails{Production: true, Policies: "/q"},
			&strict,
			[]string{"~ policies of your own count from /q, was /p"},
		},
		{
			stacks.Guardrails{Waivers: []stacks.Waiver{{
				Rail: "NET-05", Resource: "x", Owner: "me", Reason: "it is", Expires: "2027-03-31",
			}}},
			&stacks.Guardrails{},
			[]string{"~ guardrail NET-05 is waived at x until 2027-03-31, by me: it is"},
		},
	} {
		require.Equal(t, c.want, guardrailsOf(c.now, c.was))
	}
}
