package proof_test

import (
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/exit"
	"github.com/postern/postern/policies/proof"
	"github.com/postern/postern/policies/reach"
)

// TestEveryResultHasItsStatus: whoever reads only the exit status is told.
func TestEveryResultHasItsStatus(t *testing.T) {
	t.Parallel()
	for result, status := range map[reach.Result]int{
		reach.Holds: exit.Done, reach.Fails: exit.Open, reach.Indeterminate: exit.Unproved, "": exit.Unproved,
	} {
		for _, asJSON := range []bool{false, true} {
			r := &proof.Report{Stack: "prod", Result: result}
			require.Equal(t, status, exit.Status(r.Deliver(io.Discard, asJSON, "")), result)
		}
	}
}

// TestNothingProvedIsNotProved: a report without a verdict does not hold.
func TestNothingProvedIsNotProved(t *testing.T) {
	t.Parallel()
	r, err := proof.Of(nil, nil, nil)
	require.NoError(t, err)
	require.Equal(t, reach.Indeterminate, r.Result)
}
