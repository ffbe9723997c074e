package reach

import (
	"io"
	"strings"

	"github.com/postern/postern/visible"
)

// Print writes a certified proof for people. It writes nothing if there is none.
func (p *Proof) Print(out io.Writer) error {
	if p == nil {
		return nil
	}
	text := Text("what can reach what", p.Verdicts)
	for _, u := range p.Unknown {
		text += visible.Sprintf("  %-13s %s (%s): %s\n", "unknown", u.Resource, u.Type, u.Why)
	}
	if len(p.Mistakes) == 0 && len(p.Agents) > 0 && p.Holds() {
		text += "  no single mistake makes any of this fail\n"
	}
	for _, m := range p.Mistakes {
		text += visible.Sprintf("  one mistake   without \"%s\", this fails: %s\n", m.Control, m.Opens)
	}
	_, err := io.WriteString(out, text)
	return err
}

// Text returns verdicts for people, below a title. It returns "" if there are none.
func Text(title string, verdicts []Verdict) string {
	if len(verdicts) == 0 {
		return ""
	}
	text := "\n" + title + "\n"
	for _, v := range verdicts {
		text += visible.Sprintf("  %-13s %s\n", v.Result, v.Assertion)
		if v.Result != Holds {
			text += steps(v.Witness)
		}
		if len(v.Cut) > 0 {
			text += "                cut by each of: " + join(v.Cut) + "\n"
		}
		if len(v.Together) > 0 {
			text += "                cut by these together: " + join(v.Together) + "\n"
		}
		if v.Note != "" {
			text += visible.Sprintf("                %s\n", v.Note)
		}
	}
	return text
}

func join(controls []Control) string {
	var out []string
	for _, c := range controls {
		out = append(out, visible.Text(c.String()))
	}
	return strings.Join(out, ", ")
}

func steps(witness []Step) string {
	text := ""
	for _, s := range witness {
		text += visible.Sprintf("                %s -> %s: %s\n", s.From, s.To, s.Packet)
		for _, by := range s.By {
			text += visible.Sprintf("                  %s\n", by)
		}
	}
	return text
}

// OpenError says that a plan must not be made.
type OpenError struct{ Proof *Proof }

// Error returns what is not proved, with the witnesses.
func (e *OpenError) Error() string {
	text := "the proof of the network fails, so nothing is created:\n"
	for _, v := range e.Proof.Verdicts {
		if v.Result != Holds {
			text += visible.Sprintf("  %s: %s\n", v.Assertion, v.Result) + steps(v.Witness)
			if v.Note != "" {
				text += visible.Sprintf("                %s\n", v.Note)
			}
		}
	}
	for _, u := range e.Proof.Unknown {
		text += visible.Sprintf("  %s (%s) is unknown: %s\n", u.Resource, u.Type, u.Why)
	}
	return text + "remove what the path names, or close it; `preview STACK --offline` shows the whole proof"
}
