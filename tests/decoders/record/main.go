// Record asks a real server for every target of the corpus, and keeps its answers: in
// tests/decoders,
//
//	go run ./record php
//
// What a server needs to run stands at its line in servers; nothing of it is in the
// repository.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern/postern/tests/decoders"
)

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

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	i := -1
	if len(os.Args) == 2 {
		i = slices.IndexFunc(servers, func(s server) bool { return s.name == os.Args[1] })
	}
	if i < 0 {
		return errors.New("name one server of tests/decoders/record, such as: go run ./record php")
	}
	dir, err := os.MkdirTemp("", "record")
	if err != nil {
		return fmt.Errorf("make a folder for the server: %w", err)
	}
	defer os.RemoveAll(dir)
	return servers[i].record(dir)
}

// record starts the server, asks it, and replaces its file in testdata.
func (s server) record(dir string) error {
	targets, err := decoders.Corpus("testdata")
	if err != nil {
		return err
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	conf, err := os.ReadFile("servers/nginx.conf")
	if err != nil {
		return fmt.Errorf("read nginx's configuration: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(strings.ReplaceAll(string(conf), "PORT", port)), 0o600); err != nil {
		return fmt.Errorf("write nginx's configuration: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	fill := strings.NewReplacer("PORT", port, "DIR", dir)
	command := func(args []string) *exec.Cmd {
		filled := make([]string, len(args))
		for i, a := range args {
			filled[i] = fill.Replace(a)
		}
		cmd := exec.CommandContext(ctx, filled[0], filled[1:]...)
		cmd.Dir = "servers"
		return cmd
	}
	version, err := command(s.version).Output()
	if err != nil {
		return fmt.Errorf("ask %s for its version: %w", s.name, err)
	}
	cmd := command(s.start)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	defer func() { cancel(); _ = cmd.Wait() }()
	if err := waitFor(port); err != nil {
		return err
	}
	var out strings.Builder
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(map[string]string{"server": s.name, "version": firstLine(string(version))}); err != nil {
		return fmt.Errorf("encode the version: %w", err)
	}
	for _, target := range targets {
		a, err := s.ask(port, target)
		if err != nil {
			return fmt.Errorf("ask %s for %s: %w", s.name, target, err)
		}
		if err := enc.Encode(a); err != nil {
			return fmt.Errorf("encode an answer: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join("testdata", s.name+".jsonl"), []byte(out.String()), 0o644); err != nil {
		return fmt.Errorf("keep the answers: %w", err)
	}
	return nil
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a port: %w", err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port), nil
}

// waitFor waits until somebody listens, at most a minute.
func waitFor(port string) error {
	again, end := time.NewTicker(50*time.Millisecond), time.After(time.Minute)
	defer again.Stop()
	for {
		select {
		case <-end:
			return errors.New("the server did not begin to listen within a minute")
		case <-again.C:
			if c, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
				return c.Close()
			}
		}
	}
}

// firstLine is the part of a version that is about the server, not the machine.
func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

func (s server) ask(port, target string) (decoders.Answer, error) {
	a := decoders.Answer{Target: target}
	c, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		return a, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return a, err
	}
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", target); err != nil {
		return a, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return a, nil //nolint:nilerr // it hung up: status 0
	}
	defer resp.Body.Close()
	a.Status, a.Location = resp.StatusCode, resp.Header.Get("Location")
	body, err := io.ReadAll(resp.Body)
	switch {
	case err != nil || resp.StatusCode != http.StatusOK:
		return a, err
	case !s.raw:
		return a, json.Unmarshal(body, &a)
	}
	path, format, there := cutLast(string(body))
	if !there {
		return a, errors.New("the answer has one line")
	}
	a.Path = decoders.Latin(path)
	if format != "" {
		a.Query = map[string][]string{"format": {decoders.Latin(format)}}
	}
	return a, nil
}

func cutLast(s string) (before, after string, there bool) {
	i := strings.LastIndexByte(s, '\n')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}
