package pki

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAgentsAuthority(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	key, cert, err := NewAgentsAuthority("prod", now)
	require.NoError(t, err)
	block, rest := pem.Decode(cert)
	require.Empty(t, rest)
	c, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	require.NoError(t, c.CheckSignatureFrom(c))
	require.Equal(t, "CN=Postern CA of stack prod,O=Postern", c.Subject.String())
	require.True(t, c.IsCA && c.BasicConstraintsValid)
	require.Equal(t, 1, c.MaxPathLen, "intermediates, and nothing below them but leaves")
	require.Equal(t, x509.KeyUsageCertSign|x509.KeyUsageCRLSign, c.KeyUsage)
	require.Equal(t, now.Add(-time.Hour), c.NotBefore)
	require.Equal(t, now.AddDate(0, 0, 3650), c.NotAfter)
	require.Positive(t, c.SerialNumber.Sign())

	block, rest = pem.Decode(key)
	require.Empty(t, rest)
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	require.NoError(t, err)
	again, err := AgentsAuthority("prod", private.(crypto.Signer), now)
	require.NoError(t, err)
	require.NotEqual(t, cert, again, "another serial number")
}
