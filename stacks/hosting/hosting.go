// Package hosting knows under which names strangers can have a name: below registries, and on
// shared hosting.
package hosting

import (
	"strings"
	"sync"

	"github.com/weppos/publicsuffix-go/publicsuffix"
	"golang.org/x/net/idna"
)

// suffixes is the public suffix list, turned around: every name under which, at
// any depth, there is a public suffix, with one of those.
type suffixes struct {
	icann, private map[string]string
	// all are the names of which every child is a suffix, and except are the exceptions. private
	// says whose section it is.
	all    map[string]bool
	except map[string]bool
}

var publicSuffixes = sync.OnceValue(func() suffixes {
	s := suffixes{
		icann: map[string]string{}, private: map[string]string{}, all: map[string]bool{}, except: map[string]bool{},
	}
	for _, rule := range publicsuffix.DefaultRules() {
		value, err := idna.ToASCII(rule.Value)
		if err != nil {
			continue
		}
		section, suffix := s.icann, value
		if rule.Private {
			section = s.private
		}
		switch rule.Type {
		case publicsuffix.ExceptionType:
			s.except[value] = true
			continue
		case publicsuffix.WildcardType:
			s.all[value], suffix = rule.Private, "*."+value
		}
		for above := value; above != ""; _, above, _ = strings.Cut(above, ".") {
			if _, ok := section[above]; !ok || above == value {
				section[above] = suffix
			}
		}
	}
	return s
})

// Below returns a public suffix that is the name or below it, or "", and
// whether it is a registry's.
func Below(name string) (suffix string, registry bool) {
	s := publicSuffixes()
	if suffix, ok := s.icann[name]; ok {
		return suffix, true
	}
	_, parent, _ := strings.Cut(name, ".")
	if private, ok := s.all[parent]; ok && !s.except[name] {
		return "*." + parent, !private
	}
	return s.private[name], false
}
