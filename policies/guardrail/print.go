package guardrail

import (
	"io"
	"slices"
	"strings"

	"github.com/postern/postern/visible"
)

// Print writes the report for people.
func (r *Report) Print(out io.Writer) error {
	text := visible.Sprintf("\nguardrails: %d checked on %d resources, %s\n", r.Rails, r.Resources, r.counts())
	for _, f := range r.Findings {
		word := string(f.Severity)
		if f.Waiver != nil {
			word = "waived"
		}
		text += visible.Sprintf("  %-8s %s\n", word, f)
		if w := f.Waiver; w != nil {
			text += visible.Sprintf("           until %s by %s: %s (%s)\n", w.Expires, w.Owner, w.Reason, w.At)
		}
	}
	_, err := io.WriteString(out, text)
	return err
}

func (r *Report) counts() string {
	n := map[string]int{}
	for _, f := range r.Findings {
		word := string(f.Severity)
		if f.Waiver != nil {
			word = "waived"
		}
		n[word]++
	}
	var parts []string
	for _, word := range []string{"error", "warning", "waived"} {
		if n[word] > 0 {
			plural := ""
			if n[word] > 1 && word != "waived" {
				plural = "s"
			}
			parts = append(parts, visible.Sprintf("%d %s%s", n[word], word, plural))
		}
	}
	if len(parts) == 0 {
		return "nothing found"
	}
	return strings.Join(parts, ", ")
}

// BrokenError says that resources must not be created.
type BrokenError struct{ Report *Report }

// Error returns what does not hold.
func (e *BrokenError) Error() string {
	text := "guardrails do not hold, so nothing is created:\n"
	for _, f := range e.Report.Findings {
		if f.Severity == Error && f.Waiver == nil {
			text += "  " + f.String() + "\n"
		}
	}
	return text + "correct these, or waive them in the stack file (docs/guardrails.md)"
}

// Of returns the guardrail of that ID, or nil.
func Of(id string, more []Rail) *Rail {
	for _, list := range [][]Rail{Rails, more} {
		if i := slices.IndexFunc(list, func(r Rail) bool { return r.ID == id }); i >= 0 {
			return &list[i]
		}
	}
	return nil
}
