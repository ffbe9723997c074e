package toolchain

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTable(t *testing.T) {
	t.Parallel()
	for _, tc := range Table {
		require.NotEmpty(t, tc.Why, tc.Name)
		require.NotEmpty(t, tc.OnPath, tc.Name)
		require.NotEmpty(t, tc.Show, tc.Name)
		for _, s := range tc.Show {
			require.NotContains(t, s, "..", tc.Name)
		}
	}
}

// TestMatch: a * stands for one name, and what it stood for is shown.
func TestMatch(t *testing.T) {
	t.Parallel()
	tc := &Toolchain{OnPath: []string{"bin", "installs/*/*/bin"}, Show: []string{"lib", "installs/*/*", "~/.x"}}
	for dir, want := range map[string][]string{
		"/r/bin": {"/r/lib", "/r/installs/*/*", "/h/.x"}, "/r/installs/node/20/bin": {"/r/lib", "/r/installs/node/20", "/h/.x"},
	} {
		names, ok := tc.Match("/r", dir)
		require.True(t, ok, dir)
		require.Equal(t, want, tc.Shown("/h", "/r", names))
	}
	for _, dir := range []string{"/r", "/r/installs/node/bin", "/r/installs/node/20/x", "/r/bin/x", "/bin", "/r/../bin"} {
		_, ok := tc.Match("/r", dir)
		require.False(t, ok, dir)
	}
}
