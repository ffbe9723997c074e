package guardrail

import (
	"fmt"
	"slices"
	"strings"
)

// Waiver lets the findings of one guardrail at one resource be, until it ends.
type Waiver struct {
	Rail string `json:"guardrail"`
	// Resource is the name of the resource in the program, or its URN if others have that name.
	Resource string `json:"resource"`
	Owner    string `json:"owner"`
	Reason   string `json:"reason"`
	// Expires is the last day on which it holds, as 2006-01-02.
	Expires string `json:"expires"`
	// At is where it is written, such as stacks/prod.yaml:12:5.
	At string `json:"at"`
}

// WaiverRail reports waivers that do not hold.
const WaiverRail = "WVR-01"

// waive marks the findings that a waiver lets be. It reports a waiver that has ended, is for no
// guardrail, or for nothing.
func (r *Report) waive(o Options, rails []Rail) {
	report := func(w Waiver, severity Severity, what, fix string) {
		if o.One != "" {
			return // the check of all resources says it
		}
		r.Findings = append(r.Findings, Finding{
			Rail: WaiverRail, Severity: severity, Verdict: Fails, Name: w.At, What: what, Fix: fix,
		})
	}
	for _, w := range o.Waivers {
		known := w.Rail == TypeRail || slices.ContainsFunc(rails, func(x Rail) bool { return x.ID == w.Rail })
		if !known {
			report(w, Error, fmt.Sprintf("there is no guardrail %q", w.Rail), "write one of docs/guardrails.md")
			continue
		}
		if o.Today > w.Expires {
			report(w, Error, fmt.Sprintf("the waiver of %s for %s ended on %s", w.Rail, w.Resource, w.Expires),
				"remove it, or correct the resource; "+w.Owner+" knows why it was there")
			continue
		}
		var of []*Finding
		urns := map[string]bool{}
		for i := range r.Findings {
			f := &r.Findings[i]
			if f.Rail == w.Rail && (f.Name == w.Resource || f.Resource == w.Resource && w.Resource != "") {
				of, urns[f.Resource] = append(of, f), true
			}
		}
		if len(urns) > 1 {
			report(w, Error, fmt.Sprintf("%d resources that %s is about are named %s", len(urns), w.Rail, w.Resource),
				"write the URN of one: "+strings.Join(sortedKeys(urns), " or "))
			continue
		}
		for _, f := range of {
			if f.Waiver == nil {
				f.Waiver = &w
			}
		}
		if len(of) == 0 {
			report(w, Warning, fmt.Sprintf("nothing is found by %s at %s", w.Rail, w.Resource), "remove the waiver")
		}
	}
}
