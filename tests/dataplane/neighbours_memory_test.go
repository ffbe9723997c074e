package dataplane

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/guard"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

// unread is an agent that reads no answer.
type unread struct {
	t *testing.T
	f *fleet.Fleet
	// host returns the name of the i-th of the agent's destinations.
	host func(i int) string
}

// open opens TLS to the i-th destination.
func (u *unread) open(ctx context.Context, i int, protocol string) (*tls.Conn, error) {
	conn, err := u.f.Dial("n1", "greedy")(ctx, "", "")
	if err != nil {
		return nil, err
	}
	u.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := fmt.Fprintf(conn, "CONNECT %[1]s:443 HTTP/1.1\r\nHost: %[1]s:443\r\n\r\n", u.host(i)); err != nil {
		return nil, err
	}
	if err := discardHead(conn); err != nil {
		return nil, err
	}
	// Little fits into what the kernel keeps for it.
	if c, ok := conn.(*net.UnixConn); ok {
		_ = c.SetReadBuffer(4096)
	}
	tc := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, ServerName: u.host(i), NextProtos: []string{protocol}}) //nolint:gosec // who it is does not matter
	return tc, tc.HandshakeContext(ctx)
}

// http1 sends one request on a connection.
func (u *unread) http1(ctx context.Context, i int) error {
	conn, err := u.open(ctx, i, "http/1.1")
	if err == nil {
		_, err = fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", u.host(i))
	}
	return err
}

// http2 sends as many requests on a connection as it may.
func (u *unread) http2(ctx context.Context, i int) error {
	conn, err := u.open(ctx, i, "h2")
	if err != nil {
		return err
	}
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		return err
	}
	framer := http2.NewFramer(conn, conn)
	if err := framer.WriteSettings(); err != nil {
		return err
	}
	for id := uint32(1); id < 200; id += 2 {
		var block headerBlock
		block.add(":method", "GET", ":scheme", "https", ":authority", u.host(i), ":path", "/")
		if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.bytes(), EndStream: true, EndHeaders: true}); err != nil {
			return err
		}
	}
	return nil
}

// TestNeighbourUnread: an agent that reads none of the answers of many destinations, each with
// an address of its own, fills no more of Envoy's memory than its part, and the others work.
func TestNeighbourUnread(t *testing.T) {
	t.Parallel()
	const destinations, heap = 80, 512 << 20
	for _, c := range []struct {
		name, mode, protocol string
		connections          int
		one                  func(*unread, context.Context, int) error
		// size is that of an answer, which comes in pieces.
		size, piece int
	}{
		{"HTTP/1", "", "http/1.1", 600, (*unread).http1, 64 << 20, 32 << 10},
		{"HTTP/1 to HTTP/2", "", "h2", 600, (*unread).http1, 64 << 20, 32 << 10},
		{"HTTP/2", "", "h2", 60, (*unread).http2, 64 << 20, 32 << 10},
		{"HTTP/2, whole answers", "", "h2", 160, (*unread).http2, 60 << 10, 32 << 10},
		{"HTTP/2, small pieces", "", "h2", 60, (*unread).http2, 64 << 20, 513},
		{"tunnels", plan.ModeTunnel, "http/1.1", 1000, (*unread).http1, 64 << 20, 32 << 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := fleet.New(t, 0)
			f.Heap = heap
			f.StartNode("n1")
			u := &unread{t, f, func(i int) string { return fmt.Sprintf("h%d.test", i%destinations) }}
			greedy := plan.Agent{Name: "greedy"}
			pin := generous(t, f, c.protocol, c.size, c.piece, "*.test")
			for i := range destinations {
				r := plan.Rule{ID: "greedy/" + u.host(i), Host: u.host(i), Port: 443, Mode: c.mode, Upstream: pin}
				if c.mode == "" {
					r.Methods, r.Paths = []string{plan.AnyMethod}, []string{plan.AnyPath}
				}
				greedy.Rules = append(greedy.Rules, r)
			}
			up := f.NewUpstream("one.test")
			f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{
				greedy, {Name: "other", Rules: []plan.Rule{fleet.Allow("other", "one.test", up)}},
			}})
			require.Equal(t, 200, f.Get("n1", "other", "https://one.test/"))
			before, pid := allocated(t, f), f.EnvoyPID("n1")
			var most, opened atomic.Int64
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			next := make(chan int)
			var wg sync.WaitGroup
			for range 16 {
				wg.Go(func() {
					for i := range next {
						if c.one(u, ctx, i) == nil {
							opened.Add(1)
						}
					}
				})
			}
			for i := range c.connections {
				next <- i
				if i%50 == 0 {
					require.Equal(t, 200, f.Get("n1", "other", "https://one.test/"), "after %d", i)
					most.Store(max(most.Load(), int64(allocated(t, f))))
				}
			}
			close(next)
			wg.Wait()
			for range 20 {
				require.Equal(t, 200, f.Get("n1", "other", "https://one.test/"))
				most.Store(max(most.Load(), int64(allocated(t, f))))
			}
			held := most.Load() - int64(before)
			t.Logf("%d connections: Envoy holds %d MiB more, %d before", opened.Load(), held>>20, before>>20)
			require.LessOrEqual(t, held, int64(heap/4), "Envoy holds %d MiB for the agent", held>>20)
			require.Equal(t, pid, f.EnvoyPID("n1"), "Envoy was restarted")
			events, err := audit.Read(f.Home.AuditDir(), audit.Filter{Agent: "greedy"})
			require.NoError(t, err)
			refused := 0
			for _, e := range events {
				if e.Detail == guard.Full {
					refused++
					require.Equal(t, []any{plan.ReasonLimit, 429}, []any{e.Reason, e.Status})
				}
			}
			require.Positive(t, refused)
		})
	}
}

