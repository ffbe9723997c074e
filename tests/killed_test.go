package tests

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/xds/api"
)

// TestKillOutlivesDown: who is killed stays so when the stack is taken down and brought up again,
// twice, and until somebody takes it back; nobody else is.
func TestKillOutlivesDown(t *testing.T) {
	t.Parallel()
	p := newPath(t)
	killed := func() []string {
		s, err := api.Dial(p.home.ControlSocket()).Status(t.Context())
		require.NoError(t, err)
		return s.Killed
	}
	p.does("destroy")
	p.does("up")
	require.Empty(t, killed())
	p.ok(p.postern("kill", "--agent", "demo"))
	for range 2 {
		p.does("destroy")
		p.does("destroy") // what is down already forgets nothing
		p.does("up")
		require.Equal(t, []string{"demo"}, killed())
	}
	p.ok(p.postern("unkill", "--agent", "demo"))
	p.does("destroy")
	require.NoFileExists(t, p.home.KilledFile())

	// What cannot be read lets nobody work, and nothing is brought up before a person has looked.
	require.NoError(t, os.MkdirAll(p.home.Root, 0o700))
	require.NoError(t, os.WriteFile(p.home.KilledFile(), []byte("{"), 0o600))
	require.NotZero(t, p.postern("up").status)
	require.NoError(t, os.Remove(p.home.KilledFile()))
	p.does("up")
	require.Empty(t, killed())
}
