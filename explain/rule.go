package explain

import (
	"fmt"
	"strings"

	"github.com/postern/postern/plan"
)

// Conditions returns what a rule requires of a request besides method and path.
func Conditions(r *plan.Rule) string {
	var out []string
	for _, c := range r.Query {
		out = append(out, "?"+c.String())
	}
	for _, c := range r.Headers {
		out = append(out, "header "+c.String())
	}
	return strings.Join(out, ", ")
}

// Limits returns the limits in words, or "" for none.
func Limits(l *plan.Limits) string {
	if l == nil {
		return ""
	}
	var out []string
	if l.Requests > 0 {
		out = append(out, fmt.Sprintf("%d requests in %ds", l.Requests, l.Per))
	}
	for _, n := range []struct {
		what  string
		value uint64
	}{
		{"%d at a time", uint64(l.Concurrent)},
		{"bodies of %d bytes", l.Body},
		{"%d bytes/s up", l.Upload},
		{"%d bytes/s down", l.Download},
	} {
		if n.value > 0 {
			out = append(out, fmt.Sprintf(n.what, n.value))
		}
	}
	return strings.Join(out, ", ") + ", on each node"
}

// Sends says how a credential is sent, without saying what.
func Sends(p *plan.Plan, name string) string {
	for _, c := range p.Credentials {
		switch slot := c.Slot(); {
		case c.Name != name:
		case slot.Parameter != "":
			return "as the query parameter " + slot.Parameter
		case slot.Signs:
			return "as a signature for " + c.Service + " in " + c.Region
		default:
			return "in the header " + slot.Header
		}
	}
	return ""
}
