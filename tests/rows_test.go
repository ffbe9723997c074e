package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestEveryRowIsTried: each W and C of docs/attack.md has a line in the table of `make attack` or
// of `make chaos`, and every test that `make chaos` runs exists, and names its row.
func TestEveryRowIsTried(t *testing.T) {
	t.Parallel()
	tests := func(folder string) string {
		var all strings.Builder
		files, err := filepath.Glob(filepath.Join("..", folder, "*_test.go"))
		require.NoError(t, err)
		for _, file := range files {
			content, err := os.ReadFile(file)
			require.NoError(t, err)
			all.Write(content)
		}
		return all.String()
	}
	tried := map[string]bool{}
	for _, m := range regexp.MustCompile(`\((W\d+)\)"`).FindAllStringSubmatch(tests("tests/attack"), -1) {
		tried[m[1]] = true
	}
	list, err := os.ReadFile("../tools/chaos.txt")
	require.NoError(t, err)
	for line := range strings.Lines(string(list)) {
		fields := strings.Split(strings.TrimSpace(line), "|")
		if strings.HasPrefix(line, "#") {
			continue
		}
		require.Len(t, fields, 4, line)
		name, _, _ := strings.Cut(fields[2], "/")
		comment := regexp.MustCompile(`((?://.*\n)*)func ` + name + `\(`).FindStringSubmatch(tests(fields[1]))
		require.NotNil(t, comment, "%s has no %s", fields[1], name)
		if fields[0] != "-" {
			require.Regexp(t, `\b`+fields[0]+`\b`, comment[1], "%s says nothing of the row that it is for", name)
			tried[fields[0]] = true
		}
	}
	for letter, rows := range map[string]int{"W": 20, "C": 18} {
		for i := range rows {
			require.True(t, tried[fmt.Sprint(letter, i+1)], "%s%d is tried by nothing that a table shows", letter, i+1)
		}
	}
}
