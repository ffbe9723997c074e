package svid

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/postern/postern/pki"
)

// Lifetime is how long a node's certificate is valid.
const Lifetime = 24 * time.Hour

// authorityLifetime is the time for which a fleet's authority is valid.
const authorityLifetime = 10 * 365 * 24 * time.Hour

// backdate is the time by which a certificate's validity starts early, because clocks differ.
const backdate = 5 * time.Minute

// Authority is the certificate authority of one stack's fleet. It is safe for
// concurrent use.
type Authority struct {
	// PEM is the authority's certificate.
	PEM   []byte
	stack string
	cert  *x509.Certificate
	key   crypto.Signer
	// lifetime of the certificates that it issues; shorter only in tests.
	lifetime time.Duration
}

// NewAuthority makes an authority and returns its certificate and its key as PEM. The holder of the
// key can be any node of the stack.
func NewAuthority(stack string, now time.Time) (cert, key []byte, err error) {
	if !IsName(stack) {
		return nil, nil, fmt.Errorf("%.64q is not a valid stack name", stack)
	}
	private, err := pki.NewKey()
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{Organization: []string{"Postern"}, CommonName: "Postern fleet CA of stack " + stack},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(authorityLifetime),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:     true, BasicConstraintsValid: true, MaxPathLenZero: true,
	}
	der, err := pki.Sign(template, template, private.Public(), private)
	if err != nil {
		return nil, nil, err
	}
	key, err = pki.KeyPEM(private)
	return pki.PEM(der), key, err
}

// LoadAuthority loads a stack's authority from PEM. Errors do not quote the key.
func LoadAuthority(stack string, cert, key []byte) (*Authority, error) {
	if !IsName(stack) {
		return nil, fmt.Errorf("%.64q is not a valid stack name", stack)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("load the fleet's certificate authority: %w", err)
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA {
		return nil, errors.New("load the fleet's certificate authority: it is none: make one with `posternd authority`")
	}
	return &Authority{PEM: cert, stack: stack, cert: pair.Leaf, key: signer, lifetime: Lifetime}, nil
}

// Key returns the authority's private key, from which the replicas derive what they share.
func (a *Authority) Key() crypto.Signer { return a.key }

// Stack returns the name of the authority's stack.
func (a *Authority) Stack() string { return a.stack }

// Issue returns a certificate for a node and its key, as PEM.
func (a *Authority) Issue(node string, key crypto.PublicKey, now time.Time) ([]byte, error) {
	id := ID{Stack: a.stack, Node: node}
	if !IsName(node) {
		return nil, fmt.Errorf("%.64q is not a valid node name", node)
	}
	template := &x509.Certificate{
		NotBefore: now.Add(-backdate), NotAfter: now.Add(a.lifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true, URIs: []*url.URL{id.URI()},
	}
	der, err := pki.Sign(template, a.cert, key, a.key)
	if err != nil {
		return nil, err
	}
	return pki.PEM(der), nil
}

// serve returns a certificate for the control plane itself. Its key is in memory only. The
// authority's own certificate follows, for nodes that know only its hash.
func (a *Authority) serve(now time.Time) (*tls.Certificate, error) {
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		NotBefore: now.Add(-backdate), NotAfter: now.Add(a.lifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, URIs: []*url.URL{ControlURI(a.stack)}, DNSNames: []string{ServerName},
	}
	der, err := pki.Sign(template, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read back the control plane's certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}
