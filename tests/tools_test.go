package tests

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/cgi" //nolint:gosec // the flaw is that of Go 1.6
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/sandbox/run"
	"github.com/postern/postern/tests/fleet"
)

var buildMCPClient = fleet.Built("mcpclient", "./tests/mcpclient")

// toolsStack lets the agent's tools go to fewer repositories than the agent, and to one that the
// agent may not use.
const toolsStack = `version: 1
target: local
credentials:
  git: {kind: basic, username: x-access-token, secret: "file:../../git/key"}
destinations:
  repositories:
    host: git.test
    credential: git
    git: {read: ["acme/*"], write: ["acme/app"]}
    upstream: {address: "unix:../../git/git.sock", ca: ../../git/ca.pem}
agents:
  demo:
    allow: [repositories]
    tools:
      git: {repositories: [git.test/acme/app, git.test/acme/moved, git.test/acme/slow, git.test/closed/*]}
`

// toolsPath is a stack with a git server, and a folder in which the agent has the official client.
type toolsPath struct {
	*path
	work, repositories string
	// slow has a request for git.test/acme/slow, which ends when git does.
	slow chan context.Context
}

func newToolsPath(t *testing.T) *toolsPath {
	t.Helper()
	c := newCheckout(t)
	root := filepath.Dir(c.dir)
	p := &toolsPath{
		&path{checkout: c}, filepath.Join(c.dir, "work"), filepath.Join(root, "git", "repositories"),
		make(chan context.Context, 100),
	}
	for _, name := range []string{"acme/app", "acme/other", "closed/app"} {
		p.host(root, `git init -q --bare -b main git/repositories/`+name+` &&
			git -C git/repositories/`+name+` config http.receivepack true`)
	}
	p.host(root, `mkdir co/work; git init -qb main seed && cd seed && echo one > f && git add f && git commit -qm first
		git config -f .gitmodules submodule.sub.path sub
		git config -f .gitmodules submodule.sub.url file://`+p.repositories+`/acme/other
		git update-index --add --cacheinfo 160000,$(git rev-parse HEAD),sub && git add .gitmodules
		git commit -q --amend -m first
		for r in acme/app acme/other closed/app; do git push -q ../git/repositories/$r main; done`)
	require.NoError(t, os.WriteFile(filepath.Join(root, "git", "key"), []byte(pathCanary), 0o600))
	backend, err := exec.CommandContext(t.Context(), "git", "--exec-path").Output()
	require.NoError(t, err)
	serve := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(backend)), "git-http-backend"),
		Env: []string{
			"GIT_PROJECT_ROOT=" + p.repositories, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1",
			"GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
		},
		InheritEnv: []string{"GIT_PROTOCOL"},
	}
	serveTLS(t, filepath.Join(root, "git"), "git.test", "git.sock",
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if user, password, _ := r.BasicAuth(); user != "x-access-token" || password != pathCanary {
				w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			if rest, ok := strings.CutPrefix(r.RequestURI, "/acme/moved/"); ok {
				http.Redirect(w, r, "/acme/app/"+rest, http.StatusFound) //nolint:gosec // to itself
				return
			}
			if strings.HasPrefix(r.RequestURI, "/acme/slow/") {
				p.slow <- r.Context()
				<-r.Context().Done()
				return
			}
			serve.ServeHTTP(w, r)
		}))
	c.write(toolsStack)
	c.does("up")
	client, err := buildMCPClient()
	require.NoError(t, err)
	p.host(p.work, "cp "+client+" mcpclient")
	return p
}

// part returns the stack for a part of the test.
func (p *toolsPath) part(t *testing.T) *toolsPath {
	t.Helper()
	return &toolsPath{p.in(t), p.work, p.repositories, p.slow}
}

// host runs a script on the host as a person who has set git up.
func (p *toolsPath) host(dir, script string) string {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), "sh", "-ec", script)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@a.test",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@a.test", "GIT_CONFIG_GLOBAL=/dev/null")
	out, err := cmd.CombinedOutput()
	require.NoError(p.t, err, "%s: %s", script, out)
	return strings.TrimSpace(string(out))
}

// toolSaid is what mcpclient prints of a call.
type toolSaid struct {
	Tool, Text string
	Failed     bool
}

// running returns the processes that have the word among their arguments.
func running(word string) (all []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && slices.Contains(strings.Split(string(text), "\x00"), word) {
			all = append(all, filepath.Base(filepath.Dir(file)))
		}
	}
	return all
}

