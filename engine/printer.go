package engine

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Printer prints an operation's changes for people, one line each. A nil Printer prints nothing.
type Printer struct {
	out   io.Writer
	color bool
}

// NewPrinter returns a printer to out.
func NewPrinter(out io.Writer, color bool) *Printer { return &Printer{out: out, color: color} }

const (
	red    = "31"
	green  = "32"
	yellow = "33"
	dim    = "2"
)

func (p *Printer) paint(code, s string) string {
	if !p.color {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

var marks = map[string]struct{ sign, color, done, planned string }{
	"create":  {"+", green, "created", "to create"},
	"update":  {"~", yellow, "updated", "to update"},
	"replace": {"±", yellow, "replaced", "to replace"},
	"delete":  {"-", red, "deleted", "to delete"},
	"keep":    {"=", yellow, "kept", "to keep"},
	"same":    {" ", dim, "unchanged", "unchanged"},
}

// begin prints what is started, but only on a terminal, where the wait would otherwise look like a
// hang.
func (p *Printer) begin(op, name string) {
	if p == nil || !p.color || op == "" || op == "same" {
		return
	}
	fmt.Fprintf(p.out, "%s\r", p.paint(dim, fmt.Sprintf("  %s %s ...", marks[op].sign, name)))
}

func (p *Printer) change(c Change, s Summary) {
	if p == nil {
		return
	}
	m := marks[c.Op]
	word := m.done
	if s.preview {
		word = m.planned
	}
	if s.Operation == "refresh" {
		word = drifted(c)
	}
	p.line(m.sign, m.color, c, word)
}

func (p *Printer) drift(c Change) {
	if p != nil {
		p.line("!", yellow, c, drifted(c))
	}
}

// drifted says what happened to a resource behind the engine's back. Another live version is not
// drift: `postern allow` makes one.
func drifted(c Change) string {
	if c.Type == "Bundle" && c.Op == "update" {
		return "published since"
	}
	return "drifted"
}

func (p *Printer) line(sign, color string, c Change, word string) {
	if p.color {
		fmt.Fprint(p.out, "\x1b[K") // of begin
	}
	kind := fmt.Sprintf("%-21s", kinds[c.Type])
	fmt.Fprintf(p.out, "  %s %-16s %s %s", p.paint(color, sign), printable(c.Name), p.paint(dim, kind), word)
	for i, d := range c.Details {
		switch {
		case i == 0:
			fmt.Fprintf(p.out, ": %s", printable(d))
		case strings.HasPrefix(d, "+ "):
			fmt.Fprintf(p.out, "\n      %s", p.paint(green, printable(d)))
		case strings.HasPrefix(d, "- "):
			fmt.Fprintf(p.out, "\n      %s", p.paint(red, printable(d)))
		default:
			fmt.Fprintf(p.out, "\n      %s", printable(d))
		}
	}
	fmt.Fprintln(p.out)
}

var kinds = map[string]string{
	"CertificateAuthority": "certificate authority",
	"ControlPlane":         "control plane",
	"Node":                 "node",
	"Bundle":               "bundle",
}

func (p *Printer) warn(name, message string) {
	if p != nil {
		fmt.Fprintf(p.out, "  %s %s\n", p.paint(yellow, "warning:"), subject(name)+indented(message))
	}
}

func (p *Printer) fail(f Failure) {
	if p != nil {
		fmt.Fprintf(p.out, "  %s %s\n", p.paint(red, "error:"), subject(f.Name)+indented(f.Message))
	}
}

// indented marks further lines of a message: none looks like a line of ours.
func indented(message string) string { return strings.ReplaceAll(printable(message), "\n", "\n    ") }

func subject(name string) string {
	if name == "" {
		return ""
	}
	return printable(name) + ": "
}

// Line returns the last line of an operation: the counts and the seconds.
func (s *Summary) Line() string {
	var parts []string
	for _, op := range []string{"create", "update", "replace", "delete", "keep", "same"} {
		n := s.Changes[op]
		if n == 0 {
			continue
		}
		word := marks[op].done
		if s.preview {
			word = marks[op].planned
		}
		if s.Operation == "refresh" && op != "same" {
			word = map[string]string{"delete": "gone", "update": "changed"}[op]
		}
		parts = append(parts, fmt.Sprintf("%d %s", n, word))
	}
	if len(parts) == 0 {
		parts = []string{"nothing to do"}
	}
	return fmt.Sprintf("%s %s: %s (%.1f s)", s.Operation, s.Stack, strings.Join(parts, ", "), s.Seconds)
}

// tag is the engine's colour markup.
var tag = regexp.MustCompile(`<\{%[^%]*%\}>`)

func plainText(s string) string { return tag.ReplaceAllString(s, "") }

// printable removes control characters, because names of hosts come from files, and Envoy's
// messages from the network.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return r
		}
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) || r == utf8.RuneError {
			return -1
		}
		return r
	}, s)
}
