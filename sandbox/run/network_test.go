package run

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

// TestNoRuntimeHasANetwork: what `postern prove` says of this machine's sandboxes.
func TestNoRuntimeHasANetwork(t *testing.T) {
	t.Parallel()
	for _, r := range plan.Runtimes() {
		how, err := NoNetwork(r)
		require.NoError(t, err, r)
		require.NotEmpty(t, how, r)
	}
	_, err := NoNetwork("chroot")
	require.ErrorContains(t, err, `nobody knows the runtime "chroot"`)
}
