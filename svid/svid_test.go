package svid

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/pki"
)

// world is a fleet's port without xDS behind it.
type world struct {
	*Server
	address string
	nodes   net.Listener
	token   string
}

func serve(t *testing.T, stack string, change func(*Server)) *world {
	t.Helper()
	cert, key, err := NewAuthority(stack, time.Now())
	require.NoError(t, err)
	a, err := LoadAuthority(stack, cert, key)
	require.NoError(t, err)
	token, hash := NewToken()
	tokens, err := ParseTokens([]byte("# a comment\n\n" + hash + " # of today\n"))
	require.NoError(t, err)
	w := &world{token: token, Server: &Server{
		Authority: a, Tokens: func() (Tokens, error) { return tokens, nil },
		Removed: func(string) bool { return false }, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}}
	if change != nil {
		change(w.Server)
	}
	w.nodes, err = w.Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	w.address = w.nodes.Addr().String()
	return w
}

// member is a node that would join w.
func (w *world) member(t *testing.T) *Member {
	t.Helper()
	dir := t.TempDir()
	ca, token := filepath.Join(dir, "ca"), filepath.Join(dir, "token")
	require.NoError(t, os.WriteFile(ca, w.Authority.PEM, 0o600))
	require.NoError(t, os.WriteFile(token, []byte(w.token), 0o600))
	return &Member{
		Stack: w.Authority.stack, Name: "n", Controls: []string{w.address}, Token: token, Authority: ca, Dir: filepath.Join(dir, "key"),
		Write: func([]byte, []byte) error { return nil }, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

// once makes one attempt, as Join makes many.
func (m *Member) once(t *testing.T) error {
	t.Helper()
	require.NoError(t, m.trust())
	require.NoError(t, m.loadKey())
	return m.ask(t.Context(), m.Controls[0])
}

func TestJoin(t *testing.T) {
	t.Parallel()
	w := serve(t, "test", nil)
	m := w.member(t)
	id, authority, err := m.Join(t.Context())
	require.NoError(t, err)
	require.Regexp(t, `^n-[a-z2-7]{16}$`, id)
	require.Equal(t, w.Authority.PEM, authority)
	info, err := os.Stat(filepath.Join(m.Dir, "node.key"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())

	// The same key is the same node, also with nothing but the token.
	again := *m
	again.cert, again.key = nil, nil
	same, _, err := again.Join(t.Context())
	require.NoError(t, err)
	require.Equal(t, id, same)

	// Another key under the same name is another node.
	other, _, err := w.member(t).Join(t.Context())
	require.NoError(t, err)
	require.NotEqual(t, id, other)

	// Nobody names themselves: what is in the request but for the key does not count.
	claims := w.member(t)
	claims.Name = id
	claimed, _, err := claims.Join(t.Context())
	require.NoError(t, err)
	require.NotEqual(t, id, claimed)

	// A renewal needs no token.
	first := m.cert.Leaf.SerialNumber
	require.NoError(t, os.Remove(m.Token))
	require.NoError(t, m.obtain(t.Context()))
	require.NotEqual(t, first, m.cert.Leaf.SerialNumber)
	got, err := Of(m.cert.Leaf)
	require.NoError(t, err)
	require.Equal(t, ID{Stack: "test", Node: id}, got)
}

// TestKeep: the certificate is renewed before it ends, or the node joins again, by
// the same name, if it has ended.
func TestKeep(t *testing.T) {
	t.Parallel()
	w := serve(t, "test", func(s *Server) { s.Authority.lifetime = 2 * time.Second })
	m := w.member(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var serials []string
	m.Write = func(chain, _ []byte) error {
		block, _ := pem.Decode(chain)
		cert, err := x509.ParseCertificate(block.Bytes)
		require.NoError(t, err)
		require.Equal(t, "spiffe://postern/test/node/"+must(Joined("n", m.key.Public())), cert.URIs[0].String())
		if serials = append(serials, cert.SerialNumber.String()); len(serials) == 3 {
			cancel()
		}
		return nil
	}
	_, _, err := m.Join(ctx)
	require.NoError(t, err)
	require.NoError(t, m.Keep(ctx))
	require.Len(t, serials, 3)
}

func must(s string, err error) string {
	if err != nil {
		panic(err)
	}
	return s
}

func TestJoinWithPin(t *testing.T) {
	t.Parallel()
	w := serve(t, "test", nil)
	block, _ := pem.Decode(w.Authority.PEM)
	sum := sha256.Sum256(block.Bytes)
	m := w.member(t)
	m.Authority = pinPrefix + hex.EncodeToString(sum[:])
	_, authority, err := m.Join(t.Context())
	require.NoError(t, err)
	require.Equal(t, w.Authority.PEM, authority)

	m = w.member(t)
	m.Authority = pinPrefix + hex.EncodeToString(make([]byte, 32))
	require.ErrorContains(t, m.once(t), "not of the authority that is pinned")
	require.Nil(t, m.cert)
}

func TestJoinRefused(t *testing.T) {
	t.Parallel()
	w := serve(t, "test", func(s *Server) { s.Removed = func(node string) bool { return strings.HasPrefix(node, "gone-") } })
	elsewhere := serve(t, "test", nil)
	for name, c := range map[string]struct {
		change func(*Member)
		want   string
	}{
		"a token of another fleet":         {func(m *Member) { m.Token = token(t, elsewhere.token) }, "not one of this stack's"},
		"the hash of the token":            {func(m *Member) { m.Token = token(t, hashToken(w.token)) }, "not one of this stack's"},
		"a control plane of another fleet": {func(m *Member) { m.Controls = []string{elsewhere.address} }, "certificate signed by unknown authority"},
		"a control plane of another stack": {func(m *Member) { m.Stack = "other" }, "not the control plane of stack other"},
		"a name that is a path":            {func(m *Member) { m.Name = "../x" }, "not a valid node name"},
		"a name that is too long":          {func(m *Member) { m.Name = strings.Repeat("n", maxName+1) }, "not a valid node name"},
		"a node that was removed":          {func(m *Member) { m.Name = "gone" }, "was removed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := w.member(t)
			c.change(m)
			err := m.once(t)
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), w.token)
			require.Nil(t, m.cert)
		})
	}
}

func token(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestJoinsAreBounded(t *testing.T) {
	t.Parallel()
	w := serve(t, "test", nil)
	w.joins.SetBurst(1)
	w.joins.SetLimit(0)
	require.NoError(t, w.member(t).once(t))
	require.ErrorContains(t, w.member(t).once(t), "too many nodes join at once")
	require.Equal(t, uint64(1), w.Counts()["rate"])
}

// TestPort: xDS is spoken with nobody whose certificate is not one of a node of
// this stack, valid now and of this fleet.
func TestPort(t *testing.T) {
	t.Parallel()
	w := serve(t, "test", nil)
	foreign := serve(t, "test", nil)
	issue := func(a *Authority, id ID, from time.Time, usage x509.ExtKeyUsage) tls.Certificate {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		der, err := pki.Sign(&x509.Certificate{
			NotBefore: from, NotAfter: from.Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{usage}, URIs: []*url.URL{id.URI()},
		}, a.cert, key.Public(), a.key)
		require.NoError(t, err)
		return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	}
	now := time.Now().Add(-time.Minute)
	good := ID{Stack: "test", Node: "n1"}
	pool := x509.NewCertPool()
	pool.AddCert(w.Authority.cert)
	control, err := w.Authority.serve(time.Now())
	require.NoError(t, err)
	for name, c := range map[string]struct {
		certs   []tls.Certificate
		version uint16
		alpn    []string
		ok      bool
		reason  string
	}{
		"a node":                     {certs: []tls.Certificate{issue(w.Authority, good, now, x509.ExtKeyUsageClientAuth)}, ok: true},
		"no certificate":             {reason: "handshake"},
		"both protocols, none":       {alpn: []string{protocolJoin, protocolXDS}, reason: "handshake"},
		"no protocol, none":          {alpn: []string{}, reason: "handshake"},
		"expired":                    {certs: []tls.Certificate{issue(w.Authority, good, now.Add(-2*time.Hour), x509.ExtKeyUsageClientAuth)}, reason: "handshake"},
		"not yet":                    {certs: []tls.Certificate{issue(w.Authority, good, now.Add(2*time.Hour), x509.ExtKeyUsageClientAuth)}, reason: "handshake"},
		"foreign":                    {certs: []tls.Certificate{issue(foreign.Authority, good, now, x509.ExtKeyUsageClientAuth)}, reason: "handshake"},
		"a server's":                 {certs: []tls.Certificate{issue(w.Authority, good, now, x509.ExtKeyUsageServerAuth)}, reason: "handshake"},
		"the control plane's":        {certs: []tls.Certificate{*control}, reason: "handshake"},
		"another stack's":            {certs: []tls.Certificate{issue(w.Authority, ID{"other", "n1"}, now, x509.ExtKeyUsageClientAuth)}, reason: "identity"},
		"no node's":                  {certs: []tls.Certificate{issue(w.Authority, ID{"test", "n1/../n2"}, now, x509.ExtKeyUsageClientAuth)}, reason: "identity"},
		"TLS 1.2 with a certificate": {certs: []tls.Certificate{issue(w.Authority, good, now, x509.ExtKeyUsageClientAuth)}, version: tls.VersionTLS12, reason: "handshake"},
	} {
		t.Run(name, func(t *testing.T) { //nolint:paralleltest // they share the listener and the counters
			if c.alpn == nil {
				c.alpn = []string{protocolXDS}
			}
			before := w.Counts()
			conn, err := tls.Dial("tcp", w.address, &tls.Config{RootCAs: pool, ServerName: ServerName, NextProtos: c.alpn, Certificates: c.certs, MaxVersion: c.version})
			if err == nil {
				defer conn.Close()
				require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
			}
			if c.ok {
				require.NoError(t, err)
				accepted, err := w.nodes.Accept()
				require.NoError(t, err)
				defer accepted.Close()
				id, err := w.peer(accepted.(*tls.Conn).ConnectionState())
				require.NoError(t, err)
				require.Equal(t, good, id)
				return
			}
			if err == nil { // in TLS 1.3 a client hears of it when it reads
				_, err = conn.Read(make([]byte, 1))
			}
			require.Error(t, err)
			require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "it was let in")
			// The client hears of it before it is counted.
			counted := func() bool { return w.Counts()[c.reason] == before[c.reason]+1 }
			require.Eventually(t, counted, time.Minute, time.Millisecond)
		})
	}
}

func TestOf(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]ID{
		"spiffe://postern/prod/node/n-1":       {"prod", "n-1"},
		"spiffe://postern/prod/node/":          {},
		"spiffe://postern//node/n1":            {},
		"spiffe://postern/prod/node/n1/":       {},
		"spiffe://postern/prod/node/n1?x":      {},
		"spiffe://postern/prod/node/n1#x":      {},
		"spiffe://postern/prod/node/n%31":      {},
		"spiffe://postern/prod/node/N1":        {},
		"spiffe://postern/prod/control":        {},
		"spiffe://postern:1/prod/node/n1":      {},
		"spiffe://u@postern/prod/node/n1":      {},
		"spiffe://elsewhere.test/prod/node/n1": {},
		"https://postern/prod/node/n1":         {},
		"spiffe:postern/prod/node/n1":          {},
	} {
		u, err := url.Parse(text)
		require.NoError(t, err)
		got, err := Of(&x509.Certificate{URIs: []*url.URL{u}})
		require.Equal(t, want, got, text)
		require.Equal(t, want == ID{}, err != nil, text)
	}
	_, err := Of(&x509.Certificate{URIs: []*url.URL{ID{"a", "b"}.URI(), ID{"a", "c"}.URI()}})
	require.ErrorContains(t, err, "2 identities")
}

