package plan

import (
	"regexp"
	"sync"
)

// Matching returns a function that reports whether a text matches the regular
// expression, which has to be valid. It is compiled at the first use: every
// command, and the inside of every sandbox, would wait for all of them.
func Matching(expression string) func(string) bool {
	compiled := sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
	return func(s string) bool { return compiled().MatchString(s) }
}
