package secret

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// pick returns the text or number at the path in a JSON document. Its error names the path and
// nothing of the document.
func pick(document []byte, path []string) (value []byte, problem string) {
	name := strings.Join(path, ".")
	d := json.NewDecoder(bytes.NewReader(document))
	// Keeps numbers as they are written: a key must not become a float.
	d.UseNumber()
	var at any
	if d.Decode(&at) != nil || d.More() {
		return nil, fmt.Sprintf("the secret is not JSON, so it has no field %s", name)
	}
	for i, key := range path {
		object, ok := at.(map[string]any)
		if !ok {
			return nil, fmt.Sprintf("the secret has no field %s: the value that should contain %s is not an object", name, strings.Join(path[:i+1], "."))
		}
		if at, ok = object[key]; !ok {
			return nil, fmt.Sprintf("the secret has no field %s", strings.Join(path[:i+1], "."))
		}
	}
	switch v := at.(type) {
	case string:
		return []byte(v), ""
	case json.Number:
		return []byte(v), ""
	}
	return nil, fmt.Sprintf("field %s of the secret is not text or a number", name)
}
