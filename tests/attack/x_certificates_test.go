package attack

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

// certificates is the one attack by an upstream that the policy allows: its certificate is
// parsed before it is verified.
var certificates = []Case{
	{ID: "X8", What: "CVE-2026-35189: an upstream's certificate whose CRL distribution points take memory (W20)", Ways: []Way{Explicit}, Run: func(s *seat) {
		// Its own fleet: the memory of one Envoy is measured.
		f := s.spare()
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(s, err)
		forged := func(subject, issuer, points []byte) []byte {
			der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
				SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), RawSubject: subject,
				ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 31}, Value: points}}, IsCA: true, BasicConstraintsValid: true,
			}, &x509.Certificate{RawSubject: issuer}, &key.PublicKey, key)
			require.NoError(s, err)
			return der
		}
		// Each point stands for the issuer's whole name and one part more: the product
		// counts. Together they are as long as a chain may be, which is 100 KiB.
		hostile := map[string][][]byte{
			"leaf":         {forged(nameOf(1), nameOf(3700), relativePoints(2800))},
			"self-signed":  {forged(nameOf(2400), nameOf(2400), relativePoints(2000))},
			"intermediate": {forged(nameOf(1), nameOf(2), relativePoints(1)), forged(nameOf(2), nameOf(3600), relativePoints(2700))},
			"names":        {forged(nameOf(1), nameOf(2), fullPoints(1, 30_000))},
			"points":       {forged(nameOf(1), nameOf(2), fullPoints(9000, 1))},
		}
		up := f.NewUpstream("good.test")
		rule := func(name string, pin *plan.Upstream) plan.Rule {
			return plan.Rule{ID: "a/" + name, Host: name + ".test", Port: 443, Methods: []string{"GET"}, Paths: []string{plan.AnyPath}, Upstream: pin}
		}
		agent := plan.Agent{Name: "a", Rules: []plan.Rule{rule("good", up.Pin())}}
		handshakes := map[string]*atomic.Int32{}
		for name, chain := range hostile {
			path := filepath.Join(f.Home.Root, name+".sock")
			l, err := net.Listen("unix", path)
			require.NoError(s, err)
			n := new(atomic.Int32)
			server := &http.Server{
				ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
				TLSConfig: &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
					n.Add(1)
					return &tls.Certificate{Certificate: chain, PrivateKey: key}, nil
				}},
			}
			go func() { _ = server.ServeTLS(l, "", "") }()
			defer server.Close() //nolint:errcheck // a test
			handshakes[name] = n
			agent.Rules = append(agent.Rules, rule(name, &plan.Upstream{Address: "unix:" + path, CA: up.CA}))
		}
		f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{agent}})
		require.Equal(s, 200, f.Get("n1", "a", "https://good.test/"))
		pid := f.EnvoyPID("n1")
		before, err := peakMemory(pid)
		require.NoError(s, err)
		for name := range hostile {
			for end := time.Now().Add(patience); handshakes[name].Load() < 16; { // its pace refuses some
				require.True(s, time.Now().Before(end), "%s: %d handshakes", name, handshakes[name].Load())
				var wg sync.WaitGroup
				for range 16 {
					wg.Go(func() { f.Get("n1", "a", "https://"+name+".test/") })
				}
				wg.Wait()
			}
			// An Envoy that has the flaw takes 2 GiB for one handshake.
			now, err := peakMemory(pid)
			require.NoError(s, err)
			require.Less(s, now-before, 128<<20, name)
		}
		require.Equal(s, 200, f.Get("n1", "a", "https://good.test/"))
		require.Equal(s, pid, f.EnvoyPID("n1"), "Envoy was restarted")
	}},
}

// peakMemory is the most that the process has had of the machine's memory, in bytes.
func peakMemory(pid int) (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	match := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if match == nil {
		return 0, fmt.Errorf("no VmHWM in %s", status)
	}
	kib, err := strconv.Atoi(string(match[1]))
	return kib << 10, err
}

// der is a value of ASN.1 that consists of the parts.
func der(class, tag int, parts ...[]byte) []byte {
	b, err := asn1.Marshal(asn1.RawValue{Class: class, Tag: tag, IsCompound: true, Bytes: slices.Concat(parts...)})
	if err != nil {
		panic(err)
	}
	return b
}

// part is one attribute of a name: its common name is "a".
var part = der(asn1.ClassUniversal, asn1.TagSequence, []byte("\x06\x03\x55\x04\x03\x0c\x01a"))

// nameOf is a distinguished name of n parts.
func nameOf(n int) []byte {
	return der(asn1.ClassUniversal, asn1.TagSequence, bytes.Repeat(der(asn1.ClassUniversal, asn1.TagSet, part), n))
}

// points are n CRL distribution points of that name (RFC 5280, section 4.2.1.13).
func points(n int, name []byte) []byte {
	point := der(asn1.ClassUniversal, asn1.TagSequence, der(asn1.ClassContextSpecific, 0, name))
	return der(asn1.ClassUniversal, asn1.TagSequence, bytes.Repeat(point, n))
}

// relativePoints have a name relative to the issuer's.
func relativePoints(n int) []byte { return points(n, der(asn1.ClassContextSpecific, 1, part)) }

// fullPoints have so many names each.
func fullPoints(n, each int) []byte {
	return points(n, der(asn1.ClassContextSpecific, 0, bytes.Repeat([]byte("\x86\x01a"), each)))
}
