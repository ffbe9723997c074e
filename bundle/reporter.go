package bundle

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/postern/postern/pki"
)

// reporterLifetime is the time for which an authority vouches for a reporter's key.
const reporterLifetime = 7 * 24 * time.Hour

// Reporter signs the reports of one control plane. Its key is in memory only. The agents' authority
// vouches for the key with a certificate. So the authority's own key, which may be in a cloud and
// unavailable, is not needed for each report.
type Reporter struct {
	key *ecdsa.PrivateKey
	// cert is DER.
	cert []byte
	made time.Time
}

// reporterURI is the one name in the certificate of a reporter. No certificate
// that an authority or an intermediate makes for agents has a URI.
func reporterURI(stack string) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: "postern", Path: "/" + stack + "/reports"}
}

// NewReporter returns a reporter for whose key the authority root vouches. by is the authority's
// key.
func NewReporter(stack string, root *x509.Certificate, by crypto.Signer, now time.Time) (*Reporter, error) {
	key, err := pki.NewKey()
	if err != nil {
		return nil, fmt.Errorf("reports: %w", err)
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{Organization: []string{"Postern"}, CommonName: "Postern reports"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(reporterLifetime), // clocks differ
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true, URIs: []*url.URL{reporterURI(stack)},
	}
	cert, err := pki.Sign(template, root, key.Public(), by)
	if err != nil {
		return nil, fmt.Errorf("vouch for the key of reports: %w", err)
	}
	return &Reporter{key: key, cert: cert, made: now}, nil
}

// Due reports whether half of its life has passed.
func (r *Reporter) Due(now time.Time) bool { return now.After(r.made.Add(reporterLifetime / 2)) }

func (r *Reporter) sign(message []byte) ([]byte, error) {
	digest := sha256.Sum256(message)
	return ecdsa.SignASN1(rand.Reader, r.key, digest[:])
}

// vouched makes sure that a message was signed by a key that root vouches for
// now, as the reporter of the stack.
func vouched(root *x509.Certificate, stack string, cert, message, signature []byte, now time.Time) error {
	c, err := x509.ParseCertificate(cert)
	if err != nil {
		return err
	}
	if err := c.CheckSignatureFrom(root); err != nil {
		return err
	}
	if c.IsCA || len(c.URIs) != 1 || c.URIs[0].String() != reporterURI(stack).String() {
		return errors.New("the certificate is not of a reporter of this stack")
	}
	if now.Before(c.NotBefore) || now.After(c.NotAfter) {
		return errors.New("the certificate is not valid now")
	}
	return c.CheckSignature(x509.ECDSAWithSHA256, message, signature)
}
