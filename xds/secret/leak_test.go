package secret

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
)

// planted has in it what encodings change.
const planted = "planted+/=~" + canary

// forms are a secret as it might turn up: as it is, in base64 at any place, in
// hexadecimal, percent-encoded, as JSON, and as Go prints bytes.
func forms(value string) map[string]string {
	quoted, _ := json.Marshal(value)
	all := map[string]string{
		"raw": value, "hex": hex.EncodeToString([]byte(value)), "HEX": strings.ToUpper(hex.EncodeToString([]byte(value))),
		"query": url.QueryEscape(value), "path": url.PathEscape(value), "json": strings.Trim(string(quoted), `"`),
		"bytes": strings.Trim(fmt.Sprint([]byte(value)), "[]"), "%#v": strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", []byte(value)), "[]byte{"), "}"),
	}
	for before := range 3 {
		for name, enc := range map[string]*base64.Encoding{"std": base64.RawStdEncoding, "url": base64.RawURLEncoding} {
			s := enc.EncodeToString([]byte(strings.Repeat("x", before) + value))
			all[fmt.Sprintf("base64 %s at %d", name, before)] = s[4 : len(s)-3]
		}
	}
	return all
}

// requireNone looks for the canary in all its forms.
func requireNone(t *testing.T, where, text string) {
	t.Helper()
	for name, form := range forms(planted) {
		if strings.Contains(text, form) {
			t.Errorf("the secret is in %s (%s)", where, name)
		}
	}
}

// printed prints v by everything that prints.
func printed(v any) string {
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%t", "%e", "%p"} {
		fmt.Fprintf(&out, verb, v)
		fmt.Fprintf(&out, verb, &v)
	}
	if b, err := json.Marshal(v); err == nil {
		out.Write(b)
	} else {
		out.WriteString(err.Error())
	}
	level := &slog.HandlerOptions{Level: slog.LevelDebug, AddSource: true}
	slog.New(slog.NewJSONHandler(&out, level)).Info("x", "v", v, "p", &v)
	slog.New(slog.NewTextHandler(&out, level)).Info("x", "v", v, slog.Group("g", "v", v))
	return out.String()
}

// TestPlantedSecret plants a secret in every kind of source, lets each fail in
// every way after, and looks for it in everything that the package hands out.
func TestPlantedSecret(t *testing.T) {
	t.Parallel()
	s := NewStore(salt, hostpath.In(t.TempDir()), func() {})
	t.Cleanup(s.Close)
	all := map[string]place{
		"awssecretsmanager": secretsManagerPlace(t, s), "awsparamstore": paramStorePlace(t, s), "gcpsecretmanager": secretManagerPlace(t, s),
		"https": webPlace(t, s), "vault": vaultPlace(t, s), "exec": helperPlace(t), "file": filePlace(t),
	}
	var cs []plan.Credential
	for name, p := range all {
		p.put(planted)
		kinds := map[string]plan.Kind{"bearer": plan.KindBearer, "basic": plan.KindBasic, "query": plan.KindQuery, "aws": plan.KindAWSSigV4, "github": plan.KindGitHubApp}
		for kind, k := range kinds {
			cs = append(cs, plan.Credential{Name: name + "-" + kind, Kind: k, Username: "u", Parameter: "key", Secret: p.url})
		}
		// A field that is not there: the document is near the error.
		if !strings.Contains(p.url, "#") {
			cs = append(cs, plan.Credential{Name: name + "-field", Kind: plan.KindBearer, Secret: p.url + "#outer.inner"})
		}
	}
	require.NoError(t, s.Watch(t.Context(), cs))
	walk := func(what string) {
		t.Helper()
		handed := []any{s, s.clouds, s.States(), cs}
		for _, c := range cs {
			handed = append(handed, s.material(c.Name))
			_, err := s.Sign(&clusterv3.Cluster{Name: c.Name})
			handed = append(handed, err)
		}
		for _, v := range handed {
			requireNone(t, fmt.Sprintf("%T, %s", v, what), printed(v))
		}
		stacks := make([]byte, 4<<20)
		requireNone(t, "a dump of all goroutines, "+what, string(stacks[:runtime.Stack(stacks, true)]))
	}
	problems := func(want int, what string) {
		t.Helper()
		require.Eventually(t, func() bool { return len(s.problems()) == want }, time.Minute, 10*time.Millisecond, "%s: %d problems, not %+v", what, want, s.problems())
		walk(what)
	}
	// What is no JSON and no key does not open those that need one.
	bad := 0
	for _, c := range cs {
		if strings.HasSuffix(c.Name, "-aws") || strings.HasSuffix(c.Name, "-github") || strings.HasSuffix(c.Name, "-field") {
			bad++
		}
	}
	problems(bad, "in use")
	require.Contains(t, printed(struct{ B []byte }{[]byte(planted)}), forms(planted)["hex"], "it would be found")
	for name := range all {
		require.Equal(t, planted, s.value(name+"-bearer"))
	}
	for _, p := range all {
		if p.down != nil {
			p.down()
		}
	}
	// Files have no outage.
	problems(len(cs)-3, "with every source down")
	for _, p := range all {
		if p.up != nil {
			p.up()
		}
	}
	problems(bad, "with every source up again")
	for _, p := range all {
		p.put("malformed " + planted + "\n\x00")
	}
	problems(len(cs), "malformed")
	for _, p := range all {
		p.remove()
	}
	problems(len(cs), "gone")
}

// TestPanicTellsNothing: the trace of a panic beside a secret has addresses.
func TestPanicTellsNothing(t *testing.T) {
	t.Parallel()
	s := NewStore(salt, hostpath.In(t.TempDir()), func() {})
	t.Cleanup(s.Close)
	f := &feed{store: s, credential: "c", to: make(chan reading)}
	m := compose(plan.Credential{Kind: plan.KindBearer}, reading{value: seal([]byte(planted))})
	var trace string
	func() {
		defer func() { trace = fmt.Sprint(recover()) + string(debug.Stack()) }()
		func(sealed, material, *feed, reading) { panic(fmt.Sprintf("%+v %#v %v", m, m, f)) }(seal([]byte(planted)), m, f, reading{value: m.value})
	}()
	requireNone(t, "a panic", trace)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("over"))
	f.value(ctx, []byte(planted), "")
	requireNone(t, "a feed", printed(f)+printed(*f))
}
