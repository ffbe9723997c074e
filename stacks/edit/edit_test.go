package edit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/tests/golden"
)

// TestEdit has one archive for each case: the first line of the comment is the
// edit in JSON, stack.yaml the file, and after.yaml with changes.txt, or
// error.txt, what comes of it.
func TestEdit(t *testing.T) {
	t.Parallel()
	out := []string{"after.yaml", "changes.txt", "error.txt"}
	golden.Each(t, "testdata", out, func(t *testing.T, c *golden.Case) map[string]string {
		var request struct {
			Allow, Revoke, Agent string
			Methods, Paths       []string
		}
		first, _, _ := strings.Cut(c.Comment, "\n")
		require.NoError(t, json.Unmarshal([]byte(first), &request))
		path := filepath.Join(c.Dir, "stack.yaml")
		var e *Edit
		var err error
		if request.Allow != "" {
			e, err = Allow(opened(t, path), AllowRequest{
				Agent: request.Agent, Hosts: hosts(t, request.Allow), Methods: request.Methods, Paths: request.Paths,
			})
		} else {
			e, err = Revoke(opened(t, path), RevokeRequest{Agent: request.Agent, Hosts: hosts(t, request.Revoke)})
		}
		if err != nil {
			require.Nil(t, e)
			return map[string]string{"error.txt": strings.ReplaceAll(err.Error(), c.Dir+"/", "") + "\n"}
		}
		got := map[string]string{"after.yaml": string(e.After)}
		for _, c := range e.Changes() {
			got["changes.txt"] += c.String() + "\n"
		}
		return got
	})
}

// TestLookalikes: an edit warns of the hosts that it adds, and of none that the file already has.
func TestLookalikes(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "local.yaml")
	write(t, path, `version: 1
target: local
destinations:
  fake: {host: gіthub.com}
agents:
  one: {allow: [fake]}
  two: {allow: [fake]}
`)
	const apple = "host xn--80ak6aa92e.com is \"аррӏе.com\", which looks like apple.com but is another host"
	for add, want := range map[string][]string{
		"github.com":     nil,
		"gіthub.com:444": nil, // the host is known, by another port
		"аррӏе.com":      {apple},
		"аррӏе.com аррӏе.com:444 plain.test": {apple},
	} {
		e, err := Allow(opened(t, path), AllowRequest{Agent: "two", Hosts: hosts(t, add)})
		require.NoError(t, err, add)
		require.Equal(t, want, e.Lookalikes(), add)
	}
}

// TestAllowAfterAList: what is added to an agent in braces follows a list in brackets.
func TestAllowAfterAList(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "local.yaml")
	write(t, path, `version: 1
target: local
credentials:
  anthropic: {kind: bearer, secret: "env://KEY"}
agents:
  a: {presets: [anthropic]}
`)
	e, err := Allow(opened(t, path), AllowRequest{Agent: "a", Hosts: hosts(t, "x.test")})
	require.NoError(t, err)
	require.Contains(t, string(e.After), "\n  a: {presets: [anthropic], allow: [x.test]}\n")
}

// TestAllowNextToADenial: a rule that denies a part of a host does not keep the rest from being
// allowed; one that denies all of the host does.
func TestAllowNextToADenial(t *testing.T) {
	t.Parallel()
	for denied, want := range map[string]string{
		`, methods: [POST], paths: ["/admin/**"]`: "",
		``:                                  "denies everything at x.test, whatever else is allowed: take it away by hand first",
		`, expires: "2099-01-01T00:00:00Z"`: "",
	} {
		path := filepath.Join(t.TempDir(), "local.yaml")
		write(t, path, "version: 1\ntarget: local\ndestinations:\n  no: {host: x.test, deny: true"+denied+"}\n"+
			"agents:\n  a: {allow: [no]}\n")
		e, err := Allow(opened(t, path), AllowRequest{Agent: "a", Hosts: hosts(t, "x.test")})
		if want != "" {
			require.ErrorContains(t, err, want)
			continue
		}
		require.NoError(t, err, denied)
		require.Contains(t, string(e.After), "allow: [no, x.test]", denied)
	}
}

