package guard

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
	"sync"
)

// A longer secret is looked for only as it is, because other forms take time.
const longSecret = 8 << 10

// forms are the ways to write a secret.
type forms struct {
	all      []string
	shortest int
}

// An echo is what to look for after value was injected. The first prefix bytes of value are the
// policy's, not secret.
type echo struct {
	value  string
	prefix int
}

// found caches the forms by what was injected. Making forms costs more than looking for them, and
// few credentials serve many requests. When it is full, all forms are forgotten.
var found = struct {
	sync.RWMutex
	forms map[echo]*forms
}{forms: map[echo]*forms{}}

const mostFound = 100

func (e echo) forms() *forms {
	found.RLock()
	f := found.forms[e]
	found.RUnlock()
	if f != nil {
		return f
	}
	f = e.spell()
	found.Lock()
	defer found.Unlock()
	if len(found.forms) >= mostFound {
		clear(found.forms)
	}
	found.forms[echo{value: strings.Clone(e.value), prefix: e.prefix}] = f
	return f
}

// spell lists the forms of a secret.
func (e echo) spell() *forms {
	f := &forms{}
	// No server takes the space around a value for a part of it.
	secret, whole := strings.Trim(e.value[min(e.prefix, len(e.value)):], space), strings.Trim(e.value, space)
	if secret == "" {
		return f
	}
	// The source itself may hold "Bearer" or another scheme.
	_, bare := scheme(secret)
	f.add(bare)
	f.add(secret)
	if word, encoded := scheme(whole); strings.EqualFold(word, "basic") {
		if decoded, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(encoded, "=")); err == nil {
			_, password, _ := strings.Cut(string(decoded), ":")
			f.add(password)
		}
	}
	f.add(whole)
	return f
}

const space = " \t"

// scheme splits a value such as "Bearer xyz". For other values word is "".
func scheme(value string) (word, rest string) {
	end := strings.IndexAny(value, space)
	for i := range max(end, 0) {
		if c := value[i] | 0x20; c < 'a' || c > 'z' {
			return "", value
		}
	}
	if end <= 0 {
		return "", value
	}
	return value[:end], strings.TrimLeft(value[end:], space)
}

// add adds the forms of one text.
func (f *forms) add(secret string) {
	if secret == "" {
		return
	}
	f.form(strings.Clone(secret))
	if len(secret) > longSecret {
		return
	}
	digits := hex.EncodeToString([]byte(secret))
	f.form(digits)
	f.form(strings.ToUpper(digits))
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if len(secret) < 8 {
			text := encoding.EncodeToString([]byte(secret))
			f.form(text)
			f.form(text + strings.Repeat("=", -len(text)&3))
			continue
		}
		// Depending on the text before it, a secret is one of three texts in base64. The characters
		// at the ends also depend on the text around it.
		for before := range 3 {
			text := encoding.EncodeToString([]byte("xx"[:before] + secret))
			f.form(text[(before*8+5)/6 : (before+len(secret))*8/6])
		}
	}
}

// form adds a form, unless a part of it is a form already.
func (f *forms) form(s string) {
	for _, one := range f.all {
		if at(s, one) >= 0 {
			return
		}
	}
	if len(f.all) == 0 || len(s) < f.shortest {
		f.shortest = len(s)
	}
	f.all = append(f.all, s)
}

// at returns the place of a form in a value, or -1. A very short secret counts only if it is the
// whole value.
func at(value, form string) int {
	if len(form) >= 8 {
		return strings.Index(value, form)
	}
	if value == form {
		return 0
	}
	return -1
}

// in reports whether a secret is in a value.
func (f *forms) in(value string) bool {
	_, _, ok := f.place(value)
	return ok
}

// place returns a part of a value, from and to, that is a form, as it is or percent-encoded. Which
// bytes are escaped, and how, differs between encoders: the value is decoded, not the form encoded.
func (f *forms) place(value string) (from, to int, ok bool) {
	if len(value) < f.shortest {
		return 0, 0, false
	}
	if from, to, ok = f.escaped(value); ok || strings.IndexByte(value, '+') < 0 {
		return from, to, ok
	}
	return f.escaped(strings.ReplaceAll(value, "+", " ")) // the encoding of forms
}

func (f *forms) escaped(value string) (from, to int, ok bool) {
	text, places := value, []int(nil)
	for range mostDecoded {
		for _, form := range f.all {
			if i := at(text, form); i >= 0 && places == nil {
				return i, i + len(form), true
			} else if i >= 0 {
				return places[i], places[i+len(form)], true
			}
		}
		before := len(text)
		if text, places = decoded(text, places); len(text) == before {
			break
		}
	}
	return 0, 0, false
}

// mostDecoded bounds how often a value is looked at: percent signs may be encoded themselves.
const mostDecoded = 5

// decoded returns a text without its percent escapes. places has the place of each byte in the whole
// value, and at the end the length of that; nil stands for the place in the text.
func decoded(text string, places []int) (string, []int) {
	if strings.IndexByte(text, '%') < 0 {
		return text, places
	}
	now := make([]byte, 0, len(text))
	whole := make([]int, 0, len(text)+1)
	place := func(i int) int {
		if places == nil {
			return i
		}
		return places[i]
	}
	for i := 0; i < len(text); i++ {
		whole = append(whole, place(i))
		if i+2 < len(text) && text[i] == '%' {
			if b, err := hex.DecodeString(text[i+1 : i+3]); err == nil {
				now = append(now, b[0])
				i += 2
				continue
			}
		}
		now = append(now, text[i])
	}
	return string(now), append(whole, place(len(text)))
}

// cut returns a value without the secret, and cuts again where cutting makes the secret again. If
// the secret is there more than 16 times, cut returns "".
func (f *forms) cut(value string) string {
	for range 17 {
		from, to, ok := f.place(value)
		if !ok {
			return value
		}
		value = value[:from] + value[to:]
	}
	return ""
}
