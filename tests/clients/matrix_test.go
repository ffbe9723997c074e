package clients

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/sandbox/wire"
)

// Denials as clients show them. Where they pass on the proxy's own words
// there is no doubt; where they have only a status or an alert it is that.
const (
	words = `denied by policy`
	// refused is the answer to CONNECT, as a status.
	refused = `403`
	// alert is how TLS says it to who did not ask the proxy.
	alert = `(?i)access.denied`
)

// library is a client that one of the programs in testdata uses.
type library struct {
	name string
	// host is what it says of a host that no rule names. Of a path that no rule
	// allows it always has the proxy's words, unless path says otherwise.
	host, path string
	// allowed is a request that arrives: where, and what the client says of it.
	allowed, says string
	// gateway is true if it also goes by http://localhost:8080.
	gateway bool
}

const (
	socketSays = "echo hello"
	modelSays  = "hello from the stand-in"
)

var libraries = map[string][]library{
	"python": {
		{name: "urllib", host: refused},
		{name: "requests", host: refused},
		{name: "httpx", host: refused},
		{name: "httpx-async", host: refused},
		{name: "aiohttp", host: alert},
		{name: "aiohttp-proxy", host: refused},
		{name: "websockets", host: refused, path: refused, allowed: "ws.test/v1/websockets", says: socketSays},
		{name: "websockets-async", host: refused, path: refused, allowed: "ws.test/v1/websockets-async", says: socketSays},
		{name: "anthropic", host: refused, allowed: "api.test/v1/messages", says: modelSays, gateway: true},
		{name: "anthropic-async", host: refused, allowed: "api.test/v1/messages", says: modelSays, gateway: true},
	},
	"node": {
		{name: "fetch", host: alert},
		{name: "https", host: alert},
		{name: "ws", host: alert, allowed: "ws.test/v1/ws", says: socketSays},
		{name: "anthropic-typescript", host: alert, allowed: "api.test/v1/messages", says: modelSays, gateway: true},
	},
	"java": {
		{name: "java", host: alert, gateway: true},
		{name: "java-proxy", host: refused},
	},
	"go": {
		{name: "go", host: `Forbidden`},
		{name: "go-direct", host: alert},
	},
}

// check compares what a program printed, a JSON object for each case, with
// what is expected of its clients, and with what reached the upstream.
func (s *stack) check(language, printed string) {
	s.Helper()
	said := map[string]string{}
	for line := range strings.Lines(printed) {
		var c struct{ Client, Case, Text string }
		require.NoError(s, json.Unmarshal([]byte(line), &c), "%s", line)
		said[c.Client+" "+c.Case] = c.Text
	}
	says := func(client, which, pattern string) {
		s.Helper()
		text, ok := said[client+" "+which]
		require.True(s, ok, "%s does not try %s:\n%s", client, which, printed)
		require.Regexp(s, pattern, text, "%s, %s", client, which)
	}
	for _, l := range libraries[language] {
		if l.allowed == "" {
			l.allowed = "api.test/v1/echo/" + l.name
			l.says = `"path":"/v1/echo/` + l.name + `"`
		}
		if l.path == "" {
			l.path = words
		}
		says(l.name, "allowed", regexp.QuoteMeta(l.says))
		says(l.name, "path", l.path)
		says(l.name, "host", l.host)
		if l.gateway {
			says(l.name, "gateway", regexp.QuoteMeta(l.says))
			says(l.name, "gateway-path", words)
		}
		s.injected(l.allowed)
		require.Empty(s, s.up.seen("api.test", "/v2/"))
		require.Empty(s, s.up.seen("ws.test", "/v2/"))
		require.Empty(s, s.up.seen("denied.test", ""))
	}
	s.denied(language+": the path", func(e audit.Event) bool { return strings.HasPrefix(e.Path, "/v2/") })
	s.denied(language+": the host", func(e audit.Event) bool { return e.Host == "denied.test:443" })
}

