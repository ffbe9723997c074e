package bundle

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestVouched: nothing else that an authority signs speaks for a control plane.
func TestVouched(t *testing.T) {
	t.Parallel()
	make := func(template, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		template.SerialNumber = big.NewInt(1)
		if parent == nil {
			parent, by = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
		require.NoError(t, err)
		cert, err := x509.ParseCertificate(der)
		require.NoError(t, err)
		return cert, key
	}
	now := time.Now()
	root, key := make(&x509.Certificate{NotAfter: now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true}, nil,
		nil)
	r, err := NewReporter("test", root, key, now)
	require.NoError(t, err)
	message := []byte("message")
	signature, err := r.sign(message)
	require.NoError(t, err)
	require.NoError(t, vouched(root, "test", r.cert, message, signature, now))
	require.Error(t, vouched(root, "test", r.cert, []byte("another"), signature, now))
	require.ErrorContains(t, vouched(root, "prod", r.cert, message, signature, now),
		"is not of a reporter of this stack")
	require.ErrorContains(t, vouched(root, "test", r.cert, message, signature, now.Add(reporterLifetime+time.Minute)),
		"is not valid now")
	require.Error(t, vouched(root, "test", nil, message, signature, now))
	require.False(t, r.Due(now.Add(reporterLifetime/3)))
	require.True(t, r.Due(now.Add(reporterLifetime*2/3)))

	reports := []*url.URL{reporterURI("test")}
	for name, template := range map[string]*x509.Certificate{
		"a leaf, as an older authority signs them": {DNSNames: []string{"api.test"}},
		"an intermediate":                          {IsCA: true, BasicConstraintsValid: true, URIs: reports},
		"a node": {URIs: []*url.URL{{
			Scheme: "spiffe", Host: "postern", Path: "/test/node/n1",
		}}},
		"two names": {URIs: append(reports,
			&url.URL{Scheme: "spiffe", Host: "postern", Path: "/test/node/n1"})},
	} {
		template.NotBefore, template.NotAfter = now.Add(-time.Hour), now.Add(time.Hour)
		cert, own := make(template, root, key)
		digest := sha256.Sum256(message)
		signature, err := ecdsa.SignASN1(rand.Reader, own, digest[:])
		require.NoError(t, err)
		require.ErrorContains(t, vouched(root, "test", cert.Raw, message, signature, now),
			"is not of a reporter of this stack", name)
	}
	other, _ := make(&x509.Certificate{NotAfter: now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true}, nil, nil)
	require.Error(t, vouched(other, "test", r.cert, message, signature, now))
}
