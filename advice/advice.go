// Package advice makes the command lines that messages tell people to run. Each works when it is
// pasted, whatever the current folder is.
package advice

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf16"

	"github.com/postern/postern/hostpath"
)

// program is the name of the operator's program.
const program = "postern"

// Postern returns the word by which a shell starts the postern next to this program: "postern" if
// PATH leads to it, and its path otherwise.
var Postern = sync.OnceValue(func() string {
	self, err := os.Executable()
	if err != nil {
		return program
	}
	return word(filepath.Dir(self), os.Getenv("PATH"))
})

// word is Postern for a program in dir and a PATH.
func word(dir, path string) string {
	own := filepath.Join(dir, program)
	info, err := os.Stat(own)
	if err != nil {
		return program
	}
	same := func(path string) bool {
		other, err := os.Stat(path)
		return err == nil && os.SameFile(info, other)
	}
	for _, folder := range filepath.SplitList(path) {
		found := filepath.Join(folder, program)
		switch other, err := os.Stat(found); {
		case !filepath.IsAbs(folder): // whoever writes in the current folder decides
		case err != nil || !other.Mode().IsRegular() || other.Mode()&0o111 == 0:
			continue
		case same(found):
			return program
		}
		break // a shell would start another one
	}
	// `make install` puts a link into bin, for PATH.
	if link := filepath.Join(dir, "..", "..", "bin", program); same(link) {
		return Path(link)
	}
	return Path(own)
}

// Command returns the command line of postern with these arguments.
func Command(args ...string) string {
	words := []string{Postern()}
	for _, a := range args {
		words = append(words, hostpath.Quote(a))
	}
	return strings.Join(words, " ")
}

// About returns [Command] with the flag that names the stack file. The path is absolute.
func About(file string, args ...string) string {
	return Command(args...) + " --file " + Path(file)
}

// Path returns the absolute path as one word of a shell. It begins with ~ below the user's home.
func Path(path string) string {
	path = filepath.Clean(path)
	home, err := os.UserHomeDir()
	if err != nil || !filepath.IsAbs(home) || filepath.Clean(home) == "/" {
		return hostpath.Quote(path)
	}
	if rest, below := strings.CutPrefix(path, filepath.Clean(home)+"/"); below {
		return "~/" + hostpath.Quote(rest)
	}
	return hostpath.Quote(path)
}

// Visible returns s with everything that is not plain ASCII as an escape. Letters of other scripts
// look like ours, and some characters are invisible.
func Visible(s string) string {
	if strings.IndexFunc(s, func(c rune) bool { return c < ' ' || c > '~' }) < 0 {
		return s
	}
	quoted := strconv.QuoteToASCII(s)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

// blank are the characters that a font shows as nothing, besides those that Unicode says to ignore.
const blank = "\u2800\ufffc\U0001107f\U00016fe4\U0001d159"

// Hides reports whether a terminal acts on the character, or whether nobody sees it. What is not
// valid UTF-8 is U+FFFD, which hides, too.
func Hides(r rune) bool {
	return !strconv.IsPrint(r) || r == '\uFFFD' || strings.ContainsRune(blank, r) ||
		unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// Lines returns s, an error or another text of several lines, with an escape for everything that is
// neither plain ASCII nor a newline or a tab: the text may quote what an agent wrote. Unlike
// Visible, Lines leaves escapes that are in s as they are.
func Lines(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r == '\n' || r == '\t' || r >= ' ' && r <= '~' {
			b.WriteRune(r)
			continue
		}
		quoted := strconv.QuoteRuneToASCII(r)
		b.WriteString(quoted[1 : len(quoted)-1])
	}
	return b.String()
}

// JSON returns the JSON text with an escape for everything that is not ASCII, so that a terminal
// acts on none of it: some treat U+009B as the escape character, and other characters reorder text.
func JSON(text string) string {
	var b strings.Builder
	for _, r := range text {
		if r < 0x7f {
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.AppendRune(nil, r) {
			fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	return b.String()
}
