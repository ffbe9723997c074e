// Package visible prints what nodes, control planes, agents, logs and resources say so that no
// terminal acts on it, and so that it makes no line of ours. It needs nothing else of Postern.
package visible

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
)

// Text returns s with everything that is not plain ASCII as an escape. Letters of other scripts
// look like ours, and some characters are invisible.
func Text(s string) string {
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

// Quote returns a path so that it is one word on one line, and nothing in it acts on a terminal: as
// it is if it is plain, or else as git quotes it.
func Quote(at string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
			strings.ContainsRune("._-+/@=,:%~#()[] ", r)
	}
	if strings.IndexFunc(at, func(r rune) bool { return !plain(r) }) < 0 && strings.TrimSpace(at) == at {
		return at
	}
	return strconv.QuoteToASCII(at)
}

// Lines returns s, an error or another text of several lines, with an escape for everything that is
// neither plain ASCII nor a newline or a tab: the text may quote what an agent wrote. Unlike
// Text, Lines leaves escapes that are in s as they are.
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
