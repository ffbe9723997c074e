package guardrail

import (
	"fmt"
	"slices"

	"github.com/postern/postern/policies/reach"
	"github.com/postern/postern/policies/reach/aws"
)

// FaultRail reports mistakes of which one alone opens something. Its findings are named after what
// would be lost.
const FaultRail = "FLT-01"

var faultRails = []Rail{{
	ID: FaultRail, Severity: Error, Production: true,
	Says: "No single mistake makes an assertion of the proof fail.",
	Fix:  "add a second control; where the cloud has none, waive it: docs/preview.md says where",
	Whole: func(c *checker) {
		if !c.production {
			return // what one mistake opens is shown by the proof
		}
		n := aws.Read(c.g, c.plans[nil])
		for _, kind := range []reach.Kind{reach.Agent, reach.Proxy} {
			if !slices.ContainsFunc(n.Interfaces, func(i *reach.Interface) bool { return i.Kind == kind }) {
				return // there is nothing to prove
			}
		}
		opens := map[string][]string{}
		for _, m := range reach.Mistakes(n) {
			opens[m.Name()] = append(opens[m.Name()], fmt.Sprintf("without %q this fails: %s", m.Control, m.Opens))
		}
		for _, name := range sortedKeys(opens) {
			what, more := opens[name][0], len(opens[name])-1
			if more > 0 {
				what += fmt.Sprintf("; and %d more", more)
			}
			c.fail(nil, "", "%s", what)
			c.report.Findings[len(c.report.Findings)-1].Name = name
		}
	},
}}
