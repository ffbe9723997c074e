package tests

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/xds/api"
)

// TestControlPlaneKnowsAgentsFolders: the control plane that `up` starts uses no secret from a folder that an agent has
// got since it was published, whatever the agent's stack is.
func TestControlPlaneKnowsAgentsFolders(t *testing.T) {
	t.Parallel()
	c := newCheckout(t)
	root := filepath.Dir(c.dir)
	keys := filepath.Join(root, "keys")
	require.NoError(t, os.Mkdir(keys, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(keys, "key"), []byte(fileCanary), 0o600))
	c.edit("file://"+filepath.Join(root, "secret"), "file://"+filepath.Join(keys, "key"))
	c.edit("allow: [one]", "allow: [one, two]")
	c.does("up")
	second := func() api.Credential {
		state, err := api.Dial(c.home.ControlSocket()).Status(t.Context())
		require.NoError(t, err)
		require.Len(t, state.Credentials, 2)
		return state.Credentials[1]
	}
	require.True(t, second().OK, "%+v", second())
	require.NoError(t, hostpath.In(filepath.Dir(c.home.Root)).Record(keys))
	require.Eventually(t, func() bool { return !second().OK }, time.Minute, 50*time.Millisecond)
	require.Contains(t, second().Problem, "where an agent may write")
}
