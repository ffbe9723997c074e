package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"

	"github.com/postern/postern/plan"
)

// spelling holds the JSON of a plan's rules, in their order. Equal spelling means equal rules. So
// of two consecutive publications, only the rules that differ need decoding. A spelling is never
// changed once it is made.
type spelling struct {
	raws  [][]byte
	rules []*plan.Rule
	// canonical tells for each rule whether the spelling is that of [plan.Plan.Encode].
	canonical []bool
}

// spell returns the spelling of p's rules in its canonical form, or nil.
func spell(p *plan.Plan, encoded []byte) *spelling {
	s := scanner{in: encoded}
	if !s.plan() {
		return nil
	}
	known := &spelling{raws: s.raws}
	for i := range p.Agents {
		for j := range p.Agents[i].Rules {
			known.rules, known.canonical = append(known.rules, &p.Agents[i].Rules[j]), append(known.canonical, true)
		}
	}
	if len(known.rules) != len(known.raws) {
		return nil
	}
	return known
}

// expected is a plan, which nobody changes, and its canonical form.
type expected struct {
	plan    *plan.Plan
	encoded []byte
}

// decodeAs is decode for a payload that has exactly the expected plan, where encode puts it, or
// nil.
func decodeAs(payload []byte, e *expected) *Bundle {
	if e == nil {
		return nil
	}
	rest, closed := bytes.CutSuffix(payload, []byte("}"))
	rest, has := bytes.CutSuffix(rest, e.encoded)
	// With an end of its own, what comes before must be an object that has members, and no plan.
	rest, follows := bytes.CutSuffix(rest, []byte(`,"plan":`))
	b := &Bundle{}
	if !closed || !has || !follows || len(rest) < 2 || json.Unmarshal(append(bytes.Clone(rest), '}'), b) != nil || b.Plan != nil {
		return nil
	}
	b.Plan, b.planVersion = e.plan, version(e.encoded)
	return b
}

// decode is [json.Unmarshal] of a bundle. Rules that known has are not decoded again: they share
// what they point to. The spelling is nil if [scanner] cannot read the payload's form.
func decode(payload []byte, known *spelling) (*Bundle, *spelling, error) {
	if b, spelled := decodeRest(payload, known); b != nil {
		return b, spelled, nil
	}
	// It decides what is an error, and which.
	b := &Bundle{}
	if err := json.Unmarshal(payload, b); err != nil {
		return nil, nil, err
	}
	return b, nil, nil
}

// skeleton is a bundle in whose plan each agent has the number of its rules in
// place of the rules, unless there are none. The outer field of a name counts.
type (
	skeleton struct {
		Bundle
		Plan *skeletonPlan `json:"plan"`
	}
	skeletonPlan struct {
		plan.Plan
		Agents []skeletonAgent `json:"agents,omitempty"`
	}
	skeletonAgent struct {
		plan.Agent
		Rules []int `json:"rules,omitempty"`
	}
)

// decodeRest returns nil if it is not sure.
func decodeRest(payload []byte, known *spelling) (*Bundle, *spelling) {
	s := scanner{in: payload, known: known}
	var bones skeleton
	if !s.document() || json.Unmarshal(s.out, &bones) != nil || bones.Plan == nil {
		return nil, nil
	}
	spelled := &spelling{raws: s.raws, rules: make([]*plan.Rule, 0, len(s.raws)), canonical: make([]bool, len(s.raws))}
	all := true
	b, p := &bones.Bundle, &bones.Plan.Plan
	b.Plan = p
	if bones.Plan.Agents != nil {
		p.Agents = make([]plan.Agent, len(bones.Plan.Agents))
	}
	for i := range bones.Plan.Agents {
		a := &p.Agents[i]
		*a = bones.Plan.Agents[i].Agent
		counts := bones.Plan.Agents[i].Rules
		if counts == nil {
			continue
		}
		if a.Rules = []plan.Rule{}; len(counts) > 0 {
			a.Rules = make([]plan.Rule, counts[0])
		}
		for j := range a.Rules {
			n := len(spelled.rules)
			if at := s.same[n]; at >= 0 {
				a.Rules[j], spelled.canonical[n] = *known.rules[at], known.canonical[at]
			} else {
				if json.Unmarshal(s.raws[n], &a.Rules[j]) != nil {
					return nil, nil
				}
				spelled.canonical[n] = isCanonical(&a.Rules[j], s.raws[n])
			}
			all = all && spelled.canonical[n]
			spelled.rules = append(spelled.rules, &a.Rules[j])
		}
	}
	if all && !s.spaced && isCanonical(bones.Plan, s.out[s.outPlan.from:s.outPlan.to]) {
		b.planVersion = version(payload[s.inPlan.from:s.inPlan.to])
	}
	return b, spelled
}

