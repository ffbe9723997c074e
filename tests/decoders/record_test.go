package decoders

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// record names a server to ask anew, with what it needs to run (see its line in
// servers): go test ./tests/decoders -run Record -record php
var record = flag.String("record", "", "ask this server anew, and keep its answers in testdata")

// A server is a real one that can be asked. Its programs are in the folder servers.
type server struct {
	name string
	// version prints the version; start starts it on PORT, in a folder of its own, DIR.
	version, start []string
	// raw means that it answers with its path and the parameter "format" as text.
	raw bool
}

// servers are all that were asked. The Python ones want werkzeug, django, starlette and
// uvicorn (pip), Express wants express (npm) in NODE_PATH, those in Java the classes of
// servers/java and its dependencies in CLASSPATH (mvn package dependency:copy-dependencies).
var servers = []server{
	{name: "php", version: []string{"php", "-r", "echo 'PHP ', PHP_VERSION;"}, start: []string{"php", "-S", "127.0.0.1:PORT", "echo.php"}},
	{name: "urllib", version: []string{"python3", "--version"}, start: []string{"python3", "echo.py", "PORT", "urllib"}},
	{name: "werkzeug", version: []string{"python3", "-c", "from importlib.metadata import version as v; print('Werkzeug', v('werkzeug'))"}, start: []string{"python3", "echo.py", "PORT", "werkzeug"}},
	{name: "django", version: []string{"python3", "-c", "from importlib.metadata import version as v; print('Django', v('django'))"}, start: []string{"python3", "echo.py", "PORT", "django"}},
	{name: "starlette", version: []string{"python3", "-c", "from importlib.metadata import version as v; print('Starlette', v('starlette'), 'uvicorn', v('uvicorn'))"}, start: []string{"python3", "starlette_echo.py", "PORT"}},
	{name: "rack", version: []string{"ruby", "-rrack", "-rwebrick", "-e", "print 'Rack ', Rack.release, ' WEBrick ', WEBrick::VERSION"}, start: []string{"ruby", "echo.rb", "PORT"}},
	{name: "node", version: []string{"node", "-p", "'Node ' + process.version"}, start: []string{"node", "echo.js", "PORT", "node"}},
	{name: "express", version: []string{"node", "-p", "'Express ' + require('express/package.json').version + ' qs ' + require('qs/package.json').version"}, start: []string{"node", "echo.js", "PORT", "express"}},
	{name: "tomcat", version: []string{"java", "Echo", "version", "tomcat"}, start: []string{"java", "Echo", "PORT", "tomcat", "DIR"}},
	{name: "jetty", version: []string{"java", "Echo", "version", "jetty"}, start: []string{"java", "Echo", "PORT", "jetty", "DIR"}},
	{name: "nginx", version: []string{"sh", "-c", "nginx -v 2>&1"}, start: []string{"nginx", "-p", "DIR", "-c", "DIR/nginx.conf"}, raw: true},
}

// An answer is what a server made of one target.
type answer struct {
	Target string `json:"target"`
	// Status is 200, or that of a refusal or redirect.
	Status int `json:"status"`
	// Path and Query are as the application has them, bytes as Latin-1; of nested
	// parameters, the first name and all values.
	Path     string              `json:"path,omitempty"`
	Query    map[string][]string `json:"query,omitempty"`
	Location string              `json:"location,omitempty"`
}

// corpus are the targets that servers were asked for: testdata/paths.txt as they are,
// and testdata/queries.txt after "/x?".
func corpus(t testing.TB) []string {
	t.Helper()
	var targets []string
	for _, file := range []struct{ name, before string }{{"paths.txt", ""}, {"queries.txt", "/x?"}} {
		b, err := os.ReadFile(filepath.Join("testdata", file.name))
		require.NoError(t, err)
		for line := range strings.Lines(string(b)) {
			targets = append(targets, file.before+strings.TrimSuffix(line, "\n"))
		}
	}
	return targets
}

// TestRecord asks the server that -record names.
func TestRecord(t *testing.T) {
	if *record == "" {
		return // nothing to make anew
	}
	for _, s := range servers {
		if s.name == *record {
			s.record(t)
			return
		}
	}
	t.Fatalf("no server is called %q", *record)
}

func (s server) record(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	require.NoError(t, l.Close())
	conf, err := os.ReadFile("servers/nginx.conf")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(strings.ReplaceAll(string(conf), "PORT", port)), 0o600))
	fill := strings.NewReplacer("PORT", port, "DIR", dir)
	command := func(args []string) *exec.Cmd {
		filled := make([]string, len(args))
		for i, a := range args {
			filled[i] = fill.Replace(a)
		}
		cmd := exec.CommandContext(t.Context(), filled[0], filled[1:]...)
		cmd.Dir = "servers"
		return cmd
	}
	version, err := command(s.version).Output()
	require.NoError(t, err)
	cmd := command(s.start)
	require.NoError(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, time.Minute, 50*time.Millisecond)

	out, err := os.Create(filepath.Join("testdata", s.name+".jsonl"))
	require.NoError(t, err)
	defer func() { require.NoError(t, out.Close()) }()
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	require.NoError(t, enc.Encode(map[string]string{"server": s.name, "version": firstLine(string(version))}))
	for _, target := range corpus(t) {
		require.NoError(t, enc.Encode(s.ask(t, port, target)))
	}
}

// firstLine is the part of a version that is about the server, not the machine.
func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return strings.TrimPrefix(line, "Server version: ")
}

func (s server) ask(t *testing.T, port, target string) answer {
	t.Helper()
	a := answer{Target: target}
	c, err := net.Dial("tcp", "127.0.0.1:"+port)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", target)
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return a // it hung up: status 0
	}
	defer resp.Body.Close()
	a.Status, a.Location = resp.StatusCode, resp.Header.Get("Location")
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	switch {
	case resp.StatusCode != http.StatusOK:
	case s.raw:
		i := strings.LastIndexByte(string(body), '\n')
		require.NotEqual(t, -1, i, target)
		a.Path = latin(string(body[:i]))
		if format := string(body[i+1:]); format != "" {
			a.Query = map[string][]string{"format": {latin(format)}}
		}
	default:
		require.NoError(t, json.Unmarshal(body, &a), "%s: %s", target, body)
	}
	return a
}

// latin takes each byte for a character, as JSON can hold it.
func latin(s string) string {
	out := make([]rune, len(s))
	for i := range len(s) {
		out[i] = rune(s[i])
	}
	return string(out)
}
