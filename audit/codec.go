package audit

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/postern/postern/accesslog"
	"github.com/postern/postern/plan"
)

// This file does again what encoding/json does, only for the lines and events of the busiest path:
// the supervisor's CPU is part of a request's cost (docs/performance.md), and a log may hold
// millions of events. Tests compare both.

// parseLine reads one line of the access log.
func parseLine(b []byte) (*accesslog.Line, error) {
	l := &accesslog.Line{}
	if scanLine(l, string(b)) {
		return l, nil
	}
	l = &accesslog.Line{}
	return l, json.Unmarshal(b, l)
}

// scanLine reads the flat objects that Envoy writes: no white space, no escapes, ASCII
// only, whole numbers. It reports whether s is one; if not, l holds anything.
func scanLine(l *accesslog.Line, s string) bool {
	return parse(strings.TrimSuffix(s, "\n"), func(key, s string) (string, bool) {
		text, number := l.Field(key)
		if number != nil {
			return integer(s, number)
		}
		return str(s, text)
	})
}

// read reads one line of a log, and reports whether it is an event.
func (e *Event) read(b []byte) bool {
	if !e.parse(string(b)) {
		*e = Event{}
		if json.Unmarshal(b, e) != nil {
			return false
		}
	}
	return e.Seq > 0 && e.Seq < maxSeq && e.Verdict != ""
}

// parse is scanLine for what appendJSON writes.
func (e *Event) parse(s string) bool {
	return parse(s, func(key, s string) (rest string, ok bool) {
		var n int64
		var t string
		switch key {
		case "time":
			if rest, ok = str(s, &t); ok {
				var err error
				e.Time, err = time.Parse(time.RFC3339Nano, t)
				ok = err == nil
			}
		case "seq":
			rest, ok = integer(s, &n)
			e.Seq = uint64(n)
		case "status":
			rest, ok = integer(s, &n)
			e.Status = int(n)
		case "count":
			rest, ok = integer(s, &n)
			e.Count = uint64(n)
		case "publication":
			rest, ok = integer(s, &n)
			e.Publication = uint64(n)
		case "sent":
			return integer(s, &e.Sent)
		case "received":
			return integer(s, &e.Received)
		case "millis":
			return integer(s, &e.Millis)
		case "reason":
			rest, ok = str(s, &t)
			e.Reason = plan.Reason(t)
		default:
			return str(s, e.text(key))
		}
		return rest, ok
	})
}

func (e *Event) text(key string) *string {
	switch key {
	case "node":
		return &e.Node
	case "agent":
		return &e.Agent
	case "host":
		return &e.Host
	case "method":
		return &e.Method
	case "path":
		return &e.Path
	case "rule":
		return &e.Rule
	case "credential":
		return &e.Credential
	case "verdict":
		return &e.Verdict
	case "detail":
		return &e.Detail
	case "stream":
		return &e.Stream
	case "state":
		return &e.State
	case "kind":
		return &e.Kind
	case "id":
		return &e.ID
	case "version":
		return &e.Version
	case "by":
		return &e.By
	case "why":
		return &e.Why
	case "owner":
		return &e.Owner
	}
	return nil
}

// parse parses a flat object. For each key it calls set, which takes the value from the front of
// the remaining text and returns the rest.
func parse(s string, set func(key, s string) (string, bool)) bool {
	s, ok := strings.CutPrefix(s, "{")
	for ok {
		var key string
		if key, s, ok = quoted(s); !ok || s == "" || s[0] != ':' {
			return false
		}
		if s, ok = set(key, s[1:]); !ok || s == "" {
			return false
		}
		if s == "}" {
			return true
		}
		s, ok = strings.CutPrefix(s, ",")
	}
	return false
}

// integer takes a number that is not negative from the front of s.
func integer(s string, to *int64) (string, bool) {
	end := 0
	for end < len(s) && s[end] >= '0' && s[end] <= '9' {
		end++
	}
	// JSON has no leading zeros, and these digits fit.
	if end == 0 || end > 18 || end > 1 && s[0] == '0' {
		return s, false
	}
	*to = 0
	for _, c := range []byte(s[:end]) {
		*to = *to*10 + int64(c-'0')
	}
	return s[end:], true
}

// str takes a string, or null, from the front of s. to is nil for an unknown key.
func str(s string, to *string) (string, bool) {
	if to == nil {
		return s, false
	}
	if rest, none := strings.CutPrefix(s, "null"); none {
		return rest, true
	}
	var ok bool
	*to, s, ok = quoted(s)
	return s, ok
}

// quoted takes a JSON string without escapes from the front of s.
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
	optional(`,"stream":`, e.Stream)
	optional(`,"state":`, e.State)
	if e.Count != 0 {
		b = strconv.AppendUint(append(b, `,"count":`...), e.Count, 10)
	}
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
			quoted, _ := json.Marshal(s) // marshalling a string cannot fail
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}