func isCanonical(v any, raw []byte) bool {
	encoded, err := json.Marshal(v)
	return err == nil && bytes.Equal(encoded, raw)
}

// version returns the version of the plan with this canonical form: see [plan.Plan.Version].
func version(encoded []byte) string {
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:8])
}

// scanner finds the rules in the JSON of a bundle without decoding it, and does not check that the
// JSON is valid. Both the rest (out) and the rules (raws) must be decoded for that. If both are
// valid, so is the whole, because a value was put in place of each value.
type scanner struct {
	in []byte
	at int
	// out is in, up to copied, with [n] in place of n rules.
	out    []byte
	copied int
	// spaced means that there is more between rules than a comma, which is not in out.
	spaced bool
	// inPlan and outPlan are the places of the plan.
	inPlan, outPlan span
	// raws are the rules, in their order, and same where they are in known, or -1.
	raws [][]byte
	same []int

	known *spelling
	// cursor is after the rule of known that was found last.
	cursor int
	misses int
	// index holds the places of rules in known, once many were not at their old place.
	index map[string]int
}

type span struct{ from, to int }

// enough misses make an index worth while.
const enough = 32

// document scans a whole bundle. Like all of the scanner's methods, it reports whether it can read
// the input.
func (s *scanner) document() bool {
	s.space()
	if !s.object("plan", s.plan) {
		return false
	}
	s.space()
	s.out = append(s.out, s.in[s.copied:]...)
	return s.at == len(s.in)
}

func (s *scanner) plan() bool {
	before := len(s.out) - s.copied
	s.inPlan.from = s.at
	ok := s.peek() == '{' && s.object("agents", func() bool { return s.array(s.agent) })
	s.inPlan.to = s.at
	s.outPlan = span{s.inPlan.from + before, s.inPlan.to + len(s.out) - s.copied}
	return ok
}

func (s *scanner) agent() bool { return s.peek() == '{' && s.object("rules", s.rules) }

func (s *scanner) rules() bool {
	from, before := s.at, len(s.raws)
	if !s.array(s.rule) {
		return false
	}
	if n := len(s.raws) - before; n > 0 {
		length := len("[]") + n - 1
		for _, raw := range s.raws[before:] {
			length += len(raw)
		}
		s.spaced = s.spaced || length != s.at-from
		s.out = append(s.out, s.in[s.copied:from]...)
		s.out = append(strconv.AppendInt(append(s.out, '['), int64(n), 10), ']')
		s.copied = s.at
	}
	return true
}

// rule takes one rule out. An object ends where it ends: what begins with all of
// one that is known is that one.
func (s *scanner) rule() bool {
	if s.peek() != '{' {
		return false
	}
	from, at := s.at, -1
	if s.known != nil {
		// The next one, or one was removed.
		for i := s.cursor; i < min(s.cursor+2, len(s.known.raws)) && at < 0; i++ {
			if bytes.HasPrefix(s.in[from:], s.known.raws[i]) {
				at = i
				s.at += len(s.known.raws[i])
			}
		}
	}
	if at < 0 {
		if !s.skip() {
			return false
		}
		at = s.find(s.in[from:s.at])
	}
	if at >= 0 {
		s.cursor = at + 1
	}
	s.raws, s.same = append(s.raws, s.in[from:s.at]), append(s.same, at)
	return true
}

