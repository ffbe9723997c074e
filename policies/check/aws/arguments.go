package aws

import (
	"fmt"
	"reflect"

	"github.com/postern/postern/graph"
)

// Arguments describe the inputs of each resource type, by type token, as the SDK knows them.
type Arguments map[string]*Argument

// Argument describes one input, as the SDK knows it. An object has Fields. A list or map has Item.
// A scalar has neither.
type Argument struct {
	// Required means that the input may not be left out. The SDK checks this only for the arguments
	// of a resource, not for those of nested objects, and accepts "" for text.
	Required bool
	// Kind is string, bool, number, list, map, object or any.
	Kind   string
	Fields map[string]*Argument
	Item   *Argument
}

// ArgumentsOf reads the SDK's unexported struct of arguments. The tags name the arguments. An
// argument is required unless it is a pointer, list or map.
func ArgumentsOf(t reflect.Type) *Argument { return argumentOf(t, map[reflect.Type]*Argument{}) }

func argumentOf(t reflect.Type, seen map[reflect.Type]*Argument) *Argument {
	switch t.Kind() {
	case reflect.Pointer:
		a := *argumentOf(t.Elem(), seen)
		a.Required = false
		return &a
	case reflect.Struct:
		if a := seen[t]; a != nil { // a type that contains itself
			return a
		}
		a := &Argument{Required: true, Kind: "object", Fields: map[string]*Argument{}}
		seen[t] = a
		for i := range t.NumField() {
			if tag, ok := t.Field(i).Tag.Lookup("pulumi"); ok {
				a.Fields[tag] = argumentOf(t.Field(i).Type, seen)
			}
		}
		return a
	case reflect.Slice, reflect.Array:
		return &Argument{Kind: "list", Item: argumentOf(t.Elem(), seen)}
	case reflect.Map:
		return &Argument{Kind: "map", Item: argumentOf(t.Elem(), seen)}
	case reflect.String:
		return &Argument{Required: true, Kind: "string"}
	case reflect.Bool:
		return &Argument{Required: true, Kind: "bool"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Float32, reflect.Float64:
		return &Argument{Required: true, Kind: "number"}
	default: // interface{}: asset, archive, union
		return &Argument{Kind: "any"}
	}
}

func (c *checker) arguments(r *graph.Resource, all Arguments) {
	if args := all[r.Type]; args != nil {
		c.argument(r, "", r.Inputs, args)
	}
}

// never are required arguments that may be empty text.
var never = map[string]bool{"userData": true, "filterPattern": true, "pattern": true}

func (c *checker) argument(r *graph.Resource, path string, v any, arg *Argument) {
	if v == graph.Unknown || graph.IsSecret(v) {
		return
	}
	mismatch := func() {
		c.report(r, path, "write a "+arg.Kind, "it is %s, not a %s", describe(v), arg.Kind)
	}
	switch arg.Kind {
	case "object":
		m, ok := v.(map[string]any)
		if !ok {
			mismatch()
			return
		}
		for _, k := range sortedKeys(m) {
			if k == "__defaults" {
				continue
			}
			field := arg.Fields[k]
			if field == nil {
				c.report(r, join(path, k), "remove it, or look its name up in the SDK", "there is no such argument")
				continue
			}
			if m[k] != nil {
				c.argument(r, join(path, k), m[k], field)
			}
		}
		for _, k := range sortedKeys(arg.Fields) {
			if !arg.Fields[k].Required {
				continue
			}
			if v, ok := m[k]; !ok || v == nil {
				c.report(r, join(path, k), "set it", "it is required and missing")
			} else if v == "" && !never[k] {
				c.report(r, join(path, k), "set it", "it is required and empty")
			}
		}
	case "list":
		items, ok := v.([]any)
		if !ok {
			mismatch()
			return
		}
		for i, item := range items {
			c.argument(r, join(path, fmt.Sprint(i)), item, arg.Item)
		}
	case "map":
		m, ok := v.(map[string]any)
		if !ok {
			mismatch()
			return
		}
		for _, k := range sortedKeys(m) {
			c.argument(r, join(path, k), m[k], arg.Item)
		}
	case "string", "bool", "number":
		if describe(v) != "a "+arg.Kind {
			mismatch()
		}
	}
}

func describe(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case bool:
		return "a bool"
	case float64:
		return "a number"
	case []any:
		return "a list"
	case map[string]any:
		return "a map"
	}
	return "nothing"
}
