package inside

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	// firstBytes is a gate's patience.
	firstBytes = 5 * time.Second
	// connectTime is the time that the proxy has to answer a CONNECT. Envoy decides at once, but
	// for a tunnel it first asks DNS and connects.
	connectTime = 30 * time.Second
	// maxHello bounds a ClientHello and its record headers.
	maxHello = 64 << 10
	// maxAnswer bounds the head of the proxy's answer to CONNECT.
	maxAnswer = 64 << 10
	// recordHandshake is the first byte of every TLS connection.
	recordHandshake = 0x16
)

// The alerts of TLS (RFC 8446, 6) that a captured client can get.
const (
	alertAccessDenied  = 49
	alertInternalError = 80
)

// capture serves a client that believes that it talks to the address to.
func (g *gate) capture(conn *net.TCPConn, to *net.TCPAddr) {
	_ = conn.SetReadDeadline(time.Now().Add(g.patience))
	first := make([]byte, 1)
	if _, err := io.ReadFull(conn, first); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) { // a protocol whose server speaks first
			g.refusals.plain(g.target("", to))
		}
		reset(conn)
		return
	}
	if first[0] != recordHandshake {
		begin := make([]byte, 16)
		begin[0] = first[0]
		n, err := conn.Read(begin[1:])
		if err != nil || !mayBeHTTP(begin[:1+n]) {
			g.refusals.plain(g.target("", to))
			reset(conn)
			return
		}
		_ = conn.SetReadDeadline(time.Time{})
		g.forward(conn, begin[:1+n])
		return
	}
	hello, sni, err := readHello(conn, first)
	if err != nil {
		reset(conn)
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	g.tunnel(conn, hello, g.target(sni, to))
}

// forward passes bytes that are not TLS to the proxy, whose HTTP parser decides.
func (g *gate) forward(conn *net.TCPConn, read []byte) {
	proxy, err := g.fleet.dial()
	if err != nil {
		answerDown(conn)
		return
	}
	if _, err := proxy.Write(read); err != nil {
		proxy.end()
		reset(conn)
		return
	}
	pipe(conn, proxy)
}

// target returns the host and port of a captured TLS connection: the name that the client asks for,
// or else the name for which the address was given out, or else the address.
func (g *gate) target(sni string, to *net.TCPAddr) string {
	host := to.IP.String()
	if name, ok := canonicalName(sni); ok {
		host = name
	} else if name, ok := g.names.nameOf(to.IP); ok {
		host = name
	}
	return net.JoinHostPort(host, strconv.Itoa(to.Port))
}

// tunnel asks the proxy for a connection to authority and joins it with conn,
// whose first bytes, already read, are hello.
func (g *gate) tunnel(conn *net.TCPConn, hello []byte, authority string) {
	proxy, err := g.fleet.dial()
	if err != nil {
		refuseTLS(conn, alertInternalError)
		return
	}
	if err := connect(proxy.UnixConn, authority); err != nil {
		proxy.end()
		var denied *connectError
		if errors.As(err, &denied) && denied.status == http.StatusForbidden {
			refuseTLS(conn, alertAccessDenied)
			return
		}
		refuseTLS(conn, alertInternalError)
		return
	}
	if _, err := proxy.Write(hello); err != nil {
		proxy.end()
		refuseTLS(conn, alertInternalError)
		return
	}
	pipe(conn, proxy)
}

// connectError is an answer of the proxy other than success.
type connectError struct{ status int }

func (e *connectError) Error() string {
	return fmt.Sprintf("proxy answered %d", e.status)
}

// connect makes proxy a tunnel to authority. It reads no byte beyond the answer's head.
func connect(proxy *net.UnixConn, authority string) error {
	_ = proxy.SetDeadline(time.Now().Add(connectTime))
	if _, err := fmt.Fprintf(proxy, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", authority, authority); err != nil {
		return fmt.Errorf("ask proxy for %s: %w", authority, err)
	}
	var head bytes.Buffer
	one := make([]byte, 1)
	for !bytes.HasSuffix(head.Bytes(), []byte("\r\n\r\n")) {
		if head.Len() >= maxAnswer {
			return fmt.Errorf("read answer for %s: head is too long", authority)
		}
		// In TLS the client speaks first, so nothing follows the head, and single bytes cost only a
		// few hundred system calls.
		if _, err := proxy.Read(one); err != nil {
			return fmt.Errorf("read answer for %s: %w", authority, err)
		}
		head.WriteByte(one[0])
	}
	response, err := http.ReadResponse(bufio.NewReader(&head), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return fmt.Errorf("read answer for %s: %w", authority, err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return &connectError{status: response.StatusCode}
	}
	return proxy.SetDeadline(time.Time{})
}

// refuseTLS ends a TLS client's connection with a fatal alert.
func refuseTLS(conn *net.TCPConn, alert byte) {
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	_, _ = conn.Write([]byte{0x15, 3, 3, 0, 2, 2, alert})
	_ = conn.CloseWrite()
	// An immediate reset would overtake the alert: Java reports only the reset.
	_, _ = io.Copy(io.Discard, io.LimitReader(conn, maxHello))
	reset(conn)
}

// readHello reads a ClientHello, of which first has been read, and returns
// all bytes read and the server name in it, or "".
func readHello(conn net.Conn, first []byte) (read []byte, sni string, err error) {
	r := &recorder{Conn: conn, pending: first}
	errSeen := errors.New("seen")
	seen := false
	server := tls.Server(r, &tls.Config{ //nolint:gosec // nothing is negotiated here
		MinVersion: tls.VersionTLS10,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			seen, sni = true, hello.ServerName
			return nil, errSeen
		},
	})
	err = server.HandshakeContext(context.Background())
	if !seen {
		return nil, "", fmt.Errorf("read ClientHello: %w", err)
	}
	return r.read.Bytes(), sni, nil
}

// recorder lets a TLS server read, keeps the bytes, and drops the server's answer.
type recorder struct {
	net.Conn
	pending []byte
	read    bytes.Buffer
}

func (r *recorder) Read(p []byte) (int, error) {
	if r.read.Len() >= maxHello {
		return 0, errors.New("ClientHello is too long")
	}
	var n int
	var err error
	if len(r.pending) > 0 {
		n = copy(p, r.pending)
		r.pending = r.pending[n:]
	} else {
		n, err = r.Conn.Read(p)
	}
	r.read.Write(p[:n])
	return n, err
}

func (r *recorder) Write(p []byte) (int, error) { return len(p), nil }

// canonicalName returns name in lower case and without the trailing dot, and
// whether it is a host name that may go into a request: only letters, digits,
// hyphens and underscores in labels of at most 63, at most 253 in all, and not
// something that could be taken for an address.
func canonicalName(name string) (string, bool) {
	name = strings.TrimSuffix(lowerASCII(name), ".")
	if name == "" || len(name) > 253 || net.ParseIP(name) != nil {
		return "", false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return "", false
		}
		for i := range len(label) {
			c := label[i]
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return "", false
			}
		}
	}
	return name, true
}

// lowerASCII is strings.ToLower for ASCII only. Unicode turns characters of other scripts, such as
// U+0130, into ASCII letters, and so one name into another.
func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}