func TestParseTokens(t *testing.T) {
	t.Parallel()
	text, hash := NewToken()
	ts, err := ParseTokens([]byte(hash))
	require.NoError(t, err)
	require.True(t, ts.match(text))
	require.False(t, ts.match(""))
	require.False(t, Tokens{}.match(""))
	for _, bad := range []string{text, hash[1:], hash + "0", strings.Repeat("g", 64)} {
		_, err := ParseTokens([]byte("# one\n" + bad))
		require.ErrorContains(t, err, "line 2 is not the hash")
		require.NotContains(t, err.Error(), bad)
	}
}

// TestStrangersTakeNothing: joins that have no token use up nothing of what
// nodes have, and those that have one nothing of what renewals have.
func TestStrangersTakeNothing(t *testing.T) {
	t.Parallel()
	w := serve(t, "test", nil)
	w.joins.SetBurst(2)
	w.joins.SetLimit(0)
	stranger := w.member(t)
	stranger.Token = token(t, "pjt_wrong")
	for range 5 {
		require.ErrorContains(t, stranger.once(t), "the token is not one of this stack's")
	}
	m := w.member(t)
	require.NoError(t, m.once(t))
	require.NoError(t, w.member(t).once(t))
	require.ErrorContains(t, w.member(t).once(t), "too many nodes join at once")
	require.NoError(t, m.once(t), "a renewal")
}
