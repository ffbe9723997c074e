package house

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// files are the contents of the repository's text files, by path.
type files map[string]string

// read reads what people wrote: not what is built, cached or recorded.
func read(tree fs.FS) (files, error) {
	all := files{}
	return all, fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || name == "bin" || strings.HasPrefix(d.Name(), ".") && name != "."):
			return fs.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		switch path.Ext(name) {
		case ".go", ".md", ".sh", ".c", ".h", ".lua", ".txt", ".yaml", "":
			content, err := fs.ReadFile(tree, name)
			all[name] = string(content)
			return err
		}
		return nil
	})
}

// repository reads the repository that the tests run in.
func repository(t *testing.T) files {
	t.Helper()
	all, err := read(os.DirFS("../.."))
	require.NoError(t, err)
	require.Contains(t, all, "main.go")
	return all
}

// sorted returns the paths that end with the suffix.
func (f files) sorted(suffix string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(f)),
		func(name string) bool { return !strings.HasSuffix(name, suffix) })
}

const (
	// mostInPackage bounds the lines of a package, without tests: what one person keeps in mind.
	mostInPackage = 3000
	// mostInFile bounds the lines of a file.
	mostInFile = 600
	// mostColumns and mostCommented bound the width of code and of comments. A tab is four.
	mostColumns   = 120
	mostCommented = 100
)

// tooLarge returns the packages with more lines than they may have.
func tooLarge(f files) []string {
	lines := map[string]int{}
	for _, name := range f.sorted(".go") {
		if !strings.HasSuffix(name, "_test.go") {
			lines[path.Dir(name)] += strings.Count(f[name], "\n")
		}
	}
	var out []string
	for _, dir := range slices.Sorted(maps.Keys(lines)) {
		if n := lines[dir]; n > mostInPackage {
			out = append(out, fmt.Sprintf("%s has %d lines of code, more than %d: split it by what it is about", dir, n,
				mostInPackage))
		}
	}
	return out
}

// tooLong returns the files with more lines than they may have.
func tooLong(f files) []string {
	var out []string
	for _, name := range f.sorted(".go") {
		if n := strings.Count(f[name], "\n"); n > mostInFile {
			out = append(out, fmt.Sprintf("%s has %d lines, more than %d: split it by noun", name, n, mostInFile))
		}
	}
	return out
}

// wide reports whether a line of Go is wider than it may be. An address cannot be wrapped.
func wide(line string) bool {
	line = strings.ReplaceAll(line, "\t", "    ")
	width, text := utf8.RuneCountInString(line), strings.TrimSpace(line)
	if strings.HasPrefix(text, "// ") {
		return width > mostCommented && !strings.Contains(text, "://")
	}
	return width > mostColumns
}

