package denials

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/plan"
)

// log is an audit log of one node.
type log struct {
	t       *testing.T
	command Command
	content bytes.Buffer
	seq     uint64
}

func newLog(t *testing.T) *log {
	t.Helper()
	home := t.TempDir()
	t.Setenv("HOME", home)
	return &log{t: t, command: Command{
		File: filepath.Join(home, "work.yaml"), Dir: filepath.Join(home, "audit"), Agent: "demo",
		Since: time.Now().Add(-time.Minute),
	}}
}

// add writes an event of the command: a denial of the agent demo, unless it says otherwise.
func (l *log) add(e audit.Event) {
	l.t.Helper()
	l.seq++
	e.Seq, e.Node = l.seq, "n1"
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if e.Agent == "" {
		e.Agent = "demo"
	}
	if e.Verdict == "" {
		e.Verdict = audit.Deny
	}
	require.NoError(l.t, json.NewEncoder(&l.content).Encode(e))
	dir := filepath.Join(l.command.Dir, "n1")
	require.NoError(l.t, os.MkdirAll(dir, 0o700))
	require.NoError(l.t, os.WriteFile(filepath.Join(dir, "00000000000000000001.jsonl"), l.content.Bytes(), 0o600))
}

func (l *log) explained() string {
	l.t.Helper()
	var b strings.Builder
	l.command.Explain(&b, l.command.Read(l.t.Context(), 0))
	return b.String()
}

func denied(host string) audit.Event {
	return audit.Event{Method: "CONNECT", Host: host, Rule: "demo/default", Reason: plan.ReasonHost}
}

// P37: every denial is named, the last one first; many are bounded, and the rest is counted.
func TestAllDenials(t *testing.T) {
	l := newLog(t)
	for _, host := range []string{"a.test:443", "b.test:443", "c.test:443", "a.test:443"} {
		l.add(denied(host))
	}
	old, other, fine := denied("old.test:443"), denied("other.test:443"), denied("fine.test:443")
	old.Time, other.Agent = l.command.Since.Add(-time.Second), "other"
	fine.Verdict, fine.Reason = audit.Allow, plan.ReasonAllowed
	l.add(old)
	l.add(other)
	l.add(fine)
	text := l.explained()
	a, b, c := strings.Index(text, "a.test"), strings.Index(text, "b.test"), strings.Index(text, "c.test")
	require.True(t, 0 <= a && a < c && c < b, text)
	require.Equal(t, 3, strings.Count(text, "denied by policy"), "each once")
	require.Contains(t, text, "CONNECT a.test:443 (2 times; rule demo/default: host_not_allowed)")
	for _, not := range []string{"old.test", "other.test", "fine.test"} {
		require.NotContains(t, text, not)
	}
	for i := range most {
		l.add(denied(fmt.Sprintf("more%d.test:443", i)))
	}
	text = l.explained()
	require.Equal(t, most, strings.Count(text, "denied by policy"))
	require.Contains(t, text, "postern: and 3 more: postern audit --agent demo --denied --file ~/work.yaml\n")
}

// P28, P39 and P53: the line to paste names the stack, and allows what was asked and no more.
func TestLineToPaste(t *testing.T) {
	const reading = "an operator can allow reading there: postern allow "
	const all, stack = "   # everything there: without --method and --path\n", " --file ~/work.yaml"
	for _, c := range []struct {
		event audit.Event
		want  string
	}{
		{denied("api.test:443"), reading + "api.test --agent demo --method GET,HEAD" + stack + all},
		{denied("api.test:8443"), reading + "api.test:8443 --agent demo --method GET,HEAD" + stack + all},
		{
			audit.Event{Method: "DELETE", Host: "api.test:443", Path: "/v1/*/it's", Reason: plan.ReasonMethod},
			"an operator can allow it: postern allow api.test --agent demo --method DELETE --path ..." + stack +
				"   # no pattern matches just this path" + all,
		},
		{
			audit.Event{Method: "GET", Host: "api.test:443", Path: "/v1/x", Reason: plan.ReasonPath},
			"an operator can allow it: postern allow api.test --agent demo --method GET --path '/v1/x'" + stack + all,
		},
		{
			audit.Event{Method: "GET", Host: "api.test:443", Path: "/$(id)", Reason: plan.ReasonDenied},
			"an operator can see why: postern explain 'https://api.test:443/$(id)' --agent demo" + stack + "\n",
		},
		// An agent chose the host: nothing to paste, nothing that moves the cursor.
		{denied("a;rm -rf ~\x1b[2J:443"), ""},
		{denied("a.test:443;reboot"), ""},
	} {
		l := newLog(t)
		l.add(c.event)
		text := l.explained()
		require.NotContains(t, text, "\x1b")
		_, hint, _ := strings.Cut(text, "\n")
		require.Equal(t, c.want, strings.TrimPrefix(hint, "  "), text)
	}
}

