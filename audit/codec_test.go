package audit

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postern/postern/accesslog"
	"github.com/postern/postern/plan"
)

const allowed = `{"agent":"a","authority":"api.test","connect":"api.test:443","details":"via_upstream","flags":"-",` +
	`"k":"request","method":"GET","ms":1,"path":"/v1/x","route":"allowed api.test:443 key api","rx":0,"sni":"api.test","status":200,"t":"1795416854.918","tx":100}` + "\n"

// FuzzParse: what the parser of our own takes it reads as encoding/json does.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		allowed, denied, `{}`, `{"rx":01}`, `{"rx":-1}`, `{"rx":1.5}`, `{"rx":1e3}`, `{"rx":12345678901234567890}`, `{"k":1}`, `{"rx":"1"}`, `{"k":"a","k":"b"}`,
		`{"path":"/\u0041"}`, `{"path":"/ä"}`, "{\"path\":\"/\xff\"}", "{\"path\":\"\x01\"}", `{"K":"a"}`, `{"other":1}`, `{"k":"a",}`, `{"k":"a"}x`, `{"k":"a"`, `{"k"`, `{"k":null}`, ` {"k":"a"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, want := accesslog.Line{}, accesslog.Line{}
		if !scanLine(&got, string(b)) {
			return
		}
		require.NoError(t, json.Unmarshal(b, &want))
		require.Equal(t, want, got)
	})
}

// TestParseTakes holds the parser to take what Envoy mostly writes.
func TestParseTakes(t *testing.T) {
	t.Parallel()
	for _, s := range []string{allowed, denied} {
		require.True(t, scanLine(new(accesslog.Line), s), s)
	}
	// Every field of a line.
	v := reflect.TypeFor[accesslog.Line]()
	for i := range v.NumField() {
		value := `"x"`
		if v.Field(i).Type.Kind() == reflect.Int64 {
			value = "7"
		}
		require.True(t, scanLine(new(accesslog.Line), `{"`+v.Field(i).Tag.Get("json")+`":`+value+`}`), v.Field(i).Name)
	}
}

// TestAppendJSON: events are written as encoding/json would, all of their fields.
func TestAppendJSON(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.StringMatching(`[ -~]*`), rapid.SampledFrom([]string{"", "\xff", "\u2028", `"<&>\`, "\x7f"}))
		e := Event{Time: time.Unix(rapid.Int64Range(0, 1<<33).Draw(rt, "s"), rapid.Int64Range(0, 999).Draw(rt, "ms")*1e6).UTC()}
		v := reflect.ValueOf(&e).Elem()
		for i := range v.NumField() {
			if !v.Type().Field(i).IsExported() {
				continue // not written
			}
			switch f := v.Field(i); f.Kind() {
			case reflect.String:
				f.SetString(text.Draw(rt, v.Type().Field(i).Name))
			case reflect.Int, reflect.Int64:
				f.SetInt(rapid.Int64().Draw(rt, v.Type().Field(i).Name))
			case reflect.Uint64:
				f.SetUint(rapid.Uint64().Draw(rt, v.Type().Field(i).Name))
			case reflect.Struct: // the time
			default:
				rt.Fatalf("appendJSON knows no field like %s", v.Type().Field(i).Name)
			}
		}
		want, err := json.Marshal(&e)
		require.NoError(rt, err)
		require.Empty(rt, cmp.Diff(string(want), string(e.appendJSON(nil))))
	})
}

// TestAppendJSONOfOneField: each field by itself is written, or left out, as
// encoding/json does. A publication's number without anything else once was not.
func TestAppendJSONOfOneField(t *testing.T) {
	t.Parallel()
	for i := range reflect.TypeFor[Event]().NumField() {
		e := Event{Time: time.Unix(0, 0).UTC()}
		if !reflect.TypeFor[Event]().Field(i).IsExported() {
			continue // not written
		}
		f := reflect.ValueOf(&e).Elem().Field(i)
		name := reflect.TypeFor[Event]().Field(i).Name
		switch f.Kind() {
		case reflect.String:
			f.SetString("x")
		case reflect.Int, reflect.Int64:
			f.SetInt(1)
		case reflect.Uint64:
			f.SetUint(1)
		}
		want, err := json.Marshal(&e)
		require.NoError(t, err)
		require.Equal(t, string(want), string(e.appendJSON(nil)), name)
	}
}

// TestCopyDoesNotWait: an event is in the file before the next line comes, and
// the lines that come at once are not torn apart by the size of a read.
func TestCopyDoesNotWait(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w, err := NewWriter(dir, "n1")
	require.NoError(t, err)
	in, out := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- w.Copy(in) }()
	_, err = io.WriteString(out, denied+allowed[:40])
	require.NoError(t, err)
	// This is read only after what came before was written.
	_, err = io.WriteString(out, allowed[40:])
	require.NoError(t, err)
	b, err := os.ReadFile(segmentPath(filepath.Join(dir, "n1"), 1))
	require.NoError(t, err)
	require.GreaterOrEqual(t, bytes.Count(b, []byte("\n")), 1)
	long := strings.Replace(allowed, "/v1/x", "/"+strings.Repeat("x", 3*maxBatch), 1)
	_, err = io.WriteString(out, strings.Repeat(allowed, 1000)+long+denied)
	require.NoError(t, err)
	require.NoError(t, out.Close())
	require.NoError(t, <-done)
	require.NoError(t, w.Close())
	events, err := Read(dir, Filter{})
	require.NoError(t, err)
	require.Len(t, events, 1004)
	n := map[plan.Reason]int{}
	for i, e := range events {
		require.Equal(t, uint64(i+1), e.Seq)
		n[e.Reason]++
	}
	require.Equal(t, map[plan.Reason]int{plan.ReasonAllowed: 1002, plan.ReasonHost: 2}, n)
}

// BenchmarkCopy is the cost of one event for a node's supervisor.
func BenchmarkCopy(b *testing.B) {
	w, err := NewWriter(b.TempDir(), "n1")
	require.NoError(b, err)
	lines := bytes.Repeat([]byte(allowed), b.N)
	b.ResetTimer()
	require.NoError(b, w.Copy(bytes.NewReader(lines)))
}
