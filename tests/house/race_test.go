package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// concurrent returns where a file of Go begins a goroutine, or imports a package that is for them.
func concurrent(t *testing.T, name, content string) []string {
	t.Helper()
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, name, content, 0)
	require.NoError(t, err)
	var found []string
	for _, i := range f.Imports {
		switch strings.Trim(i.Path.Value, `"`) {
		case "sync", "sync/atomic", "golang.org/x/sync/errgroup":
			found = append(found, set.Position(i.Pos()).String())
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if g, ok := n.(*ast.GoStmt); ok {
			found = append(found, set.Position(g.Pos()).String())
		}
		return true
	})
	return found
}

// TestWithoutRaceDetector: of the packages that tools/test.sh tests without the race detector, the
// ones that are said to begin no goroutine begin none.
func TestWithoutRaceDetector(t *testing.T) {
	t.Parallel()
	all := repository(t)
	list := regexp.MustCompile(`(?m)^single='(.*)'$`).FindStringSubmatch(all["tools/test.sh"])
	require.NotNil(t, list)
	seen := map[string]bool{}
	for _, name := range all.sorted(".go") {
		dir := path.Dir(name)
		if strings.Contains(list[1], " "+dir+" ") && !strings.HasSuffix(name, "_test.go") {
			require.Empty(t, concurrent(t, name, all[name]))
			seen[dir] = true
		}
	}
	require.Len(t, seen, len(strings.Fields(list[1])), "the packages are there")
	for _, content := range []string{"func f() { go f() }", "import \"sync\"\nvar m sync.Mutex"} {
		require.NotEmpty(t, concurrent(t, "x.go", "package x\n"+content))
	}
}
