package svid

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/pki"
)

// The wait between two attempts to get a certificate, twice as long each time.
const (
	minBackoff = 200 * time.Millisecond
	maxBackoff = 30 * time.Second
)

// Member is the node's side: its key, and the certificate that it keeps valid. Its methods are not
// safe for concurrent use.
type Member struct {
	Stack string
	// Name is the beginning of the node's ID.
	Name string
	// Controls are the addresses of the control plane's replicas, HOST:PORT.
	Controls []string
	// Token is the place of the bootstrap token, for [Read]. It is read again for each join, so
	// that an operator can replace it.
	Token string
	// Authority is the fleet's authority: the path of its PEM certificate, env://NAME, or "sha256:"
	// and the hexadecimal hash of its DER form.
	Authority string
	// Dir is a private folder. It keeps the key, so that the node is the same after a restart.
	Dir string
	// Write is called with each new certificate chain and its key, as PEM.
	Write func(chain, key []byte) error
	Log   *slog.Logger

	key    *ecdsa.PrivateKey
	keyPEM []byte
	pool   *x509.CertPool
	pem    []byte
	cert   *tls.Certificate
}

// Join gets the node's first certificate, and tries until ctx is done. It returns the node's ID and
// the authority's certificate as PEM.
func (m *Member) Join(ctx context.Context) (id string, authority []byte, err error) {
	if len(m.Controls) == 0 {
		return "", nil, errors.New("no control plane is named")
	}
	for _, c := range m.Controls {
		if err := checkAddress(c); err != nil {
			return "", nil, err
		}
	}
	if err := m.trust(); err != nil {
		return "", nil, err
	}
	if err := m.loadKey(); err != nil {
		return "", nil, err
	}
	if id, err = Joined(m.Name, m.key.Public()); err != nil {
		return "", nil, err
	}
	if err := m.obtain(ctx); err != nil {
		return "", nil, err
	}
	return id, m.pem, nil
}

// Keep renews the certificate each time when about half of its lifetime has passed, until ctx is
// done. Call it after Join.
func (m *Member) Keep(ctx context.Context) error {
	for {
		life := m.cert.Leaf.NotAfter.Sub(m.cert.Leaf.NotBefore)
		// Not all nodes of a fleet at once.
		due := m.cert.Leaf.NotAfter.Add(-life/3 - time.Duration(mathrand.Int64N(int64(life)/6))) //nolint:gosec // no secret
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Until(due)):
		}
		if err := m.obtain(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// obtain asks the control planes in turn until one gives a certificate.
func (m *Member) obtain(ctx context.Context) error {
	for backoff := minBackoff; ; backoff = min(2*backoff, maxBackoff) {
		for _, i := range mathrand.Perm(len(m.Controls)) { //nolint:gosec // no secret
			err := m.ask(ctx, m.Controls[i])
			if err == nil {
				return nil
			}
			if ctx.Err() != nil {
				return fmt.Errorf("join the fleet: %w", ctx.Err())
			}
			m.Log.Error("no certificate from the control plane, trying again", "control", m.Controls[i], "error", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("join the fleet: %w", ctx.Err())
		case <-time.After(backoff/2 + time.Duration(mathrand.Int64N(int64(backoff)))): //nolint:gosec // no secret
		}
	}
}

// ask gets a certificate from one control plane: by the previous certificate while that is valid,
// and otherwise by the token.
func (m *Member) ask(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*handshakeTimeout)
	defer cancel()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, m.key)
	if err != nil {
		return fmt.Errorf("make certificate request: %w", err)
	}
	body, err := json.Marshal(request{Name: m.Name, CSR: csr})
	if err != nil {
		return fmt.Errorf("encode certificate request: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+address+joinPath, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask for a certificate: %w", err)
	}
	config := m.tls()
	if m.cert != nil && time.Now().Before(m.cert.Leaf.NotAfter) {
		config.Certificates = []tls.Certificate{*m.cert}
	} else {
		token, err := Read(m.Token)
		if err != nil {
			return fmt.Errorf("read the join token: %w", err)
		}
		r.Header.Set("Authorization", "Bearer "+string(bytes.TrimSpace(token)))
	}
	t := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true} // no proxy: it would see the token
	resp, err := (&http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var a answer
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&a); err != nil {
		return fmt.Errorf("read the control plane's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		if resp.StatusCode == http.StatusForbidden {
			m.cert = nil // with the token, next time
		}
		return fmt.Errorf("the control plane refuses: %.200q", a.Error)
	}
	return m.accept(a)
}

