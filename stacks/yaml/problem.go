package yaml

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Problem is one mistake in a stack file. The error of [Problems.Err] joins all of a file's.
type Problem struct {
	File      string
	Line, Col int
	Message   string
	// Hint says what to write instead.
	Hint string
}

// Error returns one line: the message may quote a file that an agent wrote. Whoever prints it
// escapes what acts on a terminal.
func (p *Problem) Error() string {
	s := fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Col, p.Message)
	if p.Hint != "" {
		s += "; " + p.Hint
	}
	return strings.ReplaceAll(s, "\n", `\n`)
}

// Problems collects the problems of one file.
type Problems struct {
	File string
	List []*Problem
}

// At records a mistake where n begins.
func (p *Problems) At(n *Node, hint, format string, args ...any) {
	p.List = append(p.List, &Problem{File: p.File, Line: n.Line, Col: n.Col, Message: fmt.Sprintf(format, args...), Hint: hint})
}

// Err joins the problems in the order of the file, or is nil.
func (p *Problems) Err() error {
	slices.SortStableFunc(p.List, func(a, b *Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	var errs []error
	for _, problem := range p.List {
		errs = append(errs, problem)
	}
	return errors.Join(errs...)
}

// Nearest returns a hint that names the candidate that word was probably meant
// to be, or else all of them.
func Nearest(word string, candidates []string) string {
	best, distance := "", 3
	for _, c := range candidates {
		if d := levenshtein(word, c); d < distance && d < len(c) {
			best, distance = c, d
		}
	}
	switch {
	case best != "":
		return fmt.Sprintf("did you mean %s?", best)
	case len(candidates) == 0:
		return "none is declared"
	case len(candidates) == 1:
		return "write " + candidates[0]
	}
	return "write one of " + Or(candidates)
}

// Or is "a, b or c".
func Or[S ~string](words []S) string {
	s := ""
	for i, w := range words {
		switch i {
		case 0:
		case len(words) - 1:
			s += " or "
		default:
			s += ", "
		}
		s += string(w)
	}
	return s
}

func levenshtein(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
