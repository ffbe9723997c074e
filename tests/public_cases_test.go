package tests

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/exit"
	"github.com/postern/postern/xds/api"
)

// casesStack has a git host, a service that speaks plain HTTP, and a tunnel.
const casesStack = `version: 1
target: local
credentials:
  key: {kind: header, header: x-api-key, secret: "file:../../key"}
destinations:
  echo:
    host: echo.test
    rules: [{name: read, methods: [GET], paths: ["/v1/**"]}]
    git: {read: ["acme/*"]}
    credential: key
    upstream: {address: "unix:../../echo.sock", ca: ../../ca.pem}
  plain: {host: plain.test, gateway: 11434, upstream: {address: "@PLAIN@", plain_http: true}}
  db: {host: db.test, port: 5433, mode: tunnel, upstream: {address: "unix:../../echo.sock"}}
agents:
  demo: {allow: [echo, plain, db]}
  other: {allow: [plain]}
`

// TestPublicCases are small inputs that people reported about comparable programs, by their IDs,
// each with what is right.
func TestPublicCases(t *testing.T) {
	t.Parallel()
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s %q", r.Method, r.Host, r.URL.Path, r.Header.Get("Authorization"))
	}))
	t.Cleanup(plain.Close)
	p := newPathOf(t, strings.Replace(casesStack, "@PLAIN@", plain.Listener.Addr().String(), 1))
	home := t.TempDir()
	p.environ = append(p.environ, "HOME="+home, "GIT_CONFIG_GLOBAL=")
	const settings = "[user]\n\tname = \"Ann \\\"A\\\" O'Hara\"\n" +
		"\temail = ann@example.test\n[commit]\n\tgpgsign = true\n[credential]\n\thelper = store\n"
	require.NoError(t, os.WriteFile(filepath.Join(home, ".gitconfig"), []byte(settings), 0o600))
	fails := func(t *testing.T, command string) result {
		t.Helper()
		r := p.in(t).run("demo", "bash", "-c", command)
		require.NotEqual(t, exit.Done, r.status, "%s%s", r.stdout, r.stderr)
		return r
	}
	works := func(t *testing.T, command string) string {
		t.Helper()
		return p.in(t).ok(p.in(t).run("demo", "bash", "-c", command))
	}
	status := func(t *testing.T) string {
		t.Helper()
		return p.in(t).ok(p.in(t).postern("status"))
	}
	for _, c := range []struct {
		id   string
		test func(t *testing.T)
	}{
		{"P1: worktrees, submodules, subfolders", func(t *testing.T) { p.in(t).gitElsewhere(t, home) }},
		{"P2, P5: remotes over SSH, a password that nobody asks for", func(t *testing.T) {
			for _, start := range []string{"git@echo.test:", "ssh://git@echo.test/", "https://echo.test/"} {
				remote := start + "acme/app"
				r := fails(t, "git ls-remote "+remote)
				require.Contains(t, r.stderr, "terminal prompts disabled", remote)
				require.Contains(t, r.stderr, "echo.test:443 refused the credential key (401)", remote)
			}
			e := p.in(t).events(audit.Filter{Agent: "demo"}, 3)
			require.Equal(t, "/acme/app/info/refs", e[0].Path)
			require.Contains(t, status(t), "note: echo.test:443 refused credential key (401) ")
			r := fails(t, "git ls-remote git@other.test:acme/app")
			require.Contains(t, r.stderr, "CONNECT other.test:22", "P2: an event, and a sentence")
		}},
		{"P3: the author, and a signature without a key", func(t *testing.T) {
			const commit = "git init -q r && cd r && git config commit.gpgsign true && git config gpg.format ssh && " +
				"git config user.signingkey /nowhere && git commit -q --allow-empty -m x && " +
				"git log -1 --format='%an <%ae> %G?'; "
			require.Equal(t, "Ann \"A\" O'Hara <ann@example.test> N\n", works(t, commit+"rm -rf ../r"))
			require.Empty(t, works(t, "git config --get credential.helper || true"))
			own := works(t, "git init -q s && cd s && git config user.name mine && git config user.name; rm -rf ../s")
			require.Equal(t, "mine\n", own)
		}},
		{"P6: an environment of a Python in the home, as uv makes it", func(t *testing.T) { p.in(t).venv(home) }},
		{"P9: no folder is needed", func(t *testing.T) {
			root := func(flags ...string) result {
				args := append([]string{"run", "--file", p.stackFile(), "--agent", "demo"}, flags...)
				return p.in(t).posternIn("/", append(args, "--", "pwd")...)
			}
			r := root()
			require.Equal(t, exit.Sandbox, r.status)
			require.Contains(t, r.stderr, "--workdir, or use none: --workspace tmpfs")
			r = root("--workspace", "tmpfs")
			require.Equal(t, "/workspace\n", p.in(t).ok(r))
			r = root("--workdir", filepath.Join(p.dir, "work"))
			require.Equal(t, filepath.Join(p.dir, "work")+"\n", p.in(t).ok(r))
		}},
		{"P10: what is in the sandbox is reached without the proxy", func(t *testing.T) {
			const server = "python3 -m http.server --bind :: 8080 >/dev/null 2>&1 & " + // 8080 is free unless asked for
				"until curl -s -o /dev/null --noproxy '*' localhost:8080; do sleep 0.05; done; "
			const all = "0.0.0.0 127.0.0.1 127.0.0.2 127.9.8.7 localhost $(hostname) '[::1]' x.localhost"
			said := works(t, server+"for a in "+all+"; do "+
				`curl -s -o /dev/null -w "%{http_code} $a\n" "http://$a:8080/"; done; kill %1`)
			for line := range strings.Lines(said) {
				require.True(t, strings.HasPrefix(line, "200 "), said)
			}
			require.Equal(t, 8, strings.Count(said, "\n"))
		}},
		{"P11: a service that speaks plain HTTP", func(t *testing.T) {
			for _, url := range []string{"http://localhost:11434", "https://plain.test"} {
				said := works(t, "curl -sS -H 'Authorization: Bearer x' "+url+"/api/tags")
				require.Equal(t, `GET plain.test /api/tags ""`, said)
			}
			r := p.in(t).postern("effective", "--agent", "demo")
			require.Contains(t, p.in(t).ok(r), "over plain HTTP")
		}},
		{"P12: a port that is published", func(t *testing.T) { p.in(t).publishedPort(t) }},
		{"P13: what is not HTTP has an event with name, port and reason", func(t *testing.T) {
			for command, want := range map[string]string{
				"echo > /dev/tcp/mail.test/25":     "CONNECT mail.test:25",
				"echo > /dev/tcp/203.0.113.9/6379": "CONNECT 203.0.113.9:6379",
				"printf '\\0\\0\\0\\10\\4\\322\\26\\57' > /dev/tcp/db.test/5433; sleep 1; false": "db.test:5433",
			} {
				// On a busy machine an event comes later than the end of a command waits for it.
				require.Eventually(t, func() bool { return strings.Contains(fails(t, command).stderr, want) },
					time.Minute, time.Millisecond, command)
			}
			r := fails(t, "for i in {1..300}; do echo > /dev/tcp/h$i.test/99; done 2>/dev/null; sleep 1; false")
			require.Contains(t, r.stderr, " more: ")
			events, err := audit.Read(p.home.AuditDir(), audit.Filter{Agent: "demo", Denied: true})
			require.NoError(t, err)
			n := 0
			for _, e := range events {
				if strings.HasSuffix(e.Host, ":99") {
					n++
				}
			}
			require.Equal(t, 64, n, "bounded")
		}},
		{"P42: what is published runs, whatever the file says meanwhile", func(t *testing.T) {
			before, err := os.ReadFile(p.stackFile())
			require.NoError(t, err)
			defer p.write(string(before))
			p.edit("version: 1", "vers: 1")
			require.Contains(t, works(t, "curl -sS http://localhost:11434/x"), "GET plain.test /x")
			require.Contains(t, status(t), "has a mistake, and what is live stays")
			p.write(strings.Replace(string(before), "gateway: 11434", "gateway: 11435", 1))
			require.Contains(t, works(t, "curl -sS http://localhost:11434/x"), "GET plain.test /x")
		}},
		{"P44: variables that are not passed are said", func(t *testing.T) {
			r := p.in(t).posternIn(filepath.Join(p.dir, "work"), "run", "--agent", "demo", "--env", "NO_PROXY=x",
				"--env", "SSL_CERT_FILE=y", "--env", "MINE=z", "--",
				"bash", "-c", "echo $MINE $NO_PROXY $SSL_CERT_FILE")
			require.Regexp(t, `^z localhost,\S+ /run/postern/\S+\n$`, p.in(t).ok(r))
			require.Contains(t, r.stderr, "--env NO_PROXY, --env SSL_CERT_FILE: the command gets Postern's value")
		}},
		{"P46: what changes under a running fleet is in its status", func(t *testing.T) {
			require.NotContains(t, status(t), "not live")
			ca := filepath.Join(filepath.Dir(p.dir), "ca.pem")
			before, err := os.ReadFile(ca)
			require.NoError(t, err)
			defer func() { require.NoError(t, os.WriteFile(ca, before, 0o600)) }()
			require.NoError(t, os.WriteFile(ca, append(before, p.authority(t)...), 0o600))
			require.Contains(t, status(t), "or an authority that it names, has changes that are not live")
		}},
	} {
		t.Run(c.id, c.test)
	}
}

