package aws

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/policies/proof"
	"github.com/postern/postern/policies/reach"
)

// TestALostPolicyIsNoWayToTheSecrets: without the one policy of the control plane's role, nothing
// in the plan lets the control plane read its secrets.
func TestALostPolicyIsNoWayToTheSecrets(t *testing.T) {
	t.Parallel()
	for name := range variants {
		g, args := captured(t, name)
		result := func() reach.Result {
			for _, v := range proof.Network(g, args.Plan, nil, false).Verdicts {
				if v.Assertion == "prod-control-task -> the secrets of credentials: must" {
					return v.Result
				}
			}
			return ""
		}
		require.Equal(t, reach.Holds, result(), name)
		before := len(g.Resources)
		g.Resources = slices.DeleteFunc(g.Resources, func(r graph.Resource) bool {
			return strings.HasPrefix(r.Type, "aws:iam/rolePolicy:") && r.Name == "prod-control-task"
		})
		require.Len(t, g.Resources, before-1)
		require.Equal(t, reach.Indeterminate, result(), name)
	}
}
