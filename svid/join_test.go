package svid

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/credentials"

	"github.com/postern/postern/pki"
)

// post sends the body to the port as a node that joins, with a token unless it is "".
func (w *world) post(t *testing.T, cert *tls.Certificate, token string, body []byte) (int, answer) {
	t.Helper()
	config := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: ServerName, NextProtos: []string{protocolJoin}, MinVersion: tls.VersionTLS13}
	config.RootCAs.AddCert(w.Authority.cert)
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+w.address+joinPath, bytes.NewReader(body))
	require.NoError(t, err)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: time.Minute}
	resp, err := client.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	var a answer
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&a))
	return resp.StatusCode, a
}

// asks is the body of a request for a certificate.
func asks(t *testing.T, name string, csr []byte) []byte {
	t.Helper()
	b, err := json.Marshal(request{Name: name, CSR: csr})
	require.NoError(t, err)
	return b
}

func csrOf(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	require.NoError(t, err)
	return csr
}

func ecKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	require.NoError(t, err)
	return key
}

// TestRequestsForCertificates: a key that the asker does not prove to have, or that is not
// a node's, gets no certificate.
func TestRequestsForCertificates(t *testing.T) {
	t.Parallel()
	w := serve(t, "test", nil)
	good := csrOf(t, ecKey(t, elliptic.P256()))
	forged := slices.Clone(good)
	forged[len(forged)-1] ^= 1 // in the signature
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		body []byte
		code int
		want string
	}{
		"a key that is proven":       {asks(t, "n", good), http.StatusOK, ""},
		"a signature that is broken": {asks(t, "n", forged), http.StatusBadRequest, "the certificate request is not signed with its key"},
		"another curve":              {asks(t, "n", csrOf(t, ecKey(t, elliptic.P384()))), http.StatusBadRequest, "a node's key is on the curve P-256"},
		"another kind of key":        {asks(t, "n", csrOf(t, edwards)), http.StatusBadRequest, "a node's key is on the curve P-256"},
		"not a certificate request":  {asks(t, "n", []byte("x")), http.StatusBadRequest, "this is not a certificate request"},
		"no JSON":                    {[]byte("x"), http.StatusBadRequest, "this is not a request for a certificate"},
		"more than a request":        {append(bytes.Repeat([]byte(" "), maxCSR), asks(t, "n", good)...), http.StatusBadRequest, "this is not a request for a certificate"},
		"no name":                    {asks(t, "", good), http.StatusBadRequest, `"" is not a valid node name: use up to 46 lower-case letters, digits and dashes`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, a := w.post(t, nil, w.token, c.body)
			require.Equal(t, c.code, code)
			require.Equal(t, c.want, a.Error)
			require.Equal(t, c.code == http.StatusOK, a.Certificate != "")
			require.Equal(t, c.code == http.StatusOK, a.Authority != "")
		})
	}
	code, a := w.post(t, nil, "", asks(t, "n", good))
	require.Equal(t, http.StatusUnauthorized, code)
	require.Empty(t, a.Certificate)
}

// TestRenewals: who a node is its certificate says, and not its request. One that was
// removed is not renewed, and its token would not help it either.
func TestRenewals(t *testing.T) {
	t.Parallel()
	removed := map[string]bool{}
	w := serve(t, "test", func(s *Server) { s.Removed = func(node string) bool { return removed[node] } })
	m := w.member(t)
	require.NoError(t, m.once(t))
	id, err := Of(m.cert.Leaf)
	require.NoError(t, err)
	csr := csrOf(t, m.key)
	for _, name := range []string{"n", "", "other"} {
		code, a := w.post(t, m.cert, "", asks(t, name, csr))
		require.Equal(t, http.StatusOK, code, a.Error)
		require.Equal(t, id.Node, a.ID)
	}
	removed[id.Node] = true
	before := w.Counts()["identity"]
	for _, name := range []string{"n", "", "other"} {
		code, a := w.post(t, m.cert, "", asks(t, name, csr))
		require.Equal(t, http.StatusForbidden, code)
		require.Equal(t, answer{Error: "node " + id.Node + " was removed from this stack"}, a)
	}
	code, _ := w.post(t, nil, w.token, asks(t, "n", csr))
	require.Equal(t, http.StatusForbidden, code)
	require.Equal(t, before+4, w.Counts()["identity"])
	require.ErrorContains(t, m.once(t), "was removed")
	require.Nil(t, m.cert, "it tries its token next time")
}

