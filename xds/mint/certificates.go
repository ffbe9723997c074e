package mint

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/weppos/publicsuffix-go/publicsuffix"

	"github.com/postern/postern/pki"
	"github.com/postern/postern/svid"
	"github.com/postern/postern/xds/kms"
)

// LeafLifetime is the time for which a leaf certificate is valid. It is renewed after half of that
// time.
const LeafLifetime = 24 * time.Hour

// intermediateLifetime is the time for which an intermediate is valid. It is replaced after half of
// that time, so that it outlives every leaf.
const intermediateLifetime = 7 * 24 * time.Hour

// maxDomains is the number of domains of one intermediate. All names of a plan in one intermediate
// would be sent with every handshake (clients take at most 100 kB), and would have to be signed
// again with each added name.
const maxDomains = 32

// backdate is the time by which a leaf's validity starts early, for clocks that differ.
const backdate = time.Hour

// authority mints the leaf certificates that nodes present to agents. The CA that agents trust
// signs only intermediates, each for a few domains of the plan. The intermediates sign the leaves.
// It is safe for concurrent use.
type authority struct {
	root *x509.Certificate
	key  crypto.Signer
	// leaf is one key for all leaves: it lives in memory only, here and in the nodes.
	leaf    *ecdsa.PrivateKey
	leafPEM []byte
	// below is the key of all intermediates: it lives in memory only, here.
	below *ecdsa.PrivateKey

	mu sync.Mutex
	// domains maps a domain to its intermediate.
	domains map[string]*intermediate
}

// intermediate is a CA for a few domains and the names below them.
type intermediate struct {
	cert *x509.Certificate
	pem  []byte
}

// Load reads the CA that the stack's agents trust, from places for
// [svid.Read]; its key may also be one for [kms.Open].
func Load(certFile, keyFile string) (*x509.Certificate, crypto.Signer, error) {
	certPEM, err := svid.Read(certFile)
	if err != nil {
		return nil, nil, fmt.Errorf("load the certificate authority: %w", err)
	}
	var root *x509.Certificate
	var signer crypto.Signer
	if kms.Is(keyFile) {
		root, signer, err = openKey(certFile, certPEM, keyFile)
	} else {
		root, signer, err = readKey(certPEM, keyFile)
	}
	if err != nil {
		return nil, nil, err
	}
	if !root.IsCA || root.MaxPathLenZero {
		return nil, nil, fmt.Errorf("load the certificate authority: the certificate of %s cannot have an authority below it, and the control plane signs leaves with intermediates; "+
			"make a new authority, which agents must then trust: remove the certificate and its key and run `postern up`, or on AWS run `posternd authority`", certFile)
	}
	return root, signer, nil
}

func newAuthority(root *x509.Certificate, key crypto.Signer) (*authority, error) {
	leaf, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	below, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	leafPEM, err := pki.KeyPEM(leaf)
	if err != nil {
		return nil, err
	}
	return &authority{root: root, key: key, leaf: leaf, below: below, domains: map[string]*intermediate{}, leafPEM: leafPEM}, nil
}

// readKey reads a key in PEM, and checks that the certificate belongs to it.
func readKey(certPEM []byte, keyFile string) (*x509.Certificate, crypto.Signer, error) {
	keyPEM, err := svid.Read(keyFile)
	if err != nil {
		return nil, nil, fmt.Errorf("load the certificate authority's key: %w", err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, nil, fmt.Errorf("load the certificate authority: %w", err)
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, nil, errors.New("load the certificate authority: its key does not sign")
	}
	return pair.Leaf, signer, nil
}

// openKey opens a key in a cloud, and checks that the certificate belongs to it.
func openKey(certFile string, certPEM []byte, place string) (*x509.Certificate, crypto.Signer, error) {
	block, _ := pem.Decode(certPEM)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, nil, fmt.Errorf("load the certificate authority: %s does not begin with a certificate in PEM", certFile)
	}
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("load the certificate authority: %w", err)
	}
	key, err := kms.Open(place)
	if err != nil {
		return nil, nil, fmt.Errorf("load the certificate authority's key: %w", err)
	}
	public, ok := key.Public().(*ecdsa.PublicKey)
	if !ok || !public.Equal(root.PublicKey) {
		return nil, nil, fmt.Errorf("load the certificate authority: the certificate of %s is not of the key %s; "+
			"name the key with which it was made, or make another with `posternd authority --agents-key`, which agents must then trust", certFile, place)
	}
	return root, key, nil
}

