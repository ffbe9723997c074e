package provider

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/pulumi/pulumi-go-provider/infer"

	"github.com/postern/postern/atomicfile"
)

const (
	caValidity = 10 * 365 * 24 * time.Hour
	// caRenew is how long before its end an authority counts as gone.
	caRenew = 30 * 24 * time.Hour
)

// CertificateAuthority is the authority that the agents of one stack trust
// and that the control plane mints leaf certificates with. Its key is in a
// file that only the user may read, and never in the state.
type CertificateAuthority struct{}

// CertificateAuthorityArgs are the inputs.
type CertificateAuthorityArgs struct {
	// Dir gets ca.key (0600) and ca.pem (0644).
	Dir   string `pulumi:"dir"`
	Stack string `pulumi:"stack"`
}

// CertificateAuthorityState is the state.
type CertificateAuthorityState struct {
	CertificateAuthorityArgs
	// Certificate is PEM.
	Certificate string `pulumi:"certificate"`
	// Fingerprint is the SHA-256 of the certificate, in hexadecimal.
	Fingerprint string `pulumi:"fingerprint"`
}

func (a CertificateAuthorityArgs) key() string  { return filepath.Join(a.Dir, "ca.key") }
func (a CertificateAuthorityArgs) cert() string { return filepath.Join(a.Dir, "ca.pem") }

// Create makes a new authority, in place of whatever is in the folder.
func (*CertificateAuthority) Create(
	_ context.Context, req infer.CreateRequest[CertificateAuthorityArgs],
) (infer.CreateResponse[CertificateAuthorityState], error) {
	none := infer.CreateResponse[CertificateAuthorityState]{}
	state := CertificateAuthorityState{CertificateAuthorityArgs: req.Inputs}
	if req.DryRun {
		return infer.CreateResponse[CertificateAuthorityState]{Output: state}, nil
	}
	key, cert, err := newAuthority(req.Inputs.Stack, time.Now())
	if err != nil {
		return none, fmt.Errorf("make certificate authority: %w", err)
	}
	if err := os.MkdirAll(req.Inputs.Dir, 0o700); err != nil {
		return none, fmt.Errorf("make certificate authority: %w", err)
	}
	// The certificate last: whoever sees it finds its key.
	if err := atomicfile.Write(req.Inputs.key(), key, 0o600); err != nil {
		return none, fmt.Errorf("write the authority's key: %w", err)
	}
	if err := atomicfile.Write(req.Inputs.cert(), cert, 0o644); err != nil {
		return none, fmt.Errorf("write the authority's certificate: %w", err)
	}
	state.Certificate = string(cert)
	if state.Fingerprint, err = fingerprint(cert); err != nil {
		return none, err
	}
	return infer.CreateResponse[CertificateAuthorityState]{ID: state.Fingerprint, Output: state}, nil
}

// Read reports the authority as gone if its files are missing, are not those
// that were made, do not belong together, may be read by others, or end soon.
func (*CertificateAuthority) Read(
	_ context.Context, req infer.ReadRequest[CertificateAuthorityArgs, CertificateAuthorityState],
) (infer.ReadResponse[CertificateAuthorityArgs, CertificateAuthorityState], error) {
	intact, err := req.State.intact(time.Now())
	if err != nil || !intact {
		return infer.ReadResponse[CertificateAuthorityArgs, CertificateAuthorityState]{}, err
	}
	return infer.ReadResponse[CertificateAuthorityArgs, CertificateAuthorityState](req), nil
}

// Diff needs another authority for another folder or stack.
func (*CertificateAuthority) Diff(
	_ context.Context, req infer.DiffRequest[CertificateAuthorityArgs, CertificateAuthorityState],
) (infer.DiffResponse, error) {
	var d difference
	d.replace("dir", req.State.Dir != req.Inputs.Dir)
	d.replace("stack", req.State.Stack != req.Inputs.Stack)
	return d.DiffResponse, nil
}

// Delete removes both files.
func (*CertificateAuthority) Delete(
	_ context.Context, req infer.DeleteRequest[CertificateAuthorityState],
) (infer.DeleteResponse, error) {
	for _, path := range []string{req.State.key(), req.State.cert()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return infer.DeleteResponse{}, fmt.Errorf("remove certificate authority: %w", err)
		}
	}
	os.Remove(req.State.Dir) //nolint:errcheck // only if nobody else put something there
	return infer.DeleteResponse{}, nil
}

// intact errs only if the files are there and cannot be looked at.
func (s CertificateAuthorityState) intact(now time.Time) (bool, error) {
	info, err := os.Stat(s.key())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the authority's key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 { // others may have read it: it is no secret any more
		return false, nil
	}
	keyPEM, err := os.ReadFile(s.key())
	if err != nil {
		return false, fmt.Errorf("read the authority's key: %w", err)
	}
	certPEM, err := os.ReadFile(s.cert())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the authority's certificate: %w", err)
	}
	// The files' content is not repeated in an error, and needs none: what
	// does not parse is not the authority.
	if f, err := fingerprint(certPEM); err != nil || f != s.Fingerprint {
		return false, nil //nolint:nilerr // it is no authority
	}
	certBlock, _ := pem.Decode(certPEM)
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return false, nil //nolint:nilerr // it is no authority
	}
	keyBlock, _ := pem.Decode(keyPEM)
	if keyBlock == nil {
		return false, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		return false, nil //nolint:nilerr // it is no authority
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	return ok && ec.PublicKey.Equal(cert.PublicKey) && now.Add(caRenew).Before(cert.NotAfter), nil
}

// newAuthority returns the key and the certificate, as PEM. The certificate
// signs intermediates that sign leaves; it is not constrained to names, but they
// are, to what the plan allows at the time.
func newAuthority(stack string, now time.Time) (key, cert []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("generate key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, fmt.Errorf("generate serial number: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Organization: []string{"Postern"}, CommonName: "Postern CA of stack " + stack},
		NotBefore:    now.Add(-time.Hour), // clocks differ, in containers too
		NotAfter:     now.Add(caValidity),
		KeyUsage:     x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:         true, BasicConstraintsValid: true,
		MaxPathLen: 1,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, nil, fmt.Errorf("sign certificate: %w", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

func fingerprint(certPEM []byte) (string, error) {
	block, _ := pem.Decode(certPEM)
	if block == nil || block.Type != "CERTIFICATE" {
		return "", errors.New("no PEM certificate")
	}
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:]), nil
}