// find returns the place in known of a rule that is not where it was expected, or -1.
func (s *scanner) find(raw []byte) int {
	if s.misses++; s.known == nil || s.misses < enough {
		return -1
	}
	if s.index == nil {
		s.index = make(map[string]int, len(s.known.raws))
		for i, r := range s.known.raws {
			s.index[string(r)] = i
		}
	}
	if i, ok := s.index[string(raw)]; ok {
		return i
	}
	return -1
}

// object scans an object, and the value of one of its keys with value. It is not
// sure of keys that package json could take for that one too: with capitals, with
// escapes, or a second time.
func (s *scanner) object(key string, value func() bool) bool {
	seen := false
	return s.list('{', '}', func() bool {
		if s.peek() != '"' {
			return false
		}
		from := s.at + 1
		for s.at++; s.peek() >= 'a' && s.peek() <= 'z' || s.peek() == '_'; s.at++ {
		}
		if s.peek() != '"' {
			return false
		}
		it := string(s.in[from:s.at]) == key
		s.at++
		s.space()
		if s.peek() != ':' {
			return false
		}
		s.at++
		s.space()
		if !it {
			return s.skip()
		}
		if seen {
			return false
		}
		seen = true
		return value()
	})
}

func (s *scanner) array(element func() bool) bool { return s.list('[', ']', element) }

func (s *scanner) list(begin, end byte, element func() bool) bool {
	if s.peek() != begin {
		return false
	}
	s.at++
	if s.space(); s.peek() == end {
		s.at++
		return true
	}
	for {
		s.space()
		if !element() {
			return false
		}
		s.space()
		switch s.peek() {
		case ',':
			s.at++
		case end:
			s.at++
			return true
		default:
			return false
		}
	}
}

// maxDepth is far less than what package json takes: it counts from the top.
const maxDepth = 100

// skip goes to the end of a value.
func (s *scanner) skip() bool {
	depth := 0
	for s.at < len(s.in) {
		switch c := s.in[s.at]; c {
		case '{', '[':
			if depth++; depth > maxDepth {
				return false
			}
			s.at++
		case '}', ']':
			depth--
			s.at++
		case '"':
			for s.at++; s.peek() != '"'; s.at++ {
				if s.peek() == '\\' {
					s.at++
				}
				if s.at >= len(s.in) {
					return false
				}
			}
			s.at++
		case ',', ':', ' ', '\t', '\r', '\n':
			s.at++
			continue // within a list
		default: // a number, true, false, null
			for s.at++; s.at < len(s.in) && !bytes.ContainsRune(ends, rune(s.in[s.at])); s.at++ {
			}
		}
		if depth == 0 {
			return true
		}
		if depth < 0 {
			return false
		}
	}
	return false
}

var ends = []byte(",:]}[{\" \t\r\n")

func (s *scanner) space() {
	for s.at < len(s.in) && (s.in[s.at] == ' ' || s.in[s.at] == '\n' || s.in[s.at] == '\t' || s.in[s.at] == '\r') {
		s.at++
	}
}

// peek is the next byte, or 0 at the end.
func (s *scanner) peek() byte {
	if s.at >= len(s.in) {
		return 0
	}
	return s.in[s.at]
}

// encode is the JSON of b, with the plan as it was encoded already.
func encode(b *Bundle) ([]byte, error) {
	encoded := b.encoded
	if encoded == nil {
		var err error
		if encoded, err = b.Plan.Encode(); err != nil {
			return nil, err
		}
	}
	rest, err := json.Marshal(struct {
		*Bundle
		Plan *struct{} `json:"plan,omitempty"`
	}{Bundle: b})
	if err != nil {
		return nil, err
	}
	payload := make([]byte, 0, len(rest)+len(encoded)+len(`,"plan":`))
	payload = append(append(payload, rest[:len(rest)-1]...), `,"plan":`...)
	return append(append(payload, encoded...), '}'), nil
}
