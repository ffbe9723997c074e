package plan

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// usualRule is about the length of a rule's JSON, in bytes.
const usualRule = 160

// Encode returns the canonical JSON form of p: what package json makes of it, byte for byte. A
// large plan has tens of thousands of rules, most of them simple: these are written without
// reflection.
func (p *Plan) Encode() ([]byte, error) {
	bones := *p
	bones.Agents = nil
	head, err := json.Marshal(bones)
	rules := 0
	for i := range p.Agents {
		rules += len(p.Agents[i].Rules)
	}
	b := append(make([]byte, 0, len(head)+usualRule*rules), head...)
	for i := range p.Agents {
		if err != nil {
			break
		}
		if i == 0 {
			b = append(b[:len(b)-1], `,"agents":[`...)
		} else {
			b = append(b, ',')
		}
		if b, err = p.Agents[i].append(b); i == len(p.Agents)-1 {
			b = append(b, "]}"...)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("encode plan %q: %w", p.Stack, err)
	}
	return b, nil
}

// append appends the JSON of a.
func (a *Agent) append(b []byte) ([]byte, error) {
	bones := *a
	bones.Rules = nil
	head, err := json.Marshal(bones)
	if err != nil || len(a.Rules) == 0 {
		return append(b, head...), err
	}
	b = append(append(b, head[:len(head)-1]...), `,"rules":[`...)
	for i := range a.Rules {
		if i > 0 {
			b = append(b, ',')
		}
		before := len(b)
		var simple bool
		if b, simple = a.Rules[i].append(b); simple {
			continue
		}
		rule, err := json.Marshal(&a.Rules[i])
		if err != nil {
			return nil, err
		}
		b = append(b[:before], rule...)
	}
	return append(b, "]}"...), nil
}

// append appends the JSON of a simple rule, and reports whether it is one. What it has appended of
// another one is not JSON.
func (r *Rule) append(b []byte) ([]byte, bool) {
	simple := !r.Deny && r.Mode == ModeIntercept && r.Methods != nil && r.Paths != nil &&
		len(r.Query)+len(r.Headers) == 0 && !r.OwnCredentials && r.Gateway == 0 && r.Upstream == nil &&
		r.Limits == nil && r.Expires+r.Reason+r.Owner == ""
	text := func(key, s string) {
		b, simple = append(b, key...), simple && isVerbatim(s)
		b = append(append(append(b, '"'), s...), '"')
	}
	texts := func(key string, all []string) {
		b = append(b, key...)
		separator := "["
		for _, s := range all {
			text(separator, s)
			separator = ","
		}
		if len(all) == 0 {
			b = append(b, '[')
		}
		b = append(b, ']')
	}
	if !simple {
		return b, false
	}
	text(`{"id":`, r.ID)
	text(`,"host":`, r.Host)
	b = strconv.AppendUint(append(b, `,"port":`...), uint64(r.Port), 10)
	texts(`,"methods":`, r.Methods)
	texts(`,"paths":`, r.Paths)
	if r.Credential != "" {
		text(`,"credential":`, r.Credential)
	}
	return append(b, '}'), simple
}

// isVerbatim reports whether package json writes s as it is.
func isVerbatim(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return true
}
