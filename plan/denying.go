package plan

import (
	"fmt"
	"regexp"
	"strings"
)

// A rule that denies matches whatever some server could read as what it names:
// in doubt it denies. A rule that allows does the opposite. The expressions of
// this file are the one meaning of that, for [Plan.Decide] and for Envoy.
//
// Letters match in either case, and an escape also if its percent sign is
// escaped itself, any number of times: some servers decode what a proxy before
// them decoded already.

// escaped matches the escapes of bytes whose two hexadecimal digits match.
func escaped(digits string) string { return `%(?:25)*(?:` + digits + `)` }

var (
	// separator is what some server takes for a slash.
	separator = `(?:/|` + escaped(`2f|5c`) + `)`
	// parameter is what some server takes off the end of a segment. Where it
	// ends depends on whether a server looks for it before or after it decodes.
	parameter = `(?:(?:;|` + escaped(`3b`) + `)[^/]*)?`
	dot       = `(?:\.|` + escaped(`2e`) + `)`
	// blank are spaces and control characters, which some server trims.
	blank = `(?:\+|` + escaped(`[01][0-9a-f]|20|7f|85|a0`) + `)`
	// ending is what some server takes off the end of a name: Windows also dots.
	ending = `(?:` + dot + `|` + blank + `)*` + parameter
	// cut is what some server ends a path at: once decoded, a query, a fragment, a zero byte.
	cut = escaped(`3f|23|00`)
	// nothing are segments that some server leaves out.
	nothing = `(?:` + separator + ending + `)*`
	// anywhere are paths that lead who knows where: with a dot segment that Envoy
	// did not take for one, an escape that is none, or overlong UTF-8.
	anywhere = `.*(?:` + separator + dot + dot + ending + `(?:(?:` + separator + `|` + cut + `).*)?` +
		`|%[0-9a-f]?(?:[^0-9a-f].*)?` +
		`|` + escaped(`c[01]|e0`+escaped(`[89][0-9a-f]`)+`|f0`+escaped(`8[0-9a-f]`)) + `.*)`
)

// DeniedPath returns the expression that, matched against the whole of a
// normalised path without its query, means the pattern in a rule that denies: a
// wildcard matches any segment, a slash at the end makes no difference, and so
// "/admin/**" is "/admin" as well. For a pattern that [ParsePath] refuses it
// matches everything.
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
		for name := range strings.SplitSeq(unescape(s), "/") {
			if name != "" {
				b.WriteString(nothing + separator + spellings(name) + ending)
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

// DeniedQuery returns the expression that matches the whole of a query, without
// its question mark, in which some server finds the parameter that a rule denies.
// It may come several times, after an ampersand or a semicolon, with blanks around
// its name and value, or be one of a list (name[]).
func DeniedQuery(c Condition) string {
	// PHP cannot say these in a variable's name.
	name := strings.ReplaceAll(spellings(c.Name), spelling('_'), `(?:[_.+[]|`+escaped(`5f|2e|20|2b|5b`)+`)`)
	name = blank + `*` + name + `(?:[._]|` + blank + `|` + escaped(`2e|5f`) + `)*(?:(?:\[|` + escaped(`5b|00`) + `)[^&;=]*)?`
	value := `=` + blank + `*` + spellings(c.Value) + blank + `*(?:` + escaped(`00`) + `[^&;]*)?`
	switch {
	case c.Present:
		value = `(?:=.*)?`
	case c.Value == "":
		value = `(?:=` + blank + `*)?`
	}
	return `(?i)(?:.*[&;])?` + name + value + `(?:[&;].*)?`
}

// DeniedHeader returns the expression that matches a value of a header in which
// some server finds the value that a rule denies: alone, in a list, quoted, or with
// parameters.
func DeniedHeader(c Condition) string {
	if c.Present {
		return `.*`
	}
	return `(?i)(?:.*[,;"\s])?` + regexp.QuoteMeta(c.Value) + `(?:[,;"\s].*)?`
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

// denied reports whether one of the expressions above matches the whole of a
// text. An expression that does not compile denies.
func denied(expression, text string) bool {
	// Envoy's engine takes every byte for a character, whatever it is.
	bytes := make([]rune, len(text))
	for i := range len(text) {
		bytes[i] = rune(text[i])
	}
	re, err := regexp.Compile(`^(?:` + expression + `)$`)
	return err != nil || re.MatchString(string(bytes))
}
