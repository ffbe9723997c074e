package live_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestActionsAreDocumented: the policy in the documentation has the actions that the package names,
// and no other. That each question goes by its name, tests/cloud holds.
func TestActionsAreDocumented(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	var named []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(`"([a-z0-9]+:[A-Z][A-Za-z]+)"`).FindAllSubmatch(text, -1) {
			named = append(named, string(m[1]))
		}
	}
	slices.Sort(named)
	named = slices.Compact(named)
	doc, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "prove.md"))
	require.NoError(t, err)
	_, policy, _ := strings.Cut(string(doc), "```json\n")
	policy, _, _ = strings.Cut(policy, "```")
	var p struct{ Statement []struct{ Action []string } }
	require.NoError(t, json.Unmarshal([]byte(policy), &p))
	require.Len(t, p.Statement, 1)
	require.Equal(t, named, p.Statement[0].Action)
	for _, action := range named {
		verb := action[strings.IndexByte(action, ':')+1:]
		require.Regexp(t, "^(Describe|Get|List)", verb, "it only reads")
	}
}
