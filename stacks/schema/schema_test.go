package schema

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/stacks/yaml"
)

// TestSchema holds the schema to the loader: it accepts every file that the loader accepts, and
// refuses those that the loader refuses, except the ones that are listed with the reason.
func TestSchema(t *testing.T) {
	t.Parallel()
	says, err := jsonschema.UnmarshalJSON(bytes.NewReader(Stack()))
	require.NoError(t, err)
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	require.NoError(t, c.AddResource("stack.json", says))
	schema, err := c.Compile("stack.json")
	require.NoError(t, err)
	cases, err := filepath.Glob("../testdata/load/*.txtar")
	require.NoError(t, err)
	require.NotEmpty(t, cases)
	accepts, refuses := 0, 0
	var differ []string
	for _, path := range cases {
		archive, err := txtar.ParseFile(path)
		require.NoError(t, err)
		var text []byte
		refused := false
		for _, f := range archive.Files {
			switch f.Name {
			case "stack.yaml":
				text = f.Data
			case "errors.txt":
				refused = true
			}
		}
		name := strings.TrimSuffix(filepath.Base(path), ".txtar")
		root := yaml.Parse(text, &yaml.Problems{File: name})
		if root == nil { // not YAML, or not YAML that is read
			require.True(t, refused, name)
			continue
		}
		err = schema.Validate(value(root))
		if !refused {
			require.NoError(t, err, "%s: the loader accepts it", name)
			accepts++
		} else if err == nil {
			differ = append(differ, name)
		} else {
			refuses++
		}
	}
	require.Positive(t, accepts)
	require.Positive(t, refuses)
	require.Equal(t, slices.Sorted(maps.Keys(beyondSchema)), differ)
}

// beyondSchema are the cases of which a schema cannot say what the loader says.
var beyondSchema = map[string]string{
	"headers":           "which headers are the connection's or the proxy's own, in any case of letters",
	"hosts":             "what is the name of a host, and not an address or a URL",
	"no_destinations":   "what a name refers to",
	"unknown_names":     "what a name refers to",
	"upstreams":         "what is an address, whose it is, and what the files of this machine are",
	"wildcards_refused": "below which names strangers can register one",
}

// value is the tree as JSON has it.
func value(n *yaml.Node) any {
	switch n.Kind {
	case yaml.KindMap:
		out := map[string]any{}
		for _, f := range n.Fields {
			out[f.Key.Text] = value(f.Value)
		}
		return out
	case yaml.KindList:
		out := []any{}
		for _, item := range n.Items {
			out = append(out, value(item))
		}
		return out
	case yaml.KindInteger:
		if v, err := strconv.Atoi(n.Text); err == nil {
			return v
		}
	case yaml.KindOther:
		return map[string]any{"true": true, "false": false}[n.Text] // or null
	}
	return n.Text
}

// TestSchemaHasEveryKey: the schema knows just the keys that the loader reads, mapping by mapping.
func TestSchemaHasEveryKey(t *testing.T) {
	t.Parallel()
	read := map[string]bool{}
	files, err := filepath.Glob("../*.go")
	require.NoError(t, err)
	own, err := filepath.Glob("../own/*.go")
	require.NoError(t, err)
	files = append(files, own...)
	for _, path := range files {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		file, err := parser.ParseFile(token.NewFileSet(), path, text, 0)
		require.NoError(t, err)
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if f, ok := call.Fun.(*ast.SelectorExpr); !ok || f.Sel.Name != "Mapping" {
				return true
			}
			var keys []string
			for _, a := range call.Args[2:] {
				if literal, ok := a.(*ast.BasicLit); ok {
					key, err := strconv.Unquote(literal.Value)
					require.NoError(t, err)
					keys = append(keys, key)
				}
			}
			if len(keys) > 0 {
				slices.Sort(keys)
				read[strings.Join(keys, " ")] = true
			}
			return true
		})
	}
	said := map[string]bool{}
	var each func(v any)
	each = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			properties, ok := v["properties"].(map[string]any)
			_, credential := properties["secret"] // those are a table
			if ok && !credential && v["additionalProperties"] == false {
				said[strings.Join(slices.Sorted(maps.Keys(properties)), " ")] = true
			}
			for _, below := range v {
				each(below)
			}
		case []any:
			for _, below := range v {
				each(below)
			}
		}
	}
	all, err := jsonschema.UnmarshalJSON(bytes.NewReader(Stack()))
	require.NoError(t, err)
	each(all)
	require.Equal(t, slices.Sorted(maps.Keys(read)), slices.Sorted(maps.Keys(said)))
}
