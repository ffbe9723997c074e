// Package target knows how servers read the target of a request, and in which other places some
// servers let a request name its target. A rule that allows matches only what all of them read
// alike. tests/decoders compares the package with the answers of real servers.
//
// It imports only the standard library, keeps no state, and several goroutines may use it at once.
package target

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Check is what a rule that allows requires of a request in addition to matching. The zero value
// requires most.
type Check struct {
	// AnyPath also accepts paths that servers read in different ways.
	AnyPath bool
	// Open accepts everything that [Check] refuses: nothing at the destination depends on the
	// method, the path, or a condition.
	Open bool
	// Query names the parameters, and Headers the headers (in lower case), on which the rule has
	// conditions.
	Query, Headers []string
}

// Target reports whether some server could read the path, in normal form, and the query as
// something other than what the rule has matched.
func (c *Check) Target(path, query string) bool {
	if c.Open {
		return false
	}
	if (!c.AnyPath || len(c.Query) > 0) && Ambiguous(path) {
		return true
	}
	if query == "" {
		return false
	}
	if len(c.Query) > 0 && strings.Count(query, "&") >= maxParameters || hasCodePoint(query) {
		return true
	}
	for raw := range Parameters(query) {
		// Most have none of these.
		if (strings.ContainsAny(raw, "_-.+%$[") || slices.Contains(overridingWords, strings.ToLower(raw))) && Called(raw, c.overrides) {
			return true
		}
	}
	for _, wanted := range c.Query {
		times, wanted := 0, Parameter(Escape(wanted))
		for raw := range Parameters(query) {
			if Called(raw, func(name string) bool { return name == wanted }) {
				times++
			}
		}
		if times > 1 {
			return true
		}
	}
	return false
}

// hasCodePoint reports whether a query has an escape such as %u0064, of ECMAScript's escape().
// ASP.NET on the .NET Framework decodes these, others do not.
func hasCodePoint(query string) bool {
	for rest, found := query, true; found; {
		if _, rest, found = strings.Cut(rest, "%"); !found || len(rest) < 5 || rest[0]|0x20 != 'u' {
			continue
		}
		if !strings.ContainsFunc(rest[1:5], func(c rune) bool { return c > 0x7f || digit(byte(c)) < 0 }) {
			return true
		}
	}
	return false
}

// overrides reports whether a parameter names a method or path, and the rule does not
// name it.
func (c *Check) overrides(name string) bool {
	return slices.Contains(overridingParameters, name) && !slices.ContainsFunc(c.Query, func(q string) bool { return Parameter(Escape(q)) == name })
}

// Header reports whether a header, named in lower case, could make some server read the request as
// something other than what the rule has matched.
func (c *Check) Header(name string) bool {
	return !c.Open && Overrides(name) && !slices.Contains(c.Headers, name)
}

// maxParameters bounds the parameters next to a condition's. Servers stop reading at some number:
// Express and PHP at 1,000.
const maxParameters = 100

// Ambiguous reports whether servers read a path in normal form in different ways, for a reason that
// wildcards do not already exclude. Wildcards exclude %2F, %5C, ";" and malformed escapes. A
// pattern may contain a literal %2F.
func Ambiguous(path string) bool {
	// Nothing else begins a segment that matters, and most paths have none of it.
	if !strings.Contains(path, "%") && !strings.Contains(path, "/.") && !strings.Contains(path, "/(") && !strings.Contains(path, "/:") && !strings.Contains(path, "/+") {
		return false
	}
	for segment := range strings.SplitSeq(path, "/") {
		if strings.Contains(segment, "%") {
			decoded := Unescape(segment)
			if hostile(decoded) {
				return true
			}
			segment = decoded
		}
		if segment != "" && (vanishes(segment) || session(segment)) {
			return true
		}
	}
	return false
}

