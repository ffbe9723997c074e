package aws

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/components/aws/document"
)

// The operators' policy is about the stack: whoever has it, loses no right elsewhere in the
// account.
func TestOperatorsLoseNothingElsewhere(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, _ *EnvironmentArgs, g *declarations) {
		denied := 0
		for _, s := range g.policies(t)["aws:iam/policy:Policy|prod-operators|policy"].Statement {
			if s.Effect != document.Deny {
				continue
			}
			denied++
			require.NotEmpty(t, s.Resource, s.Sid)
			for _, r := range s.Resource {
				require.Regexp(t, `/prod/|postern-prod-|Secret/prod-secrets-`, r, s.Sid)
			}
		}
		require.Equal(t, 3, denied)
	})
}