// uvEnvironment makes .venv as uv does: of a Python in the home that is not on PATH, by the link to
// the version in use.
const uvEnvironment = `real=$(python3 -c 'import os, sys; print(os.path.realpath(sys.executable))')
lib=$(python3 -c 'import os; print(os.path.dirname(os.__file__))')
uv=$HOME/.local/share/uv/python; mkdir -p $uv/cpython-3.0/{bin,lib} $HOME/elsewhere
cp "$real" $uv/cpython-3.0/bin/python3; cp "$real" $HOME/elsewhere/python3; ln -s cpython-3.0 $uv/cpython-3
tar -C "$(dirname "$lib")" --exclude=dist-packages --exclude=site-packages --exclude=test -ch "$(basename "$lib")" |
	tar -C $uv/cpython-3.0/lib -x
$uv/cpython-3/bin/python3 -m venv --without-pip .venv; touch .venv/mine`

// venv is an environment in the working directory, of a Python in the home that is not on PATH.
func (p *path) venv(home string) {
	p.t.Helper()
	prepare := exec.CommandContext(p.t.Context(), "bash", "-ec", "mkdir -p work; cd work; "+uvEnvironment)
	prepare.Dir, prepare.Env = p.dir, append(os.Environ(), "HOME="+home)
	out, err := prepare.CombinedOutput()
	require.NoError(p.t, err, "%s", out)
	said := p.ok(p.run("demo", "bash", "-c",
		".venv/bin/python -c 'import json, sys; print(sys.base_prefix)'; echo $UV_PROJECT_ENVIRONMENT"))
	require.Regexp(p.t, "^"+home+`/\.local/share/uv/python/cpython-3\S*\n\n$`, said)

	// One whose Python is not shown is not uv's to replace.
	venv := filepath.Join(p.dir, "work", ".venv")
	require.NoError(p.t, os.Remove(filepath.Join(venv, "bin", "python")))
	require.NoError(p.t, os.Symlink(filepath.Join(home, "elsewhere", "python3"), filepath.Join(venv, "bin", "python")))
	require.NoError(p.t, os.WriteFile(filepath.Join(venv, "pyvenv.cfg"), []byte("home = "+home+"/elsewhere\n"), 0o600))
	require.Equal(p.t, "/tmp/venv\n", p.ok(p.run("demo", "bash", "-c",
		"! .venv/bin/python -V 2>/dev/null; echo $UV_PROJECT_ENVIRONMENT")))
	require.FileExists(p.t, filepath.Join(venv, "mine"))
	require.NoError(p.t, os.RemoveAll(venv))
}

