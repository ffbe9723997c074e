package peers

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A proxy is one of those that are compared.
type proxy struct {
	name string
	// dial connects to it.
	dial func(context.Context) (net.Conn, error)
	// gateway means plain HTTP without CONNECT.
	gateway bool
	// plain means that it takes TLS without CONNECT.
	plain bool
	// direct means that there is no proxy: dial connects to the upstream.
	direct bool
	// host is the Host header of requests.
	host string
	// pid is the root of the processes that do its work.
	pid int
}

// client is one connection of an agent.
type client struct {
	net.Conn
	r   *bufio.Reader
	req []byte
	buf []byte
}

// open connects to host through p, up to where a request can be sent.
func (w *world) open(p *proxy, host string) (*client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := p.dial(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return nil, err
	}
	if !p.gateway && !p.direct && !p.plain {
		if err := connect(c, host); err != nil {
			c.Close()
			return nil, err
		}
	}
	if !p.gateway {
		// HTTP/1.1: what agents' clients mostly speak, and all proxies do.
		t := tls.Client(c, w.trust(p, host))
		if err := t.HandshakeContext(ctx); err != nil {
			c.Close()
			return nil, fmt.Errorf("%s: handshake: %w", p.name, err)
		}
		c = t
	}
	if p.gateway {
		host = p.host
	}
	req := "GET /v1/x HTTP/1.1\r\nHost: " + host + "\r\nUser-Agent: bench\r\nAccept: */*\r\n"
	if p.direct {
		req += "X-Api-Key: " + key + "\r\n"
	}
	return &client{Conn: c, r: bufio.NewReaderSize(c, 16<<10), req: []byte(req + "\r\n")}, nil
}

// trust verifies a proxy's certificate once; after that it must be the same. The
// client shares the machine with the proxies: what it can save, it saves for all.
func (w *world) trust(p *proxy, host string) *tls.Config {
	return &tls.Config{
		ServerName: host, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12, CurvePreferences: []tls.CurveID{tls.X25519},
		InsecureSkipVerify: true, //nolint:gosec // verified below
		VerifyConnection: func(s tls.ConnectionState) error {
			leaf := s.PeerCertificates[0]
			known := [2]string{p.name, host}
			if raw, ok := w.verified.Load(known); ok && bytes.Equal(raw.([]byte), leaf.Raw) {
				return nil
			}
			between := x509.NewCertPool()
			for _, c := range s.PeerCertificates[1:] {
				between.AddCert(c)
			}
			_, err := leaf.Verify(x509.VerifyOptions{Roots: w.roots, Intermediates: between, DNSName: host})
			if err == nil {
				w.verified.Store(known, leaf.Raw)
			}
			return err
		},
	}
}

// connect asks for a tunnel to host. In the TLS that follows the client speaks
// first, so nothing comes after the head of the answer.
func connect(c net.Conn, host string) error {
	if _, err := fmt.Fprintf(c, "CONNECT %s:443 HTTP/1.1\r\nHost: %s:443\r\n\r\n", host, host); err != nil {
		return err
	}
	var buf [4096]byte
	head := buf[:0]
	for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
		n, err := c.Read(buf[len(head):])
		if err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		head = buf[:len(head)+n]
	}
	if !bytes.Contains(head[:min(len(head), 15)], []byte(" 200")) {
		return fmt.Errorf("connect: %q", head)
	}
	return nil
}

// roundTrip makes one request and looks for the key in the answer.
func (c *client) roundTrip() error {
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	if _, err := c.Write(c.req); err != nil {
		return err
	}
	length, err := c.head()
	if err != nil {
		return err
	}
	c.buf = slices.Grow(c.buf[:0], length)[:length]
	if _, err := io.ReadFull(c.r, c.buf); err != nil {
		return err
	}
	if !bytes.Contains(c.buf, []byte(key)) {
		return fmt.Errorf("the upstream did not get the key: %q", c.buf)
	}
	return nil
}

// head reads the head of a response that has a length. It costs less than
// net/http: client and proxy share the machine.
func (c *client) head() (length int, err error) {
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if len(line) < 12 || string(line[9:12]) != "200" {
		return 0, fmt.Errorf("answered %q", line)
	}
	length = -1
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		if len(line) <= 2 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(name, []byte("content-length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, err
			}
		}
	}
	if length < 0 {
		return 0, errors.New("a response without a length")
	}
	return length, nil
}

// result is what several turns of one proxy gave.
type result struct {
	// rates is the requests per second of each turn.
	rates []float64
	// each is how long requests took, or events were on their way; first is how
	// long the first event of a stream took.
	each, first []time.Duration
	// cpu is the CPU time of 1,000 requests (or events) in milliseconds, of each turn.
	cpu []float64
	rss float64
}

func (r *result) rate() float64 { return quantile(r.rates, 0.5) }

// ms is a quantile of durations, in milliseconds.
func ms(ds []time.Duration, q float64) float64 { return float64(quantile(ds, q)) / 1e6 }

