package toolchain

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTable(t *testing.T) {
	t.Parallel()
	for _, tc := range Table {
		require.NotEmpty(t, tc.Why, tc.Name)
		require.NotEmpty(t, tc.OnPath, tc.Name)
		for _, s := range slices.Concat(tc.Show, tc.Prefixes, tc.Go, tc.Hide) {
			require.NotContains(t, s, "..", tc.Name)
		}
	}
}

// TestMatch: a * stands for one name, and what it stood for is shown.
func TestMatch(t *testing.T) {
	t.Parallel()
	tc := &Toolchain{OnPath: []string{"bin", "installs/*/*/bin"}, Show: []string{"lib", "installs/*/*", "~/.x"}}
	for dir, want := range map[string][]Path{
		"/r/bin":                  {{"/r", "lib"}, {"/r", "installs/*/*"}, {"/h", ".x"}},
		"/r/installs/node/20/bin": {{"/r", "lib"}, {"/r", "installs/node/20"}, {"/h", ".x"}},
	} {
		names, ok := tc.Match("/r", dir)
		require.True(t, ok, dir)
		require.Equal(t, want, tc.Paths(tc.Show, "/h", "/r", names))
	}
	for _, dir := range []string{"/r", "/r/installs/node/bin", "/r/installs/node/20/x", "/r/bin/x", "/bin", "/r/../bin"} {
		_, ok := tc.Match("/r", dir)
		require.False(t, ok, dir)
	}
}

// TestIsProgram: what is next to programs, and is not one, may hold settings or keys.
func TestIsProgram(t *testing.T) {
	t.Parallel()
	for name, want := range map[string][2]bool{ // not executable, executable
		"go": {false, true}, "token": {false, true}, "activate": {true, true}, "m2.conf": {true, true},
		"x.jar": {true, true}, "libx.so.1": {true, true}, "x.json": {false, true}, "x.deps.json": {true, true},
		"config.json": {false, false}, ".env": {false, false}, ".git": {false, false}, ".bin": {false, true},
		"npmrc": {false, false}, "NuGet.Config": {false, false}, "prod.env": {false, false}, "my.KEY": {false, false},
		"id_rsa": {false, false}, "x.conf": {false, true},
	} {
		require.Equal(t, want, [2]bool{IsProgram(name, false), IsProgram(name, true)}, name)
	}
}
