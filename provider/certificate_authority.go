package provider

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/pulumi/pulumi-go-provider/infer"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/pki"
)

const (
	// caRenew is the time before its end at which an authority counts as gone.
	caRenew = 30 * 24 * time.Hour
)

// CertificateAuthority is the agents' authority of one stack, with which the control plane mints
// leaf certificates. Its key is in a file that only the user may read, and never in the state.
type CertificateAuthority struct{}

// CertificateAuthorityArgs are the inputs.
type CertificateAuthorityArgs struct {
	// Dir is the folder of ca.key (0600) and ca.pem (0644).
	Dir   string `pulumi:"dir"`
	Stack string `pulumi:"stack"`
}

// CertificateAuthorityState is the state.
type CertificateAuthorityState struct {
	CertificateAuthorityArgs
	// Certificate is the certificate in PEM.
	Certificate string `pulumi:"certificate"`
	// Fingerprint is the SHA-256 of the certificate, in hexadecimal.
	Fingerprint string `pulumi:"fingerprint"`
}

func (a CertificateAuthorityArgs) key() string  { return filepath.Join(a.Dir, "ca.key") }
func (a CertificateAuthorityArgs) cert() string { return filepath.Join(a.Dir, "ca.pem") }

// Create makes a new authority, unless the folder has an intact one, which agents already trust. It
// returns an error for a damaged authority and does not replace it; see
// [CertificateAuthority.Read].
func (*CertificateAuthority) Create(
	_ context.Context, req infer.CreateRequest[CertificateAuthorityArgs],
) (infer.CreateResponse[CertificateAuthorityState], error) {
	none := infer.CreateResponse[CertificateAuthorityState]{}
	state := CertificateAuthorityState{CertificateAuthorityArgs: req.Inputs}
	if req.DryRun {
		return infer.CreateResponse[CertificateAuthorityState]{Output: state}, nil
	}
	found, err := req.Inputs.look(time.Now())
	if err != nil {
		return none, err
	}
	if found != nil && !found.ends {
		state.Certificate, state.Fingerprint = string(found.cert), found.fingerprint
		return infer.CreateResponse[CertificateAuthorityState]{ID: state.Fingerprint, Output: state}, nil
	}
	key, cert, err := pki.NewAgentsAuthority(req.Inputs.Stack, time.Now())
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

// Read reports the authority as gone if both its files are missing, or if it ends soon. For a
// damaged authority it returns an error that says what to do: agents trust the authority, so
// nothing replaces it silently.
func (*CertificateAuthority) Read(
	_ context.Context, req infer.ReadRequest[CertificateAuthorityArgs, CertificateAuthorityState],
) (infer.ReadResponse[CertificateAuthorityArgs, CertificateAuthorityState], error) {
	found, err := req.State.look(time.Now())
	if err == nil && found != nil && !found.ends && found.fingerprint != req.State.Fingerprint {
		err = req.State.damaged(req.State.cert() + " is not the certificate that was made")
	}
	if err != nil || found == nil || found.ends {
		return infer.ReadResponse[CertificateAuthorityArgs, CertificateAuthorityState]{}, err
	}
	return infer.ReadResponse[CertificateAuthorityArgs, CertificateAuthorityState](req), nil
}

// Diff requires another authority for another folder or stack.
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
	os.Remove(req.State.Dir) //nolint:errcheck // fails if somebody has put a file there
	return infer.DeleteResponse{}, nil
}

// authority holds the content of an authority's files.
type authority struct {
	cert        []byte
	fingerprint string
	// ends means that the certificate expires soon.
	ends bool
}

// damaged returns an error that says what is wrong with the files, and what to do.
func (a CertificateAuthorityArgs) damaged(what string) error {
	return fmt.Errorf("the certificate authority is damaged, and nothing was changed: %s; every running sandbox trusts the old one: put the files back from a backup, "+
		"or give it up, `rm -f %s %s`, run this again for a new one, and start the sandboxes again", what, a.key(), a.cert())
}

// look reads the authority in the folder; nil if there is none. The error is damaged
// if it is there and cannot be used. The files' content is not repeated in an error.
func (a CertificateAuthorityArgs) look(now time.Time) (*authority, error) {
	certPEM, missing := os.ReadFile(a.cert())
	info, err := os.Stat(a.key())
	switch {
	case errors.Is(err, fs.ErrNotExist) && errors.Is(missing, fs.ErrNotExist):
		return nil, nil //nolint:nilnil // there is none
	case errors.Is(err, fs.ErrNotExist):
		return nil, a.damaged(a.key() + " is missing")
	case errors.Is(missing, fs.ErrNotExist):
		return nil, a.damaged(a.cert() + " is missing")
	case err != nil || missing != nil:
		return nil, fmt.Errorf("read the certificate authority: %w", errors.Join(err, missing))
	case info.Mode().Perm()&0o077 != 0:
		return nil, a.damaged("others may have read " + a.key())
	}
	keyPEM, err := os.ReadFile(a.key())
	if err != nil {
		return nil, fmt.Errorf("read the authority's key: %w", err)
	}
	certBlock, _ := pem.Decode(certPEM)
	if certBlock == nil || certBlock.Type != "CERTIFICATE" {
		return nil, a.damaged(a.cert() + " is not a certificate")
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil || !cert.IsCA {
		return nil, a.damaged(a.cert() + " is not a certificate of an authority")
	}
	keyBlock, _ := pem.Decode(keyPEM)
	if keyBlock == nil {
		return nil, a.damaged(a.key() + " is not a key")
	}
	key, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, a.damaged(a.key() + " is not a key")
	}
	if ec, ok := key.(*ecdsa.PrivateKey); !ok || !ec.PublicKey.Equal(cert.PublicKey) {
		return nil, a.damaged(a.key() + " is not the key of " + a.cert())
	}
	sum := sha256.Sum256(certBlock.Bytes)
	return &authority{cert: certPEM, fingerprint: hex.EncodeToString(sum[:]), ends: !now.Add(caRenew).Before(cert.NotAfter)}, nil
}

func fingerprint(certPEM []byte) (string, error) {
	block, _ := pem.Decode(certPEM)
	if block == nil || block.Type != "CERTIFICATE" {
		return "", errors.New("no PEM certificate")
	}
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:]), nil
}
