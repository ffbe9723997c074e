package tests

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postern/postern/envoy"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/stacks/yaml"
	"github.com/postern/postern/tests/golden"
)

// TestGoldenPlansBuild: what the grammar's cases compile to, Envoy's resources
// can be built of.
func TestGoldenPlansBuild(t *testing.T) {
	t.Parallel()
	built := 0
	for _, data := range golden.Seeds(t, "plan.json", "../stacks/testdata/load/*.txtar", "../stacks/aws/testdata/*.txtar") {
		p := &plan.Plan{}
		require.NoError(t, json.Unmarshal([]byte(strings.ReplaceAll(string(data), "$DIR", "/dir")), p))
		_, err := new(envoy.Memo).Build(p, envoy.Options{Roots: "/etc/ssl/certs/ca-certificates.crt"})
		require.NoError(t, err, "%s", data)
		built++
	}
	require.NotZero(t, built)
}

// TestWhateverLoadsBuilds: Envoy's resources can be built of every stack file
// that loads, and every request to it has a verdict.
func TestWhateverLoadsBuilds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	loaded := 0
	rapid.Check(t, func(t *rapid.T) {
		path := filepath.Join(dir, "stack.yaml")
		text := genStack(t)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		stack, err := stacks.Load(path)
		if err != nil {
			var problem *yaml.Problem
			require.ErrorAs(t, err, &problem)
			return
		}
		loaded++
		for _, p := range []*plan.Plan{stack.Plan, stack.Plan.At(time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC))} {
			_, err = new(envoy.Memo).Build(p, envoy.Options{Roots: "/etc/ssl/certs/ca-certificates.crt"})
			require.NoError(t, err, "%s", text)
			for range 10 {
				d := p.Decide(genRequest(t))
				require.NotEmpty(t, d.Reason, "%s", text)
				require.Equal(t, d.Allow, d.Reason == plan.ReasonAllowed)
				if d.Allow || d.Reason == plan.ReasonDenied {
					require.NotEmpty(t, stack.Source(d.Rule))
				}
			}
		}
	})
	t.Logf("%d stack files loaded", loaded)
	require.NotZero(t, loaded, "nothing that was generated loads")
}

var genHosts = []string{"a.test", "b.a.test", `"*.a.test"`, `"*.b.a.test"`, "xn--bcher-kva.test"}

// genStack writes a stack file of which every key may be wrong together with another.
func genStack(t *rapid.T) string {
	pick := func(label string, of ...string) string { return rapid.SampledFrom(of).Draw(t, label) }
	maybe := func(label string, of ...string) string {
		if rapid.IntRange(0, 3).Draw(t, "no "+label) > 0 {
			return ""
		}
		return ", " + label + ": " + pick(label, of...)
	}
	match := func() string {
		return maybe("methods", "[GET]", "[GET, POST]", "[PROPFIND]") + maybe("paths", `["/**"]`, `["/a/*"]`, `["/a", "/b/**", "/x%2fy"]`, `["/"]`) +
			maybe("query", `{q: "*"}`, `{"a%b": "c&d=e"}`, `{q: "x y", "$r[]": "a+(b)|.*"}`) + maybe("headers", `{x-a: "*"}`, `{upgrade: websocket}`, `{accept: "a, b"}`) +
			maybe("expires", `"2026-12-01T00:00:00Z"`, `"2999-01-01T00:00:00Z"`) + maybe("reason", "why") + maybe("owner", "me") + maybe("deny", "true", "false")
	}
	var b strings.Builder
	b.WriteString(`version: 1
target: local
credentials:
  header: {kind: header, header: x-key, prefix: "P ", secret: "env://S"}
  bearer: {kind: bearer, secret: "env://S"}
  basic: {kind: basic, username: u, secret: "env://S"}
  query: {kind: query, parameter: key, secret: "env://S"}
  client: {kind: oauth2-client-credentials, token_url: "https://t.test/", client_id: i, secret: "env://S"}
  refresh: {kind: oauth2-refresh-token, token_url: "https://t.test/", client_id: i, secret: "env://S"}
  app: {kind: github-app, app: 1, installation: 2, username: u, secret: "env://S"}
  aws: {kind: aws-sigv4, service: s3, region: eu-west-1, secret: "env://S"}
  gcp: {kind: gcp-access-token, scopes: [a], secret: "env://S"}
  id: {kind: gcp-id-token, audience: a, secret: "env://S"}
destinations:
`)
	n := rapid.IntRange(1, 5).Draw(t, "destinations")
	var names []string
	for i := range n {
		name := fmt.Sprintf("d%d", i)
		names = append(names, name)
		fmt.Fprintf(&b, "  %s: {host: %s%s%s%s%s%s%s%s", name, pick("host", genHosts...), maybe("port", "443", "8443"), maybe("mode", "tunnel", "tunnel", "intercept"),
			maybe("credential", "header", "bearer", "basic", "query", "client", "refresh", "app", "aws", "gcp", "id"), maybe("own_credentials", "{allow: true, reason: r}"),
			maybe("gateway", fmt.Sprint(8080+i)), maybe("upstream", `{address: "192.0.2.1:443"}`, `{address: "unix:x.sock"}`),
			maybe("limits", "{requests: 10/min}", "{concurrent: 3, body: 1KiB}", "{upload: 1MiB/s, download: 2KiB/s}"))
		switch pick("form", "short", "short", "rules", "git", "plain") {
		case "short":
			b.WriteString(match())
		case "rules":
			fmt.Fprintf(&b, ", rules: [{name: one%s}, {name: two%s}]", match(), match())
		case "git":
			b.WriteString(`, git: {read: ["o/*"], write: [o/r, g/s/r.git], lfs: true}`)
		}
		b.WriteString("}\n")
	}
	fmt.Fprintf(&b, "agents:\n  a: {allow: [%s]%s%s}\n  b: {allow: [%s]}\n", strings.Join(names, ", "),
		maybe("presets", "[docs-read]", "[{name: anthropic, credential: bearer, gateway: 9000}]", "[{name: github, read: [o/r]}, readthedocs]"),
		maybe("limits", "{requests: 5/s}", "{body: 1GiB}"), rapid.SampledFrom(names).Draw(t, "b"))
	return b.String()
}

func genRequest(t *rapid.T) plan.Request {
	pick := func(label string, of ...string) string { return rapid.SampledFrom(of).Draw(t, label) }
	return plan.Request{
		Agent: pick("agent", "a", "a", "b", "c"), Scheme: pick("scheme", "https", "https", "http", "ftp"),
		Host: pick("to", "a.test", "b.a.test", "c.b.a.test", "localhost", "A.TEST", "xn--bcher-kva.test"), Port: rapid.SampledFrom([]uint16{443, 8443, 8080, 8081, 9000, 0}).Draw(t, "at"),
		SNI: pick("sni", "", "a.test", "b.a.test"), Authority: pick("authority", "", "", "a.test:8443", "b.a.test"), Method: pick("method", "GET", "POST", "TRACE", ""),
		Path:   pick("path", "/", "/a", "/a/b", "/b/c/d", "/x%2fy", "/o/r/info/refs", "//", "", "/a/../..", "/;"),
		Query:  pick("query", "", "q=1", "q=x%20y", "service=git-upload-pack", "a%25b=c%26d=e", "&&=%zz"),
		Header: map[string][]string{"x-a": {pick("header", "", "1")}},
	}
}