// P40: what failed behind the proxy, and a credential that the destination refused.
func TestFailures(t *testing.T) {
	l := newLog(t)
	l.add(audit.Event{
		Method: "GET", Host: "down.test:443",
		Path: "/", Rule: "demo/down", Verdict: audit.Allow, Reason: plan.ReasonUpstream, Status: 503,
	})
	l.add(audit.Event{
		Method: "GET", Host: "git.test:443",
		Path: "/x", Rule: "demo/git", Verdict: audit.Allow, Reason: plan.ReasonAllowed, Status: 401,
		Credential: "gh",
	})
	l.add(audit.Event{
		Method: "GET", Host: "mine.test:443",
		Path: "/x", Rule: "demo/own", Verdict: audit.Allow, Reason: plan.ReasonAllowed, Status: 401,
	})
	text := l.explained()
	require.Contains(t, text, "postern: git.test:443 refused the credential gh (401): GET git.test:443/x "+
		"(rule demo/git: allowed)\n"+
		"  look at its value where it is kept, then: postern status --file ~/work.yaml\n")
	require.Contains(t, text, "postern: the destination cannot be reached, or its certificate does not verify: "+
		"GET down.test:443/ (rule demo/down: upstream_failed)\n"+
		"  an operator sees why with: postern audit --agent demo --file ~/work.yaml\n")
	require.NotContains(t, text, "mine.test", "no credential of ours")
}

// P13, P15: of what is not TLS, or does not trust the sandbox, the cause and the way out.
func TestHandshakes(t *testing.T) {
	l := newLog(t)
	l.add(audit.Event{Method: "CONNECT", Host: "own.test:443", Rule: "demo/default", Reason: plan.ReasonTLS})
	require.Equal(t, "postern: the client does not trust the sandbox's authority, or left: CONNECT own.test:443 "+
		"(rule demo/default: tls_handshake_failed)\n"+
		"  this client has roots of its own: let it read /run/postern/bundle.pem, or give the destination "+
		"mode: tunnel in the stack file, which nothing inspects\n", l.explained())
	l = newLog(t)
	l.add(audit.Event{Method: "GET", Host: "db.test:5433", Path: "/", Rule: "demo/default", Reason: plan.ReasonScheme})
	require.Contains(t, l.explained(), "\n  only what begins with TLS gets out: use https; for a tunnel, TLS from "+
		"the first byte (Postgres: sslnegotiation=direct); or,")
}

// P51: of a push that was denied, the repository, and a line that allows all that git asks for.
func TestGit(t *testing.T) {
	for _, c := range []struct {
		path   string
		reason plan.Reason
		want   string
	}{
		{"/acme/app.git/info/refs", plan.ReasonCondition, "push to acme/app: postern allow git.test --agent demo " +
			"--method GET,POST --path '/acme/app.git/info/refs' --path '/acme/app.git/git-receive-pack'"},
		{"/acme/app/git-receive-pack", plan.ReasonPath, "push to acme/app: postern allow git.test --agent demo " +
			"--method GET,POST --path '/acme/app/info/refs' --path '/acme/app/git-receive-pack'"},
		{"/acme/app/info/refs", plan.ReasonPath, "fetch from acme/app: postern allow git.test --agent demo " +
			"--method GET,POST --path '/acme/app/info/refs' --path '/acme/app/git-upload-pack'"},
	} {
		l := newLog(t)
		l.add(audit.Event{Method: "GET", Host: "git.test:443", Path: c.path, Rule: "demo/default", Reason: c.reason})
		require.Contains(t, l.explained(), "\n  an operator can allow to "+c.want+" --file ~/work.yaml\n")
	}
	l := newLog(t)
	l.add(audit.Event{
		Method: "GET", Host: "git.test:443", Path: "/a'b*/info/refs", Rule: "demo/default", Reason: plan.ReasonPath,
	})
	require.NotContains(t, l.explained(), "fetch from", "no pattern matches just this path")
}

// P41: of a request that cannot be read, what could be read.
func TestMalformed(t *testing.T) {
	l := newLog(t)
	l.add(audit.Event{Rule: "demo/default", Reason: plan.ReasonMalformed, Detail: "http1.codec_error\x07", Status: 400})
	require.Equal(t, "postern: the request is malformed or too large: a request that names no host "+
		"(rule demo/default: malformed_request; http1.codec_error?)\n"+
		"  an operator sees why with: postern audit --agent demo --file ~/work.yaml\n", l.explained())
}

// P52: a command that succeeds says in one line how often it was refused, by host.
func TestCount(t *testing.T) {
	l := newLog(t)
	counted := denied("flood.test:443")
	counted.Count = 40
	for _, e := range []audit.Event{
		denied("a.test:443"), counted, denied("a.test:8443"), denied("a.test:443"), {Reason: plan.ReasonMalformed},
	} {
		l.add(e)
	}
	var b strings.Builder
	l.command.Count(&b, l.command.Read(t.Context(), 0))
	require.Equal(t, "postern: refused or failed: a request without a host 1, a.test 2, a.test:8443 1, flood.test 40; "+
		"see: postern audit --agent demo --denied --file ~/work.yaml\n", b.String())
	b.Reset()
	l.command.Count(&b, nil)
	require.Empty(t, b.String())
}

// The event of a denial is written after the answer: it is waited for, and no longer than that.
func TestReadWaits(t *testing.T) {
	l := newLog(t)
	require.NoError(t, os.MkdirAll(filepath.Join(l.command.Dir, "n1"), 0o700))
	require.Empty(t, l.command.Read(t.Context(), time.Millisecond))
	found := make(chan []Trouble)
	reads := func() { found <- l.command.Read(t.Context(), 6*time.Second) }
	go reads()
	l.add(denied("late.test:443"))
	require.Len(t, <-found, 1)
	// The command's last refusal comes after others.
	go reads()
	time.Sleep(100 * time.Millisecond) //nolint:forbidigo // what is waited for has no event
	l.add(denied("later.test:443"))
	troubles := <-found
	require.Len(t, troubles, 2)
	require.Equal(t, "later.test:443", troubles[0].Host)
}