// TestRenewalOfAnother: a certificate that is of this authority, and not of a node of this
// stack, renews nothing.
func TestRenewalOfAnother(t *testing.T) {
	t.Parallel()
	w := serve(t, "test", nil)
	key := ecKey(t, elliptic.P256())
	for _, uri := range []*url.URL{ID{"other", "n1"}.URI(), ControlURI("test")} {
		der, err := pki.Sign(&x509.Certificate{
			NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, URIs: []*url.URL{uri},
		}, w.Authority.cert, key.Public(), w.Authority.key)
		require.NoError(t, err)
		code, a := w.post(t, &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, w.token, asks(t, "n1", csrOf(t, key)))
		require.Equal(t, http.StatusForbidden, code)
		require.Equal(t, answer{Error: "this certificate is not one of a node of this stack"}, a)
	}
	require.Equal(t, uint64(2), w.Counts()["identity"])
}

// TestTokensThatCannotBeRead: nobody joins, and nobody is told why.
func TestTokensThatCannotBeRead(t *testing.T) {
	t.Parallel()
	w := serve(t, "test", func(s *Server) { s.Tokens = func() (Tokens, error) { return Tokens{}, errors.New("disk") } })
	code, a := w.post(t, nil, w.token, asks(t, "n", csrOf(t, ecKey(t, elliptic.P256()))))
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Equal(t, answer{Error: "the control plane cannot read its join tokens"}, a)
}

// TestAnswers: a node takes no certificate that does not make it itself, in its own fleet.
func TestAnswers(t *testing.T) {
	t.Parallel()
	w, foreign := serve(t, "test", nil), serve(t, "test", nil)
	m := w.member(t)
	require.NoError(t, m.trust())
	require.NoError(t, m.loadKey())
	written := 0
	m.Write = func([]byte, []byte) error { written++; return nil }
	issue := func(a *Authority, stack, node string, key crypto.PublicKey, usage x509.ExtKeyUsage) string {
		der, err := pki.Sign(&x509.Certificate{
			NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{usage}, URIs: []*url.URL{ID{stack, node}.URI()},
		}, a.cert, key, a.key)
		require.NoError(t, err)
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	client, own := x509.ExtKeyUsageClientAuth, m.key.Public()
	for name, c := range map[string]struct{ certificate, want string }{
		"none":               {"", "the control plane's answer has no certificate"},
		"not a certificate":  {"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "read the certificate"},
		"of another stack":   {issue(w.Authority, "other", "n-1", own, client), "the certificate is not this node's"},
		"of another node":    {issue(w.Authority, "test", "n-2", own, client), "the certificate is not this node's"},
		"for another key":    {issue(w.Authority, "test", "n-1", ecKey(t, elliptic.P256()).Public(), client), "the certificate is not this node's"},
		"of another fleet":   {issue(foreign.Authority, "test", "n-1", own, client), "verify the certificate"},
		"for another use":    {issue(w.Authority, "test", "n-1", own, x509.ExtKeyUsageServerAuth), "verify the certificate"},
		"as the node should": {issue(w.Authority, "test", "n-1", own, client), ""},
	} {
		before := written
		err := m.accept(answer{ID: "n-1", Certificate: c.certificate})
		if c.want == "" {
			require.NoError(t, err, name)
			require.Equal(t, before+1, written)
			continue
		}
		require.ErrorContains(t, err, c.want, name)
		require.Equal(t, before, written, name)
	}
}

// TestAnswersCount: a join has failed if what was answered is not the node's.
func TestAnswersCount(t *testing.T) {
	t.Parallel()
	w := serve(t, "test", nil)
	control, err := w.Authority.serve(time.Now())
	require.NoError(t, err)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*control}, NextProtos: []string{protocolJoin}, MinVersion: tls.VersionTLS13})
	require.NoError(t, err)
	theirs := must2(w.Authority.Issue("n-1", ecKey(t, elliptic.P256()).Public(), time.Now()))
	var asked, elsewhere atomic.Int32
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != joinPath {
			elsewhere.Add(1)
		}
		if asked.Add(1) > 1 { // and to another place the token does not go
			http.Redirect(rw, r, "/elsewhere", http.StatusTemporaryRedirect)
			return
		}
		_ = json.NewEncoder(rw).Encode(answer{ID: "n-1", Certificate: string(theirs), Authority: string(w.Authority.PEM)})
	})}
	go func() { _ = s.Serve(l) }()
	defer s.Close() //nolint:errcheck // a test
	m := w.member(t)
	m.Controls = []string{l.Addr().String()}
	require.ErrorContains(t, m.once(t), "the certificate is not this node's")
	require.Nil(t, m.cert)
	require.ErrorContains(t, m.once(t), "read the control plane's answer")
	require.Equal(t, []int32{2, 0}, []int32{asked.Load(), elsewhere.Load()})
}

