package yaml

import (
	"slices"
	"strings"
)

// quick reads the part of YAML that stack files are mostly written in, without
// the library. It is not a second opinion: of whatever quick is not sure about it
// returns nothing, and the library decides (see [Parse]). A property test holds
// its trees to the library's.
type quick struct {
	lines []quickLine
	// at is the line that is read.
	at int
	// spare are nodes that are made already.
	spare []Node
}

// quickLine is a line that has more than a comment. Its text begins after the indent.
type quickLine struct {
	text           string
	number, indent int
}

// quickDepth is less than maxDepth, which the library's trees are held to.
const quickDepth = 16

// quickYAML returns the tree of a document, or nil if it is not sure of it.
func quickYAML(data []byte) *Node {
	q := &quick{}
	number := 0
	for text := range strings.Lines(string(data)) {
		number++
		text = strings.TrimSuffix(text, "\n")
		rest := strings.TrimLeft(text, " ")
		if rest == "" || rest[0] == '#' {
			continue
		}
		if strings.HasSuffix(rest, " ") { // the library counts columns differently then
			return nil
		}
		q.lines = append(q.lines, quickLine{rest, number, len(text) - len(rest)})
	}
	if len(q.lines) == 0 || q.lines[0].indent != 0 {
		return nil
	}
	root := q.mapping(0)
	if q.at < len(q.lines) {
		return nil
	}
	return root
}

func (q *quick) node(kind Kind, line, col int) *Node {
	if len(q.spare) == 0 {
		q.spare = make([]Node, 256)
	}
	n := &q.spare[0]
	q.spare = q.spare[1:]
	n.Kind, n.Line, n.Col = kind, line, col
	return n
}

// mapping reads the lines of a block mapping.
func (q *quick) mapping(depth int) *Node {
	if depth > quickDepth {
		return nil
	}
	indent := q.lines[q.at].indent
	out := q.node(KindMap, q.lines[q.at].number, indent+1)
	seen := map[string]bool{}
	for q.at < len(q.lines) && q.lines[q.at].indent == indent {
		c := q.cursor()
		key := c.key()
		if key == nil || seen[key.Text] {
			return nil
		}
		seen[key.Text] = true
		var value *Node
		if c.end() {
			value = q.below(indent, depth)
		} else if c.take(' ') {
			value = q.inline(&c)
		}
		if value == nil {
			return nil
		}
		out.Fields = append(out.Fields, Field{key, value})
	}
	return q.closed(out, indent)
}

// below reads the value of a key that has its line for itself.
func (q *quick) below(indent, depth int) *Node {
	q.at++
	if q.at == len(q.lines) {
		return nil
	}
	switch next := q.lines[q.at]; {
	case strings.HasPrefix(next.text, "- ") && next.indent >= indent:
		return q.sequence(depth + 1)
	case next.indent > indent:
		return q.mapping(depth + 1)
	}
	return nil
}

// inline reads a value that ends with its line.
func (q *quick) inline(c *cursor) *Node {
	c.spaces()
	value := c.value(false, 0)
	if value == nil || !c.end() {
		return nil
	}
	q.at++
	return value
}

// closed returns a collection unless the next line continues within it.
func (q *quick) closed(out *Node, indent int) *Node {
	if q.at < len(q.lines) && q.lines[q.at].indent > indent {
		return nil
	}
	return out
}

// sequence reads the lines of a block sequence.
func (q *quick) sequence(depth int) *Node {
	if depth > quickDepth {
		return nil
	}
	indent := q.lines[q.at].indent
	out := q.node(KindList, q.lines[q.at].number, indent+1)
	for q.at < len(q.lines) && q.lines[q.at].indent == indent && strings.HasPrefix(q.lines[q.at].text, "- ") {
		line := &q.lines[q.at]
		rest := strings.TrimLeft(line.text[1:], " ")
		// What follows the hyphen is a line of its own, as far as it is a mapping.
		line.indent, line.text = indent+len(line.text)-len(rest), rest
		c := q.cursor()
		var item *Node
		if before := c; before.key() != nil {
			item = q.mapping(depth + 1)
		} else {
			item = q.inline(&c)
		}
		if item == nil {
			return nil
		}
		out.Items = append(out.Items, item)
	}
	return q.closed(out, indent)
}

func (q *quick) cursor() cursor {
	l := &q.lines[q.at]
	return cursor{q: q, text: l.text, line: l.number, col: l.indent + 1}
}

// cursor reads one line. All that it takes is ASCII, so that columns are bytes.
type cursor struct {
	q         *quick
	text      string
	at        int
	line, col int
}

func (c *cursor) peek() byte {
	if c.at < len(c.text) {
		return c.text[c.at]
	}
	return 0
}

func (c *cursor) take(b byte) bool {
	if c.peek() != b {
		return false
	}
	c.at++
	return true
}