// cover makes the intermediates that hosts need and that do not exist. It uses the CA's key, so it
// may take long; callers that need only existing intermediates do not wait for it. It does not
// replace an expired intermediate: a kill must not fail because a certificate cannot be signed.
func (a *authority) cover(hosts []string, now time.Time) error {
	var missing []string
	a.mu.Lock()
	for _, h := range hosts {
		if a.find(h) == nil {
			missing = append(missing, registrable(h))
		}
	}
	a.mu.Unlock()
	made, err := a.sign(missing, now)
	a.mu.Lock()
	maps.Copy(a.domains, made)
	a.mu.Unlock()
	return err
}

// renew replaces all intermediates, for what hosts need now, once half of the lifetime of one has
// passed. If that fails, the existing ones stay.
func (a *authority) renew(hosts []string, now time.Time) error {
	a.mu.Lock()
	due := false
	for _, i := range a.domains {
		due = due || now.After(i.cert.NotAfter.Add(-intermediateLifetime/2))
	}
	a.mu.Unlock()
	if !due {
		return nil
	}
	var domains []string
	for _, h := range hosts {
		domains = append(domains, registrable(h))
	}
	made, err := a.sign(domains, now)
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.domains = made
	a.mu.Unlock()
	return nil
}

// sign makes intermediates for the domains. If one cannot be made, it returns the others, and the
// reason.
func (a *authority) sign(domains []string, now time.Time) (map[string]*intermediate, error) {
	slices.Sort(domains)
	made := map[string]*intermediate{}
	for some := range slices.Chunk(slices.Compact(domains), maxDomains) {
		i, err := a.intermediate(some, now)
		if err != nil {
			return made, err
		}
		for _, d := range some {
			made[d] = i
		}
	}
	return made, nil
}

// until returns the time at which the first intermediate ends, or zero if there is none.
func (a *authority) until() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	var first time.Time
	for _, i := range a.domains {
		if first.IsZero() || i.cert.NotAfter.Before(first) {
			first = i.cert.NotAfter
		}
	}
	return first
}

// find returns the intermediate for host or for a name below which host is, or nil. The caller
// holds the lock.
func (a *authority) find(host string) *intermediate {
	for {
		if i := a.domains[host]; i != nil {
			return i
		}
		_, rest, ok := strings.Cut(host, ".")
		if !ok {
			return nil
		}
		host = rest
	}
}

// registrable returns the registered domain that host is in, or host itself if there is none. It is
// wider than host on purpose: another host of the same owner needs no other intermediate.
func registrable(host string) string {
	if d, err := publicsuffix.Domain(host); err == nil {
		return d
	}
	return host
}

// intermediate signs one with the CA's key.
func (a *authority) intermediate(domains []string, now time.Time) (*intermediate, error) {
	template := &x509.Certificate{
		Subject:   pkix.Name{Organization: []string{"Postern"}, CommonName: "Postern intermediate CA"},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(intermediateLifetime),
		KeyUsage: x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		// RFC 5280, 4.2.1.10: a name stands for all names below it, too. Kinds of names without a
		// constraint are free, so addresses are excluded by name.
		PermittedDNSDomainsCritical: true, PermittedDNSDomains: domains,
		ExcludedIPRanges: []*net.IPNet{
			{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, {IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)},
		},
	}
	der, err := pki.Sign(template, a.root, &a.below.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("make an intermediate authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read back an intermediate authority: %w", err)
	}
	return &intermediate{cert, pki.PEM(der)}, nil
}

// mint returns a certificate for host as an Envoy secret of that name. It returns nil for a host
// that cover has not covered.
func (a *authority) mint(host string, now time.Time) (*tlsv3.Secret, error) {
	template := &x509.Certificate{
		NotBefore:   now.Add(-backdate),
		NotAfter:    now.Add(LeafLifetime),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{host},
	}
	// A common name has at most 64 characters (RFC 5280, ub-common-name).
	if len(host) <= 64 {
		template.Subject = pkix.Name{CommonName: host}
	}
	a.mu.Lock()
	i := a.find(host)
	a.mu.Unlock()
	if i == nil {
		return nil, fmt.Errorf("mint certificate for %s: no intermediate authority is for it", host)
	}
	if !now.Before(i.cert.NotAfter) {
		return nil, fmt.Errorf("mint certificate for %s: the intermediate authority for it has expired, and could not be renewed", host)
	}
	if i.cert.NotAfter.Before(template.NotAfter) {
		template.NotAfter = i.cert.NotAfter
	}
	der, err := pki.Sign(template, i.cert, &a.leaf.PublicKey, a.below)
	if err != nil {
		return nil, fmt.Errorf("mint certificate for %s: %w", host, err)
	}
	chain := append(pki.PEM(der), i.pem...)
	return &tlsv3.Secret{Name: host, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inline(chain), PrivateKey: inline(a.leafPEM),
	}}}, nil
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}
