package stacks

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// kind is the kind of a YAML node, in the words of messages.
type kind string

const (
	kindText    kind = "text"
	kindInteger kind = "an integer"
	kindNull    kind = "nothing"
	kindList    kind = "a list"
	kindMap     kind = "a mapping"
	kindOther   kind = "of another type" // floats, booleans, dates
)

// node is the part of YAML that stack files are written in, with positions.
type node struct {
	kind      kind
	line, col int
	text      string // of a scalar
	fields    []field
	items     []*node
	// flow means that a list or mapping is written in brackets or braces, which then end at endLine
	// and endCol.
	flow            bool
	endLine, endCol int
	// quoted is a scalar in quotes or in block style.
	quoted bool
}

type field struct {
	key   *node
	value *node
}

// maxDepth is more than any stack file nests.
const maxDepth = 32

// parseYAML reads the one document of a file. With any problem it returns nil.
func parseYAML(data []byte, p *problems) *node {
	start := &node{line: 1, col: 1}
	for mark, encoding := range map[string]string{
		"\xef\xbb\xbf": "UTF-8 with a byte order mark", "\xff\xfe": "UTF-16", "\xfe\xff": "UTF-16",
	} {
		if bytes.HasPrefix(data, []byte(mark)) {
			p.at(start, "save it as UTF-8 without a byte order mark", "the file is %s", encoding)
			return nil
		}
	}
	if i := strings.IndexFunc(string(data), isForbidden); i >= 0 {
		line := 1 + strings.Count(string(data[:i]), "\n")
		p.at(&node{line: line, col: i - strings.LastIndex(string(data[:i]), "\n")}, "write plain UTF-8 text", "a character that a stack file may not contain")
		return nil
	}
	if i := strings.Index(strings.ReplaceAll(string(data), "\r\n", "\n\n"), "\r"); i >= 0 {
		p.at(&node{line: 1 + strings.Count(string(data[:i]), "\n"), col: 1}, "end lines with a newline", "a carriage return within a line")
		return nil
	}
	if depth := nesting(data); depth > maxDepth {
		p.at(start, "write at most as many levels as stacks/local.yaml", "brackets are nested %d deep", depth)
		return nil
	}
	if root := quickYAML(data); root != nil {
		return root
	}
	return libraryYAML(data, p)
}

// libraryYAML is parseYAML of text that may be any YAML.
func libraryYAML(data []byte, p *problems) *node {
	start := &node{line: 1, col: 1}
	file, err := safeParse(data)
	if err != nil {
		// Not err itself: it quotes lines of the file.
		at, message := start, "not YAML"
		var syntax *yaml.SyntaxError
		if errors.As(err, &syntax) {
			message += ": " + syntax.Message
			if syntax.Token != nil && syntax.Token.Position != nil {
				at = tokenAt(syntax.Token)
			}
		}
		p.at(at, "", "%s", message)
		return nil
	}
	before := len(p.list)
	var body ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if body != nil {
			p.at(position(doc.Body), "write one document, without ---", "a second YAML document")
			break
		}
		body = doc.Body
	}
	if body == nil {
		p.at(start, "write version: 1 and target: local", "the file is empty")
		return nil
	}
	root := convert(body, p, 0)
	if len(p.list) > before {
		return nil
	}
	return root
}

// safeParse turns a panic of the YAML library into an error: the file is the
// input of a person, and no input may take the program down.
func safeParse(data []byte) (file *ast.File, err error) {
	defer func() {
		if recover() != nil {
			file, err = nil, errors.New("not YAML")
		}
	}()
	// The library's columns are wrong after "\r\n". Ours do not change with it.
	data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
	return parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
}

func isForbidden(r rune) bool {
	switch r {
	case '\n', '\r', '\t':
		return false
	case '\ufeff', '\u0085', '\u2028', '\u2029', '\ufffd':
		return true
	}
	return r < ' ' || r >= 0x7f && r < 0xa0
}

// nesting is an upper bound of how deep flow collections and block indicators nest.
func nesting(data []byte) int {
	depth, deepest := 0, 0
	for _, line := range strings.Split(string(data), "\n") {
		for _, c := range []byte(line) {
			switch c {
			case '[', '{':
				depth++
			case ']', '}':
				depth = max(0, depth-1)
			}
			deepest = max(deepest, depth)
		}
		deepest = max(deepest, strings.Count(line, "- ")/4, strings.Count(line, "? ")/4)
	}
	return deepest
}