// perThousand is the CPU time of 1,000 requests in milliseconds.
func (r *result) perThousand() float64 { return quantile(r.cpu, 0.5) }

// repeats is into how many parts the turns of a run are divided to see how much
// a ratio differs from one to the next.
const repeats = 3

// ratio is that of two proxies' values, turn by turn as they came: the median
// of each third of the turns, and of these the least, the middle and the greatest.
func ratio(xs, ys []float64) (low, mid, high float64) {
	var parts []float64
	for i := range min(repeats, len(xs)) {
		var part []float64
		for k := i * len(xs) / repeats; k < max((i+1)*len(xs)/repeats, i*len(xs)/repeats+1); k++ {
			part = append(part, xs[k]/ys[k])
		}
		parts = append(parts, quantile(part, 0.5))
	}
	return quantile(parts, 0), quantile(parts, 0.5), quantile(parts, 1)
}

// used adds what a proxy has used since a time for n requests.
func (r *result) used(p *proxy, since time.Duration, n int) {
	r.cpu = append(r.cpu, float64(cpuTime(p.pid)-since)/1e6*1000/float64(max(1, n)))
	r.rss = max(r.rss, residentMB(p.pid))
}

func quantile[T float64 | time.Duration](xs []T, q float64) T {
	if len(xs) == 0 {
		return 0
	}
	xs = slices.Sorted(slices.Values(xs)) // the turns stay in their order
	return xs[min(len(xs)-1, int(q*float64(len(xs))))]
}

// turn lets n workers do, for a while, what work returns, and adds what that gave to r.
func (r *result) turn(b *testing.B, p *proxy, n int, d time.Duration, work func(worker int) func() error) {
	b.Helper()
	do := make([]func() error, n)
	for i := range n {
		do[i] = work(i)
		require.NoError(b, do[i](), p.name) // connections, certificates, upstream connections
	}
	var (
		stop  atomic.Bool
		mu    sync.Mutex
		wg    sync.WaitGroup
		count int
		all   []time.Duration
		fault error
	)
	cpu, start := cpuTime(p.pid), time.Now()
	for i := range n {
		wg.Go(func() {
			var each []time.Duration
			var err error
			for !stop.Load() {
				t := time.Now()
				if err = do[i](); err != nil {
					break
				}
				each = append(each, time.Since(t))
			}
			mu.Lock()
			defer mu.Unlock()
			count += len(each)
			all = append(all, each...)
			if err != nil {
				fault = err
			}
		})
	}
	<-time.After(d) // the measurement
	stop.Store(true)
	wg.Wait()
	took := time.Since(start)
	require.NoError(b, fault, p.name)
	r.used(p, cpu, count)
	r.each = append(r.each, all...)
	r.rates = append(r.rates, float64(count)/took.Seconds())
}

// keepAlive is a turn of requests on n connections that stay open.
func (w *world) keepAlive(b *testing.B, r *result, p *proxy, n int, d time.Duration) {
	b.Helper()
	cs := make([]*client, n)
	r.turn(b, p, n, d, func(i int) func() error {
		c, err := w.open(p, benchHost)
		require.NoError(b, err, p.name)
		cs[i] = c
		return c.roundTrip
	})
	for _, c := range cs {
		c.Close()
	}
}

// newConnections is a turn of requests that each have a connection of their own.
func (w *world) newConnections(b *testing.B, r *result, p *proxy, n int, d time.Duration) {
	b.Helper()
	r.turn(b, p, n, d, func(int) func() error {
		return func() error { return w.once(p, benchHost) }
	})
}

func (w *world) once(p *proxy, host string) error {
	c, err := w.open(p, host)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.roundTrip()
}

// stream reads streams of events that carry the time when they were sent.
func (w *world) stream(b *testing.B, r *result, p *proxy) {
	b.Helper()
	c, err := w.open(p, eventsHost)
	require.NoError(b, err, p.name)
	defer c.Close()
	cpu := cpuTime(p.pid)
	// The first stream of a connection is not measured: it opens the one to the upstream.
	for i := range 1 + streams {
		measured := i > 0
		start := time.Now()
		_, err = c.Write(c.req)
		require.NoError(b, err, p.name)
		resp, err := http.ReadResponse(c.r, nil)
		require.NoError(b, err, p.name)
		require.Equal(b, http.StatusOK, resp.StatusCode, p.name)
		lines := bufio.NewScanner(resp.Body)
		n := 0
		for lines.Scan() {
			data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
			if !ok {
				continue
			}
			now := time.Now()
			sent, err := strconv.ParseInt(string(bytes.Fields(data)[0]), 10, 64)
			require.NoError(b, err, p.name)
			if n++; !measured {
				continue
			}
			if n == 1 {
				r.first = append(r.first, now.Sub(start))
			}
			r.each = append(r.each, time.Duration(now.UnixNano()-sent))
		}
		require.NoError(b, lines.Err(), p.name)
		require.Equal(b, events, n, p.name)
		require.NoError(b, resp.Body.Close())
	}
	r.used(p, cpu, (1+streams)*events)
}
