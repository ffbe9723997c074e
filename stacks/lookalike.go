package stacks

import (
	"fmt"
	"strings"
	"unicode"

	"golang.org/x/net/idna"
)

// lookalikes are letters of other scripts that most fonts draw like a Latin one: of
// Unicode's confusables (UTS #39) the lower-case ones that a host name can have.
var lookalikes = strings.NewReplacer(
	"а", "a", "е", "e", "о", "o", "р", "p", "с", "c", "у", "y", "х", "x", "і", "i", "ј", "j", "ѕ", "s", "ԁ", "d", "һ", "h", "ӏ", "l", "ԛ", "q", "ԝ", "w", "к", "k", "п", "n", "г", "r",
	"α", "a", "ο", "o", "ν", "v", "ρ", "p", "ι", "i", "κ", "k", "τ", "t", "υ", "u", "γ", "y", "χ", "x", "η", "n",
	"օ", "o", "ո", "n", "ս", "u", "ց", "g", "հ", "h", "յ", "j", "զ", "q",
	"ı", "i", "ɡ", "g", "ɩ", "i", "ɑ", "a", "ʏ", "y",
)

// Lookalike returns the host that an international host looks like but is not, or "". The host is
// canonical: its labels are ASCII.
func Lookalike(host string) string {
	if !strings.Contains(host, "xn--") {
		return ""
	}
	read, err := idna.Display.ToUnicode(strings.TrimPrefix(host, "*."))
	if err != nil {
		return ""
	}
	if plain := lookalikes.Replace(read); plain != read && isASCII(plain) {
		return fmt.Sprintf("host %s is %q, which looks like %s but is another host", host, read, plain)
	}
	for label := range strings.SplitSeq(read, ".") {
		if scripts := scriptsOf(label); len(scripts) > 1 && !together(scripts) {
			return fmt.Sprintf("host %s is %q, with letters of several scripts in one label: %s", host, read, strings.Join(scripts, " and "))
		}
	}
	return ""
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0
}

// scriptsOf returns the scripts of a label's letters, in their order.
func scriptsOf(label string) []string {
	var scripts []string
	seen := map[string]bool{}
	for _, r := range label {
		if !unicode.IsLetter(r) {
			continue
		}
		for name, table := range unicode.Scripts {
			if unicode.Is(table, r) && !seen[name] {
				seen[name] = true
				scripts = append(scripts, name)
			}
		}
	}
	return scripts
}

// together reports whether a language is written with these scripts: Japanese with
// three, and each of its neighbours with Han. All of them quote Latin letters.
func together(scripts []string) bool {
	for _, s := range scripts {
		switch s {
		case "Latin", "Han", "Hiragana", "Katakana", "Hangul", "Bopomofo":
		default:
			return false
		}
	}
	return true
}
