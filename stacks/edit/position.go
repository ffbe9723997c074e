package edit

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/postern/postern/stacks/yaml"
)

// lines returns where the lines from first to last begin and end, newline
// included. If the last one is the end of a file without a newline, the
// newline before the first one counts instead.
func (e *editor) lines(first, last int) (start, end int) {
	start, end = e.offset(first, 1), e.offset(last+1, 1)
	if end == len(e.data) && !bytes.HasSuffix(e.data, []byte("\n")) && start > 0 {
		start--
		if start > 0 && e.data[start-1] == '\r' {
			start--
		}
	}
	return start, end
}

// line is the text of a line, without its end.
func (e *editor) line(line int) string {
	return strings.TrimRight(string(e.data[e.offset(line, 1):e.offset(line+1, 1)]), "\r\n")
}

// offset is the byte at a line and column, which count characters from 1. Past
// the last line it is the end of the file.
func (e *editor) offset(line, col int) int {
	at := 0
	for ; line > 1; line-- {
		i := bytes.IndexByte(e.data[at:], '\n')
		if i < 0 {
			return len(e.data)
		}
		at += i + 1
	}
	for ; col > 1 && at < len(e.data); col-- {
		_, size := utf8.DecodeRune(e.data[at:])
		at += size
	}
	return at
}

// end is the byte after a node that is written on one line, or in brackets.
func (e *editor) end(n *yaml.Node) (int, error) {
	if n.Flow {
		at := e.offset(n.EndLine, n.EndCol)
		if at < len(e.data) && (e.data[at] == ']' || e.data[at] == '}') {
			return at + 1, nil
		}
	} else {
		at := e.offset(n.Line, n.Col)
		for _, form := range []string{n.Text, `"` + n.Text + `"`, "'" + n.Text + "'"} {
			if n.Kind == yaml.KindText && bytes.HasPrefix(e.data[at:], []byte(form)) {
				return at + len(form), nil
			}
		}
	}
	return 0, fmt.Errorf("edit %s: it is unclear where the entry in line %d ends", e.file.Path, n.Line)
}

// indent returns the spaces before a key on its line.
func (e *editor) indent(key *yaml.Node) (string, error) {
	line := e.line(key.Line)
	indent := line[:e.offset(key.Line, key.Col)-e.offset(key.Line, 1)]
	if strings.Trim(indent, " ") != "" {
		return "", fmt.Errorf("edit %s: line %d has more than a key", e.file.Path, key.Line)
	}
	return indent, nil
}

// insertLines inserts lines after the given one, with its kind of line end.
func (e *editor) insertLines(after int, lines ...string) error {
	at := e.offset(after+1, 1)
	newline := "\n"
	if bytes.Contains(e.data, []byte("\r\n")) {
		newline = "\r\n"
	}
	text := strings.Join(lines, newline)
	if bytes.HasSuffix(e.data[:at], []byte("\n")) {
		return e.splice(at, at, text+newline)
	}
	return e.splice(at, at, newline+text)
}

// lastLine is the last line on which n, or something in it, is.
func lastLine(n *yaml.Node) int {
	last := max(n.Line, n.EndLine)
	for _, f := range n.Fields {
		last = max(last, f.Key.Line, lastLine(f.Value))
	}
	for _, item := range n.Items {
		last = max(last, lastLine(item))
	}
	return last
}