// TestRevokeKeepsAComment: what is taken out of a list in brackets leaves a comment before it, and
// one comma.
func TestRevokeKeepsAComment(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "local.yaml")
	const head = "version: 1\ntarget: local\ndestinations:\n" +
		"  a: {host: a.test}\n  b: {host: b.test}\n  c: {host: c.test}\n"
	write(t, path, head+"agents:\n  one:\n    allow: [a, # why\n      b, c]\n  two: {allow: [b]}\n")
	e, err := Revoke(opened(t, path), RevokeRequest{Agent: "one", Hosts: hosts(t, "b.test")})
	require.NoError(t, err)
	require.Equal(t, head+"agents:\n  one:\n    allow: [a, # why\n      c]\n  two: {allow: [b]}\n", string(e.After))
}

// TestExpected: an edit that would change anything other than what was asked for is refused.
func TestExpected(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		change      plan.Change
		adds, takes bool
	}{
		{plan.Change{Kind: "+", Agent: "a", Rule: "a/x", Risk: plan.RiskHigh}, true, false},
		{plan.Change{Kind: "+", Agent: "a", Rule: "a/x", Risk: plan.RiskLow}, true, true},
		{plan.Change{Kind: "+", Risk: plan.RiskLow}, true, true},
		{plan.Change{Kind: "-", Agent: "a", Rule: "a/x", Risk: plan.RiskLow}, false, true},
		{plan.Change{Kind: "-", Agent: "a", Rule: "a/x", Risk: plan.RiskHigh}, false, false},
		{plan.Change{Kind: "-", Risk: plan.RiskLow}, false, true},
		{plan.Change{Kind: "~", Agent: "a", Rule: "a/x", Risk: plan.RiskLow}, false, false},
		{plan.Change{Kind: "+", Agent: "b", Rule: "b/x", Risk: plan.RiskLow}, false, false},
		{plan.Change{Kind: "-", Agent: "b", Rule: "b/x", Risk: plan.RiskLow}, false, false},
		{plan.Change{Kind: "+", Agent: "a", Risk: plan.RiskLow}, false, false},
		{plan.Change{Kind: "-", Agent: "a", Risk: plan.RiskLow}, false, false},
	} {
		require.Equal(t, []bool{c.adds, c.takes}, []bool{adds(c.change, "a"), takes(c.change, "a")}, "%+v", c.change)
	}
}

// TestReason: the reason of a rule is one line of at most 500 bytes.
func TestReason(t *testing.T) {
	t.Parallel()
	for reason, ok := range map[string]bool{
		"": true, "because": true, strings.Repeat("x", 500): true, strings.Repeat("x", 501): false,
		"two\nlines": false, "two\rlines": false, "a\tb": false, "\x1b[2J": false,
	} {
		r, err := (&AllowRequest{Reason: reason}).rule()
		if !ok {
			require.EqualError(t, err, "the reason is longer than 500 bytes, or more than a line", "%q", reason)
			continue
		}
		require.NoError(t, err, "%q", reason)
		require.Equal(t, reason, r.Reason)
	}
}

// hosts reads hosts separated by spaces; a port of * is every port.
func hosts(t *testing.T, s string) []stacks.HostPort {
	t.Helper()
	var out []stacks.HostPort
	for _, word := range strings.Fields(s) {
		word, all := strings.CutSuffix(word, ":*")
		hp, err := stacks.ParseHostPort(word)
		require.NoError(t, err)
		if all {
			hp.Port = 0
		}
		out = append(out, hp)
	}
	return out
}

