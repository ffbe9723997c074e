package svid

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/credentials"
)

// The protocols that a connection can be for (RFC 7301).
const (
	protocolXDS  = "h2"       // needs a certificate
	protocolJoin = "http/1.1" // gets one
)

// maxHandshakes bounds the handshakes in progress. Further ones wait.
const maxHandshakes = 256

// handshakeTimeout bounds a client's handshake.
const handshakeTimeout = 5 * time.Second

// Server is the control plane's side of the fleet's network: one TCP port. xDS there requires a
// certificate in the handshake, and a join gets one. TLS 1.3 only.
type Server struct {
	Authority *Authority
	// Tokens returns the hashes of the tokens with which a node may join now. It is called at each
	// join.
	Tokens func() (Tokens, error)
	// Removed reports whether an operator has removed the node.
	Removed func(node string) bool
	Log     *slog.Logger

	refused  Refused
	quiet    *rate.Limiter
	joins    *rate.Limiter
	renewals *rate.Limiter
	serving  atomic.Pointer[tls.Certificate]
	renewing sync.Mutex
}

// Refused counts what the port has refused since the start.
type Refused struct {
	// Handshakes had no certificate, one that is expired or of another authority, or did not speak
	// TLS 1.3. Identities named another stack, or not a node.
	Handshakes, Identities atomic.Uint64
	// Tokens did not match. Rate counts joins beyond the bound.
	Tokens, Rate atomic.Uint64
}

// Counts returns what the port has refused, by reason.
func (s *Server) Counts() map[string]uint64 {
	return map[string]uint64{
		"handshake": s.refused.Handshakes.Load(), "identity": s.refused.Identities.Load(),
		"token": s.refused.Tokens.Load(), "rate": s.refused.Rate.Load(),
	}
}

// Listen opens the port and serves joins until ctx is done. The returned listener accepts the
// connections of nodes: their handshake is done, and their certificate names a node of this stack.
// Serve them with [Credentials].
func (s *Server) Listen(ctx context.Context, address string) (net.Listener, error) {
	// A log line for each refusal is a way to fill a disk: 10 at once, 1/s.
	s.quiet = rate.NewLimiter(1, 10)
	s.joins, s.renewals = rate.NewLimiter(100, 1000), rate.NewLimiter(100, 1000)
	if _, err := s.certificate(time.Now()); err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for nodes: %w", err)
	}
	nodes, joining := newQueue(l), newQueue(l)
	h := s.http()
	go func() { _ = h.Serve(joining) }()
	context.AfterFunc(ctx, func() { _ = errors.Join(nodes.Close(), joining.Close(), h.Close()) })
	go s.accept(ctx, l, nodes, joining)
	return nodes, nil
}

// http serves joins. It cuts off clients that are slow or send too much.
func (s *Server) http() *http.Server {
	return &http.Server{
		Handler: s.handler(), ReadHeaderTimeout: handshakeTimeout, ReadTimeout: handshakeTimeout, WriteTimeout: handshakeTimeout,
		IdleTimeout: handshakeTimeout, MaxHeaderBytes: 8 << 10, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
	}
}

// accept hands each connection to whom it is for, after its handshake.
func (s *Server) accept(ctx context.Context, l net.Listener, nodes, joining *queue) {
	config := s.tls()
	slots := make(chan struct{}, maxHandshakes)
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			_ = errors.Join(nodes.Close(), joining.Close())
			return
		}
		if err != nil { // no file descriptors: some will be closed
			s.Log.Error("accept a node's connection", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			s.handshake(ctx, tls.Server(c, config), nodes, joining)
		}()
	}
}

func (s *Server) handshake(ctx context.Context, c *tls.Conn, nodes, joining *queue) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		s.refuse(&s.refused.Handshakes, "handshake", c.RemoteAddr(), err)
		c.Close()
		return
	}
	if c.ConnectionState().NegotiatedProtocol == protocolJoin {
		joining.put(c)
		return
	}
	if _, err := s.peer(c.ConnectionState()); err != nil {
		s.refuse(&s.refused.Identities, "identity", c.RemoteAddr(), err)
		c.Close()
		return
	}
	nodes.put(c)
}

