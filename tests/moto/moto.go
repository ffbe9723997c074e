// Package moto starts moto_server, a stand-in for AWS on loopback, for tests.
package moto

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"time"
)

// patience is how long moto_server may take to answer: it is Python, on busy machines.
const patience = time.Minute

// digests makes moto's KMS sign a digest as it is, as KMS does. Moto 5.2 takes
// it for a message and hashes it once more ("not yet implemented" in its source).
const digests = `
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from moto.kms.utils import ECDSAPrivateKey
ECDSAPrivateKey.sign = lambda self, digest, _: self.private_key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
`

// Start starts a moto_server on a free port of loopback and returns a URL when it
// answers. Call stop, always, for its whole process group. The URL is of a proxy that
// hands one request after the other to moto_server, each on a connection of its own: moto
// answers some requests with 500, or not at all, if several change its state at once.
func Start() (at string, stop func(), err error) { return start() }

// StartWithKMS is Start; its KMS signs digests, and nothing else.
func StartWithKMS() (at string, stop func(), err error) {
	dir, err := os.MkdirTemp("", "moto")
	if err != nil {
		return "", func() {}, fmt.Errorf("make a folder: %w", err)
	}
	defer os.RemoveAll(dir)
	// Python runs it before everything else.
	if err := os.WriteFile(filepath.Join(dir, "sitecustomize.py"), []byte(digests), 0o600); err != nil {
		return "", func() {}, fmt.Errorf("write what changes moto: %w", err)
	}
	return start("PYTHONPATH=" + dir)
}

// running is what moto_server says once it listens, on a port that the kernel has chosen.
var running = regexp.MustCompile(`Running on http://(127\.0\.0\.1:[0-9]+)`)

func start(environment ...string) (at string, stop func(), err error) {
	cmd := exec.Command("moto_server", "-H", "127.0.0.1", "-p", "0")
	cmd.Env = append(os.Environ(), environment...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	said, err := cmd.StderrPipe()
	if err != nil {
		return "", func() {}, fmt.Errorf("read what moto_server says: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return "", func() {}, fmt.Errorf("start moto_server: %w: install moto[server]", err)
	}
	listens, ended := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(ended)
		lines := bufio.NewReader(said) // to the end, or moto_server waits
		for line, err := "", error(nil); err == nil; line, err = lines.ReadString('\n') {
			if m := running.FindStringSubmatch(line); m != nil {
				select {
				case listens <- m[1]:
				default: // it has said so
				}
			}
		}
		_ = cmd.Wait()
	}()
	end := func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
	}
	select {
	case addr := <-listens:
		proxy := httptest.NewServer(oneByOne(&url.URL{Scheme: "http", Host: addr}))
		return proxy.URL, func() { end(); proxy.Close() }, nil
	case <-ended:
		return "", end, errors.New("moto_server ended")
	case <-time.After(patience):
		return "", end, fmt.Errorf("moto_server did not answer within %s", patience)
	}
}

// oneByOne hands requests to the server at the URL, one after the other.
func oneByOne(server *url.URL) http.Handler {
	var mu sync.Mutex
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(server)
			r.Out.Host = r.In.Host // moto goes by it
		},
		Transport: &http.Transport{DisableKeepAlives: true},
		ErrorLog:  log.New(io.Discard, "", 0), // clients that leave are not of interest
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		proxy.ServeHTTP(w, r)
	})
}
