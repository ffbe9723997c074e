package plan

import (
	"errors"
	"strings"
)

// NormalizePath returns the path, without query, in the form in which Envoy matches and forwards it
// with normalize_path, merge_slashes and escaped slashes kept. testdata/envoy_paths.txt records
// what Envoy 1.40.0 does. Dot segments are removed, also if a dot is written %2e or a ";" follows.
// Backslashes become slashes, and adjacent slashes become one. Escapes of unreserved characters are
// decoded, and characters that a URL may not contain are escaped. Every other escape stays as sent.
//
// It refuses each path that Envoy answers with 400: a path that does not begin with a slash, or
// that contains a control character, a space, "#" or an escaped NUL. It also refuses a path with
// "?", which would begin a query. Non-ASCII bytes are escaped; Envoy does so in HTTP/2 and refuses
// them in HTTP/1. The result is not always a fixed point: in "%2e%2e;" only the escapes are
// removed.
func NormalizePath(path string) (string, error) {
	if !strings.HasPrefix(path, "/") {
		return "", errors.New("the path does not begin with a slash")
	}
	for _, c := range []byte(path) {
		if c <= ' ' || c == 0x7f {
			return "", errors.New("the path has a space or a control character")
		}
		if c == '#' || c == '?' {
			return "", errors.New("the path has a # or ?")
		}
	}
	path = stripDotParameters(path)
	if strings.Contains(path, "%00") {
		return "", errors.New("the path has an escaped NUL")
	}
	return mergeSlashes(canonicalize(path)), nil
}

// stripDotParameters removes ";..." from segments that are then dot segments as they stand.
func stripDotParameters(path string) string {
	if !strings.Contains(path, ";") {
		return path
	}
	segments := strings.Split(path, "/")
	for i, s := range segments {
		if dots, _, ok := strings.Cut(s, ";"); ok && (dots == "." || dots == "..") {
			segments[i] = dots
		}
	}
	return strings.Join(segments, "/")
}

const upperHex = "0123456789ABCDEF"

// canonicalize is the path canonicaliser of the URL library that Envoy uses.
func canonicalize(path string) string {
	out := make([]byte, 0, len(path))
	for i := 0; i < len(path); {
		if n := dotLen(path[i:]); n > 0 && len(out) > 0 && out[len(out)-1] == '/' {
			up := false
			if m := dotLen(path[i+n:]); m > 0 {
				up, n = true, n+m
			}
			if rest := path[i+n:]; rest == "" || isSlash(rest[0]) {
				if up {
					out = parent(out)
				}
				i += n
				if rest != "" {
					i++ // the slash, which out ends with already
				}
				continue
			}
		}
		c := path[i]
		switch {
		case c == '%' && i+2 < len(path) && unhex(path[i+1]) >= 0 && unhex(path[i+2]) >= 0:
			if d := byte(unhex(path[i+1])<<4 | unhex(path[i+2])); isUnreserved(d) {
				out = append(out, d)
			} else {
				out = append(out, path[i:i+3]...)
			}
			i += 3
			continue
		case isSlash(c):
			out = append(out, '/')
		case c >= 0x80 || strings.IndexByte("\"<>^`{|}", c) >= 0:
			out = append(out, '%', upperHex[c>>4], upperHex[c&15])
		default:
			out = append(out, c)
		}
		i++
	}
	return string(out)
}

// dotLen is the length of the dot at the start of s, plain or escaped, or 0.
func dotLen(s string) int {
	switch {
	case strings.HasPrefix(s, "."):
		return 1
	case strings.HasPrefix(s, "%2e"), strings.HasPrefix(s, "%2E"):
		return 3
	}
	return 0
}

// parent removes the last segment of a path that ends with a slash.
func parent(path []byte) []byte {
	for n := len(path) - 1; n > 0; n-- {
		if path[n-1] == '/' {
			return path[:n]
		}
	}
	return path[:1]
}

// mergeSlashes keeps a first and a last slash, so that "//" stays as it is.
func mergeSlashes(path string) string {
	if !strings.Contains(path, "//") {
		return path
	}
	var segments []string
	for s := range strings.SplitSeq(path, "/") {
		if s != "" {
			segments = append(segments, s)
		}
	}
	merged := "/" + strings.Join(segments, "/")
	if strings.HasSuffix(path, "/") {
		merged += "/"
	}
	return merged
}

func isSlash(c byte) bool { return c == '/' || c == '\\' }

func isUnreserved(c byte) bool {
	return isLower(c) || 'A' <= c && c <= 'Z' || isDigit(c) || strings.IndexByte("-._~", c) >= 0
}
