package audit

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// What is in this file says again what encoding/json does, for the lines and
// events of the busiest path only: the supervisor's CPU is part of what a
// request costs (docs/performance.md). The tests hold both to the same.

// parseLine reads one line of the access log.
func parseLine(b []byte) (*line, error) {
	l := &line{}
	if l.parse(string(b)) {
		return l, nil
	}
	l = &line{}
	return l, json.Unmarshal(b, l)
}

// parse reads the flat objects that Envoy writes: no white space, no escapes, ASCII
// only, whole numbers. It reports whether s is one; if not, l holds anything.
func (l *line) parse(s string) bool {
	s, ok := strings.CutPrefix(strings.TrimSuffix(s, "\n"), "{")
	for ok {
		var key string
		if key, s, ok = quoted(s); !ok || s == "" || s[0] != ':' {
			return false
		}
		if s, ok = l.set(key, s[1:]); !ok || s == "" {
			return false
		}
		if s == "}" {
			return true
		}
		s, ok = strings.CutPrefix(s, ",")
	}
	return false
}

// set takes the value of a key from the front of s and returns the rest.
func (l *line) set(key, s string) (string, bool) {
	if n := l.number(key); n != nil {
		end := 0
		for end < len(s) && s[end] >= '0' && s[end] <= '9' {
			end++
		}
		// JSON has no leading zeros, and these digits fit.
		if end == 0 || end > 18 || end > 1 && s[0] == '0' {
			return s, false
		}
		*n = 0
		for _, c := range []byte(s[:end]) {
			*n = *n*10 + int64(c-'0')
		}
		return s[end:], true
	}
	text := l.text(key)
	if text == nil {
		return s, false
	}
	if rest, none := strings.CutPrefix(s, "null"); none {
		return rest, true
	}
	var ok bool
	*text, s, ok = quoted(s)
	return s, ok
}

func (l *line) number(key string) *int64 {
	switch key {
	case "status":
		return &l.Status
	case "rx":
		return &l.Rx
	case "tx":
		return &l.Tx
	case "ms":
		return &l.Millis
	}
	return nil
}

func (l *line) text(key string) *string {
	switch key {
	case "k":
		return &l.Kind
	case "t":
		return &l.Time
	case "agent":
		return &l.Agent
	case "method":
		return &l.Method
	case "authority":
		return &l.Authority
	case "path":
		return &l.Path
	case "route":
		return &l.Route
	case "rule":
		return &l.Rule
	case "flags":
		return &l.Flags
	case "details":
		return &l.Details
	case "failure":
		return &l.Failure
	case "sni":
		return &l.SNI
	case "connect":
		return &l.Connect
	}
	return nil
}

// quoted takes a JSON string that stands for itself from the front of s.
func quoted(s string) (value, rest string, ok bool) {
	if s == "" || s[0] != '"' {
		return "", s, false
	}
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return s[1:i], s[i+1:], true
		case c == '\\' || c < ' ' || c > '~':
			return "", s, false
		}
	}
	return "", s, false
}

// appendJSON appends the JSON of e to b, byte for byte as encoding/json does it.
func (e *Event) appendJSON(b []byte) []byte {
	text := func(key, value string) {
		b = appendText(append(b, key...), value)
	}
	optional := func(key, value string) {
		if value != "" {
			text(key, value)
		}
	}
	number := func(key string, value int64) {
		b = strconv.AppendInt(append(b, key...), value, 10)
	}
	b = append(e.Time.AppendFormat(append(b, `{"time":"`...), time.RFC3339Nano), `","seq":`...)
	b = strconv.AppendUint(b, e.Seq, 10)
	text(`,"node":`, e.Node)
	text(`,"agent":`, e.Agent)
	text(`,"host":`, e.Host)
	optional(`,"method":`, e.Method)
	optional(`,"path":`, e.Path)
	optional(`,"rule":`, e.Rule)
	optional(`,"credential":`, e.Credential)
	text(`,"verdict":`, e.Verdict)
	text(`,"reason":`, string(e.Reason))
	optional(`,"detail":`, e.Detail)
	if e.Status != 0 {
		number(`,"status":`, int64(e.Status))
	}
	number(`,"sent":`, e.Sent)
	number(`,"received":`, e.Received)
	number(`,"millis":`, e.Millis)
	optional(`,"kind":`, e.Kind)
	optional(`,"id":`, e.ID)
	if e.Publication != 0 {
		b = strconv.AppendUint(append(b, `,"publication":`...), e.Publication, 10)
	}
	optional(`,"version":`, e.Version)
	optional(`,"by":`, e.By)
	optional(`,"why":`, e.Why)
	optional(`,"owner":`, e.Owner)
	return append(b, '}')
}

// appendText appends s as a JSON string.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, _ := json.Marshal(s) // of a string: cannot fail
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}