// TestMatrix is one stack for all clients. One sandbox has all clients of a
// language.
func TestMatrix(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackFile, func(*plan.Plan, *plan.Upstream) {})
	python := "PYTHONPATH=" + filepath.Join(s.dir, "python")

	t.Run("python", func(t *testing.T) {
		t.Parallel()
		s := s.in(t)
		out := s.ok(s.run("python", []string{python}, "python3", s.program("libraries.py")))
		events, out := cutLine(t, out, `"events"`)
		require.Contains(t, events, "['one', 'two']", "the first event came before the second was sent")
		s.check("python", out)
	})

	t.Run("node", func(t *testing.T) {
		t.Parallel()
		s := s.in(t)
		// Its fetch uses proxies only if it is told so; here it cannot.
		out := s.ok(s.run("node", nil, "env", "-u", "HTTP_PROXY", "-u", "HTTPS_PROXY", "-u", "http_proxy", "-u", "https_proxy", "node", s.program("libraries.mjs")))
		events, out := cutLine(t, out, `"events"`)
		require.Contains(t, events, `data: one\n\ndata: two\n\n`, "the first event came before the second was sent")
		s.check("node", out)
	})

	t.Run("java", func(t *testing.T) {
		t.Parallel()
		s := s.in(t)
		r := s.run("java", nil, "java", s.program("Libraries.java"))
		s.check("java", s.ok(r))
		require.Empty(t, r.stderr, "Java has nothing to remark")
	})

	t.Run("java with roots of its own", func(t *testing.T) {
		t.Parallel()
		s := s.in(t)
		s.environ = append(s.environ, "PATH="+filepath.Join(s.dir, "jre", "bin")+":"+os.Getenv("PATH"))
		// It is in the working directory, where nothing is mounted.
		r := s.run("java", nil, "java", "-Djavax.net.ssl.trustStore="+wire.Java, s.program("Libraries.java"))
		s.check("java", s.ok(r))
		require.Regexp(t, `^postern: \S+ on PATH leads to what the command writes: [^\n]*\n$`, r.stderr, "Java has nothing to remark")
	})

	t.Run("go", func(t *testing.T) {
		t.Parallel()
		s := s.in(t)
		program := s.program("goclient.go")
		binary := strings.TrimSuffix(program, ".go")
		build(t, s.dir, filepath.Join(s.dir, binary), "./"+program)
		s.check("go", s.ok(s.run("go", nil, "./"+binary)))
	})

	t.Run("programs", func(t *testing.T) {
		t.Parallel()
		for _, c := range programs {
			t.Run(c.name, func(t *testing.T) {
				s := s.in(t)
				c.run(s, python)
			})
		}
	})

	t.Run("agents", func(t *testing.T) {
		t.Parallel()
		for _, c := range agents {
			t.Run(c.name, func(t *testing.T) {
				s := s.in(t)
				c.run(s, python, s.program("agent.py"))
			})
		}
	})
}

// cutLine takes the line that has what out of text.
func cutLine(t *testing.T, text, what string) (line, rest string) {
	t.Helper()
	for l := range strings.Lines(text) {
		if strings.Contains(l, what) {
			line += l
		} else {
			rest += l
		}
	}
	require.NotEmpty(t, line, "no line has %s:\n%s", what, text)
	return line, rest
}

// TestDocumented: the matrix in docs/clients.md is of these versions.
func TestDocumented(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "clients.md"))
	require.NoError(t, err)
	for _, in := range installers("") {
		for _, pin := range in.pins {
			i := strings.LastIndexAny(pin, "=@")
			if i < 0 {
				continue // of the system
			}
			name, version := strings.TrimRight(pin[:i], "="), strings.TrimPrefix(pin[i+1:], "v")
			require.Regexp(t, `(?m)^\| .*\b`+regexp.QuoteMeta(filepath.Base(name))+`\b.* \| `+regexp.QuoteMeta(version)+` \|`, string(doc))
		}
	}
}