// The servers of git's tools: over HTTP, and as a command.
const (
	toolsURL     = "http://localhost:3129/git"
	toolsCommand = "/run/postern/postern-sandbox mcp git"
)

// calls calls tools from inside a sandbox: a tool and its arguments, each.
func (p *toolsPath) calls(calls ...string) []toolSaid {
	p.t.Helper()
	return p.callsAt(toolsURL, calls...)
}

func (p *toolsPath) callsAt(server string, calls ...string) (all []toolSaid) {
	p.t.Helper()
	args := append([]string{"run", "--file", p.stackFile(), "--", "./mcpclient", server}, calls...)
	out := p.ok(p.posternIn(p.work, args...))
	for line := range strings.Lines(out) {
		var s toolSaid
		require.NoError(p.t, json.Unmarshal([]byte(line), &s), line)
		all = append(all, s)
	}
	require.Len(p.t, all, len(calls)/2)
	return all
}

// TestTools: git outside the sandbox clones, fetches and pushes with a credential that it does not
// see, and under the agent's rules.
func TestTools(t *testing.T) {
	t.Parallel()
	p := newToolsPath(t)

	t.Run("work", func(t *testing.T) {
		p := p.part(t)
		for _, s := range p.calls(
			"clone", `{"repository":"git.test/acme/app","path":"app"}`,
			"branch", `{"path":"app","create":"topic"}`,
			"branch", `{"path":"app"}`,
			"status", `{"path":"app"}`,
			"log", `{"path":"app"}`,
		) {
			require.False(t, s.Failed, "%s: %s", s.Tool, s.Text)
			require.NotContains(t, s.Text, pathCanary)
			switch s.Tool {
			case "log":
				require.Contains(t, s.Text, "a: first")
			case "status":
				require.Equal(t, "## main", s.Text)
			case "branch":
				require.Regexp(t, `^done$|^(?s:.*) topic `, s.Text)
			}
		}
		unsaid, err := os.ReadDir(run.Unsaid(filepath.Join(filepath.Dir(p.dir), "home")))
		require.NoError(t, err)
		require.Empty(t, unsaid, "no tool is taken for a command that was killed")
		require.Equal(t, "one", p.host(p.work, "cat app/f"))
		require.NoFileExists(t, filepath.Join(p.work, "app/sub/.git"), "submodules are not cloned")

		out := p.ok(p.posternIn(p.work, "run", "--", "sh", "-ec", `cd app
			git config user.name a; git config user.email a@a
			git checkout -q topic; echo two > f; git commit -qam second; cd ..
			./mcpclient `+toolsURL+` status '{"path":"app"}' \
				push '{"path":"app","repository":"git.test/acme/app","branch":"topic"}' \
				fetch '{"path":"app","repository":"git.test/acme/app"}'
			git -C app log --format=%s origin/topic; env; cat app/.git/config`))
		require.Contains(t, out, `refs/heads/topic:refs/heads/topic\t[new branch]`)
		require.Contains(t, out, "## topic")
		require.Contains(t, out, "second\nfirst\n")
		require.NotContains(t, out, pathCanary)
		require.Equal(t, "second", p.host(p.repositories+"/acme/app", "git log -1 --format=%s topic"))
		require.Condition(t, func() bool {
			all := p.events(audit.Filter{Agent: "demo", Host: "git.test"}, 1)
			return slices.ContainsFunc(all, func(e audit.Event) bool {
				return e.Rule == "demo/repositories/git-write-pack" && e.Credential == "git"
			})
		}, "the push has an event")

		// A push that would take something away from the server is refused.
		p.host(p.repositories+"/acme/app",
			"git update-ref refs/heads/topic $(git commit-tree -p topic -m theirs topic^{tree})")
		s := p.calls("push", `{"path":"app","repository":"git.test/acme/app","branch":"topic"}`)[0]
		require.True(t, s.Failed)
		require.Contains(t, s.Text, "rejected")
		require.Equal(t, "theirs", p.host(p.repositories+"/acme/app", "git log -1 --format=%s topic"))
	})

	t.Run("nothing else", func(t *testing.T) {
		p := p.part(t)
		p.host(p.work, "rm -rf app again out; ln -s / out; mkdir -p plain")
		var calls, want []string
		add := func(tool, arguments, why string) { calls, want = append(calls, tool, arguments), append(want, why) }
		for _, repository := range []string{
			"git.test/acme/other", "evil.test/acme/app", "git.test", "git.test/acme/../closed/app", "--upload-pack=x",
			"ext::sh -c id", "file:///etc", "https://git.test/acme/app", "git.test/acme/app#x", "git.test/acme/app?x",
			"git.test/acme/*", "u:p@git.test/acme/app", "git.test:8443/acme/app", "git.test/acme/app\n", "",
		} {
			text, err := json.Marshal(map[string]string{"repository": repository, "path": "again"})
			require.NoError(t, err)
			add("clone", string(text), "git may not talk to")
		}
		add("clone", `{"repository":"git.test/closed/app","path":"again"}`, "403") // the agent's rules decide, too
		add("clone", `{"repository":"git.test/acme/moved","path":"again"}`, "302") // a redirect is not followed
		for _, path := range []string{
			"../x", "/etc/x", "a/../../x", "-x", "--upload-pack=x", "x\\u0000", "x\\ny", "$(id)", ".", "",
		} {
			add("clone", `{"repository":"git.test/acme/app","path":"`+path+`"}`, "is not")
		}
		add("clone", `{"repository":"git.test/acme/app","path":"out/etc/x"}`, "git clone failed") // a link
		for _, branch := range []string{"-f", "--all", "+main", "main:other", "a b", "*", "$(id)", "a\\nb"} {
			add("push", `{"repository":"git.test/acme/app","branch":"`+branch+`"}`, "is not valid")
			add("push", `{"repository":"git.test/acme/app","branch":"main","to":"`+branch+`"}`, "is not valid")
			add("branch", `{"create":"`+branch+`"}`, "is not valid")
		}
		for _, revision := range []string{"--output=x", "-O/etc/passwd", "a..b", ":/x", "@{1}"} {
			add("log", `{"revision":"`+revision+`"}`, "is not valid")
		}
		add("log", `{"count":201}`, "is not between 1 and 200")
		add("status", `{"path":"plain"}`, "has no folder .git")
		add("status", `{"path":"plain","extra":1}`, "extra")
		add("shell", `{}`, "unknown tool")
		for _, server := range []string{toolsURL, toolsCommand} {
			for i, s := range p.callsAt(server, calls...) {
				require.True(t, s.Failed, "%s %s: %s", s.Tool, calls[2*i+1], s.Text)
				require.Contains(t, s.Text, want[i], "%s %s", s.Tool, calls[2*i+1])
			}
		}
		require.NoDirExists(t, filepath.Join(p.work, "again"))
		require.NoDirExists(t, "/etc/x")
		require.Condition(t, func() bool {
			return slices.ContainsFunc(p.events(audit.Filter{Agent: "demo", Denied: true}, 1),
				func(e audit.Event) bool { return e.Host == "git.test:443" })
		}, "what the agent's rules refuse has an event")
	})

	t.Run("a hostile repository", func(t *testing.T) {
		p := p.part(t)
		// Whatever git runs because a repository says so leaves a file, as git inside shows.
		out := p.ok(p.posternIn(p.work, "run", "--", "sh", "-c", `
			set -e; rm -rf bad ran; mkdir -p bad ran; cd bad
			git init -qb main; git config user.name a; git config user.email a@a
			echo one > f; echo '* filter=x diff=x' > .gitattributes; git add .; git commit -qm first; w=$(dirname $PWD)
			for hook in pre-push reference-transaction post-index-change pre-auto-gc post-checkout; do
				printf '#!/bin/sh\ntouch %s/ran/%s\n' $w $hook > .git/hooks/$hook; chmod +x .git/hooks/$hook; done
			git config core.fsmonitor "touch $w/ran/fsmonitor; false"; git config core.sshCommand "touch $w/ran/ssh"
			git config filter.x.clean "touch $w/ran/clean; cat"; git config filter.x.smudge "touch $w/ran/smudge; cat"
			git config diff.external "touch $w/ran/diff"; git config credential.helper "!touch $w/ran/credential"
			git config gpg.program "$w/ran/gpg"; git config core.pager "touch $w/ran/pager"
			git config alias.status "!touch $w/ran/alias"
			git config url.ext::touch.insteadOf https://git.test/; git config protocol.ext.allow always
			git config http.proxy http://127.0.0.1:9; git config remote.origin.uploadpack "touch $w/ran/uploadpack"
			touch f; git status >/dev/null; cd ..; ls ran; rm -f ran/*
			./mcpclient `+toolsURL+` status '{"path":"bad"}' branch '{"path":"bad","create":"b"}' log '{"path":"bad"}' \
				fetch '{"path":"bad","repository":"git.test/acme/app"}' \
				push '{"path":"bad","repository":"git.test/acme/app","branch":"main","to":"bad"}'
			echo "ran: $(echo $(ls ran))"`))
		require.Contains(t, out, "fsmonitor\n", "the repository is hostile")
		require.True(t, strings.HasSuffix(out, "ran: \n"), out)
		require.NotContains(t, out, `"Failed":true`)
		require.Equal(t, "first", p.host(p.repositories+"/acme/app", "git log -1 --format=%s bad"))

		// Git's folder may not be elsewhere, and nothing that it has blocks.
		p.host(p.work, `for l in gitlink gitfile fifo; do rm -rf $l; mkdir $l; done; ln -s ../bad/.git gitlink/.git
			echo 'gitdir: ../bad/.git' > gitfile/.git; cp -r bad/.git fifo/.git
			rm fifo/.git/HEAD; mkfifo fifo/.git/HEAD`)
		for _, s := range p.calls("log", `{"path":"gitlink"}`, "log", `{"path":"gitfile"}`, "log", `{"path":"fifo"}`) {
			require.True(t, s.Failed, s.Text)
			require.Contains(t, s.Text, "has no f")
		}
	})

	t.Run("bounds", func(t *testing.T) {
		p := p.part(t)
		p.host(p.work, `rm -rf many; mkdir many; cd many; git init -qb main
			seq -f 'a-long-name-of-a-file-%g' 5000 | xargs touch`)
		large := `{"path":"` + strings.Repeat("x", 100<<10) + `"}`
		for _, s := range p.callsAt(toolsCommand,
			"status", `{"path":"many"}`, "log", large, "status", `{"path":"bad"}`) {
			switch {
			case s.Tool == "log":
				require.True(t, s.Failed)
				require.Contains(t, s.Text, "the tools refuse the message")
			case s.Failed:
				require.Contains(t, s.Text, "it says too much")
				require.Less(t, len(s.Text), 70<<10)
			default:
				require.Contains(t, s.Text, "## main")
			}
		}
		s := p.calls("status", `{"path":"many"}`)[0]
		require.True(t, s.Failed)
		require.Contains(t, s.Text, "it says too much")
		require.Less(t, len(s.Text), 70<<10)
		out := p.ok(p.posternIn(p.work, "run", "--", "sh", "-c", `
			rm -rf many; for i in 1 2 3 4 5 6; do ./mcpclient `+toolsURL+` log '{"path":"bad"}' & done; wait
			post() { curl -sS -o /dev/null -w '%{http_code}\n' -H 'content-type: application/json' \
				-H 'accept: application/json, text/event-stream' "$@"; }
			head -c 100000 /dev/zero | tr '\0' ' ' > large
			post --data-binary @large `+toolsURL+`; post -d '{}' -H 'Origin: http://evil.test' `+toolsURL+`
			post -d '{}' -H 'Host: evil.test:3129' `+toolsURL+`; post -d '{}' http://localhost:3129/other
			curl -sS --unix-socket /run/postern/tools/tools.sock http://localhost:3129/git 2>&1; echo "ends with $?"`))
		require.Equal(t, 6, strings.Count(out, "first"), out)
		require.Regexp(t, `(?s)\n4\d\d\n403\n403\n404\n.*ends with 7\n$`, out)
	})

	t.Run("none", func(t *testing.T) {
		p := p.part(t)
		for _, flags := range [][]string{{"--overlay"}, {"--workspace", "read-only"}} {
			r := p.posternIn(p.work, slices.Concat([]string{"run"}, flags, []string{"--", "./mcpclient", toolsURL})...)
			require.NotZero(t, r.status, r.stdout)
			require.Contains(t, r.stderr, "agent demo has no tools in this run: they need workspace write")
		}
		r := p.posternIn(p.work, "run", "--", "sh", "-c", `for name in tools x 'git HTTP/1.1'; do
			echo '{"id":1,"method":"tools/list"}' | /run/postern/postern-sandbox mcp "$name"; done`)
		require.Equal(t, 3, strings.Count(p.ok(r), "this agent has no tools at http://localhost:3129/"), r.stdout)
		p.host(p.work, `rm -rf odd; git init -qb main --object-format=sha256 odd
			git -C odd commit -q --allow-empty -m odd`)
		said := p.calls("log", `{"path":"odd"}`)[0]
		require.True(t, said.Failed, "names of another kind are not misread: %s", said.Text)
	})

	t.Run("documented", func(t *testing.T) {
		p := p.part(t)
		doc, err := os.ReadFile("../docs/tools.md")
		require.NoError(t, err)
		p.host(p.work, "rm -rf shown; mkdir shown; cd shown; git init -qb main; git commit -q --allow-empty -m shown")
		var lines []string
		for line := range strings.Lines(string(doc)) {
			if command, ok := strings.CutPrefix(line, "    postern "); ok && strings.Contains(line, toolsURL) {
				lines = append(lines, command)
			}
		}
		require.Len(t, lines, 2)
		require.Contains(t, string(doc), `{"type": "http", "url": "`+toolsURL+`"}`)
		program, args, _ := strings.Cut(toolsCommand, " ")
		require.Contains(t, string(doc),
			`{"command": "`+program+`", "args": ["`+strings.ReplaceAll(args, " ", `", "`)+`"]}`)
		for i, want := range []string{`"name":"clone"`, "a: shown"} {
			cmd := exec.CommandContext(t.Context(), "sh", "-ec", postern(t)+" "+lines[i])
			cmd.Dir, cmd.Env = filepath.Join(p.work, "shown"), append(p.environ, "POSTERN_STACK="+p.stackFile())
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			require.Contains(t, string(out), want)
		}
	})

	t.Run("left", func(t *testing.T) {
		p := p.part(t)
		for _, how := range []string{"SIGKILL", "kill"} {
			run := exec.CommandContext(t.Context(), postern(t), "run", "--file", p.stackFile(), "--",
				"./mcpclient", toolsURL, "clone", `{"repository":"git.test/acme/slow","path":"slow-`+how+`"}`)
			run.Dir, run.Env = p.work, p.environ
			var said bytes.Buffer
			run.Stdout, run.Stderr = &said, &said
			require.NoError(t, run.Start())
			var request context.Context
			select {
			case request = <-p.slow:
			case <-time.After(time.Minute):
				require.Fail(t, "git does not ask", "%s: %v %s", how, run.Wait(), &said)
			}
			require.NotEmpty(t, running("https://git.test/acme/slow"))
			if how == "SIGKILL" {
				require.NoError(t, run.Process.Kill())
			} else {
				p.ok(p.postern("kill", "--agent", "demo"))
			}
			select {
			case <-request.Done():
			case <-time.After(time.Minute):
				require.Fail(t, "git still waits", how)
			}
			require.Eventually(t, func() bool { return len(running("https://git.test/acme/slow")) == 0 },
				time.Minute, 10*time.Millisecond, how)
			_ = run.Wait() // mcpclient ends well, with what the tool said
		}
		p.ok(p.postern("unkill", "--agent", "demo"))
		require.True(t, p.calls("clone", `{"repository":"git.test/acme/moved","path":"x"}`)[0].Failed)
		all, err := os.ReadDir(p.home.ToolsDir())
		require.NoError(t, err)
		require.Empty(t, all, "the next run has removed what the killed one has left")
	})

	t.Run("killed", func(t *testing.T) {
		p := p.part(t)
		done := make(chan result)
		go func() {
			const log = `./mcpclient ` + toolsURL + ` log '{"path":"bad"}'; `
			done <- p.posternIn(p.work, "run", "--", "sh", "-c", log+`touch ready
				for i in $(seq 600); do [ -e go ] && break; sleep 0.1; done
				echo '{"id":1,"method":"tools/list"}' | `+toolsCommand+`; `+log)
		}()
		require.Eventually(t, func() bool {
			_, err := os.Stat(p.work + "/ready")
			return err == nil
		}, time.Minute, 10*time.Millisecond)
		p.ok(p.postern("kill", "--agent", "demo"))
		// The run is told within a moment of the kill; its word comes when its tools have ended.
		require.Eventually(t, func() bool {
			all, err := os.ReadDir(p.home.ToolsDir())
			return err == nil && len(all) == 0
		}, time.Minute, 10*time.Millisecond)
		require.NoError(t, os.WriteFile(p.work+"/go", nil, 0o600))
		r := <-done
		require.NotZero(t, r.status, r.stdout)
		require.Equal(t, 1, strings.Count(r.stdout, "first"), r.stdout)
		require.Contains(t, r.stdout, "this run has no tools, or they have ended")
		require.Contains(t, r.stderr, "agent demo is killed, so its tools have ended")
		r = p.posternIn(p.work, "run", "--", "sh", "-c", "echo works; ./mcpclient "+toolsURL)
		require.NotZero(t, r.status, r.stdout)
		require.Contains(t, r.stderr, "agent demo has no tools in this run: the agent is killed")
		require.Equal(t, "works\n", r.stdout, "the command itself runs: %s", r.stderr)
		p.ok(p.postern("unkill", "--agent", "demo"))
	})
}
