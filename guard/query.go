package guard

import (
	"iter"
	"strings"
)

// stripQuery takes the agent's own keys out of the query of a path, and what is
// called like parameter, which is not escaped, if that is not "". Nothing else is
// changed, but for empty parameters beside: Envoy's own query mutations write every
// parameter decoded, so that x=%26key%3D1 becomes x=&key=1 (docs/envoy.md).
func stripQuery(path, parameter string) string {
	before, query, there := strings.Cut(path, "?")
	if !there {
		return path
	}
	also := ""
	if parameter != "" {
		also = parameterName(escape(parameter))
	}
	slot := func(piece string) bool {
		raw, _, _ := strings.Cut(piece, "=")
		name := parameterName(raw)
		return piece != "" && (parameters[name] || parameter != "" && name == also)
	}
	found := false
	for piece := range pieces(query) {
		found = found || slot(piece)
	}
	if !found {
		return path
	}
	var left strings.Builder
	for piece, end := range pieces(query) {
		if !slot(piece) {
			left.WriteString(piece)
		}
		left.WriteString(end)
	}
	after := left.String()
	for strings.Contains(after, "&&") {
		after = strings.ReplaceAll(after, "&&", "&")
	}
	after = strings.TrimSuffix(strings.TrimPrefix(after, "&"), "&")
	if after == "" {
		return before
	}
	return before + "?" + after
}

// pieces are the parameters of a query, each with what ends it.
func pieces(query string) iter.Seq2[string, string] {
	return func(yield func(piece, end string) bool) {
		for query != "" {
			// Some servers take a semicolon for an ampersand.
			i := strings.IndexAny(query, "&;")
			if i < 0 {
				yield(query, "")
				return
			}
			if !yield(query[:i], query[i:i+1]) {
				return
			}
			query = query[i+1:]
		}
	}
}

// putQuery adds a parameter to the query of a path, as its last.
func putQuery(path, parameter, value string) string {
	_, query, there := strings.Cut(path, "?")
	between := "&"
	switch {
	case !there:
		between = "?"
	case query == "":
		between = ""
	}
	return path + between + escape(parameter) + "=" + escape(value)
}

// queryValue is the value that putQuery has put into a path, or "".
func queryValue(path, parameter string) string {
	_, query, _ := strings.Cut(path, "?")
	last := query[strings.LastIndexByte(query, '&')+1:]
	name, value, _ := strings.Cut(last, "=")
	if name != escape(parameter) {
		return ""
	}
	return unescape(value)
}

// parameterName is how a parameter is called for whoever decodes most. PHP reads a
// name without what precedes it, and up to a zero byte or a bracket; some servers
// trim what follows it, too. In between PHP takes dots and spaces for underscores;
// to others these and hyphens are one.
func parameterName(raw string) string {
	const white = " \t\n\v\f\r"
	s := strings.TrimLeft(unescape(strings.ReplaceAll(raw, "+", " ")), white)
	if end := strings.IndexAny(s, "\x00["); end >= 0 {
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

// unescape decodes what is percent-encoded, and leaves what only looks like it.
func unescape(s string) string {
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
func digit(c byte) int { return strings.IndexByte("0123456789abcdef", lower(c)) }

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// escape percent-encodes all but the unreserved characters (RFC 3986, section 2.3).
func escape(s string) string { return percent(s, "0123456789ABCDEF") }

func percent(s, digits string) string {
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

// stripProtocols takes keys out of what a WebSocket offers. Browsers cannot set
// headers on one, so some services take a key here.
func stripProtocols(list string) string {
	items := strings.FieldsFunc(list, func(c rune) bool { return strings.ContainsRune(", \t\n\v\f\r", c) })
	kept := make([]string, 0, len(items))
	for _, item := range items {
		if !isProtocolSlot(item) {
			kept = append(kept, item)
		}
	}
	if len(kept) == len(items) {
		return list
	}
	return strings.Join(kept, ", ")
}

func isProtocolSlot(item string) bool {
	for _, prefix := range protocolSlots {
		if len(item) >= len(prefix) && strings.EqualFold(item[:len(prefix)], prefix) {
			return true
		}
	}
	return false
}