// TestNeighbourSigned: bodies that are read whole, to be signed, take a bounded part of Envoy's
// memory, however many there are. It is up to twice their agent's: what was refused goes a little later.
func TestNeighbourSigned(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name                 string
		uploads, size, piece int
	}{
		{"whole frames", 40, 15 << 20, 15 << 20},
		// Envoy packs pieces of up to 512 bytes, and gives a larger one pages of its own.
		{"pieces that are not packed", 60, 1 << 20, 513},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			testSigned(t, c.uploads, c.size, c.piece)
		})
	}
}

// TestNeighbourPieces: bodies that go on as they come, to an upstream that reads none, take no more
// than their agent's part, even if Envoy does not pack their pieces.
func TestNeighbourPieces(t *testing.T) {
	t.Parallel()
	const heap, uploads = 512 << 20, 160
	f := fleet.New(t, 0)
	f.Heap = heap
	f.StartNode("n1")
	path := filepath.Join(f.Home.Root, "idle.sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	s := &http.Server{
		ReadHeaderTimeout: time.Minute,
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{f.UpstreamCA.Issue(t, "idle.test")}},
		Handler:           http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-t.Context().Done() }),
	}
	go func() { _ = s.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = s.Close() })
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{{
		ID: "a/idle", Host: "idle.test", Port: 443, Methods: []string{"PUT"}, Paths: []string{plan.AnyPath},
		Gateway: 8080, Upstream: &plan.Upstream{Address: "unix:" + path, CA: string(f.UpstreamCA.PEM)},
	}}}}})
	before := allocated(t, f)
	// By a gateway's port, where nothing counts for a CONNECT.
	refused, read, most := upload(t, f, "http://localhost:8080/", uploads, 1<<20, 513)
	held := int64(most - before)
	t.Logf("%d of %d refused, %d MiB were read, Envoy holds %d MiB", refused, uploads, read>>20, held>>20)
	require.LessOrEqual(t, held, int64(heap/4))
	require.Positive(t, refused)
}

func testSigned(t *testing.T, uploads, size, piece int) {
	t.Helper()
	const heap = 512 << 20
	f := fleet.New(t, 0)
	f.Heap = heap
	f.StartNode("n1")
	up := newEcho(t, f, "bedrock.test")
	f.MustPublish(&plan.Plan{
		Stack: "test",
		Credentials: []plan.Credential{{
			Name: "aws", Kind: plan.KindAWSSigV4, Service: "bedrock", Region: "eu-west-1",
			Secret: "file://" + f.Secret("aws", `{"access_key_id": "AKIA", "secret_access_key": "canary-aws"}`),
		}},
		Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{{
			ID: "a/bedrock", Host: "bedrock.test", Port: 443, Methods: []string{"PUT"}, Paths: []string{plan.AnyPath}, Upstream: up.pin, Credential: "aws",
		}}}},
	})
	before := allocated(t, f)
	refused, read, most := upload(t, f, "https://bedrock.test/", uploads, size, piece)
	held := int64(most - before)
	t.Logf("%d of %d refused, %d MiB were read, Envoy holds %d MiB", refused, uploads, read>>20, held>>20)
	require.LessOrEqual(t, held, int64(heap/2))
	require.Positive(t, refused)
}