// accept checks what the control plane has signed, and keeps it.
func (m *Member) accept(a answer) error {
	block, _ := pem.Decode([]byte(a.Certificate))
	if block == nil {
		return errors.New("the control plane's answer has no certificate")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return fmt.Errorf("read the certificate: %w", err)
	}
	if id, err := Of(leaf); err != nil || id.Stack != m.Stack || id.Node != a.ID || !m.key.PublicKey.Equal(leaf.PublicKey) {
		return errors.New("the certificate is not this node's")
	}
	if m.pool == nil {
		if err := m.pinned([]byte(a.Authority)); err != nil {
			return err
		}
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: m.pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return fmt.Errorf("verify the certificate: %w", err)
	}
	if err := m.Write([]byte(a.Certificate), m.keyPEM); err != nil {
		return err
	}
	m.cert = &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: m.key, Leaf: leaf}
	m.Log.Info("certificate obtained", "node", a.ID, "until", leaf.NotAfter.UTC().Format(time.RFC3339))
	return nil
}

// tls verifies that the other side is the control plane of the stack.
func (m *Member) tls() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: ServerName, RootCAs: m.pool, NextProtos: []string{protocolJoin},
		// With a pin the authority is found in the chain, by VerifyConnection.
		InsecureSkipVerify: m.pool == nil, //nolint:gosec // verified below
		VerifyConnection: func(state tls.ConnectionState) error {
			pool := m.pool
			if pool == nil {
				for _, c := range state.PeerCertificates {
					if m.isPinned(c.Raw) && c.IsCA {
						pool = x509.NewCertPool()
						pool.AddCert(c)
					}
				}
				if pool == nil {
					return errors.New("the control plane is not of the authority that is pinned")
				}
				if _, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool, DNSName: ServerName}); err != nil {
					return err
				}
			}
			uris := state.PeerCertificates[0].URIs
			if len(uris) != 1 || uris[0].String() != ControlURI(m.Stack).String() {
				return fmt.Errorf("this is not the control plane of stack %s", m.Stack)
			}
			return nil
		},
	}
}

const pinPrefix = "sha256:"

// trust reads the authority; with a pin it is not known before the first answer.
func (m *Member) trust() error {
	if pin, ok := strings.CutPrefix(m.Authority, pinPrefix); ok {
		if b, err := hex.DecodeString(pin); err != nil || len(b) != sha256.Size {
			return errors.New("the pin of the fleet's authority is not sha256: and 64 hexadecimal digits")
		}
		return nil
	}
	b, err := Read(m.Authority)
	if err != nil {
		return fmt.Errorf("read the fleet's authority: %w", err)
	}
	m.pem, m.pool = b, x509.NewCertPool()
	if !m.pool.AppendCertsFromPEM(b) {
		return fmt.Errorf("%s has no PEM certificate", m.Authority)
	}
	return nil
}

func (m *Member) isPinned(der []byte) bool {
	sum := sha256.Sum256(der)
	return strings.EqualFold(m.Authority, pinPrefix+hex.EncodeToString(sum[:]))
}

// pinned trusts the authority that the control plane has sent, if it is the pinned one.
func (m *Member) pinned(authority []byte) error {
	block, _ := pem.Decode(authority)
	if block == nil || !m.isPinned(block.Bytes) {
		return errors.New("the control plane's authority is not the pinned one")
	}
	m.pem, m.pool = pki.PEM(block.Bytes), x509.NewCertPool()
	m.pool.AppendCertsFromPEM(m.pem)
	return nil
}

// loadKey reads the node's key, or makes one.
func (m *Member) loadKey() error {
	if err := os.MkdirAll(m.Dir, 0o700); err != nil {
		return fmt.Errorf("make the node's private folder: %w", err)
	}
	path := filepath.Join(m.Dir, "node.key")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return m.newKey(path)
	}
	if err != nil {
		return fmt.Errorf("read the node's key: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return fmt.Errorf("%s is not a valid key: remove it, and the node joins as a new node", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return fmt.Errorf("%s is not a valid key: remove it, and the node joins as a new node", path)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return fmt.Errorf("%s is not an ECDSA key: remove it, and the node joins as a new node", path)
	}
	m.key, m.keyPEM = ec, b
	return nil
}

func (m *Member) newKey(path string) error {
	key, err := pki.NewKey()
	if err != nil {
		return err
	}
	m.key = key
	if m.keyPEM, err = pki.KeyPEM(key); err != nil {
		return err
	}
	return atomicfile.Write(path, m.keyPEM, 0o600)
}