// TestRefusalsAreQuiet: whoever is refused often is counted each time, and fills no disk.
func TestRefusalsAreQuiet(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	w := serve(t, "test", func(s *Server) { s.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	w.quiet.SetLimit(0)
	for range 30 {
		w.refuse(&w.refused.Tokens, "token", w.nodes.Addr(), errors.New("wrong"))
	}
	require.Equal(t, uint64(30), w.Counts()["token"])
	require.Equal(t, 10, strings.Count(log.String(), "refused a node"))
}

// TestCredentials: a stream's credentials are those of its handshake, and nobody is without.
func TestCredentials(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	defer far.Close()
	c := Credentials()
	_, _, err := c.ServerHandshake(near)
	require.EqualError(t, err, "the connection is not one of a node")
	inner := tls.Server(near, &tls.Config{MinVersion: tls.VersionTLS13})
	same, info, err := c.ServerHandshake(inner)
	require.NoError(t, err)
	require.Same(t, inner, same)
	require.Equal(t, credentials.PrivacyAndIntegrity, info.(credentials.TLSInfo).SecurityLevel)
	_, ok := Peer(info)
	require.False(t, ok, "without a certificate")
	_, ok = Peer(nil)
	require.False(t, ok)
	require.Equal(t, "tls", c.Info().SecurityProtocol)
	_, _, err = c.ClientHandshake(t.Context(), "", near)
	require.EqualError(t, err, "these credentials are a server's")
}

// TestPinIsOfTheAuthority: a certificate that is not an authority's stands for no fleet, and
// neither does an authority that is sent along with the pinned one's answer.
func TestPinIsOfTheAuthority(t *testing.T) {
	t.Parallel()
	w := serve(t, "test", nil)
	served, err := w.certificate(time.Now())
	require.NoError(t, err)
	m := w.member(t)
	m.Authority = pinPrefix + hashOf(served.Certificate[0])
	require.ErrorContains(t, m.once(t), "not of the authority that is pinned")

	other := serve(t, "test", nil)
	m = w.member(t)
	m.Authority = pinPrefix + hashOf(w.Authority.cert.Raw)
	require.ErrorContains(t, m.pinned(other.Authority.PEM), "not the pinned one")
	require.ErrorContains(t, m.pinned([]byte("x")), "not the pinned one")
	require.NoError(t, m.loadKey())
	certificate := must2(other.Authority.Issue("n-1", m.key.Public(), time.Now()))
	err = m.accept(answer{ID: "n-1", Certificate: string(certificate), Authority: string(other.Authority.PEM)})
	require.EqualError(t, err, "the control plane's authority is not the pinned one")
	require.Nil(t, m.pool)

	for _, pin := range []string{"", "00", hashOf(nil) + "00", "x" + hashOf(nil)[1:]} {
		m.Authority = pinPrefix + pin
		require.ErrorContains(t, m.trust(), "the pin of the fleet's authority is not sha256: and 64 hexadecimal digits", pin)
	}
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// TestTokensAsTheyAreSent: a token counts as a bearer's, and what is refused is counted.
func TestTokensAsTheyAreSent(t *testing.T) {
	t.Parallel()
	w := serve(t, "test", nil)
	refused := uint64(0)
	for header, want := range map[string]int{
		"Bearer " + w.token: http.StatusOK, w.token: http.StatusUnauthorized, "bearer " + w.token: http.StatusUnauthorized, "Bearer x" + w.token: http.StatusUnauthorized, "Bearer ": http.StatusUnauthorized, "": http.StatusUnauthorized,
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://x"+joinPath, nil)
		require.NoError(t, err)
		r.Header.Set("Authorization", header)
		near, far := net.Pipe()
		defer near.Close()
		defer far.Close()
		_, code, _ := w.authenticate(r, tls.Server(near, &tls.Config{MinVersion: tls.VersionTLS13}))
		require.Equal(t, want, code, "%q", header)
		if want != http.StatusOK {
			refused++
		}
	}
	require.Equal(t, refused, w.Counts()["token"])
}

// TestAuthorities: a certificate that is not an authority's issues nothing, and neither does
// an authority for what is not a name.
func TestAuthorities(t *testing.T) {
	t.Parallel()
	cert, key, err := NewAuthority("test", time.Now())
	require.NoError(t, err)
	a, err := LoadAuthority("test", cert, key)
	require.NoError(t, err)
	own := ecKey(t, elliptic.P256())
	leaf, err := a.Issue("n1", own.Public(), time.Now())
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(own)
	require.NoError(t, err)
	ownPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	_, err = LoadAuthority("test", leaf, ownPEM)
	require.EqualError(t, err, "load the fleet's certificate authority: it is none: make one with `posternd authority`")
	_, err = LoadAuthority("test", cert, ownPEM)
	require.ErrorContains(t, err, "load the fleet's certificate authority: tls: private key does not match public key")
	for _, name := range []string{"", "N", "n/1", "-n", "n\n", strings.Repeat("n", 64)} {
		_, _, err := NewAuthority(name, time.Now())
		require.ErrorContains(t, err, "is not a valid stack name", "%q", name)
		_, err = LoadAuthority(name, cert, key)
		require.ErrorContains(t, err, "is not a valid stack name", "%q", name)
		_, err = a.Issue(name, own.Public(), time.Now())
		require.ErrorContains(t, err, "is not a valid node name", "%q", name)
	}
}

// TestCertificatesAreNarrow: what each of the fleet's certificates is good for, and how long.
func TestCertificatesAreNarrow(t *testing.T) {
	t.Parallel()
	w := serve(t, "test", nil)
	now := time.Now().Truncate(time.Second)
	block, _ := pem.Decode(must2(w.Authority.Issue("n1", ecKey(t, elliptic.P256()).Public(), now)))
	node, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	control, err := w.Authority.serve(now)
	require.NoError(t, err)
	for _, c := range []struct {
		cert  *x509.Certificate
		usage x509.ExtKeyUsage
		uri   string
		names []string
	}{
		{node, x509.ExtKeyUsageClientAuth, "spiffe://postern/test/node/n1", nil},
		{control.Leaf, x509.ExtKeyUsageServerAuth, "spiffe://postern/test/control", []string{"control.postern.internal"}},
	} {
		require.Equal(t, []x509.ExtKeyUsage{c.usage}, c.cert.ExtKeyUsage)
		require.Equal(t, x509.KeyUsageDigitalSignature, c.cert.KeyUsage)
		require.False(t, c.cert.IsCA)
		require.True(t, c.cert.BasicConstraintsValid)
		require.Len(t, c.cert.URIs, 1)
		require.Equal(t, c.uri, c.cert.URIs[0].String())
		require.Equal(t, c.names, c.cert.DNSNames)
		require.Empty(t, c.cert.IPAddresses)
		require.Equal(t, now.Add(24*time.Hour).UTC(), c.cert.NotAfter)
		require.Equal(t, now.Add(-5*time.Minute).UTC(), c.cert.NotBefore)
		require.Greater(t, c.cert.SerialNumber.BitLen(), 64)
	}
	authority := w.Authority.cert
	require.Equal(t, []any{true, true, 0, x509.KeyUsageCertSign | x509.KeyUsageCRLSign}, []any{authority.IsCA, authority.MaxPathLenZero, authority.MaxPathLen, authority.KeyUsage})
	// The served certificate is replaced after half of its lifetime, and not before.
	first, err := w.certificate(now)
	require.NoError(t, err)
	again, err := w.certificate(now.Add(11 * time.Hour))
	require.NoError(t, err)
	require.Same(t, first, again)
	again, err = w.certificate(now.Add(13 * time.Hour))
	require.NoError(t, err)
	require.NotSame(t, first, again)
}

func must2(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// TestNodesKeys: what is in a node's folder in the place of its key is not replaced without
// a word, and not quoted.
func TestNodesKeys(t *testing.T) {
	t.Parallel()
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(edwards)
	require.NoError(t, err)
	for content, want := range map[string]string{
		"s3cr3t": "is not a valid key: remove it, and the node joins as a new node", "": "is not a valid key",
		"-----BEGIN PRIVATE KEY-----\nczNjcjN0\n-----END PRIVATE KEY-----\n":    "is not a valid key",
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})): "is not an ECDSA key: remove it, and the node joins as a new node",
	} {
		m := &Member{Dir: t.TempDir()}
		path := filepath.Join(m.Dir, "node.key")
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		err := m.loadKey()
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "s3cr3t")
		there, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, content, string(there))
	}
	fresh := &Member{Dir: t.TempDir()}
	require.NoError(t, fresh.loadKey())
	block, _ := pem.Decode(fresh.keyPEM)
	require.Equal(t, "PRIVATE KEY", block.Type)
	again := &Member{Dir: fresh.Dir}
	require.NoError(t, again.loadKey())
	require.True(t, fresh.key.Equal(again.key))
	require.Equal(t, fresh.keyPEM, again.keyPEM)
	m := &Member{Dir: t.TempDir()}
	require.NoError(t, os.Mkdir(filepath.Join(m.Dir, "node.key"), 0o700))
	require.ErrorContains(t, m.loadKey(), "read the node's key")
}

