package tests

import (
	"bytes"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/stacks"
	"github.com/postern/postern/tests/fleet"
)

// TestEveryPackageHasItsDocInOneFile: a newcomer finds what a package is for in
// one place, and two descriptions cannot contradict each other.
func TestEveryPackageHasItsDocInOneFile(t *testing.T) {
	t.Parallel()
	all, err := packages()
	require.NoError(t, err)
	for _, p := range all {
		files := p.GoFiles
		if len(files) == 0 { // a package of tests only
			files = slices.Concat(p.TestGoFiles, p.XTestGoFiles)
		}
		var with []string
		for _, name := range files {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
			require.NoError(t, err)
			if f.Doc == nil {
				continue
			}
			with = append(with, name)
			if text := f.Doc.Text(); p.Name != "main" && !strings.HasPrefix(text, "Package "+p.Name+" ") {
				t.Errorf("%s/%s: the package's doc does not begin with %q", p.short(), name, "Package "+p.Name)
			}
		}
		switch len(with) {
		case 1:
		case 0:
			t.Errorf("%s: no file has the package's doc", p.short())
		default:
			t.Errorf("%s: the package's doc is in %s, it belongs in one", p.short(), strings.Join(with, ", "))
		}
	}
}

// walk calls visit for every file of the repository that is not built or cached.
func walk(t *testing.T, visit func(path string)) {
	t.Helper()
	require.NoError(t, filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if rel, _ := filepath.Rel("..", path); rel == "bin" || strings.HasPrefix(rel, ".") && rel != "." {
				return fs.SkipDir
			}
			return nil
		}
		if d.Type().IsRegular() {
			visit(path)
		}
		return nil
	}))
}

// documents are the files that people read, by path.
func documents(t *testing.T) map[string]string {
	t.Helper()
	docs := map[string]string{}
	walk(t, func(path string) {
		if filepath.Ext(path) == ".md" {
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			docs[path] = string(b)
		}
	})
	require.Contains(t, docs, filepath.Join("..", "README.md"))
	return docs
}

var (
	fenced   = regexp.MustCompile("(?s)```[^\n]*\n(.*?)```")
	indented = regexp.MustCompile(`(?m)^    .*$`)
	inline   = regexp.MustCompile("`([^`\n]+)`")
)

// commands returns the lines of a document that are code.
func commands(doc string) []string {
	var code []string
	for _, m := range fenced.FindAllStringSubmatch(doc, -1) {
		code = append(code, strings.Split(m[1], "\n")...)
	}
	doc = fenced.ReplaceAllString(doc, "")
	code = append(code, indented.FindAllString(doc, -1)...)
	for _, m := range inline.FindAllStringSubmatch(doc, -1) {
		code = append(code, m[1])
	}
	return code
}

// eachCommand calls check with what pattern captures, for every place in the
// documents where a command is shown.
func eachCommand(t *testing.T, pattern *regexp.Regexp, check func(path string, m []string)) {
	t.Helper()
	found := false
	for path, doc := range documents(t) {
		for _, line := range commands(doc) {
			for _, m := range pattern.FindAllStringSubmatch(line, -1) {
				found = true
				check(path, m)
			}
		}
	}
	require.True(t, found, "no document shows a command like %s", pattern)
}

func TestDocumentedMakeTargetsExist(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../Makefile")
	require.NoError(t, err)
	eachCommand(t, regexp.MustCompile(`(?:^\s*|[;&(]\s*)make ([a-z]+)\b`), func(path string, m []string) {
		target := regexp.MustCompile(`(?m)^` + m[1] + `:.*## \S`)
		if !target.Match(b) {
			t.Errorf("%s shows `make %s`: the Makefile has no such target with an explanation", path, m[1])
		}
	})
}

func TestDocumentedSubcommandsAndFlagsExist(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fleet.Put(t, dir, "postern", "posternd")

	help := map[string]string{}
	flag := regexp.MustCompile(`(?:^|\s)(--[a-z][a-z-]*)`)
	// What follows " -- " belongs to the agent's command.
	shown := regexp.MustCompile(`(?:^|[\s(/])(postern|posternd) ([a-z]+)((?: [^|#;&]*)?)`)
	eachCommand(t, shown, func(path string, m []string) {
		name := m[1] + " " + m[2]
		ask := func() {
			if _, ok := help[name]; ok {
				return
			}
			words := append(strings.Fields(name)[1:], "--help")
			b, err := exec.CommandContext(t.Context(), filepath.Join(dir, m[1]), words...).CombinedOutput()
			if err != nil {
				t.Errorf("%s shows `%s`: %s", path, name, b)
			}
			help[name] = string(b)
		}
		ask()
		if words := strings.Fields(m[3]); len(words) > 0 && strings.Contains(help[name], "\n  "+words[0]+" ") {
			name += " " + words[0] // a command of a command
			ask()
		}
		args, _, _ := strings.Cut(m[3]+" ", " -- ")
		for _, f := range flag.FindAllStringSubmatch(args, -1) {
			if !regexp.MustCompile(regexp.QuoteMeta(f[1]) + `\b`).MatchString(help[name]) {
				t.Errorf("%s shows `%s %s`: it has no such flag", path, name, f[1])
			}
		}
	})
}

// TestOneWayToShowCommands: a page shows what a user of an installed Postern types: see
// docs/everyday.md.
func TestOneWayToShowCommands(t *testing.T) {
	t.Parallel()
	other := regexp.MustCompile(`bin/postern [a-z]|go run \. [a-z]|postern [a-z][^|]* --agent demo\b`)
	for path, doc := range documents(t) {
		for _, line := range commands(doc) {
			if bad := other.FindString(line); bad != "" && filepath.Base(path) != "architecture.md" &&
				!strings.Contains(doc, "In the source tree, `"+line+"`") {
				t.Errorf("%s shows `%s`", path, bad)
			}
		}
	}
}

func TestDocumentedOperationsExist(t *testing.T) {
	t.Parallel()
	sources, err := filepath.Glob("../cmd/postern-stack/*.go")
	require.NoError(t, err)
	var program []byte
	for _, source := range sources {
		b, err := os.ReadFile(source)
		require.NoError(t, err)
		program = append(program, b...)
	}
	eachCommand(t, regexp.MustCompile(`go run \. ([a-z]+)`), func(path string, m []string) {
		if !bytes.Contains(program, []byte(`"`+m[1]+`"`)) {
			t.Errorf("%s shows `go run . %s`: the program knows no such operation", path, m[1])
		}
	})
}

func TestDocumentedStackFilesLoad(t *testing.T) {
	t.Parallel()
	sample := regexp.MustCompile("(?s)```yaml\n(version:.*?)```")
	found := 0
	for path, doc := range documents(t) {
		for _, m := range sample.FindAllStringSubmatch(doc, -1) {
			found++
			file := filepath.Join(t.TempDir(), "sample.yaml")
			require.NoError(t, os.WriteFile(file, []byte(m[1]), 0o600))
			_, err := stacks.Load(file)
			require.NoError(t, err, path)
		}
	}
	require.Positive(t, found)
}
