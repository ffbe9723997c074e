package guardrail

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/postern/postern/graph"
)

// need is a value that resources must have.
type need struct {
	types []string
	// role limits it to resources of that role, unless it is "".
	role string
	// path is the path of the input, in which "*" stands for every item of a list or map.
	path string
	// is are the values that it may have, and not those that it may not. Numbers and booleans are
	// compared as text. If there are none, the input only has to be set.
	is, not []string
	// optional means that it may be left out.
	optional bool
}

// need checks a resource, and reports whether the need is about its type.
func (c *checker) need(r *graph.Resource, n *need) bool {
	if !slices.ContainsFunc(n.types, func(kind string) bool { return is(r, kind) }) {
		return false
	}
	if n.role != "" && r.Role != n.role {
		return true
	}
	if len(n.is) == 0 && len(n.not) == 0 {
		// What another resource gives is set, whatever it will be.
		if v := r.Inputs[n.path]; !set(r, n.path) && r.External {
			c.unknown(r, n.path)
		} else if !set(r, n.path) {
			c.fail(r, n.path, "it is not set")
		} else if v == graph.Unknown && len(r.PropertyDependencies[n.path]) == 0 {
			c.unknown(r, n.path)
		}
		return true
	}
	found := c.walk(r, n.path, func(path string, v any) {
		text := textOf(v)
		switch {
		case len(n.is) > 0 && !slices.Contains(n.is, text):
			c.fail(r, path, "it is %q, not %s", text, strings.Join(n.is, " or "))
		case slices.Contains(n.not, text):
			c.fail(r, path, "it is %q", text)
		}
	}, func(path string) { // another item of the list has it
		if !n.optional {
			c.fail(r, path, "it is not set")
		}
	})
	if !found && r.External { // it exists, and the program does not say how it is
		c.unknown(r, n.path)
	} else if !found && !n.optional {
		c.fail(r, n.path, "it is not set")
	}
	return true
}

// each calls visit for every known value at a path. It reports what is unknown on the way, and
// returns whether there was anything.
func (c *checker) each(r *graph.Resource, path string, visit func(path string, v any)) bool {
	return c.walk(r, path, visit, func(string) {})
}

// walk is each, and calls lacks for every item of a list that has no value at the path.
func (c *checker) walk(r *graph.Resource, path string, visit func(string, any), lacks func(string)) bool {
	found := false
	var walk func(v any, at string, rest []string, item bool)
	walk = func(v any, at string, rest []string, item bool) {
		if v == nil {
			if item {
				found = true
				lacks(at)
			}
			return
		}
		if v == graph.Unknown || graph.IsSecret(v) {
			found = true
			c.unknown(r, at)
			return
		}
		if len(rest) == 0 {
			found = true
			visit(at, v)
			return
		}
		switch v := v.(type) {
		case map[string]any:
			if rest[0] != "*" {
				walk(v[rest[0]], join(at, rest[0]), rest[1:], item)
				return
			}
			for _, k := range sortedKeys(v) {
				walk(v[k], join(at, k), rest[1:], true)
			}
		case []any:
			if rest[0] == "*" {
				for i, item := range v {
					walk(item, join(at, fmt.Sprint(i)), rest[1:], true)
				}
				return
			}
			for i, item := range v { // a block that is there once may be written as a list
				walk(item, join(at, fmt.Sprint(i)), rest, true)
			}
		default: // it has another shape
			found = true
			c.unknown(r, at)
		}
	}
	walk(map[string]any(r.Inputs), "", strings.Split(path, "."), false)
	return found
}

// texts returns the known values at a path, as text.
func (c *checker) texts(r *graph.Resource, path string) []string {
	var out []string
	c.each(r, path, func(_ string, v any) {
		if items, ok := v.([]any); ok {
			for _, item := range items {
				out = append(out, textOf(item))
			}
			return
		}
		out = append(out, textOf(v))
	})
	return out
}

// set reports whether the input is given, to whatever is known or not yet known. An empty list is
// not given.
func set(r *graph.Resource, property string) bool {
	switch v := r.Inputs[property].(type) {
	case nil:
		return false
	case string:
		return v != ""
	case []any:
		return len(v) > 0
	case map[string]any:
		return len(v) > 0
	}
	return true
}

// unsure reports whether v, or something in it, is a secret or not known yet.
func unsure(v any) bool {
	switch v := v.(type) {
	case []any:
		return slices.ContainsFunc(v, unsure)
	case map[string]any:
		return graph.IsSecret(v) || slices.ContainsFunc(slices.Collect(maps.Values(v)), unsure)
	}
	return graph.HasUnknown(v)
}

func textOf(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case bool:
		return strconv.FormatBool(v)
	}
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(text)
}

func join(at, key string) string {
	if at == "" {
		return key
	}
	return at + "." + key
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