// TestWhereNobodyIsAsked: a node that cannot know whom to ask says so at once.
func TestWhereNobodyIsAsked(t *testing.T) {
	t.Parallel()
	w := serve(t, "test", nil)
	for name, c := range map[string]struct {
		change func(*Member)
		want   string
	}{
		"no control plane": {func(m *Member) { m.Controls = nil }, "no control plane is named"},
		"no port":          {func(m *Member) { m.Controls = []string{w.address, "control.test"} }, `"control.test" is not a valid address of a control plane: write HOST:PORT`},
		"no host":          {func(m *Member) { m.Controls = []string{":443"} }, `":443" is not a valid address of a control plane`},
		"an empty port":    {func(m *Member) { m.Controls = []string{"control.test:"} }, `"control.test:" is not a valid address of a control plane`},
		"no authority":     {func(m *Member) { m.Authority = filepath.Join(m.Dir, "none") }, "read the fleet's authority"},
		"not an authority": {func(m *Member) { m.Authority = m.Token }, "has no PEM certificate"},
		"no name":          {func(m *Member) { m.Name = "" }, "is not a valid node name"},
	} {
		m := w.member(t)
		c.change(m)
		_, _, err := m.Join(t.Context())
		require.ErrorContains(t, err, c.want, name)
	}
}

