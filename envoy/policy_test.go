package envoy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/postern/postern/envoy"
	"github.com/postern/postern/stacks"
	stackfile "github.com/postern/postern/stacks/yaml"
	"github.com/postern/postern/tests/golden"
)

// plainFeature is the golden that shows Envoy's resources whole.
const plainFeature = "plain"

// samePart is how long a part of the resources has to be, in bytes of JSON, to
// be named instead of shown again.
const samePart = 100

// TestPolicyFeatures has one archive for each feature of the policy: a stack
// file goes in; the plan and Envoy's resources, or the errors, must come out.
// Whatever is the same as in plain.txtar is not shown again but named.
func TestPolicyFeatures(t *testing.T) {
	t.Parallel()
	known := map[string]string{}
	feature(t, plainFeature, nil, known)
	files, err := filepath.Glob("testdata/policy/*.txtar")
	require.NoError(t, err)
	for _, file := range files {
		if name := strings.TrimSuffix(filepath.Base(file), ".txtar"); name != plainFeature {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				feature(t, name, known, nil)
			})
		}
	}
}

// feature checks one archive. What is in known is elided; learn, if not nil,
// gets the parts of this one.
func feature(t *testing.T, name string, known, learn map[string]string) {
	t.Helper()
	c := golden.Open(t, filepath.Join("testdata", "policy", name+".txtar"), func(name string) bool { return name == "stack.yaml" })
	var out []golden.File
	add := func(name, text string) {
		out = append(out, golden.File{Name: name, Data: []byte(strings.TrimRight(text, "\n") + "\n")})
	}
	stack, err := stacks.Load(filepath.Join(c.Dir, "stack.yaml"))
	var problem *stackfile.Problem
	switch {
	case errors.As(err, &problem):
		add("errors.txt", strings.ReplaceAll(err.Error(), c.Dir+"/", ""))
	case err != nil:
		require.NoError(t, err)
	default:
		add("plan.yaml", asYAML(t, stack.Plan))
		r, err := envoy.Build(stack.Plan, envoy.Options{Roots: "/roots.pem"})
		require.NoError(t, err)
		show := func(kind string, m proto.Message, name string) {
			b, err := protojson.Marshal(m)
			require.NoError(t, err)
			where := kind + " " + name
			if learn != nil {
				remember(t, learn, generic(t, b), where)
			}
			add(where, asYAML(t, elide(t, known, generic(t, b))))
		}
		for _, m := range r.Clusters {
			show("cluster", m, m.GetName())
		}
		for _, m := range r.Scopes {
			show("scope", m, m.GetName())
		}
		for _, m := range r.Listeners {
			show("listener", m, m.GetName())
		}
	}
	c.Has(t, out...)
}

// remember notes every part of v that is long enough, under where it is.
func remember(t *testing.T, known map[string]string, v any, where string) {
	t.Helper()
	if b := asJSON(t, v); len(b) >= samePart && known[b] == "" {
		known[b] = where
	}
	switch v := v.(type) {
	case map[string]any:
		for k, part := range v {
			remember(t, known, part, where+"."+k)
		}
	case []any:
		for i, part := range v {
			remember(t, known, part, fmt.Sprintf("%s.%d", where, i))
		}
	}
}

// elide returns v with the name of every part that is known instead of the part.
func elide(t *testing.T, known map[string]string, v any) any {
	t.Helper()
	if len(known) == 0 {
		return v
	}
	if _, ok := known[asJSON(t, v)]; ok {
		return "as in " + plainFeature
	}
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, part := range v {
			out[k] = elide(t, known, part)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, part := range v {
			out[i] = elide(t, known, part)
		}
		return out
	}
	return v
}

// asJSON is the one encoding of v: its keys are sorted.
func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return string(b)
}

// generic is JSON as maps, slices and scalars; whole numbers stay whole.
func generic(t *testing.T, data []byte) any {
	t.Helper()
	var v any
	require.NoError(t, yaml.Unmarshal(data, &v)) // which JSON is
	return v
}

// asYAML is v for people; its keys are sorted.
func asYAML(t *testing.T, v any) string {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, yaml.NewEncoder(&out, yaml.UseLiteralStyleIfMultiline(true), yaml.IndentSequence(false)).Encode(generic(t, []byte(asJSON(t, v)))))
	return out.String()
}
