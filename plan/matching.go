package plan

import (
	"regexp"
	"sync"
)

// Matching returns a function that reports whether a text matches the regular expression, which
// must be valid. The expression is compiled at the first use, because otherwise every command and
// every sandbox would wait for all expressions.
func Matching(expression string) func(string) bool {
	compiled := sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
	return func(s string) bool { return compiled().MatchString(s) }
}
