package target

import (
	"iter"
	"strings"
)

// Parameters returns the names of a query's parameters as they are written. It also splits at a
// semicolon, because some servers do.
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

// Parameter returns the name of a parameter as the server reads it that decodes most: in lower
// case, and decoded as often as possible. PHP ignores blanks before a name (its own server also a
// question mark), and everything from a zero byte or bracket on. Rack ignores brackets before a
// name. Some servers also trim after it. PHP reads dots and spaces in a name as underscores. Other
// servers do not distinguish these and hyphens.
func Parameter(raw string) string { return name(decode(raw)) }

// Called reports whether some server reads a parameter, as it is written in a query, under a name
// for which is reports true. is gets the name that [Parameter] returns, and PHP's name if a bracket
// is never closed: PHP then replaces the bracket by an underscore.
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

// name returns what a server makes of a decoded name.
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
	// maxDecoded is the highest number of times that a server, with everything before it, decodes.
	maxDecoded = 4
)

// Unescape decodes percent-encoding once, and leaves text that only looks like it.
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

// Escape percent-encodes everything except the unreserved characters (RFC 3986, section 2.3).
func Escape(s string) string {
	const digits = "0123456789ABCDEF"
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