// hostile reports whether a decoded segment has what some server does not take for a
// part of a name.
func hostile(decoded string) bool {
	if !utf8.ValidString(decoded) {
		return true // overlong forms; some servers drop, replace or misread such bytes
	}
	for i, c := range decoded {
		switch {
		case c < ' ', c == 0x7f:
			return true
		case c == '?', c == '#':
			return true // whoever decodes before it splits ends the path here
		case c == '%':
			// Whoever decodes twice finds an escape.
			if rest := decoded[i+1:]; rest != "" && (rest[0] == 'u' || rest[0] == 'U' || len(rest) > 1 && digit(rest[0]) >= 0 && digit(rest[1]) >= 0) {
				return true
			}
		case unicode.Is(Lookalikes, c):
			return true
		}
	}
	return false
}

// vanishes reports whether some server takes a decoded segment for a dot segment, or
// for none at all: Windows drops dots and blanks at the end of a name, and the
// streams of NTFS after it.
func vanishes(segment string) bool {
	if i := strings.IndexByte(segment, ':'); i >= 0 && strings.Contains(segment[i:], "$") {
		segment = segment[:i]
	}
	dots, plus := false, false
	for _, c := range segment {
		switch {
		case c == '.':
			dots = true
		case c == '+':
			plus = true
		case c != ' ' && !unicode.Is(Ignored, c):
			return false
		}
	}
	return dots || !plus // "/+/" alone is common, and nobody's blank
}

// session reports whether ASP.NET takes a decoded segment for a session's ID,
// "(S(...))", and leaves it out, with the slash before it.
func session(segment string) bool {
	return len(segment) > 2 && segment[0] == '(' && segment[2] == '(' && unicode.IsLetter(rune(segment[1]))
}

// Lookalikes are code points that some server reads as one of . / \ % ; ? #. Compatibility
// normalisation (NFKC) maps them to one of these, or a code page of Windows does ("best fit").
var Lookalikes = table(
	0xa5, 0xa5, 0x37e, 0x37e, 0x66a, 0x66a, 0x2024, 0x2026, 0x2044, 0x2044, 0x2047, 0x2049, 0x20a9, 0x20a9, 0x20e5, 0x20e5,
	0x2100, 0x2101, 0x2105, 0x2106, 0x2215, 0x2216, 0x29f5, 0x29f5, 0x29f8, 0x29f9, 0xfe14, 0xfe14, 0xfe16, 0xfe16, 0xfe19, 0xfe19, 0xfe30, 0xfe30,
	0xfe52, 0xfe52, 0xfe54, 0xfe54, 0xfe56, 0xfe56, 0xfe5f, 0xfe5f, 0xfe68, 0xfe68, 0xfe6a, 0xfe6a,
	0xff03, 0xff03, 0xff05, 0xff05, 0xff0e, 0xff0f, 0xff1b, 0xff1b, 0xff1f, 0xff1f, 0xff3c, 0xff3c,
)

// Ignored are code points that some server or file system trims or leaves out: blanks, and
// invisible characters.
var Ignored = table(
	0x80, 0xa0, 0xad, 0xad, 0x34f, 0x34f, 0x61c, 0x61c, 0x1680, 0x1680, 0x180b, 0x180f, 0x2000, 0x200f, 0x2028, 0x202f, 0x205f, 0x206f,
	0x3000, 0x3000, 0xfe00, 0xfe0f, 0xfeff, 0xfeff, 0xfff9, 0xfffb, 0xe0000, 0xe007f, 0xe0100, 0xe01ef,
)

// table makes a table of ranges, each a first and a last code point.
func table(ends ...rune) *unicode.RangeTable {
	t := &unicode.RangeTable{}
	for i := 0; i < len(ends); i += 2 {
		if lo, hi := ends[i], ends[i+1]; hi < 1<<16 {
			t.R16 = append(t.R16, unicode.Range16{Lo: uint16(lo), Hi: uint16(hi), Stride: 1})
		} else {
			t.R32 = append(t.R32, unicode.Range32{Lo: uint32(lo), Hi: uint32(hi), Stride: 1})
		}
	}
	return t
}
