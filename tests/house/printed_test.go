package house

import (
	"path"
	"strings"
	"testing"
)

// TestPrintedIsVisible: what the operator's commands print goes through package advice, because it
// may quote a node, a control plane, an agent or a log. cmd/postern/records quotes by itself.
func TestPrintedIsVisible(t *testing.T) {
	t.Parallel()
	all, seen := repository(t), 0
	for _, name := range all.sorted(".go") {
		dir := path.Dir(name)
		prints := strings.HasPrefix(dir, "cmd/postern/") || dir == "cmd/postern" || dir == "cut" || dir == "explain" ||
			dir == "publish"
		if !prints || dir == "cmd/postern/records" || strings.HasSuffix(name, "_test.go") {
			continue
		}
		seen++
		for _, raw := range []string{"fmt.Fprint", "fmt.Print", "json.NewEncoder("} {
			if strings.Contains(all[name], raw) {
				t.Errorf("%s has %q: use advice.Printf, advice.Println or advice.Encode", name, raw)
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d files print: the rule does not find them", seen)
	}
}
