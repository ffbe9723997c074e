// Package aws finds what AWS would refuse in a graph and what Pulumi's SDK does not notice, so
// that `up` does not find it half-way. It decides nothing about security.
package aws

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/visible"
)

// Problem is one thing that AWS would refuse.
type Problem struct {
	// Resource is the resource's URN. Name is its name in the program.
	Resource string `json:"resource"`
	Type     string `json:"type"`
	Name     string `json:"name"`
	// Property is the path of the input, such as tags or ingress.0.cidrBlock.
	Property string `json:"property,omitempty"`
	What     string `json:"what"`
	// Do says how to correct the problem.
	Do string `json:"do"`
}

// Error returns the place, the problem and the correction in one line.
func (p Problem) Error() string {
	where := p.Name + " (" + short(p.Type) + ")"
	if p.Property != "" {
		where += ": " + p.Property
	}
	return visible.Sprintf("%s: %s; %s", where, p.What, p.Do)
}

// short is a type without its package and module: Vpc for aws:ec2/vpc:Vpc.
func short(token string) string { return token[strings.LastIndexByte(token, ':')+1:] }

// Run returns every problem, sorted by resource and property, or nil.
func Run(g *graph.Graph, args Arguments) []Problem {
	c := &checker{g: g}
	for i := range g.Resources {
		r := &g.Resources[i]
		c.references(r)
		if !r.Custom || r.External {
			continue
		}
		c.arguments(r, args)
		c.values(r)
		c.names(r)
		c.rule(r)
		c.documents(r)
	}
	c.addresses()
	c.storage()
	slices.SortStableFunc(c.found, func(a, b Problem) int {
		if n := strings.Compare(a.Resource, b.Resource); n != 0 {
			return n
		}
		if n := strings.Compare(a.Property, b.Property); n != 0 {
			return n
		}
		return strings.Compare(a.What, b.What)
	})
	return c.found
}

type checker struct {
	g     *graph.Graph
	found []Problem
}

func (c *checker) report(r *graph.Resource, property, do, what string, a ...any) {
	c.found = append(c.found, Problem{Resource: r.URN, Type: r.Type, Name: r.Name, Property: property, What: fmt.Sprintf(what, a...), Do: do})
}

// each calls visit for every value at a path of the resource's inputs, in which "*" stands for
// every item of a list or map. It leaves out unknown values.
func each(r *graph.Resource, path string, visit func(path string, v any)) {
	var walk func(v any, at string, rest []string)
	walk = func(v any, at string, rest []string) {
		if v == nil || v == graph.Unknown || graph.IsSecret(v) {
			return
		}
		if len(rest) == 0 {
			visit(at, v)
			return
		}
		switch v := v.(type) {
		case map[string]any:
			if rest[0] == "*" {
				for _, k := range sortedKeys(v) {
					walk(v[k], join(at, k), rest[1:])
				}
				return
			}
			walk(v[rest[0]], join(at, rest[0]), rest[1:])
		case []any:
			if rest[0] == "*" {
				for i, item := range v {
					walk(item, join(at, fmt.Sprint(i)), rest[1:])
				}
			}
		}
	}
	walk(r.Inputs, "", strings.Split(path, "."))
}

func join(at, key string) string {
	if at == "" {
		return key
	}
	return at + "." + key
}

// is reports whether the resource is of a type: "ec2/vpc" for aws:ec2/vpc:Vpc.
func is(r *graph.Resource, kind string) bool {
	rest, ok := strings.CutPrefix(r.Type, "aws:"+kind)
	return ok && strings.HasPrefix(rest, ":")
}

// set reports whether the input is given, to whatever is known or not yet known.
func set(r *graph.Resource, property string) bool {
	v, ok := r.Inputs[property]
	return ok && v != nil && v != ""
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// list is "a, b or c".
func list(items []string) string {
	if len(items) < 2 {
		return strings.Join(items, "")
	}
	return strings.Join(items[:len(items)-1], ", ") + " or " + items[len(items)-1]
}
