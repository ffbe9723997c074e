package mint

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// rootFor writes a CA that may have depth others below, and loads it.
func rootFor(t *testing.T) (a *authority, file string) {
	t.Helper()
	file = rootFiles(t, 1)
	a, err := load(file, filepath.Join(filepath.Dir(file), "ca.key"))
	require.NoError(t, err)
	return a, file
}

func load(certFile, keyFile string) (*authority, error) {
	root, key, err := Load(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	return newAuthority(root, key)
}

// rootFiles makes an authority with at most depth authorities below, as ca.pem and ca.key.
func rootFiles(t *testing.T, depth int) (file string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour),
		IsCA:     true, BasicConstraintsValid: true, MaxPathLen: depth, MaxPathLenZero: depth == 0,
		KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	dir := t.TempDir()
	file = filepath.Join(dir, "ca.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.key"),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
	return file
}

func pair(t *testing.T, a *authority, host string) tls.Certificate {
	t.Helper()
	s, err := a.mint(host, time.Now())
	require.NoError(t, err)
	c := s.GetTlsCertificate()
	p, err := tls.X509KeyPair(c.GetCertificateChain().GetInlineBytes(), c.GetPrivateKey().GetInlineBytes())
	require.NoError(t, err)
	return p
}

// TestClientsAcceptIntermediates: the programs that agents use believe a leaf
// below a constrained intermediate, for a name, and for one below a wildcard.
func TestClientsAcceptIntermediates(t *testing.T) {
	t.Parallel()
	a, ca := rootFor(t)
	require.NoError(t, a.cover([]string{"api.one.test", "two.test", "single"}, time.Now()))
	hosts := []string{"api.one.test", "deep.below.two.test"}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &http.Server{
		ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }),
		TLSConfig: &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			p := pair(t, a, h.ServerName)
			return &p, nil
		}},
	}
	go func() { _ = s.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = s.Close() })
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	rootPEM, err := os.ReadFile(ca)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(rootPEM)
	for _, host := range hosts {
		c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{RootCAs: pool, ServerName: host})
		require.NoError(t, err)
		c.Close()
		for _, command := range [][]string{
			{"curl", "-sS", "--cacert", ca, "--connect-to", host + ":443:127.0.0.1:" + port, "https://" + host + "/"},
			{"python3", "-c", `
import socket, ssl, sys
s = ssl.create_default_context(cafile=sys.argv[1]).wrap_socket(socket.create_connection(("127.0.0.1", int(sys.argv[2]))), server_hostname=sys.argv[3])
print("hello")`, ca, port, host},
			{"node", "-e", `
const [ca, port, host] = process.argv.slice(1)
const s = require("tls").connect({port: +port, host: "127.0.0.1", servername: host, ca: require("fs").readFileSync(ca)}, () => { console.log("hello"); s.end() })`, ca, port, host},
		} {
			out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput()
			require.NoError(t, err, "%s: %s", command[0], out)
			require.Contains(t, string(out), "hello", command[0])
		}
	}
}

// TestIntermediatesAreConstrained: what one of them could sign beyond its
// domains, nobody believes.
func TestIntermediatesAreConstrained(t *testing.T) {
	t.Parallel()
	a, _ := rootFor(t)
	require.NoError(t, a.cover([]string{"api.one.test", "www.one.test"}, time.Now()))
	require.Len(t, a.domains, 1, "both are of one.test")
	_, err := a.mint("two.test", time.Now())
	require.ErrorContains(t, err, "no intermediate authority")

	i := a.domains["one.test"]
	pool, between := x509.NewCertPool(), x509.NewCertPool()
	pool.AddCert(a.root)
	between.AddCert(i.cert)
	for _, c := range []struct {
		names []string
		ips   []net.IP
		ok    bool
	}{{names: []string{"x.one.test"}, ok: true}, {names: []string{"two.test"}}, {names: []string{
		"x.one.test", "two.test",
	}}, {ips: []net.IP{net.IPv4(192, 0, 2, 1)}}, {ips: []net.IP{net.ParseIP("2001:db8::1")}}} {
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Minute),
			DNSNames: c.names, IPAddresses: c.ips,
		}, i.cert, a.leaf.Public(), a.below)
		require.NoError(t, err)
		leaf, err := x509.ParseCertificate(der)
		require.NoError(t, err)
		_, err = leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: between})
		require.Equal(t, c.ok, err == nil, "%v %v: %v", c.names, c.ips, err)
	}
}

// TestIntermediatesStay: a plan that grows makes one for what is new, of bounded
// size; half-way through their life all are made anew.
func TestIntermediatesStay(t *testing.T) {
	t.Parallel()
	a, _ := rootFor(t)
	var hosts []string
	for i := range 100 {
		hosts = append(hosts, fmt.Sprintf("www.d%d.test", i))
	}
	now := time.Now()
	require.NoError(t, a.cover(hosts, now))
	distinct := func() map[*intermediate]bool {
		all := map[*intermediate]bool{}
		for _, i := range a.domains {
			require.LessOrEqual(t, len(i.cert.PermittedDNSDomains), maxDomains)
			all[i] = true
		}
		return all
	}
	before := distinct()
	require.Len(t, before, 4)
	require.NoError(t, a.cover(append(hosts, "new.test"), now))
	require.Len(t, distinct(), 5)
	for i := range before {
		require.True(t, distinct()[i], "those that there were stay")
	}
	require.NoError(t, a.renew(hosts[:1], now.Add(time.Hour)))
	require.Len(t, distinct(), 5)
	require.NoError(t, a.renew(hosts[:1], now.Add(intermediateLifetime/2+time.Hour)))
	require.Len(t, a.domains, 1)
}

// TestAuthorityWithoutRoom: a CA that cannot have an authority below it is refused when it is
// loaded, because clients would refuse what its intermediates sign.
func TestAuthorityWithoutRoom(t *testing.T) {
	t.Parallel()
	file := rootFiles(t, 0)
	_, err := load(file, filepath.Join(filepath.Dir(file), "ca.key"))
	require.ErrorContains(t, err, "cannot have an authority below it")
}

// TestBudgets: an agent that makes up names spends its own budget.
func TestBudgets(t *testing.T) {
	t.Parallel()
	b := &budgets{of: map[string]*budget{}, owners: func(name string) string {
		return map[string]string{"a1": "a", "a2": "a", "b1": "b", "both": "a b"}[name]
	}}
	nobody := func(func(string) bool) {}
	refused := 0
	for range 2 * madeUpBurst {
		if b.allow("a1", nobody) {
			b.spend("a1")
		} else {
			refused++
		}
	}
	require.Positive(t, refused)
	require.True(t, b.allow("b1", nobody))
	require.True(t, b.allow("both", nobody))
	for range 2 * madeUpBurst {
		require.True(t, b.allow("listed", nobody), "what is in the plan is not counted")
	}
	b.of["b"].live = maxMadeUp
	require.True(t, b.allow("b1", nobody), "they have gone meanwhile")
	require.Zero(t, b.of["b"].live)
	// What one of two agents can spend of their wildcard's leaves the other one its part.
	delete(b.of, "a b")
	for range 2 * madeUpBurst {
		require.True(t, b.allow("both", nobody))
	}
	delete(b.of, "a b")
	require.True(t, b.allow("both", nobody))
	b.of["a b"].live = 2 * maxMadeUp
	require.True(t, b.allow("both", slices.Values(slices.Repeat([]string{"both"}, maxMadeUp))))
	require.Equal(t, maxMadeUp, b.of["a b"].live)
}
