package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// maxAnswer bounds an answer of the control plane, in bytes: the largest publication, in base64, is
// less.
const maxAnswer = 128 << 20

// readAnswer reads an answer of at most that many bytes, and makes it printable.
func readAnswer(r io.Reader, most int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > most {
		return nil, fmt.Errorf("it is larger than %d bytes", most)
	}
	return Printable(b)
}

// Printable returns the JSON without the characters that a terminal obeys or hides, and
// without newlines. The control
// plane may be another user's, may have been taken over, and passes on what nodes say. Text that is
// not JSON is returned as text.
func Printable(answer []byte) ([]byte, error) {
	decoder := json.NewDecoder(bytes.NewReader(answer))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		return []byte(clean(string(answer))), nil //nolint:nilerr // whoever asked says so
	}
	if _, err := decoder.Token(); err != io.EOF {
		return []byte(clean(string(answer))), nil //nolint:nilerr // whoever asked says so
	}
	return json.Marshal(cleanAll(v))
}

func cleanAll(v any) any {
	switch v := v.(type) {
	case string:
		return clean(v)
	case []any:
		for i := range v {
			v[i] = cleanAll(v[i])
		}
	case map[string]any:
		for key, value := range v {
			if c := clean(key); c != key {
				delete(v, key)
				key = c
			}
			v[key] = cleanAll(value)
		}
	}
	return v
}

// clean replaces characters that are not printable. A newline becomes a blank, because whoever said
// it could write a line of ours.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n':
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return unicode.ReplacementChar
	}, strings.TrimSuffix(s, "\n"))
}
