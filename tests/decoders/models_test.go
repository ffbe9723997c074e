package decoders

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func corpus(t testing.TB) []string {
	t.Helper()
	targets, err := Corpus("testdata")
	require.NoError(t, err)
	return targets
}

// kept returns a server's answers, and what its file says of itself.
func kept(t testing.TB, name string) (about map[string]string, answers []Answer) {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".jsonl"))
	require.NoError(t, err)
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	require.True(t, lines.Scan())
	require.NoError(t, json.Unmarshal(lines.Bytes(), &about))
	for lines.Scan() {
		var a Answer
		require.NoError(t, json.Unmarshal(lines.Bytes(), &a))
		answers = append(answers, a)
	}
	require.NoError(t, lines.Err())
	return about, answers
}

// TestModels: a model reads every target of the corpus as its server has.
func TestModels(t *testing.T) {
	t.Parallel()
	for _, d := range Asked {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			about, answers := kept(t, d.Name)
			require.Equal(t, d.Name, about["server"])
			require.NotEmpty(t, about["version"])
			var asked []string
			for _, a := range answers {
				asked = append(asked, a.Target)
				path, query, _ := strings.Cut(a.Target, "?")
				p, ok := d.Path(path)
				q, okay := d.Query(query)
				if a.Status != 200 {
					require.False(t, ok && okay, "%.80s: refused with %d, and not by the model", a.Target, a.Status)
					continue
				}
				require.True(t, ok && okay, "%.80s: refused by the model", a.Target)
				require.Equal(t, a.Path, Latin(p), "%.80s", a.Target)
				if d.Name == "nginx" { // only this one was asked for
					q = map[string][]string{"format": q["format"]}
				}
				for name, values := range q {
					require.Equal(t, a.Query[Latin(name)], latins(values), "%.80s: %q", a.Target, name)
				}
				for name, values := range a.Query {
					if len(values) > 0 {
						require.Contains(t, latinKeys(q), name, "%.80s", a.Target)
					}
				}
			}
			require.Equal(t, corpus(t), asked, "ask the server again: go run ./record %s, in tests/decoders", d.Name)
		})
	}
}

// TestDocumentedModels: those that cannot be asked do as documented.
func TestDocumentedModels(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("testdata/documented.jsonl")
	require.NoError(t, err)
	byName := map[string]Decoder{}
	for _, d := range Documented {
		byName[d.Name] = d
	}
	var d Decoder
	for line := range strings.Lines(string(b)) {
		var about struct{ Server, Version string }
		require.NoError(t, json.Unmarshal([]byte(line), &about))
		if about.Server != "" {
			var there bool
			d, there = byName[about.Server]
			require.True(t, there, about.Server)
			require.NotEmpty(t, about.Version)
			delete(byName, about.Server)
			continue
		}
		var a Answer
		require.NoError(t, json.Unmarshal([]byte(line), &a))
		path, query, _ := strings.Cut(a.Target, "?")
		p, ok := d.Path(path)
		require.True(t, ok)
		require.Equal(t, a.Path, Latin(p), "%s: %s", d.Name, a.Target)
		q, ok := d.Query(query)
		require.True(t, ok)
		for name, values := range a.Query {
			require.Equal(t, values, q[name], "%s: %s", d.Name, a.Target)
		}
	}
	require.Empty(t, byName, "nothing says why these read as they do")
}

func latins(values []string) []string {
	var out []string
	for _, v := range values {
		out = append(out, Latin(v))
	}
	return out
}

func latinKeys(q map[string][]string) []string {
	var out []string
	for name := range q {
		out = append(out, Latin(name))
	}
	return out
}
