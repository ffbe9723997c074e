// Package own reads the tools of an operator's own from a stack file.
package own

import (
	"encoding/json"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/plan/tool"
	"github.com/postern/postern/stacks/yaml"
)

// What a tool may take at most, and what it takes if the file does not say.
const (
	mostToolTime, toolTime             = 600, 30
	mostToolOutput, toolOutput         = 1 << 20, 64 << 10
	mostToolConcurrent, toolConcurrent = 8, 1
	longestAbout                       = 500
)

var variable = plan.Matching(`^[A-Za-z_][A-Za-z0-9_]{0,99}$`)

// argument matches the valid names of arguments.
var argument = plan.Matching(`^[A-Za-z_][A-Za-z0-9_-]{0,63}$`)

// reader reads the tools of one file.
type reader struct{ *yaml.Reader }

// Read reads a program of this machine that agents may have run outside their sandboxes. It does
// not look for the program, which is judged before each call.
func Read(in *yaml.Reader, f yaml.Field) (t tool.Tool) {
	l := &reader{in}
	n, what := f.Value, "tool "+f.Key.Text
	if !l.Mapping(n, what, "about", "command", "arguments", "env", "time", "output", "concurrent") {
		return t
	}
	t = tool.Tool{Name: f.Key.Text, Seconds: toolTime, Output: toolOutput, Concurrent: toolConcurrent}
	t.About = l.Required(n, what, "about", "write a sentence of at most 500 bytes that tells the agent what it does",
		func(s string) bool { return len(s) <= longestAbout })
	if c := n.Get("command"); c == nil {
		l.At(n, "write command: [/PATH/OF/PROGRAM]", "%s has no command", what)
	} else {
		t.Command = l.toolCommand(c)
	}
	if e := n.Get("env"); e != nil {
		l.Texts(e, "env", "remove it", func(item *yaml.Node, text string) {
			if !variable(text) || text == "PATH" || strings.HasPrefix(text, "LD_") {
				l.At(item, "write the name of a variable that the program reads", "%q cannot be given to a tool", text)
			}
			t.Env = append(t.Env, text)
		})
		slices.Sort(t.Env)
	}
	if v := n.Get("time"); v != nil {
		seconds, ok := strings.CutSuffix(v.Text, "s")
		if !ok || v.Kind != yaml.KindText {
			l.At(v, "write seconds, such as 30s", "time is not valid")
		} else {
			number := &yaml.Node{Kind: yaml.KindInteger, Line: v.Line, Col: v.Col, Text: seconds}
			t.Seconds = l.Integer(number, "time", 1, mostToolTime)
		}
	}
	if v := n.Get("output"); v != nil {
		if t.Output = l.Size(v, "output", ""); t.Output > mostToolOutput {
			l.At(v, "write at most 1MiB", "output is more than an agent can read")
		}
	}
	if v := n.Get("concurrent"); v != nil {
		t.Concurrent = l.Integer(v, "concurrent", 1, mostToolConcurrent)
	}
	schema := map[string]any{"type": "object", "additionalProperties": false}
	if a := n.Get("arguments"); a != nil {
		schema = l.objectSchema(a, "arguments")
	}
	text, err := json.Marshal(schema)
	if err != nil {
		panic(err) // it has nothing but maps, lists, numbers and text
	}
	t.Arguments = string(text)
	return t
}

// toolCommand reads the program and what it is started with, which is the operator's alone.
func (l *reader) toolCommand(n *yaml.Node) (command []string) {
	if n.Kind != yaml.KindList || len(n.Items) == 0 {
		l.At(n, "write a list, such as [/PATH/OF/PROGRAM, --option]", "command is not a list of words")
		return nil
	}
	for i, item := range n.Items {
		text, ok := l.Text(item, "an item of command")
		switch {
		case !ok:
			return nil
		case strings.ContainsRune(text, 0):
			l.At(item, "remove it", "a word of a command has no NUL")
		case i == 0 && (!path.IsAbs(text) || path.Clean(text) != text):
			l.At(item, "write the absolute path, as realpath prints it", "%q is not the path of a program", text)
		case tool.IsShell(text): // also where another program starts that
			l.At(item, "write a script that begins with #!, and name the script", "%s runs what it reads", text)
		}
		command = append(command, text)
	}
	return command
}