// TestRevokeUndoesAllow: whatever the style of the file, byte for byte.
func TestRevokeUndoesAllow(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		path := filepath.Join(dir, fmt.Sprintf("s%d.yaml", n))
		before := genFile(t)
		require.NoError(t, os.WriteFile(path, []byte(before), 0o600))
		host := rapid.SampledFrom([]string{"new.test", "default", "null", "1e3.a", "other.test", "xn--bcher-kva.test", "*.wild.test", "*.new.test"}).Draw(t, "host")
		r := AllowRequest{Agent: "a", Hosts: []stacks.HostPort{{Host: host, Port: rapid.SampledFrom([]uint16{443, 8443}).Draw(t, "port")}}}
		if rapid.Bool().Draw(t, "lease") {
			r.Expires = time.Date(2999, 1, 1, 0, 0, 0, 5, time.FixedZone("", 3600))
			r.Reason = rapid.SampledFrom([]string{"", "because", "it's \"needed\": # now, {really}\\", "für später"}).Draw(t, "reason")
		}
		if rapid.Bool().Draw(t, "second") {
			r.Hosts = append(r.Hosts, stacks.HostPort{Host: "second.test", Port: 443})
		}
		if rapid.Bool().Draw(t, "narrow") {
			r.Methods, r.Paths = []string{"get", "POST"}, []string{"/v1/**", "/a/*"}
		}
		e, err := Allow(opened(t, path), r)
		require.NoError(t, err, "%s", before)
		require.NoError(t, e.Write())
		require.NotEqual(t, before, string(e.After))
		for _, hp := range r.Hosts {
			d := e.Plan.Decide(plan.Request{Agent: "a", Scheme: "https", Host: strings.Replace(hp.Host, "*", "some", 1), Port: hp.Port, Method: "GET", Path: "/v1/x"})
			require.True(t, d.Allow, "%s", e.After)
		}
		again, err := Allow(opened(t, path), r)
		require.NoError(t, err)
		require.Equal(t, string(e.After), string(again.After), "twice is once")

		back, err := Revoke(opened(t, path), RevokeRequest{Agent: "a", Hosts: r.Hosts})
		require.NoError(t, err, "%s", e.After)
		require.Equal(t, before, string(back.After), "after allow:\n%s", e.After)
		require.NoError(t, back.Write())
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, before, string(data))
	})
}

// genFile writes a stack with an agent a in one of many styles.
func genFile(t *rapid.T) string {
	pick := func(label string, of ...string) string { return rapid.SampledFrom(of).Draw(t, label) }
	destinations := pick("destinations",
		"",
		"destinations: {}\n",
		"destinations: { }  # none yet\n",
		"destinations: {x: {host: x.test}, \"y\": {host: y.test}}\n",
		"destinations: {\n  x: {host: x.test}, # x\n  y: {host: y.test}\n}\n",
		"destinations:\n  x: {host: x.test}\n  y: {host: y.test}\n",
		"destinations: # all\n  x:\n    host: x.test\n    methods: [GET,\n      POST]\n\n  # the last\n  y:\n    host: y.test\n    paths:\n    - /a   # why\n    - \"/b\"\n",
		"destinations:\n    x: {host: x.test}\n    y: {host: y.test, methods: [GET]} # bücher\n    # foot\n",
		"destinations:\n  x: {host: x.test}\n  y: {host: y.test}\n  other.test: {host: other.test, methods: [PUT]}\n",
		"destinations:\n  x:\n    host: x.test\n    limits: {requests: 5/s}\n    rules: # all\n      - {name: a, deny: true}\n      - name: b # why\n        query: {a: \"*\"}\n  y: {host: \"*.y.test\", mode: tunnel}\n",
		"destinations:\n  x: {host: x.test, git: {read: [\"a/*\"],\n    write: [a/b]}, expires: \"2020-01-01T00:00:00Z\"}\n  y: {host: why.test, paths: [/n], limits: {body: 5MiB, upload: 1KiB/s}, own_credentials: {allow: true, reason: r}}\n  \"new.test-2\": {host: \"*.deny.test\", deny: true}\n",
	)
	has := strings.Contains(destinations, "x:")
	agent := pick("agent",
		"  a: {allow: []}\n",
		"  \"a\": {runtime: bubblewrap, allow: [ ]} # é\n",
		"  a:\n    allow: []   # nothing\n",
		"  a:\n    runtime: bubblewrap\n",
		"  a:\n    allow: []\n    runtime: bubblewrap\n",
		"  a:\n    limits: {concurrent: 5} # each\n    presets:\n    - docs-read\n",
		"  a: {presets: [{name: github, read: [a/b]}], allow: []}\n",
	)
	if has {
		agent = pick("agent with rules", agent,
			"  a: {allow: [x]}\n",
			"  a: {allow: [x, y]}\n",
			"  a:\n    allow: [ 'x',y ]\n",
			"  a:\n    allow: [\n      x, # first\n      \"y\" # second\n    ]\n",
			"  a:\n    allow:\n      - x\n      - y # why\n",
			"  a:\n    allow:\n    - \"x\"\n    # between\n\n    -   'y'\n    # after\n    runtime: bubblewrap\n",
		)
	}
	others := pick("others", "", "  b: {}\n", "  b:\n    allow: []\n")
	sections := []string{"version: 1\ntarget: local # here\n", destinations, "\n# who\nagents:\n" + agent + others}
	if rapid.Bool().Draw(t, "agents first") {
		sections[1], sections[2] = sections[2], sections[1]
	}
	file := strings.Join(sections, "") + pick("end", "", "\n", "# end\n", "proxies: {count: 2}\n", "proxies: {count: 2}")
	if rapid.Bool().Draw(t, "no newline") {
		file = strings.TrimRight(file, "\n")
	}
	if rapid.Bool().Draw(t, "crlf") {
		file = strings.ReplaceAll(file, "\n", "\r\n")
	}
	return file
}

