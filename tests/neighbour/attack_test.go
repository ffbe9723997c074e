package neighbour

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/postern/postern/tests/fleet"
)

// orderVariable makes this program an agent: its value is an order.
const orderVariable = "POSTERN_NEIGHBOUR"

// order is what an agent does: an attack, or the victim's part.
type order struct {
	Agent, Node string
	Attack      string
	Connections int
	Socket, CA  string
	// Upstream is the socket of the agent's upstream, and UpstreamKey what it is served with.
	Upstream, UpstreamKey string
}

// obey goes on until the process is killed, or its parent is.
func obey(text string) error {
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	pool, err := roots(o.CA)
	if err != nil {
		return err
	}
	if err := serveUpstream(o.Upstream, o.UpstreamKey); err != nil {
		return err
	}
	if o.Attack == "" {
		return suffer(o, pool)
	}
	return attack(o, pool)
}

// turn is how many requests of the victim are timed at a time, and pause what is
// between two: it works, and does not compete.
const (
	turn  = 400
	pause = time.Millisecond
)

// suffer is the victim: it makes a turn for each line that it reads, and writes when each request
// began and ended.
func suffer(o order, pool *x509.CertPool) error {
	client := fleet.AgentClientOf(pool, fleet.DialPath(o.Socket))
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(true); err != nil {
		return err
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		took := make([]span, 0, turn)
		for range turn {
			start := monotonic()
			resp, err := client.Get("https://api.test/v1/x")
			if err != nil {
				return err
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				return err
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("the victim's answer: %s", resp.Status)
			}
			took = append(took, span{start, monotonic()})
			time.Sleep(pause) //nolint:forbidigo // what is measured is its pace
		}
		if err := out.Encode(took); err != nil {
			return err
		}
	}
	return nil
}

// attackNames are the attacks in the order of the table.
var attackNames = []string{"requests", "long paths", "refused requests", "refused hosts", "certificates", "DNS names", "broken requests", "streams of HTTP/2", "downloads"}

// attacker is one connection's worth of hostility.
type attacker struct {
	order
	roots *x509.CertPool
	dial  func(context.Context, string, string) (net.Conn, error)
	n     *atomic.Int64
}

func attack(o order, pool *x509.CertPool) error {
	var n atomic.Int64
	a := attacker{order: o, roots: pool, dial: fleet.DialPath(o.Socket), n: &n}
	once, ok := map[string]func(*session) error{
		"requests":         func(s *session) error { return s.get("/v1/x") },
		"long paths":       func(s *session) error { return s.get("/v1/" + strings.Repeat("%61/users/secre", 1000)) },
		"refused requests": func(s *session) error { return s.get("/v1/admin/" + strings.Repeat("x", 100)) },
		"refused hosts": func(s *session) error {
			return s.plain("CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n")
		},
		"certificates":    func(s *session) error { return s.tunnel(fmt.Sprintf("n%d.wild.test", n.Add(1))) },
		"DNS names":       func(s *session) error { return s.tunnel(fmt.Sprintf("n%d.tunnel.test", n.Add(1))) },
		"broken requests": func(s *session) error { return s.plain("GET\x00 / HTTP/1.1\r\n\r\n") },
		"streams of HTTP/2": func(s *session) error {
			return s.streams(20)
		},
		"downloads": func(s *session) error { return s.get("/v1/large") },
	}[o.Attack]
	if !ok {
		return fmt.Errorf("there is no attack %q", o.Attack)
	}
	for range o.Connections {
		go func() {
			s := &session{attacker: a}
			for {
				if err := once(s); err != nil {
					s.close()
				}
			}
		}()
	}
	// Until it is felt.
	time.Sleep(300 * time.Millisecond) //nolint:forbidigo // a benchmark, not a test
	fmt.Println(true)
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// large is what the upstream answers to a download.
var large = make([]byte, 16<<20)

// serveUpstream starts an agent's upstream.
func serveUpstream(socket, key string) error {
	pair, err := tls.LoadX509KeyPair(key, key)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(socket); err != nil {
		return err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := &http.Server{
		ReadHeaderTimeout: time.Minute, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v1/large" {
				_, _ = w.Write(large)
			} else {
				_, _ = io.WriteString(w, "hello")
			}
		}),
	}
	go func() { _ = server.ServeTLS(l, "", "") }()
	return nil
}

// session is a connection that is opened again when it has ended.
type session struct {
	attacker
	conn  net.Conn
	raw   net.Conn
	in    *bufio.Reader
	multi *http.Client
}

func (s *session) close() {
	if s.raw != nil {
		_ = s.raw.Close()
	}
	if s.multi != nil {
		s.multi.CloseIdleConnections()
	}
	s.raw, s.conn, s.in = nil, nil, nil
}

// open makes a connection to Envoy.
func (s *session) open() (err error) {
	if s.raw == nil {
		s.raw, err = s.dial(context.Background(), "", "")
		if err == nil {
			_ = s.raw.SetDeadline(time.Now().Add(time.Minute))
		}
	}
	return err
}

// shake opens a CONNECT to host, and TLS inside.
func (s *session) shake(host string) error {
	if err := s.open(); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(s.raw, "CONNECT %s:443 HTTP/1.1\r\nHost: %s:443\r\n\r\n", host, host); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(s.raw), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("CONNECT: %d", resp.StatusCode)
	}
	tc := tls.Client(s.raw, &tls.Config{ServerName: host, RootCAs: s.roots})
	if err := tc.HandshakeContext(context.Background()); err != nil {
		return err
	}
	s.conn, s.in = tc, bufio.NewReader(tc)
	return nil
}

// get sends one request, on a connection that is kept.
func (s *session) get(path string) error {
	if s.conn == nil {
		if err := s.shake("api.test"); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintf(s.conn, "GET %s HTTP/1.1\r\nHost: api.test\r\n\r\n", path); err != nil {
		return err
	}
	return s.answer()
}

func (s *session) answer() error {
	resp, err := http.ReadResponse(s.in, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	if resp.Close {
		return io.EOF
	}
	return err
}

// plain sends text as it is, and reads the answer.
func (s *session) plain(text string) error {
	if err := s.open(); err != nil {
		return err
	}
	if s.in == nil {
		s.in = bufio.NewReader(s.raw)
	}
	if _, err := io.WriteString(s.raw, text); err != nil {
		return err
	}
	return s.answer()
}

// tunnel is a CONNECT and a handshake, of a new connection each time.
func (s *session) tunnel(host string) error {
	defer s.close()
	return s.shake(host)
}

// streams sends n requests at once on one connection.
func (s *session) streams(n int) error {
	if s.multi == nil {
		s.multi = fleet.AgentClientOf(s.roots, s.dial)
	}
	ended := make(chan error, n)
	for range n {
		go func() {
			resp, err := s.multi.Get("https://api.test/v1/x")
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			ended <- err
		}()
	}
	var failed error
	for range n {
		if err := <-ended; err != nil {
			failed = err
		}
	}
	return failed
}