// peer returns the node of this stack that the connection's verified certificate names.
func (s *Server) peer(state tls.ConnectionState) (ID, error) {
	if len(state.VerifiedChains) == 0 {
		return ID{}, errors.New("there is no verified certificate")
	}
	id, err := Of(state.VerifiedChains[0][0])
	if err != nil {
		return ID{}, err
	}
	if id.Stack != s.Authority.stack {
		return ID{}, fmt.Errorf("node %s is of stack %s, this is %s", id.Node, id.Stack, s.Authority.stack)
	}
	return id, nil
}

func (s *Server) refuse(counter *atomic.Uint64, what string, from net.Addr, err error) {
	counter.Add(1)
	if s.quiet.Allow() {
		s.Log.Warn("refused a node", "what", what, "from", from.String(), "error", err)
	}
}

// tls asks for a certificate according to what the connection is for.
func (s *Server) tls() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(s.Authority.cert)
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, ClientCAs: pool, SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.certificate(time.Now()) },
	}
	xds, join := config.Clone(), config.Clone()
	xds.NextProtos, xds.ClientAuth = []string{protocolXDS}, tls.RequireAndVerifyClientCert
	join.NextProtos, join.ClientAuth = []string{protocolJoin}, tls.VerifyClientCertIfGiven
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		// Only who asks for nothing else is let in without a certificate.
		if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == protocolJoin {
			return join, nil
		}
		return xds, nil
	}
	return config
}

// certificate returns the served certificate, and makes a new one after half of its lifetime.
func (s *Server) certificate(now time.Time) (*tls.Certificate, error) {
	fresh := func() *tls.Certificate {
		if c := s.serving.Load(); c != nil && now.Before(c.Leaf.NotAfter.Add(-s.Authority.lifetime/2)) {
			return c
		}
		return nil
	}
	if c := fresh(); c != nil {
		return c, nil
	}
	s.renewing.Lock()
	defer s.renewing.Unlock()
	if c := fresh(); c != nil {
		return c, nil
	}
	c, err := s.Authority.serve(now)
	if err != nil {
		return nil, err
	}
	s.serving.Store(c)
	return c, nil
}

// queue is a listener for connections that somebody else has accepted.
type queue struct {
	address net.Addr
	conns   chan net.Conn
	closed  chan struct{}
	once    sync.Once
	inner   net.Listener
}

func newQueue(l net.Listener) *queue {
	return &queue{address: l.Addr(), conns: make(chan net.Conn), closed: make(chan struct{}), inner: l}
}

func (q *queue) put(c net.Conn) {
	select {
	case q.conns <- c:
	case <-q.closed:
		c.Close()
	}
}

// Accept implements [net.Listener].
func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener]: it closes the port.
func (q *queue) Close() error {
	q.once.Do(func() { close(q.closed) })
	if err := q.inner.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Addr implements [net.Listener].
func (q *queue) Addr() net.Addr { return q.address }

// Credentials returns the gRPC transport credentials for the connections of [Server.Listen], whose
// handshake is done.
func Credentials() credentials.TransportCredentials { return done{} }

type done struct{}

func (done) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	t, ok := c.(*tls.Conn)
	if !ok {
		return nil, nil, errors.New("the connection is not one of a node")
	}
	return c, credentials.TLSInfo{
		State: t.ConnectionState(), CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}, nil
}

func (done) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are a server's")
}

func (done) Info() credentials.ProtocolInfo { return credentials.ProtocolInfo{SecurityProtocol: "tls"} }

func (d done) Clone() credentials.TransportCredentials { return d }

func (done) OverrideServerName(string) error { return nil }

// Peer returns the node that a gRPC stream's credentials name. It returns false for a stream that
// did not come through [Server.Listen].
func Peer(info credentials.AuthInfo) (ID, bool) {
	t, ok := info.(credentials.TLSInfo)
	if !ok || len(t.State.VerifiedChains) == 0 {
		return ID{}, false
	}
	id, err := Of(t.State.VerifiedChains[0][0])
	return id, err == nil
}