func TestWriteKeepsModeAndLink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	real, link := filepath.Join(dir, "real.yaml"), filepath.Join(dir, "link.yaml")
	require.NoError(t, os.WriteFile(real, []byte(minimal), 0o600))
	require.NoError(t, os.Chmod(real, 0o640))
	require.NoError(t, os.Symlink("real.yaml", link))
	e, err := Allow(opened(t, link), AllowRequest{Agent: "a", Hosts: []stacks.HostPort{{Host: "h.test", Port: 443}}})
	require.NoError(t, err)
	require.NoError(t, e.Write())
	info, err := os.Stat(real)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), info.Mode())
	target, err := os.Readlink(link)
	require.NoError(t, err)
	require.Equal(t, "real.yaml", target)
	data, err := os.ReadFile(real)
	require.NoError(t, err)
	require.Equal(t, string(e.After), string(data))
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 2, "no temporary file is left")
	require.NoError(t, e.Restore())
	data, err = os.ReadFile(real)
	require.NoError(t, err)
	require.Equal(t, minimal, string(data))
}

func opened(t require.TestingT, path string) *stacks.File {
	f, err := stacks.Open(path)
	require.NoError(t, err)
	return f
}

const minimal = "version: 1\ntarget: local\nagents:\n  a: {allow: []}\n"

func TestWriteRefusesAFileThatChanged(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s.yaml")
	write(t, path, minimal)
	e, err := Allow(opened(t, path), AllowRequest{Agent: "a", Hosts: []stacks.HostPort{{Host: "h.test", Port: 443}}})
	require.NoError(t, err)
	write(t, path, minimal+"# mine\n")
	require.ErrorIs(t, e.Write(), stacks.ErrChanged)
	require.ErrorIs(t, e.Restore(), stacks.ErrChanged)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, minimal+"# mine\n", string(data))
}

// FuzzEdit: what can be edited can be edited back.
func FuzzEdit(f *testing.F) {
	for _, data := range golden.Seeds(f, "stack.yaml", "../testdata/load/*.txtar", "testdata/*.txtar") {
		f.Add(data)
	}
	path := filepath.Join(f.TempDir(), "fuzz.yaml")
	f.Fuzz(func(t *testing.T, data []byte) {
		file := &stacks.File{Path: path, Real: path, Ask: fakeClients}
		stack, err := file.Parse(data)
		if err != nil {
			require.Nil(t, stack)
			return
		}
		if len(stack.Plan.Agents) > 0 && !bytes.Contains(data, []byte(fuzzHost)) {
			editBack(t, file, data, stack, stack.Plan.Agents[0].Name)
		}
	})
}

