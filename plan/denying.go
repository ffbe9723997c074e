package plan

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/postern/postern/target"
)

// A rule that denies matches whatever some server could read as what it names: in doubt it denies.
// A rule that allows does the opposite. The expressions of this file define that, for [Plan.Decide]
// and for Envoy.
//
// Letters match in either case. An escape also matches if its percent sign is itself escaped, any
// number of times: some servers decode again what a proxy has decoded.

// escaped matches the escapes of bytes whose two hexadecimal digits match.
func escaped(digits string) string { return `%(?:25)*(?:` + digits + `)` }

var (
	// separator matches everything that some server reads as a slash.
	separator = `(?:/|` + escaped(`2f|5c`) + `)`
	// parameter matches everything that some server takes off the end of a segment. Its end depends
	// on whether a server looks for it before or after decoding. The second kind are NTFS streams,
	// such as "::$DATA".
	parameter = `(?:(?:;|` + escaped(`3b`) + `)[^/]*|(?::|` + escaped(`3a`) + `)[^/]*(?:\$|` + escaped(`24`) + `)[^/]*)?`
	dot       = `(?:\.|` + escaped(`2e`) + `)`
	// blank are spaces and control characters, which some server trims.
	blank = `(?:\+|` + escaped(`[01][0-9a-f]|20|7f|85|a0`) + `)`
	// ending matches everything that some server takes off the end of a name. Windows also takes
	// off dots.
	ending = `(?:` + dot + `|` + blank + `)*` + parameter
	// cut matches everything at which some server ends a path after decoding: a query, a fragment,
	// a zero byte.
	cut = escaped(`3f|23|00`)
	// nothing are segments that some server leaves out.
	nothing = `(?:` + separator + ending + `)*`
	// elsewhere matches bytes that some server reads as others, or drops: control characters, bytes
	// that are not UTF-8, and the blocks of Unicode that have code points of [target.Lookalikes]
	// and [target.Ignored]. The other characters of these blocks are denied as well.
	elsewhere = `.*` + escaped(`[01][0-9a-f]|7f|c[01]|f[5-9a-f]|e0`+escaped(`[89][0-9a-f]`)+`|f0`+escaped(`8[0-9a-f]`)+`|c2`+escaped(`[89a][0-9a-f]`)+`|cd`+escaped(`8f|be`)+`|d8`+escaped(`9c`)+
		`|d9`+escaped(`aa`)+`|e1`+escaped(`9a`)+escaped(`80`)+`|e1`+escaped(`a0`)+escaped(`8[0-9a-f]`)+`|e2`+escaped(`8[0-58]|a7`)+`|e3`+escaped(`80`)+escaped(`80`)+`|ef`+escaped(`b[89bcdf]`)+
		`|f3`+escaped(`a0`)) + `.*|(?:[^%]|%[0-7].)*` + escaped(`[89ab][0-9a-f]`) + `.*|.*(?:` + escaped(`[c-f][0-9a-f]`) + `|` + escaped(`[ef][0-9a-f]`) + escaped(`[89ab][0-9a-f]`) + `|` + escaped(`f[0-9a-f]`) + escaped(`[89ab][0-9a-f]`) + escaped(`[89ab][0-9a-f]`) + `)(?:[^%].*|%(?:[^28-9ab]|2[^5]).*)?`
	// session is a segment that ASP.NET takes for the ID of a session.
	session = `.*` + separator + `(?:\(|` + escaped(`28`) + `)` + `(?:[a-z]|` + escaped(`[46][0-9a-f]|[57][0-9a]`) + `)(?:\(|` + escaped(`28`) + `).*`
	// anywhere matches paths that may lead anywhere: with a dot segment that Envoy did not take for
	// one, a malformed escape, or one of the above.
	anywhere = `.*(?:` + separator + dot + dot + ending + `(?:(?:` + separator + `|` + cut + `).*)?` +
		`|%[0-9a-f]?(?:[^0-9a-f].*)?)|` + elsewhere + `|` + session
)

// DeniedPath returns the regular expression for a pattern in a rule that denies. Match the
// expression against the whole of a normalised path without its query. A wildcard matches any
// segment. A slash at the end makes no difference, so "/admin/**" also matches "/admin". If
// [ParsePath] refuses the pattern, the expression matches everything.
func DeniedPath(pattern string) string {
	p, err := ParsePath(pattern)
	if err != nil || p.any {
		return `/.*`
	}
	var b strings.Builder
	b.WriteString(`(?i)(?:`)
	for _, s := range p.segments {
		if s == "*" {
			b.WriteString(nothing + separator + `[^/]+`)
			continue
		}
		// An escaped slash is one here as well.
		for name := range strings.SplitSeq(target.Unescape(s), "/") {
			if name != "" {
				b.WriteString(nothing + separator + `(?:` + spellings(name) + short(name) + `)` + ending)
			}
		}
	}
	if p.rest {
		b.WriteString(`(?:(?:` + separator + `|` + cut + `).*)?`)
	} else {
		b.WriteString(nothing + `(?:` + cut + `.*)?`)
	}
	b.WriteString(`|` + anywhere + `)`)
	return b.String()
}