func (c *cursor) spaces() { c.at = len(c.text) - len(strings.TrimLeft(c.text[c.at:], " ")) }

// end reports whether nothing but a comment follows.
func (c *cursor) end() bool {
	rest := strings.TrimLeft(c.text[c.at:], " ")
	return rest == "" || rest[0] == '#' && len(rest) < len(c.text)-c.at
}

func (c *cursor) node(kind Kind) *Node { return c.q.node(kind, c.line, c.col+c.at) }

// key reads a key and its colon.
func (c *cursor) key() *Node {
	n := c.node(KindText)
	if b := c.peek(); b == '"' || b == '\'' {
		if n = c.quoted(b); n == nil || n.Text == "" {
			return nil
		}
	} else if n.Text = c.word(); n.Text == "" || !isLetter(n.Text[0]) || isReserved(n.Text) {
		return nil
	}
	if !c.take(':') || c.at < len(c.text) && c.peek() != ' ' {
		return nil
	}
	return n
}

// word takes letters, digits and some other characters that mean nothing in YAML.
func (c *cursor) word() string {
	from := c.at
	for isWord(c.peek()) {
		c.at++
	}
	return c.text[from:c.at]
}

func (c *cursor) value(flow bool, depth int) *Node {
	if depth > quickDepth {
		return nil
	}
	switch b := c.peek(); b {
	case '{', '[':
		return c.collection(b, depth)
	case '"', '\'':
		return c.quoted(b)
	}
	return c.plain(flow)
}

// quoted reads a text in quotes that has nothing to be replaced in it.
func (c *cursor) quoted(quote byte) *Node {
	n := c.node(KindText)
	length := strings.IndexByte(c.text[c.at+1:], quote)
	if length < 0 {
		return nil
	}
	n.quoted, n.Text = true, c.text[c.at+1:c.at+1+length]
	c.at += length + 2
	if c.peek() == quote || strings.ContainsFunc(n.Text, func(r rune) bool { return r == '\\' || r < ' ' || r > '~' }) {
		return nil
	}
	return n
}

// plain reads a text without quotes, a number, true or false. Between brackets
// it is one word.
func (c *cursor) plain(flow bool) *Node {
	n := c.node(KindText)
	n.Text = c.word()
	// One space or colon between words is part of the text.
	for rest := c.text[c.at:]; !flow && n.Text != "" && len(rest) > 1 && (rest[0] == ' ' || rest[0] == ':') && isWord(rest[1]); rest = c.text[c.at:] {
		c.at++
		c.word()
		n.Text = c.text[n.Col-c.col : c.at]
	}
	switch {
	case n.Text == "":
		return nil
	case n.Text == "true" || n.Text == "false":
		n.Kind = KindOther
	case isLetter(n.Text[0]) || n.Text[0] == '/':
		if isReserved(n.Text) {
			return nil
		}
	case isNumber(n.Text):
		n.Kind = KindInteger
	default:
		return nil
	}
	return n
}

// collection reads the content of brackets or braces, on one line.
func (c *cursor) collection(open byte, depth int) *Node {
	n, end := c.node(KindList), byte(']')
	if open == '{' {
		n.Kind, end = KindMap, '}'
	}
	n.Flow = true
	c.at++
	c.spaces()
	for c.peek() != end {
		if len(n.Fields)+len(n.Items) > 0 {
			if !c.take(',') {
				return nil
			}
			c.spaces()
		}
		var key *Node
		if open == '{' {
			key = c.key()
			if key == nil || n.Get(key.Text) != nil || !c.take(' ') {
				return nil
			}
			c.spaces()
		}
		value := c.value(true, depth+1)
		if value == nil {
			return nil
		}
		if key != nil {
			n.Fields = append(n.Fields, Field{key, value})
		} else {
			n.Items = append(n.Items, value)
		}
		c.spaces()
	}
	n.EndLine, n.EndCol = c.line, c.col+c.at
	c.at++
	return n
}

func isLetter(b byte) bool { return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' }

func isWord(b byte) bool {
	return isLetter(b) || '0' <= b && b <= '9' || b == '-' || b == '_' || b == '.' || b == '/' || b == '*'
}

// isNumber reports whether every reader of YAML reads s as the same integer.
func isNumber(s string) bool {
	if len(s) > 9 || s[0] == '0' && len(s) > 1 {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
}

// Reserved are the words that some YAML reader takes for something else.
var Reserved = []string{"null", "true", "false", "yes", "no", "on", "off", "y", "n"}

// isReserved reports whether some reader of YAML takes the word for something
// else than text.
func isReserved(s string) bool {
	return len(s) <= 5 && (slices.Contains(Reserved, strings.ToLower(s)) || strings.EqualFold(s, "inf") || strings.EqualFold(s, "nan"))
}
