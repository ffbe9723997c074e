package target

import (
	"iter"
	"strings"
)

// Parameters returns the names of a query's parameters as they are written. Some
// servers take a semicolon for an ampersand.
func Parameters(query string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for query != "" {
			piece, rest := query, ""
			if i := strings.IndexAny(query, "&;"); i >= 0 {
				piece, rest = query[:i], query[i+1:]
			}
			raw, _, _ := strings.Cut(piece, "=")
			if piece != "" && !yield(raw) {
				return
			}
			query = rest
		}
	}
}

// Parameter is how a parameter, as it is written in a query, is called for whoever
// decodes most: in lower case, and decoded as often as it can be. PHP reads a name
// without the blanks (and its own server without the question mark) before it and up to a
// zero byte or bracket, Rack without brackets before it; some servers trim what follows it, too. In between PHP takes dots and
// spaces for underscores; to others these and hyphens are one.
func Parameter(raw string) string { return name(decode(raw)) }

// Called reports whether some server calls a parameter, as it is written in a query, by a
// name for which is holds: the one of [Parameter], or the one of PHP if there is a bracket
// that nothing closes, an underscore then.
func Called(raw string, is func(name string) bool) bool {
	decoded := decode(raw)
	return is(name(decoded)) || strings.Contains(decoded, "[") && is(name(strings.ReplaceAll(decoded, "[", "_")))
}

// decode decodes a name as often as it can be.
func decode(raw string) string {
	s := strings.ReplaceAll(raw, "+", " ")
	for range maxDecoded {
		if !strings.Contains(s, "%") {
			break
		}
		s = Unescape(s)
	}
	return s
}

// name is what a decoded name comes to.
func name(s string) string {
	s = strings.TrimLeft(s, white+"[]?")
	if end := strings.IndexAny(s, "\x00[]"); end >= 0 {
		s = s[:end]
	}
	s = strings.TrimRight(s, white+"._")
	return strings.Map(func(c rune) rune {
		switch {
		case 'A' <= c && c <= 'Z':
			return c + 'a' - 'A'
		case strings.ContainsRune(white+".-", c):
			return '_'
		}
		return c
	}, s)
}

const (
	white = " \t\n\v\f\r"
	// maxDecoded is how often a server, with all that is before it, decodes at most.
	maxDecoded = 4
)

// Unescape decodes once what is percent-encoded, and leaves what only looks like it.
func Unescape(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			high, low := digit(s[i+1]), digit(s[i+2])
			if high >= 0 && low >= 0 {
				out = append(out, byte(high<<4|low))
				i += 2
				continue
			}
		}
		out = append(out, s[i])
	}
	return string(out)
}

// digit is the value of a hexadecimal digit, or -1.
func digit(c byte) int {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return strings.IndexByte("0123456789abcdef", c)
}

// Escape percent-encodes all but the unreserved characters (RFC 3986, section 2.3).
func Escape(s string) string { return Percent(s, "0123456789ABCDEF") }

// Percent is [Escape] with digits of one's own.
func Percent(s, digits string) string {
	var out strings.Builder
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~", c) >= 0:
			out.WriteByte(c)
		default:
			out.WriteByte('%')
			out.WriteByte(digits[c>>4])
			out.WriteByte(digits[c&15])
		}
	}
	return out.String()
}
