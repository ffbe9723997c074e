package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// module makes a module of these files in a new folder.
func module(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	files["go.mod"] = "module example.test/m\n\ngo 1.26\n"
	for name, text := range files {
		path := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	return root
}

const source = `package a

import "errors"

var list = []string{"x", "y"}

type flag bool

func decide(n int, words ...string) (bool, error) {
	out := false
	if n > 3 && len(words) > 0 {
		out = true
		log.Warn("much")
		clear(words)
	}
	switch {
	case n == 7:
		return false, errors.New("seven")
	}
	switch n {
	case 8, 9:
	}
	list = append(list, "b", "c")
	return out, nil
}

func (f flag) is(n int) flag { return flag(n < 2) }

func both(n int) bool { return n < 0 || n > 9 }
`

// TestChanges: all the changes of a file, and only these.
func TestChanges(t *testing.T) {
	t.Parallel()
	found, err := changes(module(t, map[string]string{"a.go": source}), "a.go")
	require.NoError(t, err)
	var got []string
	for _, c := range found {
		got = append(got, strings.TrimPrefix(c.name(), "a.go|"))
	}
	require.ElementsMatch(t, []string{
		`list|without "x"`, `list|without "y"`,
		`decide|false is true`,
		`decide|always: n > 3 && len(words) > 0`, `decide|never: n > 3 && len(words) > 0`, `decide|always: n > 3`, `decide|always: len(words) > 0`,
		`decide|another bound: n > 3`, `decide|another bound: len(words) > 0`,
		`decide|without out = true`, `decide|true is false`, `decide|without clear(words)`,
		`decide|always: n == 7`, `decide|never: n == 7`, `decide|false is true (2)`, `decide|nil for errors.New("seven")`,
		`decide|without 8`, `decide|without 9`,
		`decide|without list = append(list, "b", "c")`, `decide|without "b"`, `decide|without "c"`,
		`is|another bound: n < 2`,
		`both|always: n < 0 || n > 9`, `both|never: n < 0 || n > 9`, `both|never: n < 0`, `both|never: n > 9`, `both|another bound: n < 0`, `both|another bound: n > 9`,
	}, got)
}

const tested = `package a

import "errors"

func small(n int) error {
	if n > 3 || n < 0 {
		return errors.New("not small")
	}
	return nil
}

var words = []string{"one", "two"}

func known(word string) bool {
	for _, w := range words {
		if w == word {
			return true
		}
	}
	return false
}
`

// places is a list of one place, and of changes that make no difference.
func places(kind string, equal ...string) string {
	list := "# places\n\n" + kind + "|a\n"
	for _, e := range equal {
		list += "equal|a/a.go|" + e + "|it makes no difference\n"
	}
	return list
}

// try runs all changes of package a with its test, and returns what was said.
func try(t *testing.T, list, test string, named ...string) (string, error) {
	t.Helper()
	root := module(t, map[string]string{"a/a.go": tested, "a/a_test.go": "package a\n\nimport \"testing\"\n\nfunc Test(t *testing.T) {\n" + test + "}\n", "list.txt": list})
	var out bytes.Buffer
	err := (&runner{root: root, list: "list.txt", seed: 1, out: &out}).run(t.Context(), named)
	var left []string
	require.NoError(t, filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			left = append(left, strings.TrimPrefix(path, root+"/"))
		}
		return err
	}))
	require.ElementsMatch(t, []string{"go.mod", "list.txt", "a/a.go", "a/a_test.go"}, left, "nothing is written into the module")
	src, failed := os.ReadFile(filepath.Join(root, "a/a.go"))
	require.NoError(t, failed)
	require.Equal(t, tested, string(src))
	return out.String(), err
}

const good = `
	if small(3) != nil || small(0) != nil || small(4) == nil || small(-1) == nil || !known("one") || !known("two") || known("three") {
		t.Fatal()
	}
`