// fuzzHost is a host that the stack files of FuzzEdit have nothing about.
const fuzzHost = "edited.fuzz-test.example"

// editBack allows an agent a host, if the file is one that can be edited, and
// takes it away again: the policy is what it was.
func editBack(t *testing.T, file *stacks.File, data []byte, stack *stacks.Stack, agent string) {
	t.Helper()
	before := stack.Plan
	e := &editor{file: file, agent: agent, data: data, stack: stack}
	err := e.allow(&plan.Rule{Host: fuzzHost, Port: 443, Methods: []string{"GET"}, Paths: []string{"/v1/**"}})
	if err != nil {
		return
	}
	request := plan.Request{Agent: agent, Scheme: "https", Host: fuzzHost, Port: 443, Method: "GET", Path: "/v1/x"}
	allowed := e.stack.Plan
	if d := allowed.Decide(request); d.Reason != plan.ReasonDenied {
		require.True(t, d.Allow, "%+v\n%s", d, e.data)
	}
	changes := plan.Diff(before, allowed)
	require.Len(t, changes, 1, "%s", e.data)
	require.NoError(t, e.revoke(stacks.HostPort{Host: fuzzHost, Port: 443}), "%s", e.data)
	require.Empty(t, plan.Diff(before, e.stack.Plan), "%s", e.data)
	require.Equal(t, before.Decide(request), e.stack.Plan.Decide(request))
}

// fakeClients knows hosts of pip and of nobody else, and starts nothing.
func fakeClients(_ context.Context, client string) ([]stacks.HostPort, error) {
	if client != "pip" {
		return nil, errors.New(client + " is not installed here")
	}
	return []stacks.HostPort{{Host: "index.test", Port: 443}, {Host: "files.test", Port: 8443}}, nil
}

// An edit is written where the file was read, or nowhere.
func TestWriteGoesNowhereElse(t *testing.T) {
	t.Parallel()
	for name, swap := range map[string]func(t *testing.T, dir, victim string){
		"the folder is a link": func(t *testing.T, dir, victim string) {
			require.NoError(t, os.Rename(filepath.Join(dir, "stacks"), filepath.Join(dir, "old")))
			require.NoError(t, os.Symlink(filepath.Dir(victim), filepath.Join(dir, "stacks")))
		},
		"the folder is another one": func(t *testing.T, dir, victim string) {
			require.NoError(t, os.Rename(filepath.Join(dir, "stacks"), filepath.Join(dir, "old")))
			require.NoError(t, os.Rename(filepath.Dir(victim), filepath.Join(dir, "stacks")))
		},
		"the file is a link": func(t *testing.T, dir, victim string) {
			require.NoError(t, os.Remove(filepath.Join(dir, "stacks", "local.yaml")))
			require.NoError(t, os.Symlink(victim, filepath.Join(dir, "stacks", "local.yaml")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path, victim := stackIn(t, filepath.Join(dir, "work"), "local"), stackIn(t, filepath.Join(dir, "victim"), "local")
			e, err := Allow(opened(t, path), AllowRequest{Agent: "a", Hosts: []stacks.HostPort{{Host: "h.test", Port: 443}}})
			require.NoError(t, err)
			swap(t, filepath.Join(dir, "work"), victim)
			require.Error(t, e.Write())
			data, err := os.ReadFile(path) // through the link, or in the new folder: the victim's
			require.NoError(t, err)
			require.Equal(t, minimal, string(data))
		})
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

// stackIn writes a stack file into the folder dir/stacks.
func stackIn(t *testing.T, dir, name string) string {
	t.Helper()
	path := filepath.Join(dir, "stacks", name+".yaml")
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	write(t, path, minimal)
	return path
}