// DeniedQuery returns the regular expression for a query condition in a rule that denies. Match the
// expression against the whole of a query without its question mark: it matches if some server
// finds the parameter. The parameter may come several times, after an ampersand or a semicolon,
// with blanks around its name and value, or in a list (name[]).
func DeniedQuery(c Condition) string {
	// PHP cannot say these in a variable's name.
	name := strings.ReplaceAll(spellings(c.Name), spelling('_'), `(?:[_.+[]|`+escaped(`5f|2e|20|2b|5b|0[9a-d]`)+`)`)
	name = `(?:` + blank + `|[?\[\]]|` + escaped(`3f|5b|5d`) + `)*` + name + `(?:[._]|` + blank + `|` + escaped(`2e|5f`) + `)*(?:(?:[\[\]]|` + escaped(`5b|5d|00`) + `)[^&;=]*)?`
	value := `=` + blank + `*` + spellings(c.Value) + blank + `*(?:` + escaped(`00`) + `[^&;]*)?`
	switch {
	case c.Present:
		value = `(?:=.*)?`
	case c.Value == "":
		value = `(?:=` + blank + `*)?`
	}
	return `(?i)(?:.*[&;])?` + name + value + `(?:[&;].*)?`
}

// DeniedHeader returns the regular expression for a header condition in a rule that denies. It
// matches a header's value in which some server finds the denied value: alone, in a list, quoted,
// or with parameters.
func DeniedHeader(c Condition) string {
	if c.Present {
		return `.*`
	}
	var value strings.Builder
	for _, b := range []byte(c.Value) {
		fmt.Fprintf(&value, `\\?\x%02x`, b) // RFC 9110: a backslash may quote any
	}
	return `(?i)(?:.*[,;"\s])?` + value.String() + `(?:[,;"\s].*)?`
}

// short matches the short names (8.3) that Windows mostly gives to a longer one.
func short(name string) string {
	base, _, dotted := strings.Cut(name, ".")
	if len(name) <= 8 && !dotted || strings.ContainsFunc(base, func(c rune) bool { return c >= 0x80 }) {
		return ""
	}
	return `|` + spellings(base[:min(len(base), 6)]) + `(?:~|` + escaped(`7e`) + `)[0-9](?:` + dot + `[^/]{0,3})?`
}

// AllowedQuery returns the regular expression for a query condition in a rule that allows. Match
// the expression against the whole of a query without its question mark: it matches if every server
// finds the parameter with its value. Only reserved characters may be escaped.
func AllowedQuery(c Condition) string {
	value := `=` + plainly(c.Value)
	switch {
	case c.Present:
		value = `(?:=[^&]*)?`
	case c.Value == "":
		value = `=?`
	}
	return `(?:.*&)?` + plainly(c.Name) + value + `(?:&.*)?`
}

// plainly matches s as clients write it in a query, and servers agree on.
func plainly(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		switch {
		case isUnreserved(c):
			b.WriteString(regexp.QuoteMeta(string(rune(c))))
		case strings.IndexByte("/:@,!$'()*?[]", c) >= 0:
			fmt.Fprintf(&b, "(?:%s|(?i:%%%02x))", regexp.QuoteMeta(string(rune(c))), c)
		default:
			fmt.Fprintf(&b, "(?i:%%%02x)", c)
		}
	}
	return b.String()
}

// spellings matches s in every way in which it can be written in a URL.
func spellings(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		b.WriteString(spelling(c))
	}
	return b.String()
}

func spelling(c byte) string {
	digits := fmt.Sprintf("%02x", c)
	if l := c | 0x20; isLower(l) {
		digits = fmt.Sprintf("%02x|%02x", l, l&^0x20)
	}
	switch {
	case c >= 0x80:
		return escaped(digits)
	case c == ' ':
		return `(?:[ +]|` + escaped(digits) + `)`
	}
	return `(?:` + regexp.QuoteMeta(string(rune(c))) + `|` + escaped(digits) + `)`
}

// denied reports whether an expression of a rule that denies matches the whole of a
// text. An expression that does not compile denies.
func denied(expression, text string) bool {
	matched, err := matches(expression, text)
	return matched || err != nil
}

// matches reports whether one of the expressions above matches the whole of a text.
func matches(expression, text string) (bool, error) {
	// Envoy's engine takes every byte for a character, whatever it is.
	bytes := make([]rune, len(text))
	for i := range len(text) {
		bytes[i] = rune(text[i])
	}
	re, err := regexp.Compile(`^(?:` + expression + `)$`)
	if err != nil {
		return false, fmt.Errorf("compile an expression of a rule: %w", err)
	}
	return re.MatchString(string(bytes)), nil
}
