package house

import (
	"path"
	"strings"
	"testing"
)

// TestPrintedIsVisible: what the operator's commands print goes through package visible, because it
// may quote a node, a control plane, an agent or a log. cmd/postern/records quotes by itself.
func TestPrintedIsVisible(t *testing.T) {
	t.Parallel()
	all, seen := repository(t), 0
	for _, name := range all.sorted(".go") {
		dir := path.Dir(name)
		prints := strings.HasPrefix(dir, "cmd/postern/") || dir == "cmd/postern" || dir == "cut" || dir == "explain" ||
			dir == "publish" || dir == "cmd/postern-stack"
		if !prints || dir == "cmd/postern/records" || strings.HasSuffix(name, "_test.go") {
			continue
		}
		seen++
		for _, raw := range []string{"fmt.Fprint", "fmt.Print", "json.NewEncoder("} {
			if strings.Contains(all[name], raw) {
				t.Errorf("%s has %q: use visible.Printf, visible.Println or visible.Encode", name, raw)
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d files print: the rule does not find them", seen)
	}
}

// TestReportsAreVisible: what package policies prints quotes resources, whose values an agent may
// have written.
func TestReportsAreVisible(t *testing.T) {
	t.Parallel()
	all, seen := repository(t), 0
	for _, name := range all.sorted(".go") {
		if !strings.HasPrefix(name, "policies/") || path.Base(name) != "print.go" && path.Base(name) != "sarif.go" {
			continue
		}
		seen++
		for _, raw := range []string{"fmt.Fprint", "json.NewEncoder("} {
			if strings.Contains(all[name], raw) {
				t.Errorf("%s has %q: use package visible", name, raw)
			}
		}
		if path.Base(name) == "print.go" && strings.Contains(all[name], "fmt.Sprintf") {
			t.Errorf("%s has fmt.Sprintf: use visible.Sprintf", name)
		}
	}
	if seen < 4 {
		t.Errorf("only %d files print: the rule does not find them", seen)
	}
}