// tooWide returns the folders with more wide lines than they may have: none, but for exceptions.
func tooWide(f files, exceptions map[string]int) []string {
	lines, first := map[string]int{}, map[string]string{}
	for _, name := range f.sorted(".go") {
		for i, line := range strings.Split(f[name], "\n") {
			if dir := path.Dir(name); wide(line) {
				if lines[dir]++; lines[dir] > exceptions[dir] && first[dir] == "" {
					first[dir] = fmt.Sprintf("%s:%d", name, i+1)
				}
			}
		}
	}
	var out []string
	for _, dir := range slices.Sorted(maps.Keys(lines)) {
		if n, most := lines[dir], exceptions[dir]; n > most {
			out = append(out, fmt.Sprintf("%s has %d lines of more than %d columns (comments: %d), and may have %d; "+
				"one is at %s: wrap it",
				dir, n, mostColumns, mostCommented, most, first[dir]))
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(exceptions)) {
		if lines[dir] == 0 {
			out = append(out, fmt.Sprintf("%s has no wide line any more: delete its exception", dir))
		}
	}
	return out
}

var (
	document = regexp.MustCompile(`\bdocs/([\w-]+\.md)(#[\w-]+)?`)
	link     = regexp.MustCompile(`\]\(([^)\s#]*)(#[^)\s]*)?\)`)
	// source is a file of the repository, and tested a test, as documents name them.
	source  = regexp.MustCompile("`([\\w.-]+/[\\w./-]+\\.(?:go|sh|c|h|lua|txt|yaml))`")
	tested  = regexp.MustCompile("`((?:Test|Benchmark|Fuzz)[A-Z]\\w*)[`/]")
	heading = regexp.MustCompile(`(?m)^#+ +(.*?) *$`)
	fenced  = regexp.MustCompile("(?s)```.*?```")
	unnamed = regexp.MustCompile(`[^\p{L}\p{N}_\s-]`)
)

// anchors returns the names by which a document's headings are linked to, as GitHub makes them.
func anchors(doc string) map[string]bool {
	all := map[string]bool{"": true}
	for _, m := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(doc, ""), -1) {
		all["#"+strings.ReplaceAll(unnamed.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
	}
	return all
}

// notThere returns what is cited and does not exist: documents, their headings, and, in documents,
// files and tests. there reports whether the repository has a file of that path.
func notThere(f files, there func(string) bool) []string {
	named := map[string]map[string]bool{}
	for _, name := range f.sorted(".md") {
		named[name] = anchors(f[name])
	}
	var code strings.Builder
	for _, name := range f.sorted("_test.go") {
		code.WriteString(f[name])
	}
	var out []string
	report := func(name, what, cited string) {
		out = append(out, fmt.Sprintf("%s: there is no %s %s", name, what, cited))
	}
	for _, name := range f.sorted("") {
		for _, m := range document.FindAllStringSubmatch(f[name], -1) {
			if doc := "docs/" + m[1]; named[doc] == nil {
				report(name, "document", doc)
			} else if !named[doc][m[2]] {
				report(name, "heading", m[0])
			}
		}
		if path.Ext(name) != ".md" {
			continue
		}
		for _, m := range link.FindAllStringSubmatch(f[name], -1) {
			target := path.Join(path.Dir(name), m[1])
			if m[1] == "" {
				target = name
			}
			switch {
			case strings.Contains(m[1], "://"):
			case !there(target):
				report(name, "file", target)
			case named[target] != nil && !named[target][m[2]]:
				report(name, "heading", target+m[2])
			}
		}
		for _, m := range source.FindAllStringSubmatch(f[name], -1) {
			if !there(m[1]) {
				report(name, "file", m[1])
			}
		}
		for _, m := range tested.FindAllStringSubmatch(f[name], -1) {
			if !strings.Contains(code.String(), "\nfunc "+m[1]+"(") {
				report(name, "test", m[1])
			}
		}
	}
	return out
}

// report fails the test by each of the problems.
func report(t *testing.T, problems []string) {
	t.Helper()
	for _, p := range problems {
		t.Error(p)
	}
}

func TestPackagesAreSmall(t *testing.T) {
	t.Parallel()
	report(t, tooLarge(repository(t)))
}

func TestFilesAreSmall(t *testing.T) {
	t.Parallel()
	report(t, tooLong(repository(t)))
}

// TestLinesAreNarrow: testdata/wide.txt has the folders that had wide lines when this rule was
// made, and how many. The numbers only go down.
func TestLinesAreNarrow(t *testing.T) {
	t.Parallel()
	list, err := os.ReadFile("testdata/wide.txt")
	require.NoError(t, err)
	exceptions := map[string]int{}
	for line := range strings.Lines(string(list)) {
		dir, n, ok := strings.Cut(strings.TrimSpace(line), " ")
		require.True(t, ok, line)
		exceptions[dir], err = strconv.Atoi(n)
		require.NoError(t, err)
	}
	report(t, tooWide(repository(t), exceptions))
}

func TestWhatIsCitedExists(t *testing.T) {
	t.Parallel()
	report(t, notThere(repository(t), func(name string) bool {
		_, err := os.Stat(path.Join("../..", name))
		return err == nil
	}))
}

// TestViolationsAreSeen breaks each rule once.
func TestViolationsAreSeen(t *testing.T) {
	t.Parallel()
	file := func(content string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(content)} }
	doc := "docs/" // no name follows here: this file is read, too
	tree := fstest.MapFS{
		"small/a.go":        file(strings.Repeat("\n", 599)),
		"large/a.go":        file(strings.Repeat("\n", 600)),
		"large/b.go":        file(strings.Repeat("\n", 601)),
		"large/c.go":        file(strings.Repeat("\n", 600)),
		"large/d.go":        file(strings.Repeat("\n", 600)),
		"large/e.go":        file(strings.Repeat("\n", 600)),
		"large/e_test.go":   file(strings.Repeat("\n", 600)),
		"tested/a_test.go":  file(strings.Repeat("\n", 600)),
		"tested/testdata/a": file("see " + doc + "recorded.md"),
		".cache/a.go":       file(strings.Repeat("\n", 5000)),
		"narrow/a.go": file(strings.Repeat("x", 120) + "\n\t// " + strings.Repeat("é", 93) + "\n// https://" +
			strings.Repeat("x", 200)),
		"wide/a.go": file(strings.Repeat("x", 121) + "\n\t" + strings.Repeat("x", 117) + "\n\t// " +
			strings.Repeat("é", 94) + "\n"),
		doc + "there.md": file("# A heading, `it` is\n```\n# no heading\n```\n[self](#a-heading-it-is) " +
			"[bad](#no-heading) [file](../wide/a.go) [none](none.md)\n"),
		doc + "of-code.md": file("`wide/a.go` `wide/b.go` `TestThere` `TestThere/case` `TestGone`"),
		"cites/a_test.go": file("// See " + doc + "there.md#a-heading-it-is and " + doc + "gone.md and " + doc +
			"there.md#gone.\nfunc TestThere("),
		"tools/script.sh":    file("# " + doc + "there.md"),
		"tools/another.json": file(doc + "not-read.md"),
	}
	all, err := read(tree)
	require.NoError(t, err)
	require.Equal(t, []string{"large has 3001 lines of code, more than 3000: split it by what it is about"},
		tooLarge(all))
	require.Equal(t, []string{"large/b.go has 601 lines, more than 600: split it by noun"}, tooLong(all))
	require.Equal(t, []string{"wide has 3 lines of more than 120 columns (comments: 100), and may have 2; one is at " +
		"wide/a.go:3: wrap it"},
		tooWide(all, map[string]int{"wide": 2}))
	require.Empty(t, tooWide(all, map[string]int{"wide": 3}))
	require.Equal(t, []string{"narrow has no wide line any more: delete its exception"},
		tooWide(all, map[string]int{"wide": 3, "narrow": 1}))
	require.Equal(t, []string{
		"cites/a_test.go: there is no document " + doc + "gone.md",
		"cites/a_test.go: there is no heading " + doc + "there.md#gone",
		doc + "of-code.md: there is no file wide/b.go",
		doc + "of-code.md: there is no test TestGone",
		doc + "there.md: there is no heading " + doc + "there.md#no-heading",
		doc + "there.md: there is no file " + doc + "none.md",
	}, notThere(all, func(name string) bool { return tree[name] != nil }))
}
