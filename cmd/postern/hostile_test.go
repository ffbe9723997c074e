package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/cloud"
	"github.com/postern/postern/explain"
	"github.com/postern/postern/home"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/xds/api"
)

// hostile clears a terminal, moves on it, reorders text, and writes a line and a cell of its own.
const hostile = "x\x1b[2J\u009bH\u202e\rgone\nFORGED: live on 2/2 nodes\tok\n"

// everywhere sets each string that v leads to to the hostile one, and gives each list an element.
func everywhere(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		everywhere(v.Elem())
	case reflect.String:
		v.SetString(hostile)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			everywhere(v.Index(i))
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Now().Add(-time.Minute)))
			return
		}
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				everywhere(v.Field(i))
			}
		}
	}
}

func filled[T any]() *T {
	v := new(T)
	everywhere(reflect.ValueOf(v).Elem())
	return v
}

// TestHostileTexts: what a node, a control plane, an agent or a log said makes no line, no column
// and no escape sequence, whichever command prints it.
func TestHostileTexts(t *testing.T) {
	t.Parallel()
	status := func() *api.Status { return filled[api.Status]() }
	once := func(_ context.Context, each func(*api.Status) error) error { return each(status()) }
	for name, show := range map[string]func(w io.Writer) error{
		"status": func(w io.Writer) error {
			return printStatus(w, hostile, status(), time.Now(), statusDetails{types: true, source: func(string) string { return hostile }, up: "up"})
		},
		"status of a fleet that is whole": func(w io.Writer) error {
			s := status()
			for i := range s.Nodes {
				s.Nodes[i].Connected, s.Nodes[i].Streams = true, 2
			}
			s.Nodes[0].Problem = ""
			s.Credentials[0].OK = true
			return printStatus(w, hostile, s, time.Now(), statusDetails{elsewhere: true, source: func(string) string { return hostile }, up: "up"})
		},
		"watch":         func(w io.Writer) error { return (&watcher{w: w}).run(t.Context(), once) },
		"watch as JSON": func(w io.Writer) error { return (&watcher{w: w, asJSON: true}).run(t.Context(), once) },
		"explain":       func(w io.Writer) error { printExplanation(w, filled[explain.Explanation]()); return nil },
		"drift": func(w io.Writer) error {
			return printDrift(w, &stacks.Stack{}, []cloud.Difference{*filled[cloud.Difference]()}, false)
		},
		"effective": func(w io.Writer) error { filled[explain.Agent]().Print(w); return nil },
		"kill": func(w io.Writer) error {
			_ = imposed(w, home.Folder{Root: hostile}, "killed", &bundle.Outcome{Converged: filled[api.Converged]()}, errors.New("x"))
			return nil
		},
	} {
		var out bytes.Buffer
		require.NoError(t, show(&out), name)
		require.NotEmpty(t, out.String(), name)
		for _, r := range out.String() {
			require.True(t, r == '\n' || r >= ' ' && r <= '~', "%s: %q in\n%q", name, r, out.String())
		}
		for line := range strings.Lines(out.String()) {
			require.False(t, strings.HasPrefix(strings.TrimSpace(line), "FORGED"), "%s: %s", name, out.String())
		}
	}
}
