package demo

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/postern/postern/home"
	"github.com/postern/postern/pki"
)

// Host is the demo upstream's name. It is reserved for tests, so no DNS server has it.
const Host = "echo.postern.test"

// The files of the demo, which stacks/local.yaml names.
const (
	caFile     = "ca.pem"
	certFile   = "server.pem"
	tlsKeyFile = "server.key"
	keyFile    = "key"
	socketFile = "echo.sock"
)

// prepare makes the demo upstream's files in dir unless they are there. It never
// overwrites one, and makes all or none: the stack file refers to them together.
func prepare(dir string) error {
	missing := []string{}
	for _, name := range []string{caFile, certFile, tlsKeyFile, keyFile} {
		if _, err := os.Lstat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, name)
		} else if err != nil {
			return fmt.Errorf("prepare the demo: %w", err)
		}
	}
	switch len(missing) {
	case 0:
		return nil
	case 4:
	default:
		return fmt.Errorf("prepare the demo: %s has lost %v: remove the folder and run this again", dir, missing)
	}
	files, err := makeFiles()
	if err != nil {
		return fmt.Errorf("prepare the demo: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o750); err != nil {
		return fmt.Errorf("prepare the demo: %w", err)
	}
	temp, err := os.MkdirTemp(filepath.Dir(dir), "demo-*") // 0700
	if err != nil {
		return fmt.Errorf("prepare the demo: %w", err)
	}
	defer os.RemoveAll(temp)
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(temp, name), content, 0o600); err != nil {
			return fmt.Errorf("prepare the demo: %w", err)
		}
	}
	// The rename fails if there is something in dir by now.
	if err := os.Rename(temp, dir); err != nil {
		return fmt.Errorf("prepare the demo: %w", err)
	}
	return nil
}

// handOver lets the control plane read the key and the nodes reach the server, if
// root gives them users of their own (docs/packaging.md).
func handOver(dir string) error {
	group, err := user.LookupGroup(home.ControlUser)
	if err != nil || os.Geteuid() != 0 {
		return nil //nolint:nilerr // the machine has no such users
	}
	gid, err := strconv.Atoi(group.Gid)
	key := filepath.Join(dir, keyFile)
	if err = errors.Join(err, os.Lchown(key, 0, gid), os.Chmod(key, 0o640), os.Chmod(dir, 0o711)); err != nil { //nolint:gosec // for the other daemon
		return fmt.Errorf("prepare the demo: %w", err)
	}
	return nil
}

// makeFiles returns a fresh authority (its key is not kept), a server's key and
// certificate, and an API key.
func makeFiles() (map[string][]byte, error) {
	caKey, err := pki.NewKey()
	if err != nil {
		return nil, fmt.Errorf("make the authority's key: %w", err)
	}
	now := time.Now()
	ca := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Postern demo upstream"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.AddDate(10, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	caDER, err := pki.Sign(ca, ca, caKey.Public(), caKey)
	if err != nil {
		return nil, fmt.Errorf("make the authority: %w", err)
	}
	key, err := pki.NewKey()
	if err != nil {
		return nil, fmt.Errorf("make the server's key: %w", err)
	}
	server := &x509.Certificate{
		Subject:     pkix.Name{CommonName: Host},
		DNSNames:    []string{Host},
		NotBefore:   ca.NotBefore,
		NotAfter:    ca.NotAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	serverDER, err := pki.Sign(server, ca, key.Public(), caKey)
	if err != nil {
		return nil, fmt.Errorf("make the server's certificate: %w", err)
	}
	keyPEM, err := pki.KeyPEM(key)
	if err != nil {
		return nil, err
	}
	return map[string][]byte{
		caFile:     pki.PEM(caDER),
		certFile:   pki.PEM(serverDER),
		tlsKeyFile: keyPEM,
		keyFile:    []byte("demo-" + rand.Text() + "\n"),
	}, nil
}

// echo is the demo's upstream: an HTTPS server on a Unix socket that answers with the
// names of the headers it received, and remembers the last x-api-key for the demo.
type echo struct {
	server *http.Server

	mu  sync.Mutex
	key string
	hit bool
}

// startEcho serves on the socket in dir until close.
func startEcho(ctx context.Context, dir string) (*echo, error) {
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, certFile), filepath.Join(dir, tlsKeyFile))
	if err != nil {
		return nil, fmt.Errorf("start the demo's server: %w", err)
	}
	socket := filepath.Join(dir, socketFile)
	dialer := &net.Dialer{Timeout: time.Second}
	if conn, err := dialer.DialContext(ctx, "unix", socket); err == nil {
		conn.Close()
		return nil, fmt.Errorf("start the demo's server: another demo is listening on %s; wait for it to end", socket)
	}
	// A killed demo may have left it.
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("start the demo's server: %w", err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("start the demo's server: %w", err)
	}
	// Nodes may run as another user. The folder's mode decides who may connect.
	if err := os.Chmod(socket, 0o666); err != nil { //nolint:gosec // for the other daemon
		listener.Close()
		return nil, fmt.Errorf("start the demo's server: %w", err)
	}
	e := &echo{}
	e.server = &http.Server{
		Handler:           e,
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(log.Writer(), "the demo's server: ", 0),
	}
	go func() { _ = e.server.ServeTLS(listener, "", "") }() // ends with close
	return e, nil
}

func (e *echo) close() { _ = e.server.Close() }

func (e *echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key := r.Header.Get("x-api-key")
	e.mu.Lock()
	e.key, e.hit = key, true
	e.mu.Unlock()
	names := []string{}
	for name := range r.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	w.Header().Set("content-type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{ // a client that went away needs no answer
		"method": r.Method, "path": r.URL.Path, "header_names": names, "x_api_key_sha256": digest(key),
	})
}

// received is the x-api-key of the last request, and whether there was a request.
func (e *echo) received() (key string, any bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.key, e.hit
}

// digest names a key without giving it away.
func digest(key string) string {
	if key == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:4])
}
