package main

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// change is one small change of a file: code is put around other code, which happens
// only in a process that asks for the change's number, or an element is taken out of
// a list.
type change struct {
	// file is its path below the module's root, and line is where the change is.
	file string
	line int
	// in is the function or the variable that changes, and what says how. Together
	// with the file they name a change, as long as its code stays.
	in, what string
	// The bytes from here to there have before, instead of operator, and after put
	// around; or they are taken out, if these are "". %d is the change's number.
	from, to      int
	before, after string
	// operator is the operator between two operands, or 0 to 0.
	operator [2]int
}

// name is what the list of changes that make no difference calls it by.
func (c *change) name() string { return c.file + "|" + c.in + "|" + c.what }

// without returns the source without what the change takes out.
func (c *change) without(src []byte) []byte { return slices.Concat(src[:c.from], src[c.to:]) }

// switched returns the source with changes in it, each of which waits for its number: its
// index.
func switched(src []byte, all map[int]*change) []byte {
	// A put is text instead of the bytes from at to end. At one place, what ends comes
	// before an operator, and that before what starts; the smaller is inside the larger.
	type put struct {
		at, end, rank, size, number int
		text                        string
	}
	var puts []put
	for n, c := range all {
		size := c.to - c.from
		puts = append(puts, put{c.from, c.from, 2, -size, n, fmt.Sprintf(c.before, n)}, put{c.to, c.to, 0, size, -n, c.after})
		if c.operator[1] > 0 {
			puts = append(puts, put{c.operator[0], c.operator[1], 1, 0, n, ","})
		}
	}
	slices.SortFunc(puts, func(a, b put) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.rank, b.rank), cmp.Compare(a.size, b.size), cmp.Compare(a.number, b.number))
	})
	var out []byte
	at := 0
	for _, p := range puts {
		out = append(append(out, src[at:p.at]...), p.text...)
		at = p.end
	}
	return append(out, src[at:]...)
}

// switches is the file that goes with switched sources, but for its package clause.
const switches = `
import (
	"cmp"
	"os"
	"strconv"
)

var mutantNumber, _ = strconv.Atoi(os.Getenv("MUTANT"))

func mutant(n int) bool { return n == mutantNumber }

func mutantNil(n int, err error) error {
	if mutant(n) {
		return nil
	}
	return err
}

func mutantBound[T cmp.Ordered](n int, op string, x, y T) bool {
	var is bool
	switch op {
	case "<":
		is = x < y
	case "<=":
		is = x <= y
	case ">":
		is = x > y
	case ">=":
		is = x >= y
	}
	return is != (mutant(n) && x == y)
}
`

// changes are those of a Go file. There is none from "&&" to "||": a test that sees it
// sees one of the operands missing, too.
func changes(root, file string) ([]*change, error) {
	src, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		return nil, err
	}
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, file, src, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	f := &finder{set: set, src: src, file: file, seen: map[string]int{}}
	for _, d := range parsed.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Body != nil {
				f.in = d.Name.Name
				ast.Walk(scope{f, d.Type}, d.Body)
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				if v, ok := s.(*ast.ValueSpec); ok && d.Tok == token.VAR {
					f.in = v.Names[0].Name
					ast.Walk(scope{f, nil}, v)
				}
			}
		}
	}
	return f.out, nil
}

type finder struct {
	set      *token.FileSet
	src      []byte
	file, in string
	seen     map[string]int
	out      []*change
}

func (f *finder) offset(p token.Pos) int { return f.set.Position(p).Offset }

var space = regexp.MustCompile(`\s+`)

// says is code in one line of at most 100 bytes.
func (f *finder) says(n ast.Node) string {
	s := space.ReplaceAllString(string(f.src[f.offset(n.Pos()):f.offset(n.End())]), " ")
	if len(s) > 100 {
		s = strings.ToValidUTF8(s[:97], "") + "..."
	}
	return s
}

// around adds a change that puts code around n.
func (f *finder) around(n ast.Node, before, after, what string) *change {
	return f.between(n.Pos(), n.End(), before, after, what)
}

func (f *finder) between(from, to token.Pos, before, after, what string) *change {
	c := &change{file: f.file, line: f.set.Position(from).Line, in: f.in, what: what, from: f.offset(from), to: f.offset(to), before: before, after: after}
	f.seen[c.name()]++
	if n := f.seen[c.name()]; n > 1 {
		c.what += fmt.Sprintf(" (%d)", n)
	}
	f.out = append(f.out, c)
	return c
}

// holds makes a condition hold always. It is still evaluated.
func (f *finder) holds(e ast.Expr) {
	f.around(e, "(mutant(%d) == true || (", "))", "always: "+f.says(e))
}