// TestSlowJoins: every step of a join has an end.
func TestSlowJoins(t *testing.T) {
	t.Parallel()
	h := (&Server{}).http()
	require.Equal(t, []time.Duration{handshakeTimeout, handshakeTimeout, handshakeTimeout, handshakeTimeout}, []time.Duration{h.ReadHeaderTimeout, h.ReadTimeout, h.WriteTimeout, h.IdleTimeout})
	require.Equal(t, 8<<10, h.MaxHeaderBytes)
}

// TestControlPlaneIsOne: a certificate that is of the control plane, and of somebody else
// too, or of nobody, is not the control plane's.
func TestControlPlaneIsOne(t *testing.T) {
	t.Parallel()
	w := serve(t, "test", nil)
	m := w.member(t)
	require.NoError(t, m.trust())
	control, other := ControlURI("test"), ID{"test", "n1"}.URI()
	for _, c := range []struct {
		uris []*url.URL
		ok   bool
	}{{[]*url.URL{control}, true}, {nil, false}, {[]*url.URL{control, other}, false}, {[]*url.URL{other, control}, false}, {[]*url.URL{other}, false}, {[]*url.URL{ControlURI("other")}, false}} {
		err := m.tls().VerifyConnection(tls.ConnectionState{PeerCertificates: []*x509.Certificate{{URIs: c.uris}}})
		require.Equal(t, c.ok, err == nil, "%v", c.uris)
	}
	// With a pin, a certificate counts that the pinned authority has signed, and not one that
	// comes along with the authority's.
	m.Authority, m.pool = pinPrefix+hashOf(w.Authority.cert.Raw), nil
	foreign := serve(t, "test", nil)
	of := func(a *Authority) *x509.Certificate {
		c, err := a.serve(time.Now())
		require.NoError(t, err)
		return c.Leaf
	}
	past, err := w.Authority.serve(time.Now().Add(-48 * time.Hour))
	require.NoError(t, err)
	require.NoError(t, m.tls().VerifyConnection(tls.ConnectionState{PeerCertificates: []*x509.Certificate{of(w.Authority), w.Authority.cert}}))
	for _, chain := range [][]*x509.Certificate{
		{of(foreign.Authority), w.Authority.cert}, {of(foreign.Authority), foreign.Authority.cert}, {of(w.Authority)}, {past.Leaf, w.Authority.cert}, {w.Authority.cert},
	} {
		require.Error(t, m.tls().VerifyConnection(tls.ConnectionState{PeerCertificates: chain}))
	}
	require.NoError(t, w.member(t).trust())
	m = w.member(t)
	require.NoError(t, m.trust())
	require.False(t, m.tls().InsecureSkipVerify)
	require.Equal(t, ServerName, m.tls().ServerName)
}

