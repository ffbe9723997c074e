package guard

import (
	"iter"
	"strings"

	"github.com/postern/postern/target"
)

// stripQuery removes the agent's own keys from the query of a path. It also removes parameters with
// the name of parameter, which is not escaped, unless parameter is "". Next to a removed parameter
// it also removes empty ones. Nothing else changes. Envoy's own query mutations write every
// parameter decoded, so that x=%26key%3D1 becomes x=&key=1 (docs/envoy.md).
func stripQuery(path, parameter string) string {
	before, query, there := strings.Cut(path, "?")
	if !there {
		return path
	}
	also := ""
	if parameter != "" {
		also = target.Parameter(target.Escape(parameter))
	}
	slot := func(piece string) bool {
		raw, _, _ := strings.Cut(piece, "=")
		return piece != "" && target.Called(raw, func(name string) bool { return isParameterSlot(name) || parameter != "" && name == also })
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

// pieces yields the parameters of a query, each with its separator.
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

// putQuery adds a parameter at the end of a path's query.
func putQuery(path, parameter, value string) string {
	_, query, there := strings.Cut(path, "?")
	between := "&"
	switch {
	case !there:
		between = "?"
	case query == "":
		between = ""
	}
	return path + between + target.Escape(parameter) + "=" + target.Escape(value)
}

// queryValue returns the value that putQuery has put into a path, or "".
func queryValue(path, parameter string) string {
	_, query, _ := strings.Cut(path, "?")
	last := query[strings.LastIndexByte(query, '&')+1:]
	name, value, _ := strings.Cut(last, "=")
	if name != target.Escape(parameter) {
		return ""
	}
	return target.Unescape(value)
}

// stripProtocols removes keys from the subprotocols that a WebSocket offers. Browsers cannot set
// headers on a WebSocket, so some services take a key here.
func stripProtocols(list string) string {
	items := strings.FieldsFunc(list, func(c rune) bool { return strings.ContainsRune(", \t\n\v\f\r", c) })
	kept := make([]string, 0, len(items))
	for i := 0; i < len(items); i++ {
		if i+1 < len(items) && isKeyWord(items[i]) {
			i++ // "token, KEY"
			continue
		}
		if !isProtocolSlot(items[i]) {
			kept = append(kept, items[i])
		}
	}
	if len(kept) == len(items) {
		return list
	}
	return strings.Join(kept, ", ")
}

// isProtocolSlot reports whether a subprotocol holds a key: after a word that announces one, or as
// a JSON web token.
func isProtocolSlot(item string) bool {
	for _, prefix := range protocolSlots {
		if len(item) >= len(prefix) && strings.EqualFold(item[:len(prefix)], prefix) {
			return true
		}
	}
	word, rest, _ := strings.Cut(item, ".")
	return rest != "" && (isKeyWord(word) || strings.HasPrefix(word, "eyJ"))
}

// isKeyWord reports whether a key comes after the word.
func isKeyWord(word string) bool {
	word = strings.ToLower(word)
	return !strings.Contains(word, ".") && (word == "bearer" || soundsLikeSlot(word))
}