// fails makes a condition hold never.
func (f *finder) fails(e ast.Expr) {
	f.around(e, "(mutant(%d) == false && (", "))", "never: "+f.says(e))
}

// scope is a walk below a function of this type.
type scope struct {
	*finder
	function *ast.FuncType
}

func (s scope) Visit(n ast.Node) ast.Visitor {
	switch n := n.(type) {
	case *ast.FuncLit:
		return scope{s.finder, n.Type}
	case *ast.IfStmt:
		s.holds(n.Cond)
		s.fails(n.Cond)
	case *ast.BinaryExpr:
		switch n.Op {
		case token.LAND:
			s.holds(n.X)
			s.holds(n.Y)
		case token.LOR:
			s.fails(n.X)
			s.fails(n.Y)
		case token.LSS, token.LEQ, token.GTR, token.GEQ:
			c := s.around(n, `mutantBound(%d, "`+n.Op.String()+`", `, ")", "another bound: "+s.says(n))
			c.operator = [2]int{s.offset(n.OpPos), s.offset(n.OpPos) + len(n.Op.String())}
		}
	case *ast.ReturnStmt:
		s.returns(n)
	case *ast.CompositeLit:
		s.shorter(n.Elts, n.Rbrace)
	case *ast.SwitchStmt:
		for _, c := range n.Body.List {
			for _, e := range c.(*ast.CaseClause).List {
				if n.Tag == nil {
					s.holds(e)
					s.fails(e)
				}
			}
		}
	case *ast.CaseClause:
		if len(n.List) > 1 {
			s.shorter(n.List, n.Colon)
		}
	case *ast.CallExpr:
		s.arguments(n)
	case *ast.ExprStmt:
		if call, ok := n.X.(*ast.CallExpr); ok && !aside(call) {
			s.around(n, "if !mutant(%d) { ", " }", "without "+s.says(n))
		}
	case *ast.AssignStmt:
		if n.Tok != token.DEFINE && s.whole(n) {
			s.around(n, "if !mutant(%d) { ", " }", "without "+s.says(n))
		}
	case *ast.Ident:
		if other := map[string]string{"true": "false", "false": "true"}[n.Name]; other != "" {
			s.around(n, "(mutant(%d) != ", ")", n.Name+" is "+other)
		}
	}
	return s
}

// returns drops an error, or turns a verdict around.
func (s scope) returns(n *ast.ReturnStmt) {
	if s.function == nil || s.function.Results == nil || len(n.Results) != s.function.Results.NumFields() {
		return
	}
	fields := s.function.Results.List
	last, _ := fields[len(fields)-1].Type.(*ast.Ident)
	e := n.Results[len(n.Results)-1]
	id, _ := e.(*ast.Ident)
	switch {
	case last == nil:
	case last.Name == "error" && (id == nil || id.Name != "nil"):
		s.around(e, "mutantNil(%d, ", ")", "nil for "+s.says(e))
	case last.Name == "bool" && (id == nil || id.Name != "true" && id.Name != "false"):
		s.holds(e)
		s.fails(e)
	}
}

// arguments makes a list of texts at a call's end shorter. What is not a list does not
// compile then.
func (s scope) arguments(n *ast.CallExpr) {
	first := len(n.Args)
	for ; first > 0; first-- {
		if lit, ok := n.Args[first-1].(*ast.BasicLit); !ok || lit.Kind != token.STRING {
			break
		}
	}
	if len(n.Args)-first > 1 {
		s.shorter(n.Args[first:], n.Rparen)
	}
}

// shorter takes each element out of a list that ends before end.
func (s scope) shorter(list []ast.Expr, end token.Pos) {
	for i, e := range list {
		from, to := e.Pos(), end
		switch {
		case i+1 < len(list):
			to = list[i+1].Pos()
		case i > 0:
			from, to = list[i-1].End(), e.End()
		}
		s.between(from, to, "", "", "without "+s.says(e))
	}
}

// whole reports whether a statement is one of a block, and not a part of another.
func (s scope) whole(n ast.Node) bool {
	before := strings.TrimRight(string(s.src[:s.offset(n.Pos())]), " \t")
	return strings.HasSuffix(before, "\n")
}

// aside reports whether a call is about locks, ends the process, or writes to a log.
func aside(call *ast.CallExpr) bool {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name == "panic"
	case *ast.SelectorExpr:
		if slices.Contains([]string{"Lock", "Unlock", "RLock", "RUnlock"}, f.Sel.Name) {
			return true
		}
		switch x := f.X.(type) {
		case *ast.Ident:
			return strings.EqualFold(x.Name, "log") || x.Name == "slog"
		case *ast.SelectorExpr:
			return strings.EqualFold(x.Sel.Name, "log")
		}
	}
	return false
}
