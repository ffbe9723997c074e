package decoders

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// An Answer is what a server made of one target.
type Answer struct {
	Target string `json:"target"`
	// Status is 200, or that of a refusal or redirect.
	Status int `json:"status"`
	// Path and Query are as the application has them, bytes as Latin-1; of nested
	// parameters, the first name and all values.
	Path     string              `json:"path,omitempty"`
	Query    map[string][]string `json:"query,omitempty"`
	Location string              `json:"location,omitempty"`
}

// Corpus returns the targets that servers were asked for: paths.txt of the folder
// testdata as they are, and queries.txt after "/x?".
func Corpus(testdata string) ([]string, error) {
	var targets []string
	for _, file := range []struct{ name, before string }{{"paths.txt", ""}, {"queries.txt", "/x?"}} {
		b, err := os.ReadFile(filepath.Join(testdata, file.name))
		if err != nil {
			return nil, fmt.Errorf("read the corpus: %w", err)
		}
		for line := range strings.Lines(string(b)) {
			targets = append(targets, file.before+strings.TrimSuffix(line, "\n"))
		}
	}
	return targets, nil
}

// Latin takes each byte for a character, as JSON can hold it.
func Latin(s string) string {
	out := make([]rune, len(s))
	for i := range len(s) {
		out[i] = rune(s[i])
	}
	return string(out)
}
