package workspace

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/postern/postern/visible"
)

// matches reports whether the path, or a folder that it is in, matches the pattern at any depth.
func matches(pattern, at string) bool {
	folder := strings.HasSuffix(pattern, "/")
	pattern = strings.TrimSuffix(pattern, "/")
	depth := strings.Count(pattern, "/") + 1
	names := strings.Split(at, "/")
	for i := 0; i+depth <= len(names); i++ {
		if !folder && i+depth != len(names) {
			continue
		}
		if ok, err := path.Match(pattern, strings.Join(names[i:i+depth], "/")); err == nil && ok {
			return true
		}
	}
	return false
}

// shown returns a line of a file without what acts on a terminal or hides in it.
func shown(line string) string {
	harmless := func(r rune) bool { return r == '\t' || !visible.Hides(r) }
	if strings.IndexFunc(line, func(r rune) bool { return !harmless(r) }) < 0 {
		return line
	}
	var b strings.Builder
	for i, r := range line {
		if harmless(r) {
			b.WriteRune(r)
			continue
		}
		if _, size := utf8.DecodeRuneInString(line[i:]); size == 1 && r == utf8.RuneError {
			fmt.Fprintf(&b, `\x%02x`, line[i])
			continue
		}
		quoted := strconv.QuoteRuneToASCII(r)
		b.WriteString(quoted[1 : len(quoted)-1])
	}
	return b.String()
}
