package proof

import (
	"fmt"
	"io"
	"strings"

	"github.com/postern/postern/policies/reach"
	"github.com/postern/postern/visible"
)

// sentences say what the results mean.
var sentences = map[reach.Result]string{
	reach.Holds:         "every assertion holds",
	reach.Fails:         "an assertion fails",
	reach.Indeterminate: "it is not known whether every assertion holds",
}

// Print writes the report for people.
func (r *Report) Print(w io.Writer) error {
	var network strings.Builder
	if err := r.Network.Print(&network); err != nil {
		return fmt.Errorf("print the proof: %w", err)
	}
	text := visible.Sprintf("stack %s%s: %s\n", r.Stack, when(r.Live, ", as it is"), sentences[r.Result]) +
		network.String()
	text += reach.Text("what a sandbox of this machine reaches", r.Sandbox)
	if len(r.Paths) > 0 {
		text += "\nevery path of a hostile agent\n"
	}
	for _, p := range r.Paths {
		text += visible.Sprintf("  %2d %-13s %s\n", p.Number, p.Result, p.Path)
		if p.Note != "" {
			text += visible.Sprintf("                   %s\n", p.Note)
		}
	}
	if len(r.Egress) > 0 {
		text += "\nwhat the proxies let through\n"
	}
	for i := range r.Egress {
		text += r.Egress[i].text()
	}
	if _, err := io.WriteString(w, text); err != nil {
		return fmt.Errorf("print the proof: %w", err)
	}
	return nil
}

func (e *Egress) text() string {
	text := visible.Sprintf("  %s\n", e.Agent)
	if len(e.Allowed) == 0 {
		text += "    nothing\n"
	}
	for i := range e.Allowed {
		text += e.Allowed[i].text("")
	}
	for i := range e.Denied {
		text += e.Denied[i].text("never ")
	}
	for _, c := range e.Credentials {
		text += visible.Sprintf("    credential %s, %s: at %s%s\n", c.Credential, c.Sends, strings.Join(c.Hosts, ", "),
			when(c.Writes, "; may write"))
	}
	return text
}

// at returns the host as people write it.
func (d *Destination) at() string {
	if d.Port == 443 {
		return d.Host
	}
	return visible.Sprintf("%s:%d", d.Host, d.Port)
}

func (d *Destination) text(never string) string {
	what := strings.Join(d.Methods, ",") + " " + strings.Join(d.Paths, ", ")
	if d.Tunnel {
		what = "tunnel: nobody reads what passes"
	}
	var notes []string
	note := func(is bool, text string) {
		if is {
			notes = append(notes, text)
		}
	}
	note(d.Writes, "may write")
	note(strings.HasPrefix(d.Host, "*."), "every name below")
	note(d.Below != "", "strangers rent names under "+d.Below)
	note(d.Credential != "", "credential "+d.Credential)
	note(d.Own, "the agent's own credentials pass")
	note(d.Upstream != "", "at "+d.Upstream)
	note(d.Expires != "", "until "+d.Expires)
	text := visible.Sprintf("    %s%s: %s\n", never, d.at(), what)
	if len(notes) > 0 {
		text += visible.Sprintf("      %s\n", strings.Join(notes, "; "))
	}
	return text
}

func when(is bool, text string) string {
	if is {
		return text
	}
	return ""
}
