package workspaces

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestJSONIsASCII: no name acts on a terminal, and a program reads the same name.
func TestJSONIsASCII(t *testing.T) {
	t.Parallel()
	const name = "a\x1b\x7f\u009b\u202e\u00fc\U0001f600"
	var out bytes.Buffer
	require.NoError(t, printJSON(&out, name))
	for _, b := range out.Bytes() {
		require.True(t, b == '\n' || b >= ' ' && b < 0x7f, "%q", out.String())
	}
	var back string
	require.NoError(t, json.Unmarshal(out.Bytes(), &back))
	require.Equal(t, name, back)
}
