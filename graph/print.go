package graph

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// quiet are inputs that tell little to a person who reads a plan.
var quiet = []string{"tags", "tagsAll", "__defaults", "version", "name", "description", "revokeRulesOnDelete"}

// maxValue bounds the printed part of a value.
const maxValue = 120

// Print prints the plan for people: the resources by role, each with the resources from which it is
// made. The order depends only on the graph.
func (g *Graph) Print(w io.Writer) error {
	p := &printer{w: w, g: g}
	for _, role := range Roles {
		var of []*Resource
		for i := range g.Resources {
			if r := &g.Resources[i]; r.Role == role && r.Custom {
				of = append(of, r)
			}
		}
		if len(of) == 0 {
			continue
		}
		slices.SortStableFunc(of, func(a, b *Resource) int {
			if n := strings.Compare(a.Type, b.Type); n != 0 {
				return n
			}
			return strings.Compare(a.Name, b.Name)
		})
		p.printf("\n%s (%s)\n", role, counted(len(of), "resource"))
		for _, r := range of {
			p.resource(r)
		}
	}
	return p.err
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

type printer struct {
	w   io.Writer
	g   *Graph
	err error
}

func (p *printer) printf(format string, a ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, a...)
	}
}

func (p *printer) resource(r *Resource) {
	marks := ""
	if r.Protect {
		marks += ", protected"
	}
	if r.Retain {
		marks += ", stays after destroy"
	}
	if r.External {
		marks += ", read only"
	}
	p.printf("  %s  %s%s\n", r.Name, r.Type[strings.LastIndexByte(r.Type, ':')+1:], marks)
	for _, property := range sortedKeys(r.Inputs) {
		v := r.Inputs[property]
		if slices.Contains(quiet, property) || v == nil {
			continue
		}
		if lines := statements(r.Value(property)); lines != nil {
			p.printf("      %s:\n", property)
			for _, line := range lines {
				p.printf("        %s\n", line)
			}
			continue
		}
		p.printf("      %s: %s\n", property, p.value(r, property, v))
	}
}

// value returns a value as one line. An unknown value is shown as the resources on which it
// depends.
func (p *printer) value(r *Resource, property string, v any) string {
	if HasUnknown(v) {
		var from []string
		for _, urn := range r.PropertyDependencies[property] {
			if to := p.g.ByURN(urn); to != nil && to.Custom {
				from = append(from, to.Name)
			}
		}
		if len(from) == 0 {
			from = []string{"(known at up)"}
		}
		return clip("<- " + strings.Join(from, ", "))
	}
	return clip(literal(v))
}

func literal(v any) string {
	if IsSecret(v) {
		return "(secret)"
	}
	if s, ok := v.(string); ok {
		if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' }) || s == "" {
			return fmt.Sprintf("%q", s)
		}
		return s
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}

func clip(s string) string {
	if len(s) > maxValue {
		return fmt.Sprintf("%s... (%d characters)", strings.ToValidUTF8(s[:maxValue], ""), len(s))
	}
	return s
}

// statements are the lines of a policy document, or nil if v is none.
func statements(v any) []string {
	text, ok := v.(string)
	if !ok || !strings.HasPrefix(text, "{") {
		return nil
	}
	var doc struct {
		Statement []struct {
			Effect                                                                       string
			Principal, NotPrincipal, Action, NotAction, Resource, NotResource, Condition any
		}
	}
	if json.Unmarshal([]byte(text), &doc) != nil || len(doc.Statement) == 0 {
		return nil
	}
	var lines []string
	for _, s := range doc.Statement {
		line := s.Effect
		for _, part := range []struct {
			word string
			v    any
		}{
			{"", s.Action},
			{"all but", s.NotAction},
			{"on", s.Resource},
			{"on all but", s.NotResource},
			{"by", s.Principal},
			{"by all but", s.NotPrincipal},
			{"if", s.Condition},
		} {
			if part.v == nil {
				continue
			}
			if part.word != "" {
				line += " " + part.word
			}
			line += " " + several(part.v)
		}
		lines = append(lines, line)
	}
	return lines
}

// several is a JSON value in as few characters as can be read.
func several(v any) string {
	switch v := v.(type) {
	case []any:
		var items []string
		for _, item := range v {
			items = append(items, several(item))
		}
		return strings.Join(items, ", ")
	case map[string]any:
		var items []string
		for _, k := range sortedKeys(v) {
			items = append(items, k+" "+several(v[k]))
		}
		return strings.Join(items, " and ")
	}
	return literal(v)
}
