package engine

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// What was being created in a cloud may exist: it must not be forgotten.
func TestPendingElsewhere(t *testing.T) {
	t.Parallel()
	e := &Engine{opts: Options{Stack: "prod"}, dir: t.TempDir()}
	path := stateFile(e.dir, "prod")
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	none, err := e.saved(t.Context())
	require.NoError(t, err)
	require.Empty(t, none.Pending)
	require.NoError(t, os.WriteFile(path, []byte(`{"checkpoint": {"latest": {"pending_operations": [
		{"type": "creating", "resource": {"urn": "urn:pulumi:prod::postern::postern:local:Environment$postern:local:Node::prod-node-1"}},
		{"type": "updating", "resource": {"urn": "urn:pulumi:prod::postern::aws:ec2/vpc:Vpc::prod-network-agents"}},
		{"type": "creating", "resource": {"urn": "urn:pulumi:prod::postern::postern:aws:Environment$aws:ec2/eip:Eip::prod-network-nat-a"}}]}}}`), 0o600))
	state, err := e.saved(t.Context())
	require.NoError(t, err)
	require.Len(t, state.Pending, 3)
	require.Equal(t, []string{"prod-network-nat-a"}, elsewhere(state.Pending))
}
