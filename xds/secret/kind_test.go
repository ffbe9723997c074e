package secret

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

// A secret that something is to be minted from is never sent itself.
func TestEveryKindIsMintedOrSent(t *testing.T) {
	t.Parallel()
	for _, kind := range plan.Kinds() {
		require.Equal(t, kind.Mints(), minters[kind] != nil, kind)
		if kind.Mints() {
			m := compose(plan.Credential{Kind: kind}, reading{value: seal([]byte("source"))})
			require.Nil(t, m.value, kind)
			require.NotEmpty(t, m.problem, kind)
		}
	}
}
