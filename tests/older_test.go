package tests

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestEngineOverUnsigned: `up` over an installation of a Postern that did not sign.
// What is live there stays live, who is killed stays so, and from then on
// everything is signed.
func TestEngineOverUnsigned(t *testing.T) {
	t.Parallel()
	c := newCheckout(t)
	c.does("up")
	c.edit("allow: [one]", "allow: [one, two]")
	c.does("up")
	version := c.live()
	kill(t, c.pid(c.home.ControlDir()))

	// As it was written before: the object is the payload, and there is neither a
	// mark nor a key.
	store := filepath.Join(c.home.Root, "bundle")
	for name := range files(t, store) {
		if !strings.HasSuffix(name, ".json") {
			require.NoError(t, os.Remove(name))
			continue
		}
		content, err := os.ReadFile(name)
		require.NoError(t, err)
		_, payload, found := bytes.Cut(content, []byte("\n"))
		require.True(t, found)
		var b map[string]any
		require.NoError(t, json.Unmarshal(payload, &b))
		b["killed"] = map[string]any{"agents": []string{"demo"}}
		payload, err = json.Marshal(b)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(name, payload, 0o600))
		if strings.HasSuffix(name, "2.json") {
			require.NoError(t, os.WriteFile(filepath.Join(c.home.ControlDir(), "good.json"), payload, 0o600))
		}
	}
	require.NoError(t, os.RemoveAll(c.home.OperatorDir()))
	require.NoError(t, os.Remove(filepath.Join(c.home.ControlDir(), "good.bundle")))

	done := c.does("up")
	require.Contains(t, changed(done), "create local-control")
	require.Equal(t, version, c.live())
	require.Equal(t, []string{"demo"}, c.status().Killed)
	require.Equal(t, uint64(3), c.status().Seq)
	require.Empty(t, c.status().Problem)
	require.FileExists(t, c.home.OperatorKey())
	require.Empty(t, changed(c.does("up")))

	// And on it goes.
	c.edit("allow: [one, two]", "allow: [one]")
	require.Equal(t, []string{"update local-bundle"}, changed(c.does("up")))
	require.NotEqual(t, version, c.live())
	require.Equal(t, []string{"demo"}, c.status().Killed)
}
