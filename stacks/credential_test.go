package stacks

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

func TestEveryKindCanBeWritten(t *testing.T) {
	t.Parallel()
	require.Len(t, KindFields, len(plan.Kinds()))
	for _, kind := range plan.Kinds() {
		require.Contains(t, KindFields, kind)
	}
}
