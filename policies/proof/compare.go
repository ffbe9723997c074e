package proof

import (
	"regexp"
	"slices"
	"strings"

	"github.com/postern/postern/policies/reach"
	"github.com/postern/postern/policies/reach/aws"
)

// labelled is a name of something that exists: its ID, and in parentheses what the plan calls it.
var labelled = regexp.MustCompile(`^\S+ \((.+)\)$`)

// plain returns what the plan calls a thing, or its ID.
func plain(name string) string { return labelled.ReplaceAllString(name, "$1") }

// planned returns an assertion with the plan's names.
func planned(says string) string {
	who, what, found := strings.Cut(says, " -> ")
	if !found {
		return says
	}
	return plain(who) + " -> " + what
}

// Compare adds a verdict on the controls that a plan has: each of them must still keep what it
// keeps in the plan. What somebody has opened by hand breaks no other assertion as long as a second
// control refuses the same packets.
func (r *Report) Compare(plan *Report) {
	lost, unsure := map[reach.Control][]string{}, false
	for _, was := range plan.Network.Verdicts {
		if len(was.Cut) == 0 {
			continue
		}
		for _, is := range r.Network.Verdicts {
			if planned(is.Assertion) != was.Assertion || is.Result != reach.Holds ||
				strings.Contains(is.Note, reach.Nowhere) {
				continue
			}
			unsure = unsure || len(is.Cut) == 0 && len(is.Together) == 0 // nobody has tried
			for _, c := range was.Cut {
				if !slices.ContainsFunc(is.Cut, func(x reach.Control) bool {
					return x.What == c.What && plain(x.Name) == c.Name
				}) {
					lost[c] = append(lost[c], is.Assertion)
				}
			}
		}
	}
	closed := aws.Policies(plan.graph)
	for name, refuses := range aws.Policies(r.graph) {
		if was, made := closed[plain(name)]; !refuses && (was || !made) {
			c := reach.Control{What: reach.ControlPolicy, Name: plain(name)}
			lost[c] = append(lost[c], "the cloud's API: only by policies that refuse strangers")
		}
	}
	all := reach.Verdict{Assertion: "every control of the plan refuses what it refuses there", Result: reach.Holds}
	switch {
	case len(r.Network.Unknown) > 0 || unsure:
		all.Result, all.Note = reach.Indeterminate, "not everything is known"
	case len(lost) > 0:
		all.Result = reach.Fails
		var notes []string
		for c, says := range lost {
			notes = append(notes, c.What+" "+r.there(c)+": it no longer refuses what would break \""+says[0]+"\"")
		}
		slices.Sort(notes)
		all.Note = strings.Join(notes, "; ")
	}
	r.Network.Verdicts = append(r.Network.Verdicts, all)
	r.Result = r.worst()
}

// types are the ends of the types of what has a control. Whatever else has a control is a workload.
var types = map[string]string{
	reach.ControlGroup: "ecurityGroup", reach.ControlACL: "etworkAcl", reach.ControlTable: "outeTable",
	reach.ControlResolver: ":Vpc", reach.ControlFirewall: ":Vpc", reach.ControlListener: ":Listener",
	reach.ControlPolicy: ":VpcEndpoint",
}

// there returns the name, with the ID, of what has a control.
func (r *Report) there(c reach.Control) string {
	var end string
	for what, of := range types {
		if strings.HasSuffix(c.What, what) {
			end = of
		}
	}
	var names []string
	for i := range r.graph.Resources {
		if x := &r.graph.Resources[i]; x.Custom && plain(x.Name) == c.Name && strings.HasSuffix(x.Type, end) {
			names = append(names, x.Name)
		}
	}
	if len(names) == 0 {
		return c.Name
	}
	return strings.Join(names, ", ")
}
