package pki

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"time"
)

// agentsValidity is how long an agents' authority is valid. Agents' images have it built in.
const agentsValidity = 10 * 365 * 24 * time.Hour

// AgentsAuthority returns the certificate, as PEM, of the authority that the agents of a stack
// trust, signed with its own key. The authority signs intermediates, which sign leaves. Its names
// are not constrained. The intermediates' names are constrained to those that the plan allows at
// the time.
func AgentsAuthority(stack string, key crypto.Signer, now time.Time) ([]byte, error) {
	template := &x509.Certificate{
		Subject:   pkix.Name{Organization: []string{"Postern"}, CommonName: "Postern CA of stack " + stack},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(agentsValidity), // clocks differ, in containers too
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:     true, BasicConstraintsValid: true, MaxPathLen: 1,
	}
	der, err := Sign(template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return PEM(der), nil
}

// NewAgentsAuthority returns a new key and the certificate of the agents' authority that has it,
// both as PEM.
func NewAgentsAuthority(stack string, now time.Time) (key, cert []byte, err error) {
	private, err := NewKey()
	if err != nil {
		return nil, nil, err
	}
	if key, err = KeyPEM(private); err != nil {
		return nil, nil, err
	}
	cert, err = AgentsAuthority(stack, private, now)
	return key, cert, err
}