func tokenAt(t *token.Token) *node { return &node{line: t.Position.Line, col: t.Position.Column} }

// position returns where a node begins as people see it: a block mapping begins at its first key,
// not at the colon after it.
func position(n ast.Node) *node {
	switch n := n.(type) {
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return position(n.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return position(n.Key)
	}
	if n == nil || n.GetToken() == nil || n.GetToken().Position == nil {
		return &node{line: 1, col: 1}
	}
	return tokenAt(n.GetToken())
}

// convert turns the library's tree into ours, refusing what stack files do
// without.
func convert(n ast.Node, p *problems, depth int) *node {
	out := position(n)
	out.kind = kindOther
	if depth > maxDepth {
		p.at(out, "", "nested too deeply")
		return out
	}
	switch n := n.(type) {
	case *ast.StringNode:
		out.kind, out.text = kindText, n.Value
		out.quoted = n.Token.Type != token.StringType
	case *ast.LiteralNode:
		out.kind, out.quoted = kindText, true
		if n.Value != nil {
			out.text = n.Value.Value
		}
	case *ast.IntegerNode:
		out.kind, out.text = kindInteger, n.Token.Value
	case *ast.NullNode:
		out.kind = kindNull
	case *ast.BoolNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		out.text = n.GetToken().Value
	case *ast.SequenceNode:
		out.kind, out.flow = kindList, n.IsFlowStyle
		if n.End != nil {
			out.endLine, out.endCol = n.End.Position.Line, n.End.Position.Column
		}
		for _, item := range n.Values {
			out.items = append(out.items, convert(item, p, depth+1))
		}
	case *ast.MappingNode:
		out.kind, out.flow = kindMap, n.IsFlowStyle
		if n.End != nil {
			out.endLine, out.endCol = n.End.Position.Line, n.End.Position.Column
		}
		out.fields = fields(n.Values, p, depth)
	case *ast.MappingValueNode:
		out.kind, out.flow = kindMap, n.IsFlowStyle
		out.fields = fields([]*ast.MappingValueNode{n}, p, depth)
	case *ast.AnchorNode:
		p.at(out, "write the value where it is used", "anchors (&) are not supported")
	case *ast.AliasNode:
		p.at(out, "write the value out", "aliases (*) are not supported; a text that begins with * needs quotes")
	case *ast.TagNode:
		p.at(out, "write the value without it", "tags (!) are not supported")
	default:
		p.at(out, "", "this kind of YAML is not supported in stack files")
	}
	return out
}

func fields(values []*ast.MappingValueNode, p *problems, depth int) []field {
	var out []field
	seen := map[string]*node{}
	for _, v := range values {
		at := position(v.Key)
		switch key := v.Key.(type) {
		case *ast.StringNode:
			at = convert(key, p, depth+1)
		case *ast.IntegerNode, *ast.BoolNode, *ast.FloatNode, *ast.NullNode:
			at.kind, at.text = kindText, v.Key.GetToken().Value
		case *ast.MergeKeyNode:
			p.at(at, "write the keys out", "merge keys (<<) are not supported")
			continue
		default:
			p.at(at, "write a name", "this key is not a name")
			continue
		}
		if first, ok := seen[at.text]; ok {
			p.at(at, "remove one of them", "key %q is there already, in line %d", at.text, first.line)
			continue
		}
		seen[at.text] = at
		if v.Value == nil {
			null := *at
			null.kind, null.text = kindNull, ""
			out = append(out, field{at, &null})
			continue
		}
		out = append(out, field{at, convert(v.Value, p, depth+1)})
	}
	return out
}

// get returns the value of a key of a mapping, or nil.
func (n *node) get(key string) *node {
	for _, f := range n.fields {
		if f.key.text == key {
			return f.value
		}
	}
	return nil
}

func (n *node) describe() string {
	if n.kind == kindOther && n.text != "" {
		return fmt.Sprintf("%q", n.text)
	}
	return string(n.kind)
}
