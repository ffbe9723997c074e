package yaml

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

// Kind is the kind of a YAML node, in the words of messages.
type Kind string

const (
	KindText    Kind = "text"
	KindInteger Kind = "an integer"
	kindNull    Kind = "nothing"
	KindList    Kind = "a list"
	KindMap     Kind = "a mapping"
	KindOther   Kind = "of another type" // floats, booleans, dates
)

// Node is the part of YAML that stack files are written in, with positions.
type Node struct {
	Kind      Kind
	Line, Col int
	Text      string // of a scalar
	Fields    []Field
	Items     []*Node
	// Flow means that a list or mapping is written in brackets or braces, which then end at EndLine
	// and EndCol.
	Flow            bool
	EndLine, EndCol int
	// quoted is a scalar in quotes or in block style.
	quoted bool
}

// Field is a key of a mapping, and its value.
type Field struct {
	Key   *Node
	Value *Node
}

// maxDepth is more than any stack file nests.
const maxDepth = 32

// Parse reads the one document of a file. With any problem it returns nil.
func Parse(data []byte, p *Problems) *Node {
	start := &Node{Line: 1, Col: 1}
	for mark, encoding := range map[string]string{
		"\xef\xbb\xbf": "UTF-8 with a byte order mark", "\xff\xfe": "UTF-16", "\xfe\xff": "UTF-16",
	} {
		if bytes.HasPrefix(data, []byte(mark)) {
			p.At(start, "save it as UTF-8 without a byte order mark", "the file is %s", encoding)
			return nil
		}
	}
	if i := strings.IndexFunc(string(data), IsForbidden); i >= 0 {
		line := 1 + strings.Count(string(data[:i]), "\n")
		p.At(&Node{Line: line, Col: i - strings.LastIndex(string(data[:i]), "\n")}, "write plain UTF-8 text", "a character that a stack file may not contain")
		return nil
	}
	if i := strings.Index(strings.ReplaceAll(string(data), "\r\n", "\n\n"), "\r"); i >= 0 {
		p.At(&Node{Line: 1 + strings.Count(string(data[:i]), "\n"), Col: 1}, "end lines with a newline", "a carriage return within a line")
		return nil
	}
	if depth := nesting(data); depth > maxDepth {
		p.At(start, "write at most as many levels as stacks/local.yaml", "brackets are nested %d deep", depth)
		return nil
	}
	if root := quickYAML(data); root != nil {
		return root
	}
	return libraryYAML(data, p)
}

// libraryYAML is Parse of text that may be any YAML.
func libraryYAML(data []byte, p *Problems) *Node {
	start := &Node{Line: 1, Col: 1}
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
		p.At(at, "", "%s", message)
		return nil
	}
	before := len(p.List)
	var body ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if body != nil {
			p.At(position(doc.Body), "write one document, without ---", "a second YAML document")
			break
		}
		body = doc.Body
	}
	if body == nil {
		p.At(start, "write version: 1 and target: local", "the file is empty")
		return nil
	}
	root := convert(body, p, 0)
	if len(p.List) > before {
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

// IsForbidden reports whether a stack file may not contain the character.
func IsForbidden(r rune) bool {
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

func tokenAt(t *token.Token) *Node { return &Node{Line: t.Position.Line, Col: t.Position.Column} }

// position returns where a node begins as people see it: a block mapping begins at its first key,
// not at the colon after it.
func position(n ast.Node) *Node {
	switch n := n.(type) {
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return position(n.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return position(n.Key)
	}
	if n == nil || n.GetToken() == nil || n.GetToken().Position == nil {
		return &Node{Line: 1, Col: 1}
	}
	return tokenAt(n.GetToken())
}

// convert turns the library's tree into ours, refusing what stack files do
// without.
func convert(n ast.Node, p *Problems, depth int) *Node {
	out := position(n)
	out.Kind = KindOther
	if depth > maxDepth {
		p.At(out, "", "nested too deeply")
		return out
	}
	switch n := n.(type) {
	case *ast.StringNode:
		out.Kind, out.Text = KindText, n.Value
		out.quoted = n.Token.Type != token.StringType
	case *ast.LiteralNode:
		out.Kind, out.quoted = KindText, true
		if n.Value != nil {
			out.Text = n.Value.Value
		}
	case *ast.IntegerNode:
		out.Kind, out.Text = KindInteger, n.Token.Value
	case *ast.NullNode:
		out.Kind = kindNull
	case *ast.BoolNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		out.Text = n.GetToken().Value
	case *ast.SequenceNode:
		out.Kind, out.Flow = KindList, n.IsFlowStyle
		if n.End != nil {
			out.EndLine, out.EndCol = n.End.Position.Line, n.End.Position.Column
		}
		for _, item := range n.Values {
			out.Items = append(out.Items, convert(item, p, depth+1))
		}
	case *ast.MappingNode:
		out.Kind, out.Flow = KindMap, n.IsFlowStyle
		if n.End != nil {
			out.EndLine, out.EndCol = n.End.Position.Line, n.End.Position.Column
		}
		out.Fields = fields(n.Values, p, depth)
	case *ast.MappingValueNode:
		out.Kind, out.Flow = KindMap, n.IsFlowStyle
		out.Fields = fields([]*ast.MappingValueNode{n}, p, depth)
	case *ast.AnchorNode:
		p.At(out, "write the value where it is used", "anchors (&) are not supported")
	case *ast.AliasNode:
		p.At(out, "write the value out", "aliases (*) are not supported; a text that begins with * needs quotes")
	case *ast.TagNode:
		p.At(out, "write the value without it", "tags (!) are not supported")
	default:
		p.At(out, "", "this kind of YAML is not supported in stack files")
	}
	return out
}

func fields(values []*ast.MappingValueNode, p *Problems, depth int) []Field {
	var out []Field
	seen := map[string]*Node{}
	for _, v := range values {
		at := position(v.Key)
		switch key := v.Key.(type) {
		case *ast.StringNode:
			at = convert(key, p, depth+1)
		case *ast.IntegerNode, *ast.BoolNode, *ast.FloatNode, *ast.NullNode:
			at.Kind, at.Text = KindText, v.Key.GetToken().Value
		case *ast.MergeKeyNode:
			p.At(at, "write the keys out", "merge keys (<<) are not supported")
			continue
		default:
			p.At(at, "write a name", "this key is not a name")
			continue
		}
		if first, ok := seen[at.Text]; ok {
			p.At(at, "remove one of them", "key %q is there already, in line %d", at.Text, first.Line)
			continue
		}
		seen[at.Text] = at
		if v.Value == nil {
			null := *at
			null.Kind, null.Text = kindNull, ""
			out = append(out, Field{at, &null})
			continue
		}
		out = append(out, Field{at, convert(v.Value, p, depth+1)})
	}
	return out
}

// Get returns the value of a key of a mapping, or nil.
func (n *Node) Get(key string) *Node {
	for _, f := range n.Fields {
		if f.Key.Text == key {
			return f.Value
		}
	}
	return nil
}

// Describe says what kind of value the node is, or what it is: for messages.
func (n *Node) Describe() string {
	if n.Kind == KindOther && n.Text != "" {
		return fmt.Sprintf("%q", n.Text)
	}
	return string(n.Kind)
}
