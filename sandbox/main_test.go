package sandbox

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/sandbox/view"
	"github.com/postern/postern/sandbox/vm"
	"github.com/postern/postern/sandbox/workspace/protect"
)

// specVariable makes the test binary call Run, as `postern run` would: some
// tests are about another user, signals, or a terminal.
const specVariable = "POSTERN_TEST_SPEC"

// bwrap is the path of bubblewrap, without which there is no test.
var bwrap string

// tools is a folder, readable by everybody, with postern-sandbox and this binary.
var tools string

func TestMain(m *testing.M) {
	if spec := os.Getenv(specVariable); spec != "" {
		os.Exit(runSpec(spec))
	}
	// Below nohup the tests ignore SIGHUP, and what they start would, too.
	if signal.Ignored(unix.SIGHUP) {
		signal.Notify(make(chan os.Signal, 1), unix.SIGHUP)
	}
	status, err := withTools(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

func runSpec(encoded string) int {
	s := new(request)
	if err := json.Unmarshal([]byte(encoded), s); err != nil {
		fmt.Fprintln(os.Stderr, "spec:", err)
		return 98
	}
	s.Environ = os.Environ()
	s.Stdin, s.Stdout, s.Stderr = os.Stdin, os.Stdout, os.Stderr
	result, err := s.run(context.Background())
	var refused *RefusedError
	switch {
	case errors.As(err, &refused):
		fmt.Fprintln(os.Stderr, "refused:", err)
		return refused.Status
	case err != nil:
		fmt.Fprintln(os.Stderr, "run:", err)
		return 99
	}
	return result.Status
}

// request is what a test wants to run: the view is made where it runs, because that depends on the
// user.
type request struct {
	view.Input
	Spec
	Workdir string
	// Machine starts the command in a virtual machine.
	Machine bool
	// Protect protects what programs of the host run, as `postern run` does.
	Protect bool
	// Replace replaces .envrc once it is protected, and nobody watches.
	Replace bool
}

// newRequest is what a benchmark runs, without a node that answers.
func newRequest(dir string, args ...string) *request {
	return &request{
		Workdir: dir, Input: view.Input{
			Agent: "demo", Environ: os.Environ(), Sockets: []string{dir},
			Inside:    filepath.Join(tools, "postern-sandbox"),
			Workspace: view.Workspace{Mode: view.Write},
		},
		Spec: Spec{Command: args, Bubblewrap: bwrap},
	}
}

func (r *request) run(ctx context.Context) (result Result, err error) {
	if r.Workspace.Mode != view.Ephemeral {
		if r.Input.Workdir, err = view.Look(r.Workdir, r.Environ, r.Private); err != nil {
			return Result{}, err
		}
	}
	if r.Protect {
		p, err := protect.Protect(r.Workdir, protect.Workdir)
		if err != nil {
			return Result{}, err
		}
		defer p.Release()
		defer p.Remove()
		r.Workspace.Protected, r.Begin = p.Paths, p.Lost
		var stop context.CancelCauseFunc
		ctx, stop = context.WithCancelCause(ctx)
		defer stop(nil)
		if !r.Replace {
			go p.Watch(ctx, stop)
		} else if err := errors.Join(os.Symlink("/etc/passwd", "x"), os.Rename("x", ".envrc")); err != nil {
			return Result{}, err
		}
	}
	if r.View, err = view.Make(&r.Input); err != nil {
		return Result{}, err
	}
	if r.Machine {
		folders, err := hostpath.In(r.Private[0]).Folders()
		if err != nil {
			return Result{}, err
		}
		if r.VM, err = vm.Find(ctx, folders, r.Inside, filepath.Join(r.Private[0], "vm")); err != nil {
			return Result{}, err
		}
	}
	return Run(ctx, &r.Spec)
}

func withTools(m *testing.M) (int, error) {
	var err error
	if bwrap, err = exec.LookPath("bwrap"); err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "sbx")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return 0, err
	}
	tools = dir
	build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "postern-sandbox"), "./testdata/inside")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build postern-sandbox: %w: %s", err, out)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return 0, err
	}
	if err := os.WriteFile(filepath.Join(dir, "run"), self, 0o755); err != nil {
		return 0, err
	}
	status := m.Run()
	for _, end := range ended {
		err = errors.Join(err, end())
	}
	return status, err
}

// callers are the users that a sandbox must work for: the one that runs the
// tests and, if that is root, an ordinary one.
func callers() map[string]int {
	all := map[string]int{"caller": os.Getuid()}
	if os.Getuid() == 0 {
		all = map[string]int{"root": 0, "ordinary": 65534}
	}
	return all
}

// box is a caller with a home, a working directory and a proxy.
type box struct {
	uid  int
	root string // holds all of it
	home string
	spec request
	env  []string
	ca   *authority
}

func newBox(t *testing.T, uid int) *box {
	t.Helper()
	root, err := os.MkdirTemp("", "box")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })
	b := &box{uid: uid, root: root, home: filepath.Join(root, "home"), ca: newAuthority(t)}
	work := filepath.Join(b.home, "work")
	sockets := filepath.Join(root, "state", "node", "agent")
	require.NoError(t, os.MkdirAll(work, 0o755))
	require.NoError(t, os.MkdirAll(sockets, 0o755))
	probe, err := os.ReadFile(filepath.Join(tools, "postern-sandbox"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(work, "try"), probe, 0o755))
	b.spec = request{
		Workdir: work,
		Input: view.Input{
			Agent: "demo", Sockets: []string{sockets}, Private: []string{filepath.Join(root, "state")},
			CA: b.ca.pem, Inside: filepath.Join(tools, "postern-sandbox"), Workspace: view.Workspace{Mode: view.Write},
		},
		Spec: Spec{Bubblewrap: bwrap, Gateways: []int{8080}, Ports: []int{8443}},
	}
	// A program that the race detector has instrumented would sleep for a second at its end.
	b.env = []string{"HOME=" + b.home, "PATH=" + os.Getenv("PATH"), "TERM=xterm", "GORACE=atexit_sleep_ms=0"}
	b.own(t)
	return b
}