// TestClosedQueue: whoever comes too late is not left waiting.
func TestClosedQueue(t *testing.T) {
	t.Parallel()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	q := newQueue(l)
	require.NoError(t, q.Close())
	require.NoError(t, q.Close(), "again")
	near, far := net.Pipe()
	q.put(near)
	_, err = far.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	_, err = q.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = net.Dial("tcp", l.Addr().String())
	require.Error(t, err, "the port is closed")
	// Whoever closes one of a port's queues closes both.
	nodes, joining := newQueue(l), newQueue(l)
	serve(t, "test", nil).accept(t.Context(), l, nodes, joining)
	for _, q := range []*queue{nodes, joining} {
		select {
		case <-q.closed:
		default:
			require.Fail(t, "it is open")
		}
	}
}

// TestRead: what is nowhere is not an empty secret.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("POSTERN_TEST_TOKEN", "token")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "token"), []byte("x\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "empty"), nil, 0o600))
	for from, want := range map[string]string{"env://POSTERN_TEST_TOKEN": "token", filepath.Join(dir, "token"): "x\n"} {
		b, err := Read(from)
		require.NoError(t, err)
		require.Equal(t, want, string(b))
	}
	_, err := Read(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = Read(filepath.Join(dir, "empty"))
	require.ErrorContains(t, err, "empty is empty")
	_, err = Read("env://POSTERN_TEST_NONE")
	require.EqualError(t, err, "the environment variable POSTERN_TEST_NONE is empty")
}
