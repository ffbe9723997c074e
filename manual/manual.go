// Package manual writes the manual pages of a program from its commands.
package manual

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/postern/postern/atomicfile"
)

// Write writes a page of section 1 for cmd and for each command below it into the folder, and
// returns the names of the files.
func Write(cmd *cobra.Command, dir string) ([]string, error) {
	name := strings.ReplaceAll(cmd.CommandPath(), " ", "-") + ".1"
	// A link at the name is replaced, not followed.
	if err := atomicfile.Write(filepath.Join(dir, name), []byte(page(cmd)), 0o644); err != nil {
		return nil, fmt.Errorf("write manual page: %w", err)
	}
	names := []string{name}
	for _, c := range cmd.Commands() {
		if !c.IsAvailableCommand() {
			continue
		}
		more, err := Write(c, dir)
		if err != nil {
			return nil, err
		}
		names = append(names, more...)
	}
	return names, nil
}

// page returns the page of a command, in the language of man(7).
func page(cmd *cobra.Command) string {
	name := strings.ReplaceAll(cmd.CommandPath(), " ", "-")
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %s 1 \"\" Postern\n", text(strings.ToUpper(name)))
	section := func(title, body string) {
		if body != "" {
			fmt.Fprintf(&b, ".SH %s\n%s", title, body)
		}
	}
	section("NAME", text(name)+" \\- "+text(cmd.Short)+"\n")
	section("SYNOPSIS", ".B "+text(cmd.UseLine())+"\n")
	long := cmd.Long
	if long == "" {
		long = cmd.Short + "."
	}
	section("DESCRIPTION", strings.ReplaceAll(text(long), "\n\n", "\n.PP\n")+"\n")
	section("OPTIONS", options(cmd))
	section("EXAMPLES", verbatim(cmd.Example))
	section("EXIT STATUS", verbatim(cmd.Annotations["exit"]))
	var others []string
	if cmd.HasParent() {
		others = append(others, strings.ReplaceAll(cmd.Parent().CommandPath(), " ", "-"))
	}
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			others = append(others, strings.ReplaceAll(c.CommandPath(), " ", "-"))
		}
	}
	for i, o := range others {
		others[i] = "\\fB" + text(o) + "\\fR(1)"
	}
	section("SEE ALSO", strings.Join(others, ",\n")+"\n")
	return b.String()
}

func options(cmd *cobra.Command) string {
	var b strings.Builder
	all := func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		name := "\\-\\-" + text(f.Name)
		if f.Shorthand != "" {
			name = "\\-" + f.Shorthand + ", " + name
		}
		if value, _ := pflag.UnquoteUsage(f); value != "" {
			name += " " + value
		}
		fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", name, text(f.Usage))
	}
	cmd.NonInheritedFlags().VisitAll(all)
	cmd.InheritedFlags().VisitAll(all)
	return b.String()
}

// verbatim returns lines that are shown as they are.
func verbatim(s string) string {
	if s = strings.Trim(s, "\n"); s == "" {
		return ""
	}
	return ".EX\n" + text(s) + "\n.EE\n"
}

// text escapes what man(7) would take for a request.
func text(s string) string {
	lines := strings.Split(strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s), "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