// own gives everything to the caller.
func (b *box) own(t *testing.T) {
	t.Helper()
	require.NoError(t, filepath.Walk(b.root, func(path string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, b.uid, b.uid)
	}))
}

// command is a `postern run` of args that has not been started.
func (b *box) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	spec := b.spec
	spec.Command = args
	encoded, err := json.Marshal(spec)
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), filepath.Join(tools, "run"))
	cmd.Env = append(slices.Clone(b.env), specVariable+"="+string(encoded))
	cmd.Dir = spec.Workdir
	// Also if the tests run out of time.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if b.uid != os.Getuid() {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(b.uid), Gid: uint32(b.uid)}
	}
	return cmd
}

// run runs args and returns what they wrote and the exit status.
func (b *box) run(t *testing.T, args ...string) (output string, status int) {
	t.Helper()
	out, err := b.command(t, args...).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return string(out), exit.ExitCode()
	}
	require.NoError(t, err)
	return string(out), 0
}

// sh runs a script, which must succeed, and returns what it wrote.
func (b *box) sh(t *testing.T, script string) string {
	t.Helper()
	out, status := b.run(t, "sh", "-c", script)
	require.Zero(t, status, out)
	return out
}

// refuses requires that none of the scripts works. One sandbox tries them all, each in a shell of
// its own.
func (b *box) refuses(t *testing.T, scripts ...string) {
	t.Helper()
	const each = `for script do sh -c "$script" </dev/null && echo "WORKED: $script"; done; echo "$# tried"`
	out, status := b.run(t, append([]string{"sh", "-c", each, "sh"}, scripts...)...)
	require.Zero(t, status, out)
	require.NotContains(t, out, "WORKED: ")
	require.True(t, strings.HasSuffix(out, fmt.Sprintf("%d tried\n", len(scripts))), out)
}

// try lets the agent try something and returns what came of it and how long it took.
func (b *box) try(t *testing.T, args ...string) (string, time.Duration) {
	t.Helper()
	start := time.Now()
	out, _ := b.run(t, append([]string{"./try"}, args...)...)
	return strings.TrimSpace(out), time.Since(start)
}

// authority signs the fake proxy's certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Postern  test Ä authority", Organization: []string{"Postern"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &authority{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// leaf makes a certificate for whatever name is asked for.
func (a *authority) leaf(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{hello.ServerName}, NotAfter: time.Now().Add(time.Hour),
	}, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// proxy is a stand-in for one node's Envoy: it allows the host allowed.test,
// answers requests with its own name and the host, and remembers all.
type proxy struct {
	name string
	mu   sync.Mutex
	seen []string
	l    net.Listener
}

const allowed = "allowed.test"

// serve starts a proxy in the folder and stops it at the end of the test.
func (b *box) serve(t *testing.T, name, folder string) *proxy {
	t.Helper()
	path := filepath.Join(folder, "proxy.sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	require.NoError(t, os.Chown(path, b.uid, b.uid))
	p := &proxy{name: name, l: l}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go p.answer(conn, b.ca)
		}
	}()
	return p
}

// proxy starts the one proxy of the box.
func (b *box) proxy(t *testing.T) *proxy { t.Helper(); return b.serve(t, "node", b.spec.Sockets[0]) }

func (p *proxy) requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.seen)
}

func (p *proxy) answer(conn net.Conn, ca *authority) {
	defer conn.Close()
	reader := bufio.NewReader(conn)
	request, err := http.ReadRequest(reader)
	if err != nil {
		return
	}
	p.mu.Lock()
	p.seen = append(p.seen, request.Method+" "+request.Host+request.URL.Path)
	p.mu.Unlock()
	host, _, _ := net.SplitHostPort(request.Host)
	switch {
	case request.Method != http.MethodConnect:
		respond(conn, http.StatusOK, p.name+" saw "+request.Host+"\n")
	case host != allowed:
		respond(conn, http.StatusForbidden, `{"error":"denied by policy"}`+"\n")
	default:
		fmt.Fprint(conn, "HTTP/1.1 200 OK\r\n\r\n")
		inner := tls.Server(&buffered{conn, reader}, &tls.Config{GetCertificate: ca.leaf})
		request, err := http.ReadRequest(bufio.NewReader(inner))
		if err != nil {
			return
		}
		respond(inner, http.StatusOK, p.name+" decrypted "+request.Host+"\n")
		_ = inner.Close()
	}
}

func respond(w io.Writer, status int, body string) {
	fmt.Fprintf(w, "HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", status, len(body), body)
}

// buffered reads what a reader has taken of a connection first.
type buffered struct {
	net.Conn
	r io.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

// lineReader returns the next line of r, without its end.
func lineReader(r io.Reader) func(*testing.T) string {
	s := bufio.NewScanner(r)
	return func(t *testing.T) string {
		t.Helper()
		require.True(t, s.Scan(), "no more lines: %v", s.Err())
		return strings.TrimRight(s.Text(), "\r")
	}
}
