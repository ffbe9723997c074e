package plan

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// goldens are the stack files of other packages' tests.
var goldens = []string{
	"../stacks/testdata/load/*.txtar",
	"../stacks/aws/testdata/*.txtar",
	"../stacks/edit/testdata/*.txtar",
	"../stacks/presets/*.yaml",
	"../envoy/testdata/policy/*.txtar",
}

// seeds adds whatever in the goldens looks like it to a corpus, in an order: the
// first group of the expression if it has one.
func seeds(f *testing.F, like string) []string {
	f.Helper()
	expression := regexp.MustCompile(like)
	var found []string
	for _, pattern := range goldens {
		files, err := filepath.Glob(pattern)
		require.NoError(f, err)
		require.NotEmpty(f, files, pattern)
		for _, file := range files {
			b, err := os.ReadFile(file)
			require.NoError(f, err)
			for _, m := range expression.FindAllSubmatch(b, -1) {
				found = append(found, string(m[len(m)-1]))
			}
		}
	}
	slices.Sort(found)
	found = slices.Compact(found)
	require.Greater(f, len(found), 20, "the goldens are not what they were")
	return found
}

// hostSeeds and pathSeeds are the hosts and the paths of the goldens.
func hostSeeds(f *testing.F) []string { f.Helper(); return seeds(f, `host: *"?([^",}\s]+)`) }

func pathSeeds(f *testing.F) []string { f.Helper(); return seeds(f, `[\["\s,](/[^\s",\]}]*)`) }
