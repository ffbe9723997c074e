// Package repository names repositories of git by where they are.
package repository

import (
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Pattern is what a pattern of repositories looks like: a host, ":PORT" unless the port is 443, and
// the path. A * stands for one segment of the path. A repository is a pattern without a *.
const Pattern = `^[a-z0-9][a-z0-9.-]*(?::[1-9][0-9]{0,4})?(?:/(?:\*|[A-Za-z0-9_][A-Za-z0-9._-]*)){1,8}$`

// matches is compiled when a repository is first named: most commands name none.
var matches = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(Pattern) })

// longest is that of a pattern, in bytes.
const longest = 500

// IsPattern reports whether s is a valid pattern.
func IsPattern(s string) bool { return len(s) <= longest && matches().MatchString(s) }

// Matches reports whether one of the patterns stands for the repository, such as
// "git.example.test/acme/app". The repository may end in ".git".
func Matches(patterns []string, repository string) bool {
	if !IsPattern(repository) || strings.Contains(repository, "*") {
		return false
	}
	segments := strings.Split(strings.TrimSuffix(repository, ".git"), "/")
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		return slices.EqualFunc(strings.Split(pattern, "/"), segments,
			func(wanted, segment string) bool { return wanted == segment || wanted == "*" && segment != "" })
	})
}
