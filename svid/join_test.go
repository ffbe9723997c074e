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
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
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
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: 10 * time.Second}
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
		"no certificate request":     {asks(t, "n", []byte("x")), http.StatusBadRequest, "this is no certificate request"},
		"no JSON":                    {[]byte("x"), http.StatusBadRequest, "this is no request for a certificate"},
		"more than a request":        {append(bytes.Repeat([]byte(" "), maxCSR), asks(t, "n", good)...), http.StatusBadRequest, "this is no request for a certificate"},
		"no name":                    {asks(t, "", good), http.StatusBadRequest, `"" is no name of a node: use up to 46 lower-case letters, digits and dashes`},
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
		der, err := sign(&x509.Certificate{
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
		der, err := sign(&x509.Certificate{
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
	require.ErrorContains(t, m.pinned(other.Authority.PEM), "not the one that is pinned")
	require.ErrorContains(t, m.pinned([]byte("x")), "not the one that is pinned")
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
