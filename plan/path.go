package plan

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/postern/postern/target"
)

// Path is a parsed path pattern of a rule that allows; for rules that deny see [DeniedPath]. The
// zero value matches nothing.
//
// A pattern is "/" followed by segments. A segment is literal, or "*" for exactly one segment that
// is not empty. The last segment may be "**" for any rest, also an empty one: "/v1/**" matches
// "/v1/" and "/v1/a/b" but not "/v1". Wildcards do not match an escaped slash, backslash or NUL, a
// malformed escape or ";" (some upstreams read "..;" as ".."). Only [AnyPath] matches these too.
// [target.Check] refuses the other paths that upstreams read in different ways.
type Path struct {
	segments []string
	rest     bool
	any      bool
}

// ParsePath parses a pattern. The error says what to write instead.
func ParsePath(pattern string) (Path, error) {
	if pattern == AnyPath {
		return Path{any: true}, nil
	}
	if err := checkPattern(pattern); err != nil {
		return Path{}, err
	}
	segments := strings.Split(pattern[1:], "/")
	p := Path{}
	for i, s := range segments {
		last := i == len(segments)-1
		switch {
		case s == "**" && last:
			p.rest = true
			continue
		case s == "**":
			return Path{}, fmt.Errorf("path %q has ** before its end; write * for one segment, and ** only as the last one", pattern)
		case s != "*" && strings.Contains(s, "*"):
			return Path{}, fmt.Errorf("path %q has a * that is only part of a segment; write the segment out, or * alone for the whole segment", pattern)
		}
		p.segments = append(p.segments, s)
	}
	return p, nil
}

// checkPattern refuses what could never match a normalised path, and what
// reads like something that the grammar does not have.
func checkPattern(pattern string) error {
	if pattern == "" {
		return errors.New(`path is empty; write "/" for the root, or "/**" for every path`)
	}
	if pattern[0] != '/' {
		return fmt.Errorf("path %q does not begin with a slash; write %q", pattern, "/"+pattern)
	}
	for _, c := range []struct{ chars, say string }{
		{"?", "has a query; write only the part before the ?, queries are not matched"},
		{"#", "has a fragment; write only the part before the #, clients never send fragments"},
		{";", "has a path parameter; write the path without the ; and what follows it"},
		{"\\", "has a backslash; write a slash"},
	} {
		if strings.ContainsAny(pattern, c.chars) {
			return fmt.Errorf("path %q %s", pattern, c.say)
		}
	}
	normal, err := NormalizePath(pattern)
	if err != nil {
		return fmt.Errorf("path %q cannot be sent by a client: %w; write the path as it is in a URL", pattern, err)
	}
	if normal != pattern {
		return fmt.Errorf("path %q is not in normal form and would never match; write %q", pattern, normal)
	}
	if pattern == "//" { // the one normal path with an empty segment
		return fmt.Errorf("path %q has an empty segment; write %q", pattern, "/")
	}
	if hostile(pattern) || target.Ambiguous(pattern) {
		return fmt.Errorf("path %q has an escape that upstreams read differently (%%5C, %%25 before another, %%3F, %%23, dots around %%2F, bytes that are not UTF-8); write the path without it, or %q for every path", pattern, AnyPath)
	}
	return nil
}

// hostile finds what a pattern may not even say literally.
var hostile = Matching(`(?i)%5c|%(?:[^0-9a-f]|$)|%[0-9a-f](?:[^0-9a-f]|$)|(?:/|%2f)\.{1,2}%2f|%2f\.{1,2}(?:/|%2f|$)|%3b`)

// Match reports whether p matches a path that [NormalizePath] returned.
func (p Path) Match(path string) bool {
	if p.any {
		return strings.HasPrefix(path, "/")
	}
	if len(p.segments) == 0 && !p.rest || !strings.HasPrefix(path, "/") {
		return false
	}
	segments := strings.Split(path[1:], "/")
	if len(segments) < len(p.segments) || !p.rest && len(segments) > len(p.segments) {
		return false
	}
	for i, s := range p.segments {
		if s == "*" {
			if segments[i] == "" || !isPlain(segments[i]) {
				return false
			}
		} else if s != segments[i] {
			return false
		}
	}
	if !p.rest {
		return true
	}
	rest := segments[len(p.segments):]
	if len(rest) == 0 { // "/v1/**" and "/v1": the slash is missing
		return false
	}
	for _, s := range rest {
		if !isPlain(s) {
			return false
		}
	}
	return true
}

// isPlain reports whether a wildcard may match the segment.
func isPlain(segment string) bool {
	for i := 0; i < len(segment); i++ {
		switch segment[i] {
		case ';', '\n':
			return false
		case '%':
			if i+2 >= len(segment) {
				return false
			}
			hi, lo := unhex(segment[i+1]), unhex(segment[i+2])
			if hi < 0 || lo < 0 {
				return false
			}
			switch byte(hi<<4 | lo) {
			case '/', '\\', 0, ';':
				return false
			}
			i += 2
		}
	}
	return true
}

// plainRegex matches one character, or escape, of a segment for which isPlain holds.
const plainRegex = `[^/%;\n]|%(?:[146-9A-Fa-f][0-9A-Fa-f]|0[1-9A-Fa-f]|2[0-9A-Ea-e]|3[0-9AC-Fac-f]|5[0-9ABD-Fabd-f])`

// PathRegex returns the RE2 expression for a pattern. Match the expression against the whole of a
// normalised path without its query. If [ParsePath] refuses the pattern, the expression matches
// nothing.
func PathRegex(pattern string) string {
	p, err := ParsePath(pattern)
	if err != nil {
		return `[^\x00-\x{10FFFF}]`
	}
	if p.any {
		return `/.*`
	}
	var b strings.Builder
	for _, s := range p.segments {
		b.WriteByte('/')
		if s == "*" {
			b.WriteString(`(?:` + plainRegex + `)+`)
		} else {
			b.WriteString(regexp.QuoteMeta(s))
		}
	}
	if p.rest {
		b.WriteString(`/(?:/|` + plainRegex + `)*`)
	}
	return b.String()
}

func unhex(c byte) int {
	switch {
	case isDigit(c):
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
