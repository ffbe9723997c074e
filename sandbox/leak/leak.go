// Package leak recognizes credentials in texts by their form: access tokens, API keys and private
// keys. The rules are some of gitleaks', as data: see LICENSE.gitleaks, and the command take.
// gitleaks itself would add 55 packages of others, and a third of its size, to the operator's CLI.
package leak

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"sync"
)

//go:embed gitleaks.json
var data []byte

// rule recognizes one kind of credential.
type rule struct {
	ID    string `json:"id"`
	Regex string `json:"regex"`
	// Keywords are in lower case, of two bytes or more. A text without one of them has no such
	// credential.
	Keywords []string `json:"keywords"`
	// Entropy is how many bits a byte of the credential has at least.
	Entropy float64 `json:"entropy"`
	// Allowed match what is no credential.
	Allowed []string `json:"allowed"`

	compile sync.Once
	regex   *regexp.Regexp
	allowed []*regexp.Regexp
}

// rules are all rules, and what none of them takes for a credential.
type rules struct {
	Allowed   []string `json:"allowed"`
	Stopwords []string `json:"stopwords"`
	Rules     []*rule  `json:"rules"`

	allowed []*regexp.Regexp
	// starting are the keywords by the two bytes that they begin with.
	starting [1 << 16][]keyword
}

type keyword struct {
	word string
	rule int
}

// load reads the rules when the first text is searched: most commands search none.
var load = sync.OnceValue(func() *rules {
	r := &rules{}
	if err := json.Unmarshal(data, r); err != nil {
		panic(err) // our own file
	}
	r.allowed = compile(r.Allowed)
	for i, one := range r.Rules {
		for _, word := range one.Keywords {
			at := int(word[0])<<8 | int(word[1])
			r.starting[at] = append(r.starting[at], keyword{word, i})
		}
	}
	return r
})

func compile(all []string) []*regexp.Regexp {
	out := make([]*regexp.Regexp, len(all))
	for i, s := range all {
		out[i] = regexp.MustCompile(s)
	}
	return out
}

// Version tells one set of rules from another.
func Version() string { return string(data) + fmt.Sprint(ofGit) }

// ofGit are the forms of credentials in git's settings and in files next to these: a header with
// whatever is sent as one, and a password or a token in a URL.
var ofGit = [][2]string{
	{"git-extraheader", `(?im)^[^#;\n]*extraheader[ \t]*=[ \t]*\S`},
	{"url-password", `://[^/@\s:"']*:[^/@\s"']+@`},
	{"url-token", `://[^/@\s:"']{20,}@`},
}

// InGit is [Find] for a file in git's own folder, but for its objects: what is a credential there
// need not have a form of its own.
func InGit(text []byte) string {
	if kind := Find(text); kind != "" {
		return kind
	}
	for _, of := range ofGit {
		if regexp.MustCompile(of[1]).Match(text) {
			return of[0]
		}
	}
	return ""
}

// Find returns the name of a kind of credential that the text has, or "" if it has none. It never
// returns a part of the text.
func Find(text []byte) string {
	r := load()
	for i, candidate := range r.candidates(text) {
		if candidate && r.Rules[i].in(text, r) {
			return r.Rules[i].ID
		}
	}
	return ""
}

// candidates says of each rule whether the text has one of its keywords.
func (r *rules) candidates(text []byte) []bool {
	found := make([]bool, len(r.Rules))
	lower := make([]byte, len(text))
	for i, c := range text {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		lower[i] = c
	}
	for i := 0; i+1 < len(lower); i++ {
		for _, k := range r.starting[int(lower[i])<<8|int(lower[i+1])] {
			if end := i + len(k.word); !found[k.rule] && end <= len(lower) && string(lower[i:end]) == k.word {
				found[k.rule] = true
			}
		}
	}
	return found
}

// in reports whether the text has such a credential.
func (o *rule) in(text []byte, all *rules) bool {
	o.compile.Do(func() { o.regex, o.allowed = regexp.MustCompile(o.Regex), compile(o.Allowed) })
	for len(text) > 0 {
		m := o.regex.FindSubmatchIndex(text)
		if m == nil {
			return false
		}
		if !all.allows(o, credential(text, m)) {
			return true
		}
		text = text[max(m[1], 1):]
	}
	return false
}

// credential returns the part of a match that is the credential: its first group that has
// something, or all of it.
func credential(text []byte, m []int) []byte {
	for g := 2; g < len(m); g += 2 {
		if m[g] >= 0 && m[g] < m[g+1] {
			return text[m[g]:m[g+1]]
		}
	}
	return text[m[0]:m[1]]
}

// allows reports whether what a rule found is no credential.
func (r *rules) allows(o *rule, found []byte) bool {
	if entropy(found) <= o.Entropy {
		return true
	}
	for _, a := range slices.Concat(o.allowed, r.allowed) {
		if a.Match(found) {
			return true
		}
	}
	lower := strings.ToLower(string(found))
	return slices.ContainsFunc(r.Stopwords, func(word string) bool { return strings.Contains(lower, word) })
}

// entropy returns how many bits a byte of s has, by how often each occurs.
func entropy(s []byte) (bits float64) {
	var count [256]int
	for _, c := range s {
		count[c]++
	}
	for _, n := range count {
		if n > 0 {
			p := float64(n) / float64(len(s))
			bits -= p * math.Log2(p)
		}
	}
	return bits
}