// objectSchema reads the JSON Schema of an object: its properties and no others.
func (l *reader) objectSchema(n *yaml.Node, what string) map[string]any {
	schema := map[string]any{"type": "object", "additionalProperties": false}
	if !l.Mapping(n, what, "type", "description", "properties", "required") {
		return schema
	}
	if t := n.Get("type"); t != nil {
		l.OneOf(t, "type", "object")
	}
	l.described(n, schema)
	properties := map[string]any{}
	if p := n.Get("properties"); p != nil && l.Mapping(p, "properties") {
		for _, f := range p.Fields {
			if !argument(f.Key.Text) {
				l.At(f.Key, "write letters, digits, _ and -", "%q is not a valid name of an argument", f.Key.Text)
			}
			properties[f.Key.Text] = l.argumentSchema(f.Value, f.Key.Text)
		}
		schema["properties"] = properties
	}
	if r := n.Get("required"); r != nil {
		var required []string
		l.Texts(r, "required", "remove it", func(item *yaml.Node, text string) {
			if properties[text] == nil {
				l.At(item, "write one of properties", "%s has no property %q", what, text)
			}
			required = append(required, text)
		})
		schema["required"] = required
	}
	return schema
}

func (l *reader) described(n *yaml.Node, schema map[string]any) {
	if d := n.Get("description"); d != nil {
		schema["description"], _ = l.Text(d, "description")
	}
}

// argumentSchema reads the JSON Schema of a value. A keyword that says nothing about its type is an
// error: it would be ignored.
func (l *reader) argumentSchema(n *yaml.Node, what string) map[string]any {
	schema := map[string]any{}
	t := n.Get("type")
	if n.Kind != yaml.KindMap || t == nil {
		l.At(n, "write {type: string}", "%s has no type", what)
		return schema
	}
	kind := l.OneOf(t, "type", "string", "integer", "number", "boolean", "array", "object")
	keys := map[string][]string{
		"string": {"enum", "pattern", "minLength", "maxLength"}, "integer": {"minimum", "maximum"},
		"number": {"minimum", "maximum"}, "array": {"items", "minItems", "maxItems"},
	}
	if kind == "object" {
		return l.objectSchema(n, what)
	}
	if kind == "" || !l.Mapping(n, what, append([]string{"type", "description"}, keys[kind]...)...) {
		return schema
	}
	schema["type"] = kind
	l.described(n, schema)
	for _, key := range keys[kind] {
		v := n.Get(key)
		if v == nil {
			continue
		}
		switch key {
		case "enum":
			var words []string
			l.Texts(v, key, "remove it", func(_ *yaml.Node, text string) { words = append(words, text) })
			schema[key] = words
		case "pattern":
			schema[key] = l.wholePattern(v)
		case "items":
			schema[key] = l.argumentSchema(v, "items of "+what)
		case "minimum", "maximum":
			schema[key] = l.Integer(v, key, -1<<31, 1<<31)
		default:
			schema[key] = l.Integer(v, key, 0, 1<<16)
		}
	}
	if kind == "array" && schema["items"] == nil {
		l.At(n, "write items: {type: string}", "%s does not say what its items are", what)
	}
	return schema
}

// wholePattern reads a pattern that says what the whole text is.
func (l *reader) wholePattern(n *yaml.Node) string {
	text, ok := l.Text(n, "pattern")
	if !ok {
		return ""
	}
	if _, err := regexp.Compile(text); err != nil {
		l.At(n, "write an expression of RE2", "pattern is not valid: %v", err)
		return ""
	}
	inner, begins := strings.CutPrefix(text, "^(?:")
	inner, ends := strings.CutSuffix(inner, ")$")
	_, err := regexp.Compile(inner)
	if begins && ends && err == nil {
		return text
	}
	inner, begins = strings.CutPrefix(text, "^")
	inner, ends = strings.CutSuffix(inner, "$")
	whole := "^(?:" + inner + ")$" // whatever flags in it make of the last $
	_, err = regexp.Compile(whole)
	if !begins || !ends || err != nil || strings.Contains(inner, "|") || strings.HasPrefix(inner, "(?") {
		l.At(n, "write ^(?:...)$", "pattern may match a part of the text")
	}
	return whole
}

// Names reads which of the tools an agent has. They are sorted by name.
func Names(r *yaml.Reader, list *yaml.Node, all map[string]tool.Tool) (own []tool.Tool) {
	r.Texts(list, "own", "remove it", func(item *yaml.Node, text string) {
		t, ok := all[text]
		if !ok {
			r.At(item, yaml.Nearest(text, slices.Sorted(maps.Keys(all))), "there is no tool %q", text)
			return
		}
		own = append(own, t)
	})
	slices.SortFunc(own, func(a, b tool.Tool) int { return strings.Compare(a.Name, b.Name) })
	return own
}
