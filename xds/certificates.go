package xds

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
)

// leafLifetime is how long a leaf certificate is valid. It is renewed when half
// of that has passed.
const leafLifetime = 24 * time.Hour

// backdate is by how much a leaf's validity starts early, for clocks that differ.
const backdate = time.Hour

// authority mints the leaf certificates that nodes present to agents. It is
// safe for concurrent use.
type authority struct {
	cert *x509.Certificate
	key  any
	// leaf is one key for all leaves: it lives in memory only, here and in the nodes.
	leaf    *ecdsa.PrivateKey
	leafPEM []byte
	chain   []byte
}

// loadAuthority reads the CA that the stack's agents trust.
func loadAuthority(certFile, keyFile string) (*authority, error) {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("load the certificate authority: %w", err)
	}
	leaf, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the leaf key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(leaf)
	if err != nil {
		return nil, fmt.Errorf("encode the leaf key: %w", err)
	}
	return &authority{
		cert: pair.Leaf, key: pair.PrivateKey, leaf: leaf,
		leafPEM: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		chain:   pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}),
	}, nil
}

// mint returns a certificate for host as an Envoy secret of that name.
func (a *authority) mint(host string, now time.Time) (*tlsv3.Secret, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("mint certificate for %s: %w", host, err)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(leafLifetime),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     []string{host},
	}
	// A common name has at most 64 characters (RFC 5280, ub-common-name).
	if len(host) <= 64 {
		template.Subject = pkix.Name{CommonName: host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &a.leaf.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("mint certificate for %s: %w", host, err)
	}
	chain := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), a.chain...)
	return &tlsv3.Secret{Name: host, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inline(chain), PrivateKey: inline(a.leafPEM),
	}}}, nil
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}
