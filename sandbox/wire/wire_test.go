package wire

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

func TestSetupKeepsEveryByte(t *testing.T) {
	t.Parallel()
	want := Setup{Argv: Raw([]string{"a\xff", "", "ü"}), Env: Raw([]string{"X=\xfe\n"}), Dir: "/\xfd", Nodes: []string{"/n"}}
	encoded, err := json.Marshal(want)
	require.NoError(t, err)
	var got Setup
	require.NoError(t, json.Unmarshal(encoded, &got))
	require.Empty(t, cmp.Diff(want, got))
	require.Equal(t, []string{"a\xff", "", "ü"}, Strings(got.Argv))
}
