package yaml

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// sameAsLibrary holds quickYAML to the library: what it reads is what the library
// reads, with the same positions. It reports whether it was sure.
func sameAsLibrary(t require.TestingT, text string) bool {
	root := quickYAML([]byte(text))
	if root == nil {
		return false
	}
	p := &Problems{File: "x.yaml"}
	require.Equal(t, libraryYAML([]byte(text), p), root, "%s", text)
	require.NoError(t, p.Err(), "%s", text)
	return true
}

// TestQuickIsUsed makes sure that stack files as people and `postern allow` write
// them are read without the library.
func TestQuickIsUsed(t *testing.T) {
	for _, text := range []string{
		"version: 1\ntarget: local # here\n\n# a comment: yes\ndestinations:\n  d: {host: h.example.com, methods: [GET, POST], paths: [\"/v1/**\", '/a b']}\n" +
			"  block:\n    host: \"*.example.com\"\n    port: 8443\n    reason: the release of May\n    deny: true\nagents:\n  a: {allow: [d, block]}\n  b:\n    allow:\n    - d\n    - block\n" +
			"  c:\n    allow:\n      - d # why\n    presets: []\n  e: {}\n",
		"destinations:\n  d:\n    host: h.example.com\n    rules:\n      - name: one\n        paths: [/v1/*]\n      - {name: two}\ncredentials:\n  key: {secret: \"env://KEY\"}\n",
		"a:\n  secret: file:///run/key\n",
	} {
		require.True(t, sameAsLibrary(t, text), "%s", text)
	}
}

// TestQuickReadsOurFiles compares all stack files of the repository.
func TestQuickReadsOurFiles(t *testing.T) {
	sure := 0
	require.NoError(t, filepath.WalkDir("../..", func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != "../.." {
			return filepath.SkipDir
		}
		if err != nil || filepath.Ext(path) != ".yaml" {
			return err
		}
		data, err := os.ReadFile(path)
		if sameAsLibrary(t, string(data)) {
			sure++
		}
		return err
	}))
	require.NotZero(t, sure)
}

// TestQuickIsTheLibrary compares texts that are made of the pieces of YAML, most
// of which are no stack files.
func TestQuickIsTheLibrary(t *testing.T) {
	pieces := []string{
		"a: ", "b:", "c: d", "- ", "-", "  ", "    ", "\n", "\n", "\n  ", "\n    ", "{", "}", "[", "]", ", ", ",", ":", ": ", "# x", " # x", "\"", "'", "\"q\"", "'q'",
		"true", "null", "12", "0", "012", "1.5", "1e3", "~", "|", ">", "|\n", "&x", "*x", "!t", "? ", "---", "/v1/**", "h.example.com", "*.example.com", "two words",
		"x:y", "file:///k", "é", "\\", "@", "%", "no", "Infinity", ".inf", "2020-01-01", "{a: b}", "[a, b]", "[]", "{}", "a#b", "<<: ", "...",
	}
	rapid.Check(t, func(t *rapid.T) {
		sameAsLibrary(t, strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 24).Draw(t, "pieces"), ""))
	})
	// And of lines that mostly are.
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.SampledFrom([]string{
			"x", "12", "\"q\"", "'q: r'", "[a, b]", "[]", "{}", "{a: b, c: [d]}", "true", "two words", "x # why", "null", "|", "file:///k", "- x", "a: b", "", "  x", "x ", "é", "[a,b]", "{a: {b: c}}", "a, b", "a-b", "-a", "/p/*",
		})
		key := rapid.SampledFrom([]string{"a", "b", "c", "d-e", "\"q\"", "- a", "-", "- - a", "on", "1", "h.example.com"})
		var text strings.Builder
		for range rapid.IntRange(1, 12).Draw(t, "lines") {
			fmt.Fprintf(&text, "%s%s: %s\n", strings.Repeat(" ", rapid.SampledFrom([]int{0, 0, 2, 2, 4, 3}).Draw(t, "indent")), key.Draw(t, "key"), value.Draw(t, "value"))
			if rapid.IntRange(0, 3).Draw(t, "items") == 0 {
				fmt.Fprintf(&text, "%s- %s\n", strings.Repeat(" ", rapid.SampledFrom([]int{0, 2, 4, 6}).Draw(t, "indent")), value.Draw(t, "value"))
			}
		}
		sameAsLibrary(t, text.String())
	})
}

func FuzzQuick(f *testing.F) {
	f.Add("version: 1\nagents:\n  a: {allow: [d]}\n")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.ContainsAny(text, "\r") || strings.ContainsFunc(text, IsForbidden) || nesting([]byte(text)) > maxDepth {
			return // Parse refuses it before
		}
		sameAsLibrary(t, text)
	})
}