func TestNothingLives(t *testing.T) {
	t.Parallel()
	out, err := try(t, places("decides"), good)
	require.NoError(t, err, out)
	require.Regexp(t, `^seed 1\na: 13 of 13 changes tried: 13 seen, 0 more hung, 0 lived; 0 did not compile; [0-9]+ s\n$`, out)
}

// TestWhoLives: a change that no test sees is named, and is an error where it decides.
func TestWhoLives(t *testing.T) {
	t.Parallel()
	weak := strings.ReplaceAll(strings.ReplaceAll(good, "small(3) != nil || ", ""), `!known("two") || `, "")
	for _, c := range []struct {
		list, want string
		named      []string
	}{
		{places("decides"), "no test sees 2 changes of code that decides or verifies", nil},
		{places("more"), "", nil},
		{places("decides"), "no test sees 2 changes", []string{"./a/a.go"}},
		{places("more"), "", []string{"a/"}},
		{places("decides", "small|another bound: n > 3"), "no test sees 1 changes", nil},
		{places("decides", "small|another bound: n > 3", `words|without "two"`), "", nil},
	} {
		out, err := try(t, c.list, weak, c.named...)
		if c.want == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, c.want)
		}
		require.Equal(t, !strings.Contains(c.list, "n > 3"), strings.Contains(out, "a/a.go:6: small: another bound: n > 3\n"), out)
		require.Equal(t, !strings.Contains(c.list, "two"), strings.Contains(out, "a/a.go:12: words: without \"two\"\n"), out)
	}
}

// TestDraw: what a seed tries depends on neither the other changes nor on the code around a change.
func TestDraw(t *testing.T) {
	t.Parallel()
	c := change{file: "a/a.go", line: 6, in: "small", what: "another bound: n > 3", from: 50, to: 55}
	moved := change{file: "a/a.go", line: 9, in: "small", what: "another bound: n > 3", from: 80, to: 85}
	other := change{file: "a/a.go", line: 6, in: "small", what: "another bound: n < 0", from: 50, to: 55}
	one, two := runner{seed: 1}, runner{seed: 2}
	require.Equal(t, one.draw(&c), one.draw(&moved))
	require.NotEqual(t, one.draw(&c), one.draw(&other))
	require.NotEqual(t, one.draw(&c), two.draw(&c))
}

// TestMistakes: what would make a run say nothing is an error.
func TestMistakes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ list, test, want string }{
		{"decides|a|TestOther\n", "\tt.Fatal(7)\n", "no test sees 13 changes"},
		{places("decides"), "\tt.Fatal(7)\n", "its tests fail without a change"},
		{places("decides", "small|without x"), good, "list.txt names a change that there is not (any more): a/a.go|small|without x"},
		{"decide|a\n", good, "list.txt:1: write decides|PLACE|TESTS"},
		{"equal|a/a.go|small|without x|\n", good, "list.txt:1: write decides|PLACE|TESTS"},
		{"decides|a/b.go\n", good, "the package has no file b.go"},
		{"decides|b\n", good, "go list"},
	} {
		_, err := try(t, c.list, c.test)
		require.ErrorContains(t, err, c.want)
	}
}

// TestList: the list of this module names changes and places that there are.
func TestList(t *testing.T) {
	t.Parallel()
	root := "../.."
	places, equal, err := (&runner{list: filepath.Join(root, "tools/mutants.txt")}).read()
	require.NoError(t, err)
	for _, p := range places {
		require.DirExists(t, filepath.Join(root, p.dir))
		for _, f := range p.files {
			require.FileExists(t, filepath.Join(root, p.dir, f))
		}
	}
	known := map[string]bool{}
	for name := range equal {
		file, _, _ := strings.Cut(name, "|")
		found, err := changes(root, file)
		require.NoError(t, err)
		for _, c := range found {
			known[c.name()] = true
		}
		assert.True(t, known[name], name)
	}
}