// authority returns another certificate: the stack's own.
func (p *path) authority(t *testing.T) []byte {
	t.Helper()
	pem, err := os.ReadFile(p.home.CACert())
	require.NoError(t, err)
	return pem
}

// publishedPort runs a server in the sandbox whose port leads out.
func (p *path) publishedPort(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	r := p.postern("run", "--agent", "demo", "--publish", port, "--workspace", "tmpfs", "--", "true")
	require.Equal(t, exit.Sandbox, r.status)
	require.Contains(t, r.stderr, "in use: `ss -ltnp 'sport = :"+port+"'` names the program that has it")
	require.NoError(t, l.Close())
	for _, held := range []string{"443", "3128", "11434", "5433"} { // by these the agent gets out
		r = p.postern("run", "--agent", "demo", "--publish", held, "--workspace", "tmpfs", "--", "true")
		require.Equal(t, exit.Sandbox, r.status)
		require.Contains(t, r.stderr, "publish port "+held+": in the sandbox that port is Postern's own")
	}
	for _, wrong := range []string{"0", "65536", "x", "host.test:80", ":80"} {
		r = p.postern("run", "--agent", "demo", "--overlay", "--publish", wrong, "--", "true")
		require.Equal(t, exit.Usage, r.status, wrong)
	}
	p.ok(p.postern("run", "--agent", "demo", "--overlay", "--print", "--", "true"))
	require.Empty(t, p.ok(p.postern("workspace", "list")), "nothing is left of what did not run")

	cmd := exec.CommandContext(t.Context(), postern(t), "run", "--agent", "demo", "--publish", port,
		"--workspace", "tmpfs", "--", "bash", "-c", "echo hello > x; python3 -m http.server "+port)
	cmd.Dir, cmd.Env = p.dir, p.environ
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	require.NoError(t, cmd.Start())
	get := func(host string) string {
		answer, err := (&http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}).
			Get("http://" + net.JoinHostPort(host, port) + "/x")
		if err != nil {
			return err.Error()
		}
		defer answer.Body.Close()
		b, _ := io.ReadAll(answer.Body)
		return string(b)
	}
	require.Eventually(t, func() bool { return get("127.0.0.1") == "hello\n" }, time.Minute, 50*time.Millisecond)
	addresses := []string{"127.0.0.1:" + port}
	if _, err := net.Listen("tcp", "[::1]:0"); err == nil {
		require.Equal(t, "hello\n", get("::1"))
		addresses = append(addresses, "[::1]:"+port)
	}
	require.Contains(t, p.ok(p.postern("status")),
		"published: "+strings.Join(addresses, ", ")+" lead into a sandbox of agent demo since ")
	open, err := net.Dial("tcp", "127.0.0.1:"+port)
	require.NoError(t, err)
	defer open.Close()
	_, err = open.Write([]byte("GET /x HTTP/1.1\r\nHost: x\r\n")) // and not the end of it
	require.NoError(t, err)
	p.ok(p.postern("kill", "--agent", "demo"))
	require.NoError(t, open.SetReadDeadline(time.Now().Add(time.Minute)))
	_, err = open.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "a killed agent's connections are cut")
	require.Contains(t, get("127.0.0.1"), "connection refused")
	r = p.postern("run", "--agent", "demo", "--publish", port, "--workspace", "tmpfs", "--", "true")
	require.Equal(t, exit.Sandbox, r.status)
	require.Contains(t, r.stderr, "the agent is killed, so no port may lead to it")
	p.ok(p.postern("unkill", "--agent", "demo"))
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	_ = cmd.Wait()
	require.Eventually(t, func() bool {
		s, err := api.Dial(p.home.ControlSocket()).Status(t.Context())
		return err == nil && len(s.Published) == 0
	}, time.Minute, 20*time.Millisecond)
	p.ok(p.postern("run", "--agent", "demo", "--publish", port, "--workspace", "tmpfs", "--", "true"))
	said := p.ok(p.postern("audit"))
	require.Contains(t, said, "port-opened: "+strings.Join(addresses, ", "))
	require.Contains(t, said, "port-closed: "+strings.Join(addresses, ", "))
}
