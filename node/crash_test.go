package node_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/envoy"
	"github.com/postern/postern/node"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

// supervisorVariable makes this program a supervisor: its value is a node.Config.
const supervisorVariable = "POSTERN_TEST_SUPERVISOR"

func TestMain(m *testing.M) {
	if config := os.Getenv(supervisorVariable); config != "" {
		if err := supervise(config); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func supervise(config string) error {
	var c node.Config
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	c.Log = slog.New(slog.NewJSONHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return node.Run(ctx, c)
}

// startSupervisor starts node n1 of the fleet as a process of its own, and returns
// the file of all that it and its Envoy say.
func startSupervisor(t *testing.T, f *fleet.Fleet) (said string) {
	t.Helper()
	require.NoError(t, f.API.AddNode(t.Context(), "n1"))
	config, err := json.Marshal(node.Config{
		ID: "n1", Stack: "test", Dir: f.Home.NodeDir("n1"), XDS: "../../control/xds.sock", Audit: f.Home.AuditDir(), Envoy: fleet.Envoy(t), Modules: fleet.Modules(t),
	})
	require.NoError(t, err)
	said = filepath.Join(f.Home.Root, "said")
	log, err := os.Create(said)
	require.NoError(t, err)
	t.Cleanup(func() { _ = log.Close() })
	self, err := os.Executable()
	require.NoError(t, err)
	fleet.Start(t, log, []string{supervisorVariable + "=" + string(config)}, self)
	require.Eventually(t, func() bool { return f.Node("n1").Connected }, time.Minute, 10*time.Millisecond, "node n1 connects")
	return said
}

// TestCrashTellsNothing brings Envoy down by every means at hand while requests with
// a credential are in progress, and looks for the credential in all that is left. W12.
func TestCrashTellsNothing(t *testing.T) {
	t.Parallel()
	limit := func(resource int, n uint64) func(*crashing, int) {
		return func(c *crashing, pid int) {
			require.NoError(c, unix.Prlimit(pid, resource, &unix.Rlimit{Cur: n, Max: n}, nil))
		}
	}
	send := func(s syscall.Signal) func(*crashing, int) {
		return func(c *crashing, pid int) {
			for _, tid := range c.workers(pid) {
				_ = unix.Tgkill(pid, tid, s) // a worker is what requests are on
			}
		}
	}
	type means struct {
		what string
		down func(c *crashing, pid int)
		// says is what an operator must find of it.
		says string
	}
	// Several in a row make the supervisor wait longer each time.
	for _, several := range [][]means{{
		{"no descriptors", func(c *crashing, pid int) {
			var conns []net.Conn
			for range 50 {
				conn, err := c.Dial("n1", "a")(c.Context(), "", "")
				require.NoError(c, err)
				c.Cleanup(func() { _ = conn.Close() })
				conns = append(conns, conn)
			}
			open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
			require.NoError(c, err)
			limit(unix.RLIMIT_NOFILE, uint64(len(open)))(c, pid)
			for _, conn := range conns { // each needs a connection to the upstream
				_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: localhost:8080\r\nContent-Length: 9\r\n\r\n")
			}
		}, "Caught Segmentation fault"},
		{"SIGFPE", send(syscall.SIGFPE), "Caught Floating point exception"},
		{"SIGKILL", send(syscall.SIGKILL), "signal: killed"},
		{"SIGSEGV at level debug", func(c *crashing, pid int) {
			c.post("/logging?level=debug")
			require.Equal(c, 200, c.Get("n1", "a", "https://api.test/"))
			hung, err := os.FindProcess(pid)
			require.NoError(c, err)
			send(syscall.SIGSEGV)(c, pid)
			// A worker that held the log's lock cannot say more, and may wait for it for ever.
			time.AfterFunc(10*time.Second, func() { _ = hung.Kill() })
		}, "envoy ended"},
	}, {
		{"no memory", func(c *crashing, pid int) {
			limit(unix.RLIMIT_DATA, 1<<20)(c, pid)
			for range 2000 {
				conn, err := c.Dial("n1", "a")(c.Context(), "", "")
				if err != nil {
					return // it has ended
				}
				c.Cleanup(func() { _ = conn.Close() })
				_, _ = conn.Write([]byte("GET http://localhost:8080/ HTTP/1.1\r\nx-much: " + strings.Repeat("x", 50<<10)))
			}
		}, "envoy ended"},
		{"SIGSEGV", send(syscall.SIGSEGV), "Caught Segmentation fault"},
		{"SIGBUS", send(syscall.SIGBUS), "Caught Bus error"},
		{"SIGABRT", send(syscall.SIGABRT), "Caught Aborted"},
		{"SIGILL", send(syscall.SIGILL), "Caught Illegal instruction"},
	}} {
		t.Run(several[0].what, func(t *testing.T) {
			t.Parallel()
			c := newCrashing(t)
			for _, m := range several {
				c.crash(m.what, m.down, m.says)
			}
		})
	}
}

// crashing is a fleet whose node is a process of its own.
type crashing struct {
	*testing.T
	*fleet.Fleet
	said, secret string
	up           *fleet.Upstream
}

// canary is the credential that nothing may tell.
const canary = "s3cr3t-canary-of-crashes-77aa"

func newCrashing(t *testing.T) *crashing {
	t.Helper()
	f := fleet.New(t, 0)
	c := &crashing{T: t, Fleet: f, said: startSupervisor(t, f), secret: f.Secret("key", canary), up: f.NewUpstream("api.test", "tunnel.test")}
	rule := plan.Rule{
		ID: "a/api", Host: "api.test", Port: 443, Methods: []string{"GET", "POST"}, Paths: []string{"/**"},
		Credential: "key", Upstream: c.up.Pin(), Gateway: 8080,
	}
	tunnel := plan.Rule{ID: "a/tunnel", Host: "tunnel.test", Port: 443, Mode: plan.ModeTunnel, Upstream: c.up.Pin()}
	f.MustPublish(&plan.Plan{
		Stack:       "test",
		Credentials: []plan.Credential{{Name: "key", Kind: plan.KindHeader, Header: "x-api-key", Secret: "file://" + c.secret}},
		Agents:      []plan.Agent{{Name: "a", Rules: []plan.Rule{rule, tunnel}}},
	})
	require.Equal(t, 200, f.Get("n1", "a", "https://api.test/"))
	require.Equal(t, canary, c.up.Seen()[0].Header.Get("X-Api-Key"), "a canary that is nowhere tests nothing")
	return c
}

// content is all that the supervisor and Envoy have said.
func (c *crashing) content() string {
	c.Helper()
	b, err := os.ReadFile(c.said)
	require.NoError(c, err)
	return string(b)
}

func (c *crashing) ended() int { return strings.Count(c.content(), "envoy ended, restarting") }

// crash brings Envoy down, and waits until it serves again.
func (c *crashing) crash(what string, down func(*crashing, int), says string) {
	c.Helper()
	before, from := c.ended(), len(c.content())
	c.up.Seen()
	stop := c.traffic()
	defer stop()
	require.Eventually(c, func() bool { return len(c.up.Seen()) > 5 }, time.Minute, 10*time.Millisecond)
	down(c, c.EnvoyPID("n1"))
	require.Eventually(c, func() bool { return c.ended() > before }, time.Minute, 5*time.Millisecond, "%s: Envoy ends", what)
	stop()
	require.Contains(c, c.content()[from:], says, what)
	require.Eventually(c, func() bool { return c.Get("n1", "a", "https://api.test/") == 200 }, time.Minute, 50*time.Millisecond, "%s: it serves again", what)
	nowhere(c.T, what, c.Home.Root, c.secret)
}

// workers are the threads of Envoy that requests are on.
func (c *crashing) workers(pid int) (tids []int) {
	c.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	require.NoError(c, err)
	for _, task := range tasks {
		if name, err := os.ReadFile(task + "/comm"); err == nil && strings.HasPrefix(string(name), "wrk:") {
			tid, err := strconv.Atoi(filepath.Base(task))
			require.NoError(c, err)
			tids = append(tids, tid)
		}
	}
	require.NotEmpty(c, tids)
	return tids
}

// post gives Envoy's admin interface a command.
func (c *crashing) post(page string) {
	c.Helper()
	admin := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: fleet.DialPath(filepath.Join(c.Home.NodeDir("n1"), envoy.AdminSocket))}}
	req, err := http.NewRequestWithContext(c.Context(), http.MethodPost, "http://admin"+page, nil)
	require.NoError(c, err)
	resp, err := admin.Do(req)
	require.NoError(c, err)
	defer resp.Body.Close()
	require.Equal(c, 200, resp.StatusCode)
}

// traffic sends requests of all kinds until it is stopped: HTTP/1.1 and HTTP/2 through
// CONNECT, the gateway, WebSockets, uploads that do not end, and tunnels.
func (c *crashing) traffic() (stop func()) {
	ctx, cancel := context.WithCancel(c.Context())
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			client := c.Client("n1", "a")
			client.Timeout = 0
			url, body, header := "https://api.test/", io.Reader(nil), http.Header{}
			method := http.MethodGet
			switch i % 6 {
			case 1:
				client.Transport.(*http.Transport).ForceAttemptHTTP2 = false
				client.Transport.(*http.Transport).TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
			case 2:
				url = "http://localhost:8080/"
			case 3:
				header.Set("Upgrade", "websocket")
				header.Set("Connection", "Upgrade")
				client.Transport.(*http.Transport).TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
			case 4:
				method, body = http.MethodPost, endless{ctx}
			case 5:
				url = "https://tunnel.test/"
			}
			for ctx.Err() == nil {
				req, err := http.NewRequestWithContext(ctx, method, url, body)
				if err != nil {
					c.Error(err)
					return
				}
				req.Header = header.Clone()
				if resp, err := client.Do(req); err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				} else {
					time.Sleep(time.Millisecond) //nolint:forbidigo // not to spin while there is no Envoy
				}
			}
		})
	}
	return sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
}

// endless is a body that comes slowly until ctx is done.
type endless struct{ ctx context.Context }

func (e endless) Read(b []byte) (int, error) {
	select {
	case <-e.ctx.Done():
		return 0, io.EOF
	case <-time.After(5 * time.Millisecond):
		return copy(b, "still more"), nil
	}
}

// nowhere requires that no file below root holds the canary, except the secret's.
func nowhere(t *testing.T, what, root, secret string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || path == secret {
			return nil //nolint:nilerr // a file that is gone holds nothing
		}
		b, err := os.ReadFile(path)
		if at := bytes.Index(b, []byte(canary)); err == nil && at >= 0 {
			t.Errorf("%s: %s holds the credential: %q", what, path, b[max(0, at-100):at+len(canary)])
		}
		return nil
	}))
}