// upload begins uploads of so many bytes, in pieces, until each has written all but its end, is
// refused, or has had no byte taken for ten seconds. It returns how many were refused, how many
// bytes were taken, and the most that Envoy had allocated.
func upload(t *testing.T, f *fleet.Fleet, url string, uploads, size, piece int) (refused, read int64, most uint64) {
	t.Helper()
	var answered, taken atomic.Int64
	ended := make(chan struct{}, uploads)
	var client *http.Client
	for i := range uploads {
		if i%2 == 0 { // two fill the window of a connection
			client = f.Client("n1", "a")
			client.Timeout = 5 * time.Minute
			if strings.HasPrefix(url, "http:") {
				h2c := new(http.Protocols)
				h2c.SetUnencryptedHTTP2(true)
				client.Transport = &http.Transport{DialContext: f.Dial("n1", "a"), Protocols: h2c}
			}
		}
		body, w := io.Pipe()
		t.Cleanup(func() { _ = w.Close() })
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url, counted{body, &taken})
		require.NoError(t, err)
		go func(client *http.Client) {
			resp, err := client.Do(req)
			if err == nil {
				resp.Body.Close()
				answered.Add(1)
			}
			_ = body.Close()
		}(client)
		go func() { // all but the end
			for left := size; left > 0; left -= piece {
				if _, err := w.Write(make([]byte, min(piece, left))); err != nil {
					break
				}
			}
			ended <- struct{}{}
		}()
	}
	last, since := int64(-1), time.Now()
	for left := uploads; left > 0 && time.Since(since) < 10*time.Second; most = max(most, allocated(t, f)) {
		select {
		case <-ended:
			left--
		default:
		}
		if now := taken.Load(); now != last {
			last, since = now, time.Now()
		}
	}
	return answered.Load(), taken.Load(), most
}

// counted counts what is read of a body.
type counted struct {
	*io.PipeReader
	bytes *atomic.Int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.PipeReader.Read(p)
	c.bytes.Add(int64(n))
	return n, err
}

// allocated returns how much memory Envoy uses, in bytes.
func allocated(t *testing.T, f *fleet.Fleet) uint64 {
	t.Helper()
	var memory struct {
		Allocated uint64 `json:"allocated,string"`
	}
	require.NoError(t, json.Unmarshal([]byte(f.Admin("n1", "/memory")), &memory))
	return memory.Allocated
}

// generous starts an upstream that answers each request with so many bytes, in pieces.
func generous(t *testing.T, f *fleet.Fleet, protocol string, size, piece int, hosts ...string) *plan.Upstream {
	t.Helper()
	path := filepath.Join(f.Home.Root, "generous.sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	body := make([]byte, piece)
	s := &http.Server{
		ReadHeaderTimeout: time.Minute,
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{f.UpstreamCA.Issue(t, hosts...)}, NextProtos: []string{protocol}},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for left := size; left > 0; left -= len(body) {
				if _, err := w.Write(body[:min(left, len(body))]); err != nil {
					return
				}
				w.(http.Flusher).Flush() //nolint:forcetypeassert // Go's server can
			}
		}),
	}
	go func() { _ = s.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = s.Close() })
	return &plan.Upstream{Address: "unix:" + path, CA: string(f.UpstreamCA.PEM)}
}

// headerBlock is a block of headers of HTTP/2.
type headerBlock struct{ fragment []byte }

func (b *headerBlock) Write(p []byte) (int, error) {
	b.fragment = append(b.fragment, p...)
	return len(p), nil
}

func (b *headerBlock) add(fields ...string) {
	e := hpack.NewEncoder(b)
	e.SetMaxDynamicTableSize(0)
	for i := 1; i < len(fields); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: fields[i-1], Value: fields[i]})
	}
}

func (b *headerBlock) bytes() []byte { return b.fragment }
